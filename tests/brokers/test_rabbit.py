"""RabbitMQ, a real server, with quorum queues."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from railcore.envelope import structured
from railcore.errors import DeliveryError
from railcore_adapters.sinks import FastStreamSink
from tests.adapters.sinks import event_of

pytestmark = pytest.mark.timeout(180)  # the server takes its time to start
QUEUE = "events"


def ask(url: str, call: Callable[[Any], Any]) -> Any:
    async def asked() -> Any:
        import aio_pika

        connection = await aio_pika.connect(url)
        async with connection:
            return await call(await connection.channel())

    return asyncio.run(asked())


@pytest.fixture
def queue(rabbit_url: str) -> str:
    async def declared(channel: Any) -> None:
        await channel.queue_delete(QUEUE)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    ask(rabbit_url, declared)
    return QUEUE


def messages(url: str, wanted: int) -> list[Any]:
    async def read(channel: Any) -> list[Any]:
        queue = await channel.get_queue(QUEUE)
        return [await queue.get(timeout=10, no_ack=True) for _ in range(wanted)]

    found: list[Any] = ask(url, read)
    return found


def deliver(sink: FastStreamSink, *events: Any) -> None:
    async def delivered() -> None:
        async with sink:
            for event in events:
                await sink.deliver(event)

    asyncio.run(delivered())


def test_events_are_in_a_quorum_queue_in_order(rabbit_url: str, queue: str) -> None:
    events = [event_of(seq=seq) for seq in (1, 2, 3)]

    deliver(FastStreamSink.rabbit(rabbit_url, routing_key=queue), *events)

    found = messages(rabbit_url, 3)
    assert [one.body for one in found] == [structured(event) for event in events]
    for event, one in zip(events, found, strict=True):
        assert one.message_id == str(event.event_id)
        assert one.content_type == "application/cloudevents+json"
        assert one.delivery_mode == 2


def test_an_exchange_is_given_the_payments_bucket(rabbit_url: str, queue: str) -> None:
    async def bound(channel: Any) -> None:
        import aio_pika

        kind = aio_pika.ExchangeType.DIRECT
        exchange = await channel.declare_exchange("billing", kind, durable=True)
        place = await channel.get_queue(queue)
        for bucket in range(64):
            await place.bind(exchange, str(bucket))

    ask(rabbit_url, bound)

    deliver(FastStreamSink.rabbit(rabbit_url, exchange="billing"), event_of())

    [message] = messages(rabbit_url, 1)
    assert message.routing_key in {str(bucket) for bucket in range(64)}


def test_what_reaches_no_queue_is_tried_again(rabbit_url: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.rabbit(rabbit_url, routing_key="nowhere"), event_of())

    assert not caught.value.is_poison


def test_an_exchange_that_is_not_there_is_tried_again(rabbit_url: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.rabbit(rabbit_url, exchange="nowhere"), event_of())

    assert not caught.value.is_poison


def test_a_full_queue_is_tried_again(rabbit_url: str) -> None:
    async def declared(channel: Any) -> None:
        await channel.queue_delete("small")
        full = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        await channel.declare_queue("small", durable=True, arguments=full)

    ask(rabbit_url, declared)

    with pytest.raises(DeliveryError):
        deliver(
            FastStreamSink.rabbit(rabbit_url, routing_key="small"),
            *(event_of(seq=seq) for seq in (1, 2, 3)),
        )
