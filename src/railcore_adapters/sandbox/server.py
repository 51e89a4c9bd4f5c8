"""
The server: one thread, one event loop, one small protocol object a connection.

An answer is worked out in one go when its request is complete, so no request waits for another.
What takes time (a late answer, a byte a second) is a timer of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from railcore_adapters.sandbox.faults import Answer, Delivery
from railcore_adapters.sandbox.wire import (
    BODY_LIMIT,
    HEAD_LIMIT,
    Refusal,
    Request,
    RequestReader,
    Response,
    error_response,
)

HOST: Final = "127.0.0.1"

_BACKLOG: Final = 1024
_BUFFER_LIMIT: Final = HEAD_LIMIT + BODY_LIMIT
_LINGER_S: Final = 1.0
_GARBAGE: Final = b"\x00\xff<html>\x1f\x8b not what was promised {]"

_logger = logging.getLogger(__name__)

_Running: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Event, threading.Thread]


class Server:
    """Serves *handle* on loopback in a background thread until it is stopped."""

    def __init__(
        self,
        handle: Callable[[Request], Answer],
        drip_interval_s: Callable[[], float],
    ) -> None:
        self._handle = handle
        self._drip_interval_s = drip_interval_s
        self._running: _Running | None = None

    def start(self, port: int) -> int:
        """
        Begin to serve on *port* (0 for any free one) and return the port.

        Raises:
            OSError: The port is taken.
        """
        listening = socket.create_server((HOST, port), backlog=_BACKLOG)
        found = cast("int", listening.getsockname()[1])
        loop, stopping = asyncio.new_event_loop(), asyncio.Event()
        thread = threading.Thread(
            target=self._run,
            args=(loop, stopping, listening),
            name="railcore-sandbox",
            daemon=True,
        )
        self._running = loop, stopping, thread
        thread.start()
        return found

    def stop(self) -> None:
        """Close every connection and stop serving."""
        if self._running is None:
            return
        loop, stopping, thread = self._running
        self._running = None
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        stopping: asyncio.Event,
        listening: socket.socket,
    ) -> None:
        try:
            loop.run_until_complete(self._serve(stopping, listening))
        finally:
            loop.close()

    async def _serve(self, stopping: asyncio.Event, listening: socket.socket) -> None:
        connections: set[Connection] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self._handle, self._drip_interval_s, connections),
            sock=listening,
            backlog=_BACKLOG,
        )
        await stopping.wait()
        # A server closed while it accepts a connection would leave that socket open.
        while accepting := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(accepting)
        server.close()
        while connections:
            for connection in list(connections):
                connection.abort()
            await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One client. Reads a request, answers it, then reads the next."""

    def __init__(
        self,
        handle: Callable[[Request], Answer],
        drip_interval_s: Callable[[], float],
        connections: set[Connection],
    ) -> None:
        self._handle = handle
        self._drip_interval_s = drip_interval_s
        self._connections = connections
        self._reader = RequestReader()
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the port's signature
        """Forget the socket; what was charged stays charged."""
        self._transport = None
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Read on, and answer what is complete."""
        self._reader.feed(data)
        if not self._busy:
            self._serve()
        elif len(self._reader) > _BUFFER_LIMIT and self._transport is not None:
            self._transport.pause_reading()

    def abort(self) -> None:
        """Close without another word."""
        if self._transport is not None:
            self._transport.abort()

    def _serve(self) -> None:
        """Answer complete requests until one takes time or the bytes run out."""
        while not self._busy and self._transport is not None:
            try:
                request = self._reader.next()
            except Refusal as refusal:
                self._turn_away(refusal.response())
                return
            if request is None:
                return
            self._begin(request)

    def _begin(self, request: Request) -> None:
        self._busy = True
        answer = self._ask(request)
        if answer.hold_s > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(answer.hold_s, self._resume, answer, request.keep_alive)
        else:
            self._deliver(answer, keep_alive=request.keep_alive)

    def _ask(self, request: Request) -> Answer:
        try:
            return self._handle(request)
        except Refusal as refusal:
            return Answer(refusal.response())
        except Exception:
            _logger.exception("The sandbox failed on %s %s", request.method, request.path)
            return Answer(error_response(500, "sandbox_bug", "See the log of the sandbox."))

    def _resume(self, answer: Answer, keep_alive: bool) -> None:  # noqa: FBT001 - called by a timer
        self._deliver(answer, keep_alive=keep_alive)
        self._serve()

    def _deliver(self, answer: Answer, *, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        match answer.how:
            case Delivery.WHOLE | Delivery.LATE:
                self._finish(answer.response.encode(keep_alive=keep_alive), keep_alive=keep_alive)
            case Delivery.GARBAGE:
                garbage = Response(status=200, body=_GARBAGE)
                self._finish(garbage.encode(keep_alive=keep_alive), keep_alive=keep_alive)
            case Delivery.NOTHING:
                transport.close()
            case Delivery.TRUNCATED:
                whole = answer.response.encode(keep_alive=False)
                transport.write(whole[: -(len(answer.response.body) + 1) // 2])
                transport.close()
            case Delivery.DRIP:
                self._drip(answer.response.encode(keep_alive=False), 0)

    def _finish(self, octets: bytes, *, keep_alive: bool) -> None:
        """Send a whole answer, and be ready for the next request."""
        if self._transport is None:
            return
        self._transport.write(octets)
        if keep_alive:
            self._busy = False
            self._transport.resume_reading()
        else:
            self._transport.close()

    def _drip(self, octets: bytes, at: int) -> None:
        if self._transport is None:
            return
        self._transport.write(octets[at : at + 1])
        if at + 1 < len(octets):
            loop = asyncio.get_running_loop()
            loop.call_later(self._drip_interval_s(), self._drip, octets, at + 1)
        else:
            self._transport.close()

    def _turn_away(self, response: Response) -> None:
        """
        Say what was wrong, and close.

        The rest of what the client sends is thrown away for a moment first: closing with unread
        bytes would reset the connection, and the client would never read why.
        """
        self._busy = True
        if self._transport is None:
            return
        self._transport.write(response.encode(keep_alive=False))
        self._transport.write_eof()
        self._reader = _Drain()
        asyncio.get_running_loop().call_later(_LINGER_S, self.abort)


class _Drain(RequestReader):
    """Takes bytes and forgets them."""

    def feed(self, data: bytes) -> None:
        """Forget *data*."""
