"""What a POST asks for, checked before anything happens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from railcore_adapters.sandbox.wire import Refusal, Request, invalid, read_json_object

UNSUPPORTED_CURRENCIES: Final = frozenset({"KPW", "XTS", "XXX"})
"""Currencies that the sandbox refuses, so that the refusal can be tried."""

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_URL: Final = re.compile(r"https?://[\x21-\x7e]{1,2000}")
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What a POST orders.

    Attributes:
        kind: The object that it makes: ``charge``, ``authorization``, ``capture``, ``void``,
            ``refund`` or ``payment``.
        fields: The whole body, for comparing resends.
    """

    kind: str
    account: str
    idempotency_key: str | None
    amount_minor: int
    currency: str
    reference: str
    fields: Mapping[str, Any]


def read_order(request: Request, account: str, kind: str) -> Order:
    """
    Return what *request* orders for *account*.

    Raises:
        Refusal: 400; a field is missing or wrong.
    """
    fields = read_json_object(request.body)
    key = request.headers.get("idempotency-key")
    if key is not None and _PRINTABLE.fullmatch(key) is None:
        raise invalid("Idempotency-Key must be 1 to 255 printable ASCII characters.")
    return Order(
        kind=kind,
        account=account,
        idempotency_key=key,
        amount_minor=_read_amount(fields),
        currency=_read_currency(fields),
        reference=_read_text(fields, "reference", _PRINTABLE),
        fields=fields,
    )


def read_instrument(order: Order) -> str:
    """Return the token that is to be charged."""
    return _read_text(order.fields, "instrument", _PRINTABLE)


def read_parent(order: Order) -> str:
    """Return the id of what a capture, a void or a refund acts on."""
    return _read_text(order.fields, "of", _PRINTABLE)


def read_return_url(order: Order) -> str:
    """Return where the bank sends the customer afterwards."""
    url = _read_text(order.fields, "return_url", _URL)
    try:
        host = urlsplit(url).hostname
    except ValueError as error:
        raise invalid(f"return_url cannot be read ({error}).") from error
    if not host:
        raise invalid("return_url must name a host.")
    return url


def _read_amount(fields: Mapping[str, Any]) -> int:
    amount = fields.get("amount_minor")
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= _LARGEST:
        raise invalid("amount_minor must be a whole number of minor units from 1 to 2^63 - 1.")
    return amount


def _read_currency(fields: Mapping[str, Any]) -> str:
    currency = _read_text(fields, "currency", _CURRENCY)
    if currency in UNSUPPORTED_CURRENCIES:
        raise Refusal(400, "currency_not_supported", f"The sandbox does not take {currency}.")
    return currency


def _read_text(fields: Mapping[str, Any], name: str, wanted: re.Pattern[str]) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or wanted.fullmatch(value) is None:
        raise invalid(f"{name} must be text of the form {wanted.pattern}")
    return value
