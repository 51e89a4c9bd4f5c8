"""Kafka, played by librdkafka's mock cluster: the wiring, and no word about durability."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from railcore.envelope import partition_key, structured
from railcore.errors import DeliveryError
from railcore_adapters.sinks import FastStreamSink
from tests.adapters.sinks import event_of

TOPIC = "events"


@pytest.fixture
def servers() -> Iterator[str]:
    """The addresses of three brokers that keep messages in the memory of this process."""
    from confluent_kafka import Producer

    owner = Producer({"test.mock.num.brokers": 3})
    owner.produce(TOPIC, b"the topic is there")
    assert owner.flush(10) == 0
    brokers = owner.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{one.host}:{one.port}" for one in brokers)
    owner.purge()


def read(servers: str, wanted: int) -> list[Any]:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([TOPIC])
    found: list[Any] = []
    for _ in range(300):
        message = consumer.poll(0.1)
        if message is not None and message.error() is None and message.key():
            found.append(message)
        if len(found) == wanted:
            break
    consumer.close()
    return found


def deliver(sink: FastStreamSink, *events: Any) -> None:
    async def delivered() -> None:
        async with sink:
            for event in events:
                await sink.deliver(event)

    asyncio.run(delivered())


def test_an_event_is_in_the_topic_as_it_is(servers: str) -> None:
    event = event_of()

    deliver(FastStreamSink.kafka(servers, TOPIC), event)

    [message] = read(servers, 1)
    assert message.value() == structured(event)
    assert message.key() == partition_key(event).encode()
    headers = dict(message.headers())
    assert headers["content-type"] == b"application/cloudevents+json"
    assert headers["id"] == str(event.event_id).encode()


def test_a_payment_keeps_its_order_in_one_partition(servers: str) -> None:
    events = [event_of(f"inv-{number}", seq) for seq in (1, 2, 3) for number in range(10)]

    deliver(FastStreamSink.kafka(servers, TOPIC), *events)

    places: dict[bytes, list[tuple[int, int]]] = {}
    for message in read(servers, len(events)):
        places.setdefault(message.key(), []).append((message.partition(), message.offset()))
    assert len(places) == 10
    for of_one in places.values():
        assert len({partition for partition, _ in of_one}) == 1
        assert of_one == sorted(of_one)


def test_an_event_above_the_limit_is_poison(servers: str) -> None:
    large = event_of(payload={"trace": "x" * 2_000_000})

    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.kafka(servers, TOPIC), large)

    assert caught.value.is_poison


def test_a_cluster_that_does_not_answer_is_tried_again() -> None:
    sink = FastStreamSink.kafka("127.0.0.1:9", TOPIC, timeout_s=1.0)

    with pytest.raises(DeliveryError) as caught:
        deliver(sink, event_of())

    assert not caught.value.is_poison
