"""NATS JetStream, a real server."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

import attrs
import psycopg
import pytest

from railcore.envelope import structured
from railcore.errors import DeliveryError, MisconfiguredError
from railcore.events import bucket_of, event_id
from railcore.ports import EventSink
from railcore.testing.contracts.event_sink import EventSinkContract, Received, awaited_sink
from railcore_adapters.sinks import FastStreamSink
from tests.adapters.sinks import event_of
from tests.brokers import relay_process
from tests.brokers.conftest import Streams
from tests.conftest import conninfo

PAYMENTS, EVENTS_A_PAYMENT = 20_000, 5
KILLS = 5
STEPS = [
    ("none", "processing", "billing.execution.started"),
    ("processing", "pending", "billing.execution.pending"),
    *[("pending", "pending", "billing.execution.pending")] * 2,
    ("pending", "completed", "billing.execution.completed"),
]
TENANT = "tenant-1"


def deliver(sink: FastStreamSink, *events: object) -> None:
    async def delivered() -> None:
        async with sink:
            for event in events:
                await sink.deliver(event)  # type: ignore[arg-type] # what tests make

    asyncio.run(delivered())


def test_an_event_is_in_the_stream_as_it_is(streams: Streams) -> None:
    stream = streams.make("plain")
    event = event_of()

    deliver(FastStreamSink.nats(streams.url, stream, stream), event)

    [message] = streams.messages(stream)
    assert message.data == structured(event)
    assert message.headers["Nats-Msg-Id"] == str(event.event_id)
    assert message.headers["content-type"] == "application/cloudevents+json"


def test_what_comes_again_soon_is_dropped_by_the_server(streams: Streams) -> None:
    stream = streams.make("again")

    deliver(FastStreamSink.nats(streams.url, stream, stream), event_of(), event_of())

    assert streams.count(stream) == 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"storage": "memory"}, "memory"),
        ({"no_ack": True}, "acknowledges nothing"),
        ({"duplicate_window": 10}, "remembers ids"),
    ],
)
def test_a_stream_that_would_lose_events_is_refused(
    streams: Streams, settings: dict[str, object], problem: str
) -> None:
    stream = streams.make("lossy", **settings)

    with pytest.raises(MisconfiguredError, match=problem):
        deliver(FastStreamSink.nats(streams.url, stream, stream))


def test_a_stream_that_is_not_there_is_no_place_to_deliver_to(streams: Streams) -> None:
    with pytest.raises(DeliveryError):
        deliver(FastStreamSink.nats(streams.url, "nowhere", "nowhere"))


def test_a_subject_of_another_stream_is_refused(streams: Streams) -> None:
    streams.make("other")
    stream = streams.make("mine")

    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.nats(streams.url, stream, "other"), event_of())

    assert not caught.value.is_poison
    assert streams.count("other") == 0


def test_an_event_above_the_servers_limit_is_poison(streams: Streams) -> None:
    stream = streams.make("large")
    large = event_of(payload={"trace": "x" * 2_000_000})

    with pytest.raises(DeliveryError) as caught:
        deliver(FastStreamSink.nats(streams.url, stream, stream), large)

    assert caught.value.is_poison


def test_a_stream_that_is_full_is_tried_again(streams: Streams) -> None:
    from nats.js.api import DiscardPolicy

    stream = streams.make("full", max_msgs=1, discard=DiscardPolicy.NEW)
    sink = FastStreamSink.nats(streams.url, stream, stream)

    with pytest.raises(DeliveryError) as caught:
        deliver(sink, event_of(seq=1), event_of(seq=2))

    assert not caught.value.is_poison


class TestNats(EventSinkContract):
    @pytest.fixture
    def stream(self, streams: Streams) -> str:
        return streams.make("contract")

    @pytest.fixture
    def sink(self, streams: Streams, stream: str) -> Iterator[EventSink]:
        with asyncio.Runner() as runner:
            sink = FastStreamSink.nats(streams.url, stream, stream)
            runner.run(sink.open())
            yield awaited_sink(sink, runner.run)
            runner.run(sink.aclose())

    @pytest.fixture
    def received(self, streams: Streams, stream: str) -> Received:
        return lambda: [UUID(one.headers["Nats-Msg-Id"]) for one in streams.messages(stream)]


# A relay that is killed on the way ------------------------------------------------------------


def fill(database_url: str, payments: int) -> None:
    """Put *payments* with five events each into the journal and the outbox."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    with psycopg.connect(conninfo(database_url)) as connection:
        cursor = connection.cursor()
        events, outbox = list(_rows(payments, at)), "COPY railcore_outbox ({}) FROM STDIN"
        names = (
            "tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, "
            "from_status, to_status, payment_rail, payment_provider, idempotency_key, "
            "occurred_at, payload"
        )
        with cursor.copy(f"COPY railcore_event ({names}) FROM STDIN") as copy:
            for row in events:
                copy.write_row(row)
        names = "bucket, tenant_id, aggregateid, seq, enqueued_at"
        with cursor.copy(outbox.format(names)) as copy:
            for tenant, payment, seq, *_ in events:
                bucket = bucket_of(str(tenant), str(payment))
                copy.write_row((bucket, tenant, payment, seq, at))
        connection.commit()
        connection.autocommit = True
        connection.execute("analyze railcore_outbox")


def _rows(payments: int, at: datetime) -> Iterator[Sequence[object]]:
    for number in range(payments):
        execution, payment = UUID(int=number + 1), f"invoice-{number}"
        payload = json.dumps({"operation": "charge", "amount_minor": 1250, "currency": "SAR"})
        for seq, (before, after, kind) in enumerate(STEPS, 1):
            yield (
                TENANT,
                payment,
                seq,
                event_id(TENANT, execution, seq),
                "payment",
                kind,
                execution,
                seq,
                before,
                after,
                "card_psp",
                "stub",
                f"{payment}/1",
                at,
                payload,
            )


@attrs.define
class Consumer:
    """Keeps the last number of each payment, and drops what is not above it."""

    last: Counter[str] = attrs.field(factory=Counter)
    ids: set[str] = attrs.field(factory=set)
    repeated: int = 0
    skipped: int = 0

    def take(self, body: bytes) -> None:
        event = json.loads(body)
        payment, seq = event["subject"], event["data"]["seq"]
        self.ids.add(event["id"])
        self.skipped += seq > self.last[payment] + 1
        self.repeated += seq <= self.last[payment]
        self.last[payment] = max(seq, self.last[payment])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "window_s",
    [pytest.param(120.0, id="ids remembered"), pytest.param(0.1, id="ids forgotten at once")],
)
def test_a_relay_that_is_killed_loses_nothing(
    database_url: str,
    streams: Streams,
    window_s: float,
) -> None:
    fill(database_url, PAYMENTS)
    wanted = PAYMENTS * EVENTS_A_PAYMENT
    stream = streams.make("killed", duplicate_window=window_s)
    command = [sys.executable, relay_process.__file__, database_url, streams.url, stream]
    began = time.monotonic()

    for kill in range(1, KILLS + 1):
        relay = subprocess.Popen(command)
        await_count(streams, stream, wanted * kill // (KILLS + 1), relay)
        relay.kill()
        assert relay.wait() == -9, "the relay was done before it could be killed"
    assert subprocess.run(command, check=False, timeout=600).returncode == 0

    took_s, consumer = time.monotonic() - began, Consumer()
    for message in streams.messages(stream):
        consumer.take(message.data)
    print(  # noqa: T201 - the count is what the run is for
        f"\n{wanted} events in {took_s:.0f} s, {KILLS} kills: "
        f"{consumer.repeated} came twice, {consumer.skipped} were skipped"
    )
    assert len(consumer.ids) == wanted
    assert consumer.skipped == 0
    assert set(consumer.last.values()) == {EVENTS_A_PAYMENT}
    assert streams.count(stream) == wanted + consumer.repeated
    assert (consumer.repeated > 0) == (window_s < 1)


def await_count(streams: Streams, stream: str, wanted: int, relay: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while streams.count(stream) < wanted:
        assert time.monotonic() < until, "the relay delivers nothing"
        assert relay.poll() is None, "the relay ended by itself"
        time.sleep(0.05)
