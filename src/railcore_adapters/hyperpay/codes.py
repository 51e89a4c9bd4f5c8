"""
What HyperPay's result codes mean, as data.

A code is nine digits in three groups. Families are the provider's own regular expressions, tried in
an order in which each published code means one thing; single codes that mean something else than
their family come first. A code of no family means nothing: it is unknown, never a failure.

Source: the result codes and their patterns in the reference of the Open Payment Platform
(docs.oppwa.com, "Result Codes"), which HyperPay serves at ``/v1/resultcodes``.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import attrs

from railcore.failures import DefiniteFailureCode, FailureCategory, PaymentFailureCode

__all__ = ["FAMILIES", "SINGLE_CODES", "Family", "Meaning", "Outcome", "classify", "family_of"]


class Outcome(StrEnum):
    """What a code says about the operation that it answers."""

    SUCCESS = "success"
    REVIEW = "review"
    TEST_SUCCESS = "test_success"
    PENDING = "pending"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    THROTTLED = "throttled"
    NO_PAYMENT = "no_payment"


@attrs.frozen
class Meaning:
    """
    What a code means for the money.

    Attributes:
        outcome: ``review`` is a success that a person at the provider looks at; ``test_success``
            moved nothing real; ``absent`` means that a query found nothing; ``throttled`` and
            ``no_payment`` say nothing about any payment.
        failure: Why no money moved; failed only.
    """

    outcome: Outcome
    failure: DefiniteFailureCode | None = None


@attrs.frozen
class Family:
    """
    Codes that mean the same.

    Attributes:
        name: For people.
        pattern: What the codes begin with.
    """

    name: str
    pattern: re.Pattern[str]
    meaning: Meaning


_Code = PaymentFailureCode
_SUCCESS: Final = Meaning(Outcome.SUCCESS)
_PENDING: Final = Meaning(Outcome.PENDING)
_UNKNOWN: Final = Meaning(Outcome.UNKNOWN)
_NO_PAYMENT: Final = Meaning(Outcome.NO_PAYMENT)


def _failed(code: DefiniteFailureCode) -> Meaning:
    return Meaning(Outcome.FAILED, code)


def _family(name: str, pattern: str, meaning: Meaning) -> Family:
    return Family(name, re.compile(pattern), meaning)


FAMILIES: Final[Sequence[Family]] = (
    _family("blacklist", r"100\.100\.701|800\.[32]", _failed(_Code.RISK_REJECTED)),
    _family(
        "risk management data",
        r"100\.380\.[23]|100\.380\.101",
        _failed(_Code.CONFIGURATION_ERROR),
    ),
    _family(
        "3-D Secure",
        r"800\.400\.2|100\.380\.4|100\.390",
        _failed(_Code.AUTHENTICATION_FAILED),
    ),
    _family("success in test mode", r"000\.100\.11", Meaning(Outcome.TEST_SUCCESS)),
    _family("success", r"000\.000\.|000\.100\.1|000\.[36]|000\.400\.[1][12]0", _SUCCESS),
    _family("success in review", r"000\.400\.0[^3]|000\.400\.100", Meaning(Outcome.REVIEW)),
    _family("pending for minutes", r"000\.200", _PENDING),
    _family("pending for days", r"800\.400\.5|100\.400\.500", _PENDING),
    _family(
        "rejected by 3-D Secure or intercard checks",
        r"000\.400\.[1][0-9][1-9]|000\.400\.2",
        _failed(_Code.AUTHENTICATION_FAILED),
    ),
    _family("rejected by the bank", r"800\.[17]00|800\.800\.[123]", _failed(_Code.DECLINED)),
    _family("communication", r"900\.[1234]00|000\.400\.030", _UNKNOWN),
    _family("system", r"800\.[56]|999\.|600\.1|800\.800\.[84]", _UNKNOWN),
    _family("asynchronous workflow", r"100\.39[765]", _failed(_Code.CANCELLED)),
    _family("soft decline", r"300\.100\.100", _failed(_Code.AUTHENTICATION_FAILED)),
    _family(
        "external risk system",
        r"100\.400\.[0-3]|100\.38|100\.370\.100|100\.370\.11",
        _failed(_Code.RISK_REJECTED),
    ),
    _family("address verification", r"800\.400\.1", _failed(_Code.DECLINED)),
    _family("risk validation", r"800\.1[123456]0", _failed(_Code.RISK_REJECTED)),
    _family("configuration", r"600\.[23]|500\.[12]|800\.121", _failed(_Code.CONFIGURATION_ERROR)),
    _family("registration", r"100\.[13]50", _failed(_Code.INSTRUMENT_INVALID)),
    _family("schedule", r"100\.250|100\.360", _failed(_Code.CONFIGURATION_ERROR)),
    _family("reference", r"700\.[1345][05]0", _failed(_Code.DECLINED)),
    _family(
        "format",
        r"200\.[123]|100\.[53][07]|800\.900|100\.[69]00\.500",
        _failed(_Code.CONFIGURATION_ERROR),
    ),
    _family("address", r"100\.800", _failed(_Code.INSTRUMENT_INVALID)),
    _family("contact", r"100\.[97]00", _failed(_Code.INSTRUMENT_INVALID)),
    _family("account", r"100\.100|100\.2[01]", _failed(_Code.INSTRUMENT_INVALID)),
    _family("amount", r"100\.55", _failed(_Code.DECLINED)),
    _family("chargeback", r"000\.100\.2", _NO_PAYMENT),
    _family("retry block", r"700\.60[01]", _failed(_Code.DECLINED)),
)
"""The families, in the order in which they are tried."""


def _single(meaning: Meaning, *codes: str) -> Mapping[str, Meaning]:
    return {
        f"{stem}.{end}": meaning
        for stem, _, ends in (code.rpartition(".") for code in codes)
        for end in ends.split("|")
    }


SINGLE_CODES: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        # the result of authenticating a payer, which is no money
        **_single(_UNKNOWN, "000.400.110|120"),
        **_single(_PENDING, "000.400.050"),
        # risk checks, account updates, requests for data and chargebacks, which are no payments
        **_single(_NO_PAYMENT, "000.000.100", "000.100.105|106", "000.300.100|101|102|103"),
        **_single(_NO_PAYMENT, "000.310.100|101|110", "000.500.000|100", "100.310.401|402"),
        # a service for authentication or risk that is down
        **_single(_failed(_Code.PROVIDER_UNAVAILABLE), "000.400.103|107|200", "100.380.501"),
        **_single(_failed(_Code.PROVIDER_UNAVAILABLE), "100.390.105|111|112", "900.400.100"),
        **_single(_failed(_Code.CONFIGURATION_ERROR), "000.400.104", "100.390.106|108"),
        # cancelled perhaps; a bank that did not answer in time
        **_single(_UNKNOWN, "100.396.104", "100.395.502"),
        # a session that is over or was read, or a reference that is there already
        **_single(_UNKNOWN, "200.300.404|405", "200.200.106", "800.110.100", "800.120.402"),
        **_single(_UNKNOWN, "800.700.100", "700.300.300"),
        **_single(Meaning(Outcome.ABSENT), "700.400.580"),
        **_single(Meaning(Outcome.THROTTLED), "800.120.100"),
        # what it acts on is still pending; the issuer or a service asks for patience
        **_single(_failed(_Code.PROVIDER_UNAVAILABLE), "700.400.570", "800.100.176|321|322|327"),
        **_single(_failed(_Code.PROVIDER_UNAVAILABLE), "900.100.301|310"),
        # another entity, a test card on a live one, a brand or a currency that is not switched on
        **_single(_failed(_Code.CONFIGURATION_ERROR), "700.400.700", "700.500.003"),
        **_single(_failed(_Code.CONFIGURATION_ERROR), "800.100.156|173|175|177|190"),
        **_single(_failed(_Code.INVALID_CREDENTIALS), "800.900.100|201|300|301|302|303|399"),
        # names, addresses and contacts that are refused
        **_single(_failed(_Code.INSTRUMENT_INVALID), "800.700.101|201|500"),
        **_single(_failed(_Code.INSTRUMENT_INVALID), "800.800.102|202|302"),
        **_single(_failed(_Code.INSTRUMENT_INVALID), "800.900.101|200|401|450"),
        **_single(_failed(_Code.DECLINED), "900.100.202"),
        **_single(_failed(_Code.CANCELLED), "900.300.600"),
        **_single(_failed(_Code.CONFIGURATION_ERROR), "100.550.303"),
        # what a bank says of a card, in words of ours
        **_single(_failed(_Code.INSUFFICIENT_FUNDS), "800.100.155|203"),
        **_single(_failed(_Code.INSTRUMENT_INVALID), "800.100.151|153|157"),
    }
)
"""Codes that mean something else than their family."""

_SHAPE: Final = re.compile(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}")


def classify(code: str) -> Meaning:
    """
    Return what a result code means.

    Nothing is raised: what is no code, and a code of no family, is unknown.

    >>> classify("000.000.000").outcome.value, classify("800.100.155").failure.value
    ('success', 'insufficient_funds')
    >>> classify("123.456.789").outcome.value
    'unknown'
    """
    if not _SHAPE.fullmatch(code):
        return _UNKNOWN
    single = SINGLE_CODES.get(code)
    if single is not None:
        return single
    family = family_of(code)
    return _UNKNOWN if family is None else family.meaning


def told_of(failure: DefiniteFailureCode) -> DefiniteFailureCode:
    """
    Return what a payment that was found failed with *failure*.

    A lookup or a webhook that speaks of an outage or of a wrong setting would speak of itself; a
    payment that is there and failed for such a reason is declined.
    """
    is_its_own = failure.category is FailureCategory.PERMANENT
    return failure if is_its_own else PaymentFailureCode.DECLINED


def family_of(code: str) -> Family | None:
    """Return the first family that *code* belongs to, if any."""
    return next((one for one in FAMILIES if one.pattern.match(code)), None)
