"""
What a message is: the framing of PostgreSQL's protocol and of HTTP, without any I/O.

A reader is fed the bytes of one direction of one connection and gives back whole messages, each
with a name for people. Three things are told apart from the rest of their protocols:

- PostgreSQL's greeting, all that a server says until it is ready for the first query, is one
  message: nobody acts on a part of it. Every other frame is a message of its own, also the frames
  of one batch (Parse, Bind, Describe, Execute, Sync), for a connection can break between any two.
- A request for encryption is refused by whoever reads it, and is no message. Nor is the farewell.
- An HTTP answer is two messages, its first half and the rest, so that it can break in the middle.
"""

import struct
from typing import Final, Protocol

import attrs

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_CANCEL_REQUEST: Final = 80877102
_CLIENT: Final = {
    b"P": "Parse",
    b"B": "Bind",
    b"D": "Describe",
    b"E": "Execute",
    b"S": "Sync",
    b"Q": "Query",
    b"C": "Close",
    b"H": "Flush",
    b"p": "Password",
    b"X": "Terminate",
}
_SERVER: Final = {
    b"1": "ParseComplete",
    b"2": "BindComplete",
    b"3": "CloseComplete",
    b"C": "CommandComplete",
    b"D": "DataRow",
    b"E": "ErrorResponse",
    b"I": "EmptyQuery",
    b"N": "Notice",
    b"S": "ParameterStatus",
    b"T": "RowDescription",
    b"Z": "ReadyForQuery",
    b"n": "NoData",
    b"t": "ParameterDescription",
}
_UNCOUNTED: Final = frozenset({"Terminate", "CancelRequest"})


@attrs.frozen
class Message:
    """
    One message.

    Attributes:
        name: Which protocol, which direction, what: ``db> Execute``, ``http< answer, rest``.
        octets: As they came.
        is_counted: Whether something can befall it.
    """

    name: str
    octets: bytes
    is_counted: bool = True


@attrs.frozen
class Refusal:
    """What to answer to a request for encryption, which goes no further."""

    octets: bytes = b"N"


Read = Message | Refusal


class Reader(Protocol):
    """Reads one direction of one connection."""

    def feed(self, octets: bytes) -> list[Read]:
        """Return what is whole by now."""
        ...

    def rest(self) -> bytes:
        """Return what never became whole."""
        ...


@attrs.define
class PostgresClient:
    """Reads what a client sends to PostgreSQL."""

    buffer: bytearray = attrs.field(factory=bytearray)
    has_started: bool = False

    def feed(self, octets: bytes) -> list[Read]:
        self.buffer += octets
        found: list[Read] = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def rest(self) -> bytes:
        return bytes(self.buffer)

    def _next(self) -> Read | None:
        if self.has_started:
            return _frame(self.buffer, "db>", _CLIENT)
        if len(self.buffer) < 8:
            return None
        length, code = struct.unpack_from("!II", self.buffer)
        octets = _cut(self.buffer, length)
        if octets is None:
            return None
        if code in {_SSL_REQUEST, _GSS_REQUEST}:
            return Refusal()
        if code == _CANCEL_REQUEST:
            return Message("db> CancelRequest", octets, is_counted=False)
        self.has_started = True
        return Message("db> Startup", octets)


@attrs.define
class PostgresServer:
    """Reads what PostgreSQL sends to a client."""

    buffer: bytearray = attrs.field(factory=bytearray)
    greeting: bytearray | None = attrs.field(factory=bytearray)

    def feed(self, octets: bytes) -> list[Read]:
        self.buffer += octets
        found: list[Read] = []
        while (one := _frame(self.buffer, "db<", _SERVER)) is not None:
            if self.greeting is None:
                found.append(one)
                continue
            self.greeting += one.octets
            is_question = one.octets[:1] == b"R" and one.octets[5:9] != b"\0\0\0\0"
            if one.name.endswith(("ReadyForQuery", "ErrorResponse")) or is_question:
                found.append(Message("db< greeting", bytes(self.greeting)))
                self.greeting = bytearray() if is_question else None
        return found

    def rest(self) -> bytes:
        return bytes(self.greeting or b"") + bytes(self.buffer)


@attrs.define
class HttpClient:
    """Reads requests."""

    buffer: bytearray = attrs.field(factory=bytearray)

    def feed(self, octets: bytes) -> list[Read]:
        self.buffer += octets
        found: list[Read] = []
        while (whole := _http(self.buffer)) is not None:
            method = whole.split(b" ", 1)[0].decode("ascii", "replace")
            found.append(Message(f"http> {method}", whole))
        return found

    def rest(self) -> bytes:
        return bytes(self.buffer)


@attrs.define
class HttpServer:
    """Reads answers."""

    buffer: bytearray = attrs.field(factory=bytearray)

    def feed(self, octets: bytes) -> list[Read]:
        self.buffer += octets
        found: list[Read] = []
        while (whole := _http(self.buffer)) is not None:
            middle = len(whole) - max(1, _body_length(whole) // 2)
            found.append(Message("http< answer, first half", whole[:middle]))
            found.append(Message("http< answer, rest", whole[middle:]))
        return found

    def rest(self) -> bytes:
        return bytes(self.buffer)


def _frame(buffer: bytearray, direction: str, names: dict[bytes, str]) -> Message | None:
    if len(buffer) < 5:
        return None
    (length,) = struct.unpack_from("!I", buffer, 1)
    octets = _cut(buffer, length + 1)
    if octets is None:
        return None
    name = names.get(octets[:1], repr(octets[:1]))
    return Message(f"{direction} {name}", octets, is_counted=name not in _UNCOUNTED)


def _http(buffer: bytearray) -> bytes | None:
    end = buffer.find(b"\r\n\r\n")
    return None if end < 0 else _cut(buffer, end + 4 + _body_length(bytes(buffer)))


def _body_length(octets: bytes) -> int:
    head, _, _ = octets.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _cut(buffer: bytearray, length: int) -> bytes | None:
    if len(buffer) < length:
        return None
    octets = bytes(buffer[:length])
    del buffer[:length]
    return octets
