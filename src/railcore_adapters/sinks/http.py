"""
Signed HTTP: each event is posted as a CloudEvent, with a signature of Standard Webhooks.

Only a 2xx answer, read to its end, means that the receiver has the event. Redirects are not
followed: the signature was made for one receiver. Every other answer, and none, is tried again
later, 410 and 415 included, since they are about the endpoint and not about this event; 413 and
422 are about the event, which is then poison.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, Self

import attrs
import httpcore
import httpx
from typing_extensions import override

from railcore.clock import SystemClock
from railcore.envelope import CONTENT_TYPE, SOURCE, structured
from railcore.errors import DeliveryError, MisconfiguredError, TransportError
from railcore.events import JournalEvent
from railcore.http import HttpRequest, HttpResponse
from railcore.ports import Clock
from railcore.redaction import Secret
from railcore_adapters import standard_webhooks
from railcore_adapters.sinks.targets import AsyncGuardedSockets, GuardedSockets, Targets
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    HttpxTransport,
    TimedTransport,
    TransportLimits,
)

POISON_STATUSES: Final = frozenset({413, 422})
"""Too large, and understood but refused: the same event will meet the same answer."""

LIMITS: Final = TransportLimits(
    total_s=10.0, connect_s=3.0, most_connections=64, most_idle=32, answer_bytes=65_536
)
"""Well within half a relay's lease. A longer answer is no receipt."""


def _can_sign(_: object, __: object, secrets: tuple[Secret, ...]) -> None:
    if not secrets:
        raise MisconfiguredError("secrets", "there is none", "Give at least one")
    for secret in secrets:
        standard_webhooks.check_secret(secret)


def _all(secrets: Iterable[Secret]) -> tuple[Secret, ...]:
    return tuple(secrets)


@attrs.frozen
class Endpoint:
    """
    Who receives events.

    Attributes:
        url: Absolute; its origin has to be among the targets.
        secrets: Each signs: two while one follows the other.
    """

    url: str
    secrets: tuple[Secret, ...] = attrs.field(converter=_all, validator=_can_sign)


EndpointOf = Callable[[JournalEvent], Endpoint]
"""Returns who receives an event, by its tenant for instance."""


@attrs.frozen
class _Posting:
    """Makes the request and judges the answer, for both colours."""

    endpoint: Endpoint | EndpointOf
    targets: Targets
    source: str
    clock: Clock

    def __attrs_post_init__(self) -> None:
        if isinstance(self.endpoint, Endpoint):
            self.targets.check(self.endpoint.url)

    def request(self, event: JournalEvent) -> HttpRequest:
        """Return the request that delivers *event* just now."""
        endpoint = self._receiver(event)
        body, message_id = structured(event, self.source), str(event.event_id)
        timestamp = int(self.clock.now().timestamp())
        signatures = (
            standard_webhooks.sign(secret, message_id, timestamp, body)
            for secret in endpoint.secrets
        )
        headers = {
            "Content-Type": CONTENT_TYPE,
            standard_webhooks.ID: message_id,
            standard_webhooks.TIMESTAMP: str(timestamp),
            standard_webhooks.SIGNATURE: " ".join(signatures),
        }
        return HttpRequest(method="POST", url=endpoint.url, headers=headers, body=body)

    def judge(self, answer: HttpResponse) -> None:
        """Return when *answer* is a receipt; else raise ``DeliveryError``."""
        if not 200 <= answer.status < 300:
            is_poison = answer.status in POISON_STATUSES
            raise DeliveryError(f"the receiver answered {answer.status}", is_poison=is_poison)

    def _receiver(self, event: JournalEvent) -> Endpoint:
        if isinstance(self.endpoint, Endpoint):
            return self.endpoint
        try:
            endpoint = self.endpoint(event)
            self.targets.check(endpoint.url)
        except MisconfiguredError as error:
            raise DeliveryError(f"the endpoint of {event.tenant_id}: {error}") from error
        return endpoint


class HttpSink:
    """
    Posts each event, signed, and returns on 2xx. Safe to share between threads.

    Args:
        endpoint: Who receives the events, or a function that says so for each.
        targets: Which endpoints may be sent to at all.
        source: Names the host to receivers: a URI reference.
        limits: Time and size.
        clock: Injected time; the machine's by default.
        ssl_context: Default: the certificates that httpx trusts.

    Raises:
        MisconfiguredError: The endpoint is not among the targets.
    """

    def __init__(
        self,
        endpoint: Endpoint | EndpointOf,
        targets: Targets,
        *,
        source: str = SOURCE,
        limits: TransportLimits = LIMITS,
        clock: Clock | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._posting = _Posting(endpoint, targets, source, clock or SystemClock())
        sockets = TimedTransport(limits, ssl_context=ssl_context, sockets=GuardedSockets(targets))
        self._client = httpx.Client(transport=sockets, trust_env=False)
        self._transport = HttpxTransport(self._client, limits=limits)

    def deliver(self, event: JournalEvent, /) -> None:
        """Return on a 2xx answer; raise ``DeliveryError`` otherwise."""
        request = self._posting.request(event)
        try:
            answer = self._transport.send(request, None)
        except TransportError as error:
            raise DeliveryError(str(error)) from error
        self._posting.judge(answer)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncHttpSink:
    """
    Posts each event, signed, and returns on 2xx, on asyncio. Takes what ``HttpSink`` takes.

    Args:
        endpoint: Who receives the events, or a function that says so for each.
        targets: Which endpoints may be sent to at all.
        source: Names the host to receivers: a URI reference.
        limits: Time and size.
        clock: Injected time; the machine's by default.
        ssl_context: Default: the certificates that httpx trusts.

    Raises:
        MisconfiguredError: The endpoint is not among the targets.
    """

    def __init__(
        self,
        endpoint: Endpoint | EndpointOf,
        targets: Targets,
        *,
        source: str = SOURCE,
        limits: TransportLimits = LIMITS,
        clock: Clock | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._posting = _Posting(endpoint, targets, source, clock or SystemClock())
        sockets = _GuardedTransport(targets, limits, ssl_context)
        self._client = httpx.AsyncClient(transport=sockets, trust_env=False)
        self._transport = AsyncHttpxTransport(self._client, limits=limits)

    async def deliver(self, event: JournalEvent, /) -> None:
        """Return on a 2xx answer; raise ``DeliveryError`` otherwise."""
        request = self._posting.request(event)
        try:
            answer = await self._transport.send(request, None)
        except TransportError as error:
            raise DeliveryError(str(error)) from error
        self._posting.judge(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _GuardedTransport(httpx.AsyncBaseTransport):
    """httpcore's pool over sockets that connect only to addresses that were looked at."""

    def __init__(
        self, targets: Targets, limits: TransportLimits, ssl_context: ssl.SSLContext | None
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(trust_env=False),
            max_connections=limits.most_connections,
            max_keepalive_connections=limits.most_idle,
            keepalive_expiry=limits.idle_s,
            retries=0,
            network_backend=AsyncGuardedSockets(targets),
        )

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
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
    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_stream():
            yield chunk

    @override
    async def aclose(self) -> None:
        await self._answer.aclose()
