"""What a flow asks for and is answered with, when it speaks HTTP."""

import json
from collections.abc import Generator, Mapping
from typing import TypeVar

import attrs

from railcore import _checks

Answer = TypeVar("Answer")


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

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    body: bytes = attrs.field(default=b"", repr=False)
    moves_money: bool = attrs.field(default=False, validator=_checks.one_of(bool))
    credentials_of: tuple[str, str, str] | None = None
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

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    body: bytes = attrs.field(default=b"", repr=False)

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


Exchange = Generator[HttpRequest, HttpResponse, Answer]
"""
A conversation with a provider.

Yields requests, receives responses, returns its answer, mostly a ``RailResult``.
"""
