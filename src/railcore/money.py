"""
Money as an integer of minor units and a currency.

There is no float anywhere and nothing is rounded.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Self

import attrs
from typing_extensions import override

from railcore.errors import MoneyError
from railcore.redaction import masked

_EXPONENTS: Final[Mapping[int, str]] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN "
        "BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD "
        "FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW "
        "KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR "
        "MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG "
        "SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD "
        "USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
"""
Minor units by ISO 4217, list one, as published for 2026-01-01.

Codes without a minor unit (metals, funds) are left out.
"""

_LARGEST: Final = 2**63 - 1
_ISO_SHAPED: Final = re.compile("[A-Z]{3}")
_PLAIN_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_MOST_PLACES: Final = 60
"""More decimal places, all of them zeros, are no amount but an attack on the arithmetic."""


def _code_is_iso_shaped(_: object, __: object, code: Any) -> None:
    if not isinstance(code, str) or not _ISO_SHAPED.fullmatch(code):
        raise MoneyError("currency", "three capital letters (ISO 4217)", repr(code))


def _exponent_is_known(_: object, __: object, exponent: int) -> None:
    if type(exponent) is not int or exponent not in _EXPONENTS:
        raise MoneyError("exponent", "0, 2, 3 or 4 decimal places", repr(exponent))


@attrs.frozen
class Currency:
    """
    A currency and the number of decimal places of its smallest unit.

    Attributes:
        code: Three capital letters, ISO 4217.
        exponent: 0, 2, 3 or 4. ``Currency.of`` takes it from ISO 4217; give your own only where a
            provider differs.
    """

    code: str = attrs.field(validator=_code_is_iso_shaped)
    exponent: int = attrs.field(validator=_exponent_is_known)

    @classmethod
    def of(cls, code: str) -> "Currency":
        """
        Return the currency with this ISO 4217 code.

        Raises:
            MoneyError: The code is not an active one with a minor unit.

        >>> Currency.of("KWD").exponent
        3
        """
        try:
            return _BY_CODE[code]
        except (KeyError, TypeError):
            raise MoneyError("currency", "an active ISO 4217 code", repr(code)) from None

    @override
    def __str__(self) -> str:
        return self.code


_BY_CODE: Final[Mapping[str, Currency]] = MappingProxyType(
    {
        code: Currency(code, exponent)
        for exponent, codes in _EXPONENTS.items()
        for code in codes.split()
    }
)

AED: Final = _BY_CODE["AED"]
EUR: Final = _BY_CODE["EUR"]
JPY: Final = _BY_CODE["JPY"]
KWD: Final = _BY_CODE["KWD"]
SAR: Final = _BY_CODE["SAR"]
USD: Final = _BY_CODE["USD"]


def _is_an_integer(_: object, __: object, amount: int) -> None:
    if type(amount) is not int:
        raise MoneyError("amount_minor", "an int of minor units", f"{type(amount).__name__}")
    if not -_LARGEST <= amount <= _LARGEST:
        raise MoneyError("amount_minor", "at most 63 bits", "a larger number")


def _is_a_currency(_: object, __: object, currency: Currency) -> None:
    if not isinstance(currency, Currency):
        raise MoneyError("currency", "a Currency, such as Currency.of('SAR')", repr(currency))


@attrs.frozen(order=False)
class Money:
    """
    An exact amount in one currency.

    >>> Money(1250, SAR)
    Money(12.50 SAR)
    >>> Money(1250, SAR) + Money(50, SAR)
    Money(13.00 SAR)
    """

    amount_minor: int = attrs.field(validator=_is_an_integer)
    currency: Currency = attrs.field(validator=_is_a_currency)

    @classmethod
    def of(cls, amount: Decimal | str, currency: Currency) -> Self:
        """
        Return *amount* major units, for instance as read from a file or a form.

        Raises:
            MoneyError: Not a number, or more decimal places than the currency has.

        >>> Money.of("1.250", KWD).amount_minor
        1250
        """
        return cls(minor_units(_decimal(amount), currency), currency)

    def to_major(self) -> Decimal:
        """Return the amount in major units, with exactly the currency's decimal places."""
        sign, digits, _ = Decimal(self.amount_minor).as_tuple()
        return Decimal((sign, digits, -self.currency.exponent))  # no context rounds this

    def __add__(self, other: "Money") -> "Money":
        return Money(self.amount_minor + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.amount_minor - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount_minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount_minor < self._same(other)

    def __le__(self, other: "Money") -> bool:
        return self.amount_minor <= self._same(other)

    def __gt__(self, other: "Money") -> bool:
        return self.amount_minor > self._same(other)

    def __ge__(self, other: "Money") -> bool:
        return self.amount_minor >= self._same(other)

    @override
    def __str__(self) -> str:
        return f"{self.to_major():f} {self.currency.code}"

    @override
    def __repr__(self) -> str:
        return f"Money({self})"

    def _same(self, other: object) -> int:
        if not isinstance(other, Money):
            raise MoneyError("operand", f"Money in {self.currency}", type(other).__name__)
        if other.currency != self.currency:
            raise MoneyError("operand", f"Money in {self.currency}", f"Money in {other.currency}")
        return other.amount_minor


def minor_units(amount: Decimal, currency: Currency) -> int:
    """
    Return *amount* in the smallest unit of *currency*, exactly.

    Args:
        amount: Major units, at most ``currency.exponent`` decimal places. May be negative.
        currency: Gives the exponent: 2 for SAR, 3 for KWD, 0 for JPY.

    Raises:
        MoneyError: *amount* has more places than the currency. Nothing is rounded silently.

    Source: ISO 4217, list one, column "minor unit".

    >>> minor_units(Decimal("1.250"), KWD)
    1250
    """
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or amount.adjusted() > 18 or exponent < -_MOST_PLACES:
        raise MoneyError("amount", "a finite number of plain size", _told(str(amount)))
    shift = currency.exponent + exponent
    number = int("".join(map(str, digits)))
    whole, rest = divmod(number * _power(shift), _power(-shift))
    if rest:
        wanted = f"at most {currency.exponent} decimal places for {currency}"
        raise MoneyError("amount", wanted, _told(str(amount)))
    return -whole if sign else whole


def _told(amount: str) -> str:
    """Return the beginning of what came in place of an amount; it may have been a card number."""
    return masked(amount[:80])[:40]


def _power(exponent: int) -> int:
    return int(10 ** max(exponent, 0))


def _decimal(amount: Decimal | str) -> Decimal:
    if isinstance(amount, Decimal):
        return amount
    if not isinstance(amount, str):
        raise MoneyError("amount", "a Decimal or a text", type(amount).__name__)
    if len(amount) > 2 * _MOST_PLACES or not _PLAIN_NUMBER.fullmatch(amount):
        raise MoneyError("amount", "a decimal number", ascii(_told(amount)))
    return Decimal(amount)
