"""What a flow asks for and is answered with, when it speaks HTTP."""

import json
import re
from collections.abc import Generator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import attrs

from railcore import _checks
from railcore.errors import InvalidValueError

Answer = TypeVar("Answer")

_DAY_S: Final = 86_400
_METHOD: Final = re.compile("[A-Z]{1,16}")


def _is_a_method(_: Any, __: Any, method: Any) -> None:
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise InvalidValueError("method", "capital letters", _checks.shape(method))


def _is_a_status(_: Any, __: Any, status: Any) -> None:
    if not isinstance(status, int) or not 100 <= status <= 999:
        raise InvalidValueError("status", "three digits", _checks.shape(status))


def _are_headers(_: Any, __: Any, headers: Any) -> None:
    if not isinstance(headers, Mapping) or not all(
        isinstance(one, str) for pair in headers.items() for one in pair
    ):
        raise InvalidValueError("headers", "a mapping of texts", _checks.shape(headers))


def _are_three_texts(_: Any, __: Any, names: Any) -> None:
    if names is None:
        return
    if (
        not isinstance(names, tuple)
        or len(names) != 3
        or not all(isinstance(one, str) for one in names)
    ):
        wanted = "tenant, provider and account, or None"
        raise InvalidValueError("credentials_of", wanted, _checks.shape(names))


@attrs.frozen(kw_only=True)
class HttpRequest:
    """
    One request of a flow.

    Attributes:
        method: Upper case.
        url: Absolute.
        headers: As sent; credentials are added by the transport's authorizer, never here.
        body: Bytes as sent.
        moves_money: Whether rules R1 to R5 bind it: it leaves only before the send deadline and is
            never repeated by a transport.
        credentials_of: Tenant, provider and account whose credentials the authorizer adds, if any.
        timeout_s: How long the whole answer is waited for; None leaves it to the transport.
    """

    method: str = attrs.field(validator=_is_a_method)
    url: str = attrs.field(validator=_checks.text(8192))
    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_are_headers, hash=False)
    body: bytes = attrs.field(default=b"", validator=_checks.one_of(bytes), repr=False)
    moves_money: bool = attrs.field(default=False, validator=_checks.one_of(bool))
    credentials_of: tuple[str, str, str] | None = attrs.field(
        default=None, validator=_are_three_texts
    )
    timeout_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_checks.seconds)
    )


@attrs.frozen(kw_only=True)
class HttpResponse:
    """
    One answer.

    Attributes:
        status: The number.
        headers: Names in lower case.
        body: Whole, as received.
    """

    status: int = attrs.field(validator=_is_a_status)
    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_are_headers, hash=False)
    body: bytes = attrs.field(default=b"", validator=_checks.one_of(bytes), repr=False)

    def json_object(self) -> Mapping[str, object] | None:
        """
        Return the body as a JSON object, or None when it is anything else. Reading is total.

        Nothing is raised.
        """
        try:
            value: object = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def retry_after_s(response: HttpResponse) -> float | None:
    """
    Return for how many seconds the provider asks to be left alone, at most a day.

    Both forms of the header are read (RFC 9110, section 10.2.3); a date counts from the answer's
    own ``Date``, whatever our clock says. None where it is absent or cannot be read.
    """
    said = response.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(min(int(said[:9]), _DAY_S))
    try:
        until, sent = (parsedate_to_datetime(one) for one in (said, response.headers["date"]))
        left_s = (until - sent).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return max(0.0, min(left_s, _DAY_S))


def instant(value: object) -> datetime | None:
    """
    Return the time in an answer, with its offset: ISO 8601, or a blank in place of the T.

    None for what is none, or has no offset.
    """
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if at is None or at.utcoffset() is None else at


Exchange = Generator[HttpRequest, HttpResponse, Answer]
"""
A conversation with a provider.

Yields requests, receives responses, returns its answer, mostly a ``RailResult``.
"""
