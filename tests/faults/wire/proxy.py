"""
The wire of one caller: its ways to the database and to the provider, with one count of messages.

Everything that a caller sends and hears passes here, message by message. At the n-th one something
befalls it:

- ``kill``: the caller dies. The message is lost, both ways end, and nothing that it still says is
  heard. What was passed on before arrives, as the kernel delivers what a dead process has written.
- ``reset``: the message is lost and its connection reset on both sides. The caller lives on and may
  connect again.
- ``black hole``: the message and all that follows on its connection is swallowed both ways, and
  nobody is told, until ``wake`` resets the connection: much later than the lease.
- ``reset after``: the message arrives, then its connection is reset.

A killed caller is emulated by never answering it again. ``on_kill`` kills a real one.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Final, cast

import attrs

from tests.faults.wire.messages import (
    HttpClient,
    HttpServer,
    Message,
    PostgresClient,
    PostgresServer,
    Reader,
    Refusal,
)

_HOST: Final = "127.0.0.1"
_RESET: Final = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """What befalls a message."""

    KILL = "kill"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    RESET_AFTER = "reset after"


@attrs.frozen
class Fault:
    """
    What is to happen, and where.

    Attributes:
        mode: What.
        nth: To which message, from 1; or
        name: to the first of this name.
    """

    mode: Mode
    nth: int = 0
    name: str = ""

    def hits(self, count: int, name: str) -> bool:
        """Return whether it is the message that is number *count*."""
        return count == self.nth or (bool(self.name) and name.startswith(self.name))


@attrs.frozen
class Upstream:
    """Where a way leads: a TCP address, or the path of a Unix socket."""

    host: str
    port: int

    @property
    def is_path(self) -> bool:
        """Whether it is a folder with a socket in it."""
        return self.host.startswith("/")


@attrs.define(eq=False)
class Wire:
    """All that one caller says and hears."""

    database: Upstream
    provider: Upstream
    fault: Fault | None = None
    on_kill: Callable[[], None] | None = None
    seen: list[str] = attrs.field(factory=list)
    struck: str | None = None
    is_dead: bool = False
    is_buried: bool = False
    is_counting: bool = False
    calm: asyncio.Event = attrs.field(factory=asyncio.Event)
    pairs: "set[Pair]" = attrs.field(factory=set)
    database_port: int = 0
    provider_port: int = 0
    _servers: list[asyncio.Server] = attrs.field(factory=list)

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        for is_database in (True, False):
            server = await loop.create_server(self._accepting(is_database), _HOST, 0)
            self._servers.append(server)
            port = cast("int", server.sockets[0].getsockname()[1])
            if is_database:
                self.database_port = port
            else:
                self.provider_port = port

    async def close(self) -> None:
        """Stop listening, and reset what is open."""
        for server in self._servers:
            server.close()
        self.bury()
        await asyncio.sleep(0)

    def arm(self, fault: Fault | None) -> None:
        """Begin to count, for *fault*."""
        self.fault, self.struck, self.is_counting = fault, None, True
        self.seen = []
        self.calm.clear()

    def disarm(self) -> None:
        """Count no more; what was armed and did not strike never will."""
        self.is_counting = False

    @property
    def is_black(self) -> bool:
        """Whether a connection of it leads into a black hole."""
        return any(pair.is_black for pair in self.pairs)

    def revive(self) -> None:
        """Begin anew, with a caller that lives."""
        self.is_dead = self.is_buried = False

    def wake(self) -> None:
        """End black holes: their connections are reset at last."""
        for pair in [one for one in self.pairs if one.is_black]:
            pair.reset()

    def bury(self) -> None:
        """Reset everything, also what a dead caller still holds; nothing connects any more."""
        self.is_dead = self.is_buried = True
        for pair in tuple(self.pairs):
            pair.reset()

    def pass_on(self, pair: "Pair", message: Message, to: Callable[[bytes], None]) -> None:
        """Let *message* through, or not."""
        if self.is_dead or pair.is_black:
            return
        if not (self.is_counting and message.is_counted):
            to(message.octets)
            return
        self.seen.append(message.name)
        fault = self.fault
        if self.struck or fault is None or not fault.hits(len(self.seen), message.name):
            to(message.octets)
            return
        self.struck = message.name
        self.strike(fault.mode, pair, lambda: to(message.octets))
        self.calm.set()

    def strike(self, mode: Mode, pair: "Pair", go_through: Callable[[], None]) -> None:
        """Let it happen."""
        match mode:
            case Mode.KILL:
                self.is_dead = True
                if self.on_kill is not None:
                    self.on_kill()  # and its kernel ends what is open
                    return
                for one in tuple(self.pairs):
                    one.end_upstream()
            case Mode.RESET:
                pair.reset()
            case Mode.BLACK_HOLE:
                pair.is_black = True
            case Mode.RESET_AFTER:
                go_through()
                pair.end_upstream()
                pair.reset()

    def _accepting(self, is_database: bool) -> Callable[[], "Side"]:
        def accept() -> Side:
            if is_database:
                return Pair(self, self.database, PostgresClient(), PostgresServer()).client
            return Pair(self, self.provider, HttpClient(), HttpServer(), "http> connect").client

        return accept


class Pair:
    """One connection of the caller and ours that goes on from it."""

    def __init__(
        self,
        wire: Wire,
        upstream: Upstream,
        from_client: Reader,
        from_server: Reader,
        greeting: str | None = None,
    ) -> None:
        self.wire = wire
        self.is_black = False
        self.greeting = greeting
        self.client = Side(self, from_client)
        self.server = Side(self, from_server)
        self._upstream = upstream
        self._connecting: asyncio.Task[None] | None = None

    def accepted(self) -> None:
        """Begin: the caller is there."""
        self.wire.pairs.add(self)
        if self.wire.is_buried:
            self.reset()
            return
        if self.greeting is not None:
            self.wire.pass_on(self, Message(self.greeting, b""), lambda _: None)
        if not (self.wire.is_dead or self.client.is_closing):
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def heard(self, side: "Side", octets: bytes) -> None:
        """Read what *side* said, and pass it on."""
        other = self.server if side is self.client else self.client
        for one in side.reader.feed(octets):
            if isinstance(one, Refusal):
                side.write(one.octets)
            else:
                self.wire.pass_on(self, one, other.write)

    def ended(self, side: "Side") -> None:
        """Close the other side, once one is closed."""
        if self.is_black:
            return
        other = self.server if side is self.client else self.client
        if side is self.server and self.wire.is_dead:
            return  # a dead caller hears nothing, not even that
        if not self.wire.is_dead and (left := side.reader.rest()):
            other.write(left)
        other.close()
        if self.client.is_gone:
            self.wire.pairs.discard(self)

    def end_upstream(self) -> None:
        """Close our side towards the server, once it has all that was passed on."""
        self.server.close()

    def reset(self) -> None:
        """Reset both sides."""
        self.is_black = False
        if self._connecting is not None:
            self._connecting.cancel()
        self.server.close()
        self.client.reset()
        self.wire.pairs.discard(self)

    async def _connect(self) -> None:
        loop, where = asyncio.get_running_loop(), self._upstream
        try:
            if where.is_path:
                path = f"{where.host}/.s.PGSQL.{where.port}"
                await loop.create_unix_connection(lambda: self.server, path)
            else:
                await loop.create_connection(lambda: self.server, where.host, where.port)
        except OSError:
            self.client.reset()


class Side(asyncio.Protocol):
    """One socket."""

    def __init__(self, pair: Pair, reader: Reader) -> None:
        self.reader = reader
        self.is_gone = False
        self._pair = pair
        self._waiting = bytearray()
        self.is_closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self is self._pair.client:
            self._pair.accepted()
        if self._waiting:
            self._transport.write(bytes(self._waiting))
            self._waiting.clear()
        if self.is_closing:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._pair.heard(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        self._pair.ended(self)

    def write(self, octets: bytes) -> None:
        """Send, as soon as there is a connection."""
        if self._transport is None:
            self._waiting += octets
        elif not self.is_closing:
            self._transport.write(octets)

    def close(self) -> None:
        """Close once everything is sent."""
        self.is_closing = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close with a reset, whatever was not sent."""
        self.is_closing = True
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
