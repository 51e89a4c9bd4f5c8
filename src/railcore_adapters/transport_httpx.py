"""
HTTP over httpx: one request, sent once, and the truth about whether it may have left.

httpcore reports each step of a request to its ``trace`` extension. The last moment before the first
byte is ``send_request_headers.started``: the connection is there, TLS included, and an exception
raised from the report closes it with nothing written. There the send deadline is read (rule R2). An
error before that moment proves that nothing was sent; after it, the request may have left.

Nothing is repeated here. httpcore sends a request once: it drops a pooled connection that the
server has closed before using it, and one that turns out to be dead later is an error, not a retry.
A second start of the same request, whoever may cause it, is refused.

httpx bounds each read and not their sum, so that a server which sends one byte a second would hold
a caller for ever. The asynchronous transport bounds the whole with ``asyncio.timeout``; the
synchronous one with ``TimedTransport``, whose every wait is cut to what is left.
"""

import asyncio
import inspect
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self

import attrs
from typing_extensions import override

from railcore.clock import Deadline
from railcore.errors import SendDeadlinePassed, TransportError
from railcore.http import HttpRequest, HttpResponse
from railcore.ports import CredentialSource

try:
    import httpcore
    import httpx

    from railcore_adapters._lanes import LanesTransport
except ImportError as error:
    raise ImportError("the HTTP transport needs httpx: pip install 'railcore[httpx]'") from error

__all__ = [
    "AsyncAuthorizer",
    "AsyncHttpxTransport",
    "Authorizer",
    "BearerAuthorizer",
    "HttpxTransport",
    "TimedTransport",
    "TransportLimits",
]

Authorizer = Callable[[HttpRequest], Mapping[str, str]]
"""Returns the headers that authorize a request. What it raises means that nothing was sent."""

AsyncAuthorizer = Callable[[HttpRequest], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""The same, and may be awaited for."""

_FOREIGN_ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
    UnicodeError,
)
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.PoolTimeout,
    httpcore.UnsupportedProtocol,
)
_ends_at_s: ContextVar[float | None] = ContextVar("_ends_at_s", default=None)


@attrs.frozen(kw_only=True)
class TransportLimits:
    """
    How long and how much.

    Attributes:
        total_s: The whole request, from waiting for a connection to the last byte of the answer. A
            request may ask for less.
        connect_s: Connecting, TLS included.
        most_connections: How many at a time; more wait.
        most_idle: How many are kept open unused.
        idle_s: For how long.
        answer_bytes: A longer answer is cut off and counts as no answer.
    """

    total_s: float = 30.0
    connect_s: float = 5.0
    most_connections: int = 100
    most_idle: int = 20
    idle_s: float = 30.0
    answer_bytes: int = 1024 * 1024

    def timeout_of(self, request: HttpRequest) -> float:
        """Return how long *request* may take."""
        return self.total_s if request.timeout_s is None else min(self.total_s, request.timeout_s)

    def timeouts(self, total_s: float, patience_s: float) -> Mapping[str, float]:
        """Return the bounds of the single waits, as httpx takes them."""
        connect_s = min(self.connect_s, patience_s)
        return {"pool": patience_s, "connect": connect_s, "read": total_s, "write": total_s}


@attrs.frozen
class BearerAuthorizer:
    """Authorizes with the account's credential as a bearer token (RFC 6750)."""

    credentials: CredentialSource

    def __call__(self, request: HttpRequest) -> Mapping[str, str]:
        """Return the header; none for a request that names no account."""
        if request.credentials_of is None:
            return {}
        secret = self.credentials.secret(*request.credentials_of)
        return {"Authorization": f"Bearer {secret.reveal()}"}


@attrs.define
class _Sending:
    """Watches one request on its way."""

    request: HttpRequest
    send_by: Deadline | None
    total_s: float
    is_traced: bool
    has_begun: bool = False

    def note(self, step: str, info: Mapping[str, Any]) -> None:
        """Take note of *step*, as httpcore names it; raise when the request must not go on."""
        self.is_traced = True
        if step.endswith(".send_request_headers.started") and not _is_tunnel(info):
            self._begin()
        elif step.endswith(".send_request_headers.failed") and isinstance(
            info.get("exception"), httpcore.LocalProtocolError
        ):
            self.has_begun = False  # refused by our own side, before writing

    async def anote(self, step: str, info: Mapping[str, Any]) -> None:
        """Take note of *step* asynchronously."""
        self.note(step, info)

    def patience_s(self) -> float:
        """
        Return how long to wait for a connection: not beyond the moment when it would be useless.

        Raises:
            SendDeadlinePassed: The request moves money, and it is too late already or no send mark
                is committed (R1, R2).
        """
        if not self.request.moves_money:
            return self.total_s
        if self.send_by is None:
            raise SendDeadlinePassed("money moves without a send deadline", may_have_left=False)
        left_s = self.send_by.at_s - self.send_by.monotonic()
        if left_s < 0:
            raise SendDeadlinePassed("the send deadline passed", may_have_left=False)
        return min(self.total_s, max(left_s, 0.001))

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn foreign errors into ``TransportError``."""
        try:
            yield
        except TransportError:
            raise
        except TimeoutError as error:
            raise self._lost(f"no answer within {self.total_s:g} s", error) from error
        except _FOREIGN_ERRORS as error:
            raise self._lost(type(error).__name__, error) from error

    def cut_off(self, answer_bytes: int) -> TransportError:
        """Return the error of an answer that is too long."""
        problem = f"{self._name}: an answer above {answer_bytes} bytes"
        return TransportError(problem, may_have_left=True)

    @property
    def _name(self) -> str:
        return f"{self.request.method} {_host(self.request.url)}"

    def _begin(self) -> None:
        if self.has_begun:
            problem = f"{self._name}: refused to send it a second time"
            raise TransportError(problem, may_have_left=True)
        self.patience_s()
        self.has_begun = True

    def _lost(self, problem: str, error: Exception) -> TransportError:
        proven = not self.has_begun and (self.is_traced or isinstance(error, _NEVER_SENT))
        return TransportError(f"{self._name}: {problem}", may_have_left=not proven)


def _is_tunnel(info: Mapping[str, Any]) -> bool:
    """Whether this is a proxy's CONNECT, which carries nothing of the request."""
    return getattr(info.get("request"), "method", b"") == b"CONNECT"


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host or "nowhere"
    except (httpx.InvalidURL, TypeError):
        return "an invalid URL"


class HttpxTransport:
    """
    Sends requests over a ``httpx.Client``, synchronously. Safe to share between threads.

    Args:
        client: The host's, closed by the host. Give it ``transport=TimedTransport()``: with another
            transport a slow drip is bounded per read only. Its default headers, cookies,
            authentication and redirects are not used. ``open`` makes a client.
        limits: Time and size.
        authorizer: Adds the headers that authorize a request.
        is_traced: Whether the client's transport is known to report to httpcore's ``trace``
            extension, as httpx's own do and mocks do not. Then silence proves nothing was sent.
    """

    def __init__(
        self,
        client: httpx.Client,
        *,
        limits: TransportLimits | None = None,
        authorizer: Authorizer | None = None,
        is_traced: bool = False,
    ) -> None:
        self._client = client
        self._limits = limits or TransportLimits()
        self._authorizer = authorizer
        self._is_traced = is_traced

    @classmethod
    def open(
        cls,
        *,
        limits: TransportLimits | None = None,
        authorizer: Authorizer | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Self:
        """Return a transport with a client of its own, which knows no environment and no proxy."""
        limits = limits or TransportLimits()
        transport = TimedTransport(limits, ssl_context=ssl_context)
        client = httpx.Client(transport=transport, trust_env=False)
        return cls(client, limits=limits, authorizer=authorizer, is_traced=True)

    def send(self, request: HttpRequest, send_by: Deadline | None, /) -> HttpResponse:
        """
        Return the answer to *request*, sent once.

        Raises:
            TransportError: No whole answer came; says whether the request may have left.
            MisconfiguredError: No credentials are known. Nothing was sent.
        """
        total_s = self._limits.timeout_of(request)
        sending = _Sending(request, send_by, total_s, self._is_traced)
        patience_s = sending.patience_s()
        headers = httpx.Headers(self._authorizer(request) if self._authorizer else {})
        with sending.translating(), _ending_in(total_s):
            asked = _asked(
                request, headers, self._limits.timeouts(total_s, patience_s), sending.note
            )
            answer = self._client.send(asked, stream=True, auth=None, follow_redirects=False)
            try:
                return _answered(answer, self._read(answer, sending))
            finally:
                answer.close()

    def close(self) -> None:
        """Close the client. Only for one that ``open`` made."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, answer: httpx.Response, sending: _Sending) -> bytes:
        body = bytearray()
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > self._limits.answer_bytes:
                raise sending.cut_off(self._limits.answer_bytes)
            _left_s(None)
        return bytes(body)


class AsyncHttpxTransport:
    """
    Sends requests over a ``httpx.AsyncClient``, on asyncio.

    Args:
        client: The host's, closed by the host. Its default headers, cookies, authentication and
            redirects are not used. ``open`` makes a client.
        limits: Time and size.
        authorizer: Adds the headers that authorize a request; may be awaited for.
        is_traced: Whether the client's transport is known to report to httpcore's ``trace``
            extension, as httpx's own do and mocks do not. Then silence proves nothing was sent.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        limits: TransportLimits | None = None,
        authorizer: AsyncAuthorizer | None = None,
        is_traced: bool = False,
    ) -> None:
        self._client = client
        self._limits = limits or TransportLimits()
        self._authorizer = authorizer
        self._is_traced = is_traced

    @classmethod
    def open(
        cls,
        *,
        limits: TransportLimits | None = None,
        authorizer: AsyncAuthorizer | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Self:
        """Return a transport with a client of its own, which knows no environment and no proxy."""
        limits = limits or TransportLimits()
        transport = LanesTransport(
            most_connections=limits.most_connections,
            most_idle=limits.most_idle,
            idle_s=limits.idle_s,
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
        )
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        return cls(client, limits=limits, authorizer=authorizer, is_traced=True)

    async def send(self, request: HttpRequest, send_by: Deadline | None, /) -> HttpResponse:
        """
        Return the answer to *request*, sent once.

        Raises:
            TransportError: No whole answer came; says whether the request may have left.
            MisconfiguredError: No credentials are known. Nothing was sent.
        """
        total_s = self._limits.timeout_of(request)
        sending = _Sending(request, send_by, total_s, self._is_traced)
        patience_s = sending.patience_s()
        headers = httpx.Headers(await self._authorization(request))
        with sending.translating():
            async with asyncio.timeout(total_s):
                asked = _asked(
                    request, headers, self._limits.timeouts(total_s, patience_s), sending.anote
                )
                async with self._asking(asked) as answer:
                    return _answered(answer, await self._read(answer, sending))

    async def aclose(self) -> None:
        """Close the client. Only for one that ``open`` made."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        import anyio.lowlevel  # noqa: PLC0415 - else the first request loads it, under its deadline

        await anyio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _authorization(self, request: HttpRequest) -> Mapping[str, str]:
        if self._authorizer is None:
            return {}
        given = self._authorizer(request)
        return await given if inspect.isawaitable(given) else given

    @asynccontextmanager
    async def _asking(self, asked: httpx.Request) -> AsyncIterator[httpx.Response]:
        answer = await self._client.send(asked, stream=True, auth=None, follow_redirects=False)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _read(self, answer: httpx.Response, sending: _Sending) -> bytes:
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > self._limits.answer_bytes:
                raise sending.cut_off(self._limits.answer_bytes)
        return bytes(body)


def _asked(
    request: HttpRequest,
    authorization: httpx.Headers,
    timeouts: Mapping[str, float],
    note: Callable[[str, Mapping[str, Any]], Any],
) -> httpx.Request:
    """Return *request* as httpx sends it, without the client's defaults and cookies."""
    return httpx.Request(
        request.method,
        request.url,
        headers=[("Accept-Encoding", "identity"), *request.headers.items(), *authorization.items()],
        content=request.body or None,
        extensions={"trace": note, "timeout": timeouts},
    )


def _answered(answer: httpx.Response, body: bytes) -> HttpResponse:
    return HttpResponse(status=answer.status_code, headers=dict(answer.headers), body=body)


@contextmanager
def _ending_in(total_s: float) -> Iterator[None]:
    """Bound every wait of ``TimedTransport`` in this thread by one moment."""
    token = _ends_at_s.set(time.monotonic() + total_s)
    try:
        yield
    finally:
        _ends_at_s.reset(token)


def _left_s(timeout: float | None) -> float | None:
    """Return *timeout* cut to what is left."""
    ends_at_s = _ends_at_s.get()
    if ends_at_s is None:
        return timeout
    left_s = ends_at_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time for this request is over")
    return left_s if timeout is None else min(timeout, left_s)


class TimedTransport(httpx.BaseTransport):
    """
    A transport for ``httpx.Client`` whose every wait ends when the whole request's time is over.

    Used outside ``HttpxTransport`` it waits as httpx's own does.

    Args:
        limits: Connections and times.
        ssl_context: Default: the certificates that httpx trusts, whatever the environment says.
        sockets: What makes the connections; httpcore's own by default.
    """

    def __init__(
        self,
        limits: TransportLimits | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        sockets: httpcore.NetworkBackend | None = None,
    ) -> None:
        limits = limits or TransportLimits()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=limits.most_connections,
            max_keepalive_connections=limits.most_idle,
            keepalive_expiry=limits.idle_s,
            retries=0,
            network_backend=_TimedBackend(sockets),
        )

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=target,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    @override
    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    @override
    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    @override
    def close(self) -> None:
        self._answer.close()


class _TimedBackend(httpcore.NetworkBackend):
    """The sockets of httpcore, each wait cut to what is left."""

    def __init__(self, sockets: httpcore.NetworkBackend | None) -> None:
        self._sockets = sockets or httpcore.SyncBackend()

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._sockets.connect_tcp(
            host, port, _left_s(timeout), local_address, socket_options
        )
        return _TimedStream(stream)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout))

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout))

    @override
    def close(self) -> None:
        self._stream.close()

    @override
    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left_s(timeout)))

    @override
    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
