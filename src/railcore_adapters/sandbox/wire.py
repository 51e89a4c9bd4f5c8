"""
HTTP/1.1 as the sandbox speaks it: strict in what it reads, plain in what it writes.

The server is written by hand because faults need the socket: an answer cut in half, one byte a
second, no answer at all. Whatever arrives is either a `Request` or raises `Refusal`, nothing else.
Bodies come with a `Content-Length`; chunked ones are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

HEAD_LIMIT: Final = 16 * 1024
BODY_LIMIT: Final = 64 * 1024

Json: TypeAlias = Mapping[str, Any]
"""A JSON object on its way out; its values are whatever `json.dumps` takes."""

_REQUEST_LINE: Final = re.compile(r"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/(\d)\.(\d)")
_HEADER: Final = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)",
)
_LENGTH: Final = re.compile(r"\d{1,9}")
_SAID_ONCE: Final = frozenset(
    {"authorization", "content-length", "host", "idempotency-key", "x-sandbox-fault"},
)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_REASONS: Final = {int(status): status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole answer; `encode` makes the bytes."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()

    def encode(self, *, keep_alive: bool) -> bytes:
        """Return head and body as they go over the wire."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


class Refusal(Exception):
    """The request is answered with an error, and nothing else happens."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(status, code, message, headers)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def response(self) -> Response:
        """Return the answer that says so."""
        return error_response(self.status, self.code, self.message, self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was read whole. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    method: str
    target: str
    headers: Mapping[str, str]
    keep_alive: bool
    length: int


class RequestReader:
    """Turns bytes, however they are cut, into requests one after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take in what the socket gave."""
        self._buffer += data

    def next(self) -> Request | None:
        """
        Return the next request, or nothing while it is incomplete.

        Raises:
            Refusal: The bytes are no acceptable HTTP/1.1; the connection cannot go on.
        """
        if self._head is None:
            self._head = self._take_head()
        head = self._head
        if head is None or len(self._buffer) < head.length:
            return None
        body = self._take(head.length)
        self._head = None
        path, _, query = head.target.partition("?")
        return Request(
            method=head.method,
            path=path,
            query=_read_query(query) if query else {},
            headers=head.headers,
            body=body,
            keep_alive=head.keep_alive,
        )

    def _take_head(self) -> _Head | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end > HEAD_LIMIT or (end < 0 and len(self._buffer) > HEAD_LIMIT):
            raise Refusal(431, "head_too_large", f"A head has at most {HEAD_LIMIT} bytes.")
        if end < 0:
            _check_beginning(self._buffer)
            return None
        return _read_head(self._take(end + 4)[:-4].decode("latin-1"))

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def json_response(
    status: int,
    value: Json,
    headers: Sequence[tuple[str, str]] = (),
) -> Response:
    """Return *value* as a JSON answer."""
    body = _encode(value).encode()
    return Response(status=status, body=body, headers=headers)


def error_response(
    status: int,
    code: str,
    message: str,
    headers: Sequence[tuple[str, str]] = (),
) -> Response:
    """Return the one shape of an error: ``{"error": {"code": ..., "message": ...}}``."""
    return json_response(status, {"error": {"code": code, "message": message}}, headers)


def read_json_object(body: bytes) -> dict[str, Any]:
    """
    Return the JSON object in *body*.

    Raises:
        Refusal: The body is something else.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body must be a JSON object; it cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not {type(value).__name__}.")
    return value


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that makes no sense."""
    return Refusal(400, "invalid_request", message)


def _check_beginning(buffer: bytearray) -> None:
    """Refuse early what can never become a request, so that nobody waits for its end."""
    newline = buffer.find(b"\n")
    if (buffer and not 65 <= buffer[0] <= 90) or (newline >= 0 and buffer[newline - 1] != 13):
        raise invalid("This is no HTTP/1.1 request.")


def _read_head(text: str) -> _Head:
    first, *lines = text.split("\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise invalid("The request line must be: METHOD /path HTTP/1.1")
    method, target, major, minor = found.groups()
    if (major, minor) not in {("1", "1"), ("1", "0")}:
        raise Refusal(505, "http_version", f"Wanted HTTP/1.1, found HTTP/{major}.{minor}.")
    headers = _read_headers(lines)
    if minor == "1" and "host" not in headers:
        raise invalid("The header Host is missing.")
    closes = minor == "0" or "close" in headers.get("connection", "").lower()
    length = _read_length(method, headers)
    return _Head(
        method=method,
        target=target,
        headers=headers,
        keep_alive=not closes,
        length=length,
    )


def _read_headers(lines: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise invalid("A header line must be: Name: value")
        name = found[1].lower()
        if name in headers and name in _SAID_ONCE:
            raise invalid(f"The header {found[1]} may be sent once only.")
        headers[name] = found[2].rstrip(" \t")
    return headers


def _read_length(method: str, headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refusal(501, "chunked_refused", "Send Content-Length, not Transfer-Encoding.")
    if "expect" in headers:
        raise Refusal(417, "expectation_failed", "Send the body without Expect.")
    said = headers.get("content-length")
    if said is None:
        if method in {"POST", "PUT", "PATCH"}:
            raise Refusal(411, "length_required", f"{method} needs a Content-Length.")
        return 0
    if _LENGTH.fullmatch(said) is None:
        raise invalid("Content-Length must be a number of at most nine digits.")
    if int(said) > BODY_LIMIT:
        raise Refusal(413, "body_too_large", f"A body has at most {BODY_LIMIT} bytes.")
    return int(said)


def _read_query(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError as error:
        raise invalid(f"The query cannot be read ({error}).") from error
