"""Validators that say what was wanted and what was found, without repeating a secret."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from railcore.errors import InvalidValueError
from railcore.redaction import holds_card_number

Check = Callable[[Any, Any, Any], None]
"""
A validator as attrs calls it.

Attrs types all three per field, so one shared type can only say Any.
"""

_LARGEST: Final = 2**63 - 1
_NOT_VISIBLE_ASCII = re.compile(r"[^\x21-\x7e]")


def text(limit: int, *, optional: bool = False) -> Check:
    """Return a validator for 1 to *limit* visible ASCII characters."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        found = value if isinstance(value, str) else ""
        if not 1 <= len(found) <= limit or _NOT_VISIBLE_ASCII.search(found):
            wanted = f"1 to {limit} visible ASCII characters without blanks"
            raise InvalidValueError(attribute.name, wanted, shape(value))

    return check


def reference(limit: int) -> Check:
    """Return a validator for None or 1 to *limit* printable characters, blanks among them."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
            wanted = f"1 to {limit} printable characters"
            raise InvalidValueError(attribute.name, wanted, shape(value))

    return check


def token(limit: int) -> Check:
    """Return a validator for an optional opaque token: as ``text``, and never a card number."""
    readable = text(limit, optional=True)

    def check(instance: Any, attribute: Any, value: Any) -> None:
        readable(instance, attribute, value)
        if value is not None and holds_card_number(value):
            found = "what looks like a card number"
            raise InvalidValueError(attribute.name, "an opaque token", found)

    return check


def one_of(kind: type, *, optional: bool = False) -> Check:
    """Return a validator for an instance of *kind*."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, kind):
            raise InvalidValueError(attribute.name, f"a {kind.__name__}", shape(value))

    return check


def set_of(kind: type, *, optional: bool = False) -> Check:
    """Return a validator for a frozenset of instances of *kind*."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if not isinstance(value, frozenset) or not all(isinstance(one, kind) for one in value):
            wanted = f"a frozenset of {kind.__name__}"
            raise InvalidValueError(attribute.name, wanted, shape(value))

    return check


def aware(_: Any, attribute: Any, value: Any) -> None:
    """Accept an aware datetime or None."""
    if value is not None and (not isinstance(value, datetime) or value.utcoffset() is None):
        raise InvalidValueError(attribute.name, "an aware datetime or None", shape(value))


def whole_number(least: int, *, most: int = _LARGEST, optional: bool = False) -> Check:
    """Return a validator for an int (no bool) of *least* to *most*."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if type(value) is not int or not least <= value <= most:
            wanted = f"an int of {least} to {most}"
            raise InvalidValueError(attribute.name, wanted, _number(value))

    return check


def seconds(_: Any, attribute: Any, value: Any) -> None:
    """Accept a finite number of seconds, zero or more."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < float("inf")
    ):
        raise InvalidValueError(attribute.name, "seconds, zero or more", _number(value))


def texts(most: int, size: int) -> Check:
    """
    Return a validator for a mapping of texts.

    At most *most* entries, *size* characters in all.
    """

    def check(_: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, Mapping) or len(value) > most:
            raise InvalidValueError(
                attribute.name, f"a mapping of at most {most} texts", shape(value)
            )
        if not all(
            isinstance(name, str) and isinstance(inner, str) for name, inner in value.items()
        ):
            raise InvalidValueError(
                attribute.name, "text names and text values", "something else among them"
            )
        joined = "".join(f"{name}{inner}" for name, inner in value.items())
        if len(joined) > size or "\x00" in joined or not joined.isprintable():
            raise InvalidValueError(
                attribute.name, f"at most {size} printable characters in all", shape(value)
            )

    return check


def _number(value: object) -> str:
    is_short = isinstance(value, int | float) and abs(value) < _LARGEST
    return repr(value) if is_short else shape(value)


def shape(value: object) -> str:
    """Return what kind of thing *value* is, without its content."""
    match value:
        case None:
            return "None"
        case str():
            return f"a text of {len(value)} characters" + (
                "" if value.isascii() else ", some not ASCII"
            )
        case datetime():
            return "a datetime without a time zone"
        case Mapping():
            return f"a mapping of {len(value)}"
        case _:
            return f"a value of type {type(value).__name__}"
