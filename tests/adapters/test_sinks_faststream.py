"""The sink to brokers, without a server: what it refuses, and how it puts things."""

import asyncio
from typing import Any

import pytest

from railcore.errors import DeliveryError, MisconfiguredError
from railcore_adapters.sinks import FastStreamSink
from tests.adapters.sinks import event_of

NOWHERE = "127.0.0.1:9"


def kafka(**settings: Any) -> FastStreamSink:
    return FastStreamSink.kafka(NOWHERE, "events", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"acks": 0},
        {"acks": 1},
        {"enable_idempotence": False},
        {"config": {"acks": 1}},
        {"config": {"acks": "0"}},
        {"config": {"request.required.acks": 1}},
        {"config": {"enable.idempotence": False}},
        {"config": {"enable.idempotence": "false"}},
    ],
)
def test_kafka_without_durability_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MisconfiguredError):
        kafka(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"acks": "all"},
        {"acks": -1},
        {"enable_idempotence": True},
        {"config": {"acks": "all", "enable.idempotence": True, "linger.ms": 5}},
        {"client_id": "billing"},
    ],
)
def test_kafkas_other_settings_are_the_hosts(settings: dict[str, Any]) -> None:
    assert isinstance(kafka(**settings), FastStreamSink)


@pytest.mark.parametrize(
    "off",
    [
        {"publisher_confirms": False, "on_return_raises": True},
        {"publisher_confirms": True, "on_return_raises": False},
        {},
    ],
)
def test_rabbit_without_confirms_or_returns_is_refused(off: dict[str, Any]) -> None:
    from faststream.rabbit import Channel

    with pytest.raises(MisconfiguredError):
        FastStreamSink.rabbit("amqp://localhost", exchange="e", default_channel=Channel(**off))


def test_rabbits_default_exchange_needs_a_queue() -> None:
    with pytest.raises(MisconfiguredError):
        FastStreamSink.rabbit("amqp://localhost")


@pytest.mark.parametrize(
    ("stream", "subject"),
    [("", "events"), ("events", ""), ("events", "events.*"), ("events", ">"), ("events", "a b")],
)
def test_nats_needs_a_stream_and_a_plain_subject(stream: str, subject: str) -> None:
    with pytest.raises(MisconfiguredError):
        FastStreamSink.nats("nats://localhost", stream, subject)


@pytest.mark.parametrize(
    "sink",
    [
        FastStreamSink.nats("nats://127.0.0.1:9", "events", "events", timeout_s=0.5),
        FastStreamSink.redis("redis://127.0.0.1:9", "events", timeout_s=0.5),
        FastStreamSink.rabbit("amqp://127.0.0.1:9", routing_key="events", timeout_s=0.5),
    ],
    ids=["nats", "redis", "rabbit"],
)
def test_a_broker_that_is_not_there_is_said_so(sink: FastStreamSink) -> None:
    async def opened() -> None:
        with pytest.raises(DeliveryError, match="cannot be reached"):
            await sink.open()

    asyncio.run(opened())


def test_an_event_that_is_no_json_is_poison_before_anybody_is_asked() -> None:
    sink = FastStreamSink.redis("redis://127.0.0.1:9", "events")

    with pytest.raises(DeliveryError) as caught:
        asyncio.run(sink.deliver(event_of(payload={"amount": float("inf")})))

    assert caught.value.is_poison
