"""
The sandbox's codes and what they mean, as data.

Source: the reference page of the sandbox and its table ``railcore_adapters.sandbox.FAULTS``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from railcore.failures import DefiniteFailureCode, PaymentFailureCode

DECLINES: Final[Mapping[str, DefiniteFailureCode]] = MappingProxyType(
    {
        "declined": PaymentFailureCode.DECLINED,
        "insufficient_funds": PaymentFailureCode.INSUFFICIENT_FUNDS,
        "expired_card": PaymentFailureCode.INSTRUMENT_INVALID,
        "authentication_failed": PaymentFailureCode.AUTHENTICATION_FAILED,
        "risk": PaymentFailureCode.RISK_REJECTED,
    }
)
"""``decline_code`` of a charge that is declined; any other one is ``declined``."""

REFUSALS: Final[Mapping[tuple[int, str], DefiniteFailureCode]] = MappingProxyType(
    {
        (400, "invalid_request"): PaymentFailureCode.CONFIGURATION_ERROR,
        (400, "currency_not_supported"): PaymentFailureCode.UNSUPPORTED_OPERATION,
        (401, "invalid_api_key"): PaymentFailureCode.INVALID_CREDENTIALS,
        (422, "no_such_parent"): PaymentFailureCode.CONFIGURATION_ERROR,
        (422, "not_possible"): PaymentFailureCode.DECLINED,
        (422, "currency_differs"): PaymentFailureCode.DECLINED,
        (422, "amount_too_large"): PaymentFailureCode.DECLINED,
        (429, "rate_limited"): PaymentFailureCode.RATE_LIMITED,
        (503, "unavailable"): PaymentFailureCode.PROVIDER_UNAVAILABLE,
    }
)
"""Status and ``error.code`` of a request that was refused before anything was done."""
