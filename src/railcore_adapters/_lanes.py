"""
Connections for many requests at a time, one request a connection.

httpcore's own pool offers one idle connection to several requests at once. All but one of them are
turned away and ask again, and every asking looks at every connection: with 64 requests in flight
some waited for seconds before their first byte, which a send deadline does not forgive. Here a
request takes a connection that nobody else has, the one that was used last, or makes a new one.
"""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import httpx
from typing_extensions import override

Origin = tuple[str, str, int | None]

_ONE: Final = 1


class LanesTransport(httpx.AsyncBaseTransport):
    """
    A transport for ``httpx.AsyncClient`` that gives every request a connection of its own.

    Args:
        most_connections: How many requests are under way; more wait, in their order.
        most_idle: How many connections are kept open unused.
        idle_s: For how long.
        ssl_context: For HTTPS.
    """

    def __init__(
        self, *, most_connections: int, most_idle: int, idle_s: float, ssl_context: ssl.SSLContext
    ) -> None:
        self._most_idle = most_idle
        self._idle_s = idle_s
        self._ssl_context = ssl_context
        self._room = asyncio.Semaphore(most_connections)
        self._idle: defaultdict[Origin, list[httpx.AsyncHTTPTransport]] = defaultdict(list)

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = request.url.scheme, request.url.host, request.url.port
        await self._room.acquire()
        lane = self._take(origin)
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            await self._give_back(origin, lane)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - what httpx makes
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Stream(response.stream, lambda: self._give_back(origin, lane)),
            extensions=response.extensions,
        )

    @override
    async def aclose(self) -> None:
        idle = [lane for lanes in self._idle.values() for lane in lanes]
        self._idle.clear()
        for lane in idle:
            await lane.aclose()

    def _take(self, origin: Origin) -> httpx.AsyncHTTPTransport:
        if self._idle[origin]:
            return self._idle[origin].pop()
        limits = httpx.Limits(
            max_connections=_ONE, max_keepalive_connections=_ONE, keepalive_expiry=self._idle_s
        )
        return httpx.AsyncHTTPTransport(
            verify=self._ssl_context, trust_env=False, limits=limits, retries=0
        )

    async def _give_back(self, origin: Origin, lane: httpx.AsyncHTTPTransport) -> None:
        self._room.release()
        if sum(map(len, self._idle.values())) < self._most_idle:
            self._idle[origin].append(lane)
        else:
            await lane.aclose()


class _Stream(httpx.AsyncByteStream):
    """An answer's bytes; its connection is free again once it is closed."""

    def __init__(
        self, inner: httpx.AsyncByteStream, give_back: Callable[[], Awaitable[None]]
    ) -> None:
        self._inner = inner
        self._give_back: Callable[[], Awaitable[None]] | None = give_back

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk

    @override
    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        try:
            await self._inner.aclose()
        finally:
            if give_back is not None:
                await give_back()
