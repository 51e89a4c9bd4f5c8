"""
A billing file: one payment a line, as a JSON object.

A line that cannot be read is reported with its number and the reason, and the rest goes on. Amounts
are decimal texts (``"12.50"``), for a JSON number may have lost digits on its way here.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Never
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.enums import Operation
from railcore.errors import InvalidValueError
from railcore.money import Currency, Money
from railcore.redaction import masked

_LONGEST_LINE: Final = 65_536
_PARENT_KEY: Final = "parent_key"
_NOT_YET: Final = UUID(int=0)
_REQUIRED: Final = (
    "tenant_id",
    "payment_id",
    "idempotency_key",
    "amount",
    "currency",
    "payment_option_key",
)


@attrs.frozen
class Line:
    """
    A line that asks for a payment.

    Attributes:
        context: Without its parent, where that is named by key.
        parent_key: The key of the execution that it captures, voids or refunds.
    """

    number: int
    context: PaymentContext
    parent_key: str | None = None


@attrs.frozen
class BadLine:
    """A line that asks for nothing that can be done, and why; the reason holds no card number."""

    number: int
    reason: str


@attrs.frozen
class BillingFile:
    """What a file holds, in its order."""

    lines: tuple[Line, ...]
    bad_lines: tuple[BadLine, ...]


def read_billing_file(path: Path) -> BillingFile:
    """
    Return what the file at *path* holds. Blank lines hold nothing.

    Raises:
        OSError: There is no such file, or it may not be read.
    """
    with path.open("rb") as opened:
        return read_lines(opened)


def read_lines(raw_lines: Iterable[bytes]) -> BillingFile:
    """Return what *raw_lines* hold; the first one is number 1."""
    lines, bad_lines = list[Line](), list[BadLine]()
    for number, raw in enumerate(raw_lines, 1):
        if not raw.strip():
            continue
        try:
            lines.append(_line(number, _object(raw)))
        except ValueError as error:
            bad_lines.append(BadLine(number, masked(str(error))))
    return BillingFile(tuple(lines), tuple(bad_lines))


def _object(raw: bytes) -> Mapping[str, object]:
    if len(raw) > _LONGEST_LINE:
        raise InvalidValueError("line", f"at most {_LONGEST_LINE} bytes", f"{len(raw)}")
    try:
        value: object = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_each_once, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise InvalidValueError("line", "UTF-8", "other bytes") from None
    except json.JSONDecodeError as error:
        found = f"{error.msg} at column {error.colno}"
        raise InvalidValueError("line", "one JSON object", found) from None
    except RecursionError:
        raise InvalidValueError("line", "one JSON object", "one nested too deeply") from None
    if not isinstance(value, dict):
        raise InvalidValueError("line", "one JSON object", _kind(value))
    return value


def _line(number: int, fields: Mapping[str, object]) -> Line:
    if fields.get(_PARENT_KEY) is None:
        return Line(number, _context(fields))
    if fields.get("parent_execution_id") is not None:
        raise InvalidValueError(_PARENT_KEY, "this or parent_execution_id", "both")
    parent_key = _text(fields, _PARENT_KEY)
    context = _context({**fields, "parent_execution_id": str(_NOT_YET)})
    return Line(number, context, parent_key)


def _context(fields: Mapping[str, object]) -> PaymentContext:
    unknown = sorted(fields.keys() - _REQUIRED - _OPTIONAL.keys() - {_PARENT_KEY})
    if unknown:
        known = ", ".join((*_REQUIRED, *_OPTIONAL, _PARENT_KEY))
        raise ValueError(f"{unknown[0][:40]}: there is no such field; there are {known}")
    currency = Currency.of(_text(fields, "currency"))
    optional: dict[str, Any] = {
        name: read(fields, name) for name, read in _OPTIONAL.items() if fields.get(name) is not None
    }
    if "due" in optional:
        optional["due"] = _money(fields, "due", currency)
    return PaymentContext(
        tenant_id=_text(fields, "tenant_id"),
        payment_id=_text(fields, "payment_id"),
        idempotency_key=_text(fields, "idempotency_key"),
        money=_money(fields, "amount", currency),
        payment_option_key=_text(fields, "payment_option_key"),
        **optional,
    )


def _money(fields: Mapping[str, object], name: str, currency: Currency) -> Money:
    return Money.of(_text(fields, name), currency)


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        return value
    wanted = 'a decimal text such as "12.50"' if name in {"amount", "due"} else "a text"
    found = "nothing" if value is None else _kind(value)
    raise InvalidValueError(name, wanted, found)


def _operation(fields: Mapping[str, object], name: str) -> Operation:
    try:
        return Operation(_text(fields, name))
    except ValueError:
        known = ", ".join(one.value for one in Operation)
        raise InvalidValueError(name, f"one of {known}", "another text") from None


def _uuid(fields: Mapping[str, object], name: str) -> UUID:
    try:
        return UUID(_text(fields, name))
    except ValueError:
        raise InvalidValueError(name, "the id of an execution (UUID)", "another text") from None


def _as_it_is(fields: Mapping[str, object], name: str) -> object:
    return fields[name]


_OPTIONAL: Final[Mapping[str, Callable[[Mapping[str, object], str], object]]] = {
    "operation": _operation,
    "parent_execution_id": _uuid,
    "due": _text,
    "payer_token": _text,
    "instrument_token": _text,
    "contract_id": _text,
    "return_url": _text,
    "correlation_id": _text,
    "metadata": _as_it_is,
    "merchant_initiated": _as_it_is,
}
"""The fields that may be left out or be null, and how each is read; the context checks the rest."""


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(twice[:40], "each field once", "it twice")
    return fields


def _no_constant(name: str) -> Never:
    raise InvalidValueError("line", "JSON as RFC 8259 has it", name)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case None:
            return "null"
        case _:
            return "a text"
