"""Redis Streams, a real server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from railcore.envelope import structured
from railcore.errors import DeliveryError, MisconfiguredError
from railcore_adapters.sinks import FastStreamSink
from tests.adapters.sinks import event_of

STREAM = "events"


def ask(url: str, call: Callable[[Any], Any]) -> Any:
    async def asked() -> Any:
        from redis.asyncio import Redis

        async with Redis.from_url(url) as client:
            return await call(client)

    return asyncio.run(asked())


@pytest.fixture(autouse=True)
def empty(redis_url: str) -> None:
    async def emptied(client: Any) -> None:
        await client.flushall()
        await client.config_set("appendonly", "yes")
        await client.config_set("maxmemory-policy", "noeviction")

    ask(redis_url, emptied)


def deliver(sink: FastStreamSink, *events: Any) -> None:
    async def delivered() -> None:
        async with sink:
            for event in events:
                await sink.deliver(event)

    asyncio.run(delivered())


def test_events_are_in_the_stream_in_order(redis_url: str) -> None:
    events = [event_of(seq=seq) for seq in (1, 2, 3)]

    deliver(FastStreamSink.redis(redis_url, STREAM), *events)

    entries = ask(redis_url, lambda client: client.xrange(STREAM))
    assert len(entries) == 3
    for event, (_, fields) in zip(events, entries, strict=True):
        assert structured(event) in fields[b"__data__"]


@pytest.mark.parametrize(
    ("name", "value"), [("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")]
)
def test_a_server_that_would_lose_events_is_refused(redis_url: str, name: str, value: str) -> None:
    ask(redis_url, lambda client: client.config_set(name, value))

    with pytest.raises(MisconfiguredError):
        deliver(FastStreamSink.redis(redis_url, STREAM))


def test_a_key_that_is_no_stream_is_tried_again(redis_url: str) -> None:
    ask(redis_url, lambda client: client.set(STREAM, "a text"))

    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.redis(redis_url, STREAM), event_of())

    assert not caught.value.is_poison
