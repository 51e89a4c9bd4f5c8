"""
Why money did not move, in sixteen codes and four categories.

Two codes are *ambiguous*: after them the money may have moved. They can only be the cause of an
unknown outcome, never of a failure; ``DefiniteFailureCode`` and ``UnknownCause`` let a type checker
say so, and ``RailResult`` refuses them at run time.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

import attrs


class FailureCategory(StrEnum):
    """Who has to act."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    CONFIGURATION = "configuration"
    INTERNAL = "internal"


class Certainty(StrEnum):
    """Whether the code proves that no money moved."""

    DEFINITE = "definite"
    AMBIGUOUS = "ambiguous"


class Advice(StrEnum):
    """What to do next."""

    RETRY_LATER = "retry_later"
    LOOK_UP = "look_up"
    USE_ANOTHER_INSTRUMENT = "use_another_instrument"
    FIX_CONFIGURATION = "fix_configuration"
    INVESTIGATE = "investigate"


class PaymentFailureCode(StrEnum):
    """The sixteen codes. Hosts branch on these or on their category, never on text."""

    NETWORK_ERROR = "network_error"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    RATE_LIMITED = "rate_limited"
    PROVIDER_TIMEOUT = "provider_timeout"
    DECLINED = "declined"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    AUTHENTICATION_FAILED = "authentication_failed"
    INSTRUMENT_INVALID = "instrument_invalid"
    RISK_REJECTED = "risk_rejected"
    CANCELLED = "cancelled"
    CONFIGURATION_ERROR = "configuration_error"
    INVALID_CREDENTIALS = "invalid_credentials"
    ROUTE_NOT_FOUND = "route_not_found"
    UNSUPPORTED_OPERATION = "unsupported_operation"
    INVALID_RESPONSE = "invalid_response"
    INTERNAL_ERROR = "internal_error"

    @property
    def category(self) -> FailureCategory:
        """Who has to act."""
        return _FACTS[self].category

    @property
    def certainty(self) -> Certainty:
        """Whether the code proves that no money moved."""
        return _FACTS[self].certainty

    @property
    def is_definite(self) -> bool:
        """Whether the code proves that no money moved."""
        return self.certainty is Certainty.DEFINITE

    @property
    def advice(self) -> Advice:
        """What to do next."""
        return _FACTS[self].advice

    @property
    def allows_failover(self) -> bool:
        """Whether another route may be tried for the same debt, under a new key (rule R7)."""
        return self.is_definite and self.category is FailureCategory.TRANSIENT

    @property
    def message_key(self) -> str:
        """
        A key for a text that a payer may read.

        It gives nothing away about the host or the provider.
        """
        return f"payment.failure.{_FACTS[self].payer_key}"


DefiniteFailureCode = Literal[
    PaymentFailureCode.NETWORK_ERROR,
    PaymentFailureCode.PROVIDER_UNAVAILABLE,
    PaymentFailureCode.RATE_LIMITED,
    PaymentFailureCode.DECLINED,
    PaymentFailureCode.INSUFFICIENT_FUNDS,
    PaymentFailureCode.AUTHENTICATION_FAILED,
    PaymentFailureCode.INSTRUMENT_INVALID,
    PaymentFailureCode.RISK_REJECTED,
    PaymentFailureCode.CANCELLED,
    PaymentFailureCode.CONFIGURATION_ERROR,
    PaymentFailureCode.INVALID_CREDENTIALS,
    PaymentFailureCode.ROUTE_NOT_FOUND,
    PaymentFailureCode.UNSUPPORTED_OPERATION,
    PaymentFailureCode.INTERNAL_ERROR,
]
"""
The codes after which it is certain that no money moved.

``internal_error`` is one of them only before a send.
"""

UnknownCause = Literal[
    PaymentFailureCode.PROVIDER_TIMEOUT,
    PaymentFailureCode.INVALID_RESPONSE,
    PaymentFailureCode.INTERNAL_ERROR,
]
"""The codes that can be the cause of an unknown outcome."""

UNKNOWN_CAUSES: frozenset[PaymentFailureCode] = frozenset(
    {
        PaymentFailureCode.PROVIDER_TIMEOUT,
        PaymentFailureCode.INVALID_RESPONSE,
        PaymentFailureCode.INTERNAL_ERROR,
    }
)


@attrs.frozen
class _Facts:
    category: FailureCategory
    advice: Advice
    payer_key: str
    certainty: Certainty = Certainty.DEFINITE


def _table() -> Mapping[PaymentFailureCode, _Facts]:
    code, category, advice = PaymentFailureCode, FailureCategory, Advice
    ambiguous = Certainty.AMBIGUOUS
    return MappingProxyType(
        {
            code.NETWORK_ERROR: _Facts(category.TRANSIENT, advice.RETRY_LATER, "try_later"),
            code.PROVIDER_UNAVAILABLE: _Facts(category.TRANSIENT, advice.RETRY_LATER, "try_later"),
            code.RATE_LIMITED: _Facts(category.TRANSIENT, advice.RETRY_LATER, "try_later"),
            code.PROVIDER_TIMEOUT: _Facts(
                category.TRANSIENT, advice.LOOK_UP, "being_checked", ambiguous
            ),
            code.DECLINED: _Facts(category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "declined"),
            code.INSUFFICIENT_FUNDS: _Facts(
                category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "insufficient_funds"
            ),
            code.AUTHENTICATION_FAILED: _Facts(
                category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "authentication_failed"
            ),
            code.INSTRUMENT_INVALID: _Facts(
                category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "instrument_invalid"
            ),
            code.RISK_REJECTED: _Facts(
                category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "declined"
            ),
            code.CANCELLED: _Facts(category.PERMANENT, advice.USE_ANOTHER_INSTRUMENT, "cancelled"),
            code.CONFIGURATION_ERROR: _Facts(
                category.CONFIGURATION, advice.FIX_CONFIGURATION, "unavailable"
            ),
            code.INVALID_CREDENTIALS: _Facts(
                category.CONFIGURATION, advice.FIX_CONFIGURATION, "unavailable"
            ),
            code.ROUTE_NOT_FOUND: _Facts(
                category.CONFIGURATION, advice.FIX_CONFIGURATION, "unavailable"
            ),
            code.UNSUPPORTED_OPERATION: _Facts(
                category.CONFIGURATION, advice.FIX_CONFIGURATION, "unavailable"
            ),
            code.INVALID_RESPONSE: _Facts(
                category.INTERNAL, advice.INVESTIGATE, "being_checked", ambiguous
            ),
            code.INTERNAL_ERROR: _Facts(category.INTERNAL, advice.INVESTIGATE, "unavailable"),
        }
    )


_FACTS = _table()
