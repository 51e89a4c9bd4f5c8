"""
What every ``EventSink`` promises, as far as it can be seen from outside.

::

    class TestMySink(EventSinkContract):
        @pytest.fixture
        def sink(self) -> EventSink:
            return MySink(...)

        @pytest.fixture
        def received(self) -> Received:
            return lambda: [...]  # the ids of what the receiver has, in its order

An asynchronous sink takes part through ``awaited_sink``. Whether what was taken survives the end of
its receiver cannot be seen here: kill it, and look.
"""

from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

import attrs
import pytest

from railcore.errors import DeliveryError
from railcore.events import EventType, JournalEvent, event_id
from railcore.ports import AsyncEventSink, EventSink

Received = Callable[[], Sequence[UUID]]
"""Returns the ids of the events that the receiver has, in its order; one that came twice, twice."""

_EXECUTION: Final = UUID("018f4d0e-0000-7000-8000-000000000001")


class EventSinkContract:
    """The promises; each test gets a sink, and a look at its receiver, which has nothing yet."""

    @pytest.fixture
    def sink(self) -> EventSink:
        """Return a sink whose receiver takes everything."""
        pytest.fail("give the subclass a fixture named sink that returns a sink")

    @pytest.fixture
    def received(self) -> Received:
        """Return a look at what the receiver has."""
        pytest.fail("give the subclass a fixture named received that tells what arrived")

    def test_a_delivered_event_has_arrived(self, sink: EventSink, received: Received) -> None:
        event = event_of()

        sink.deliver(event)

        assert list(received()) == [event.event_id]

    def test_an_event_may_come_again(self, sink: EventSink, received: Received) -> None:
        event = event_of()

        sink.deliver(event)
        sink.deliver(event)

        assert set(received()) == {event.event_id}

    def test_a_payment_arrives_in_order(self, sink: EventSink, received: Received) -> None:
        events = [event_of(seq=seq) for seq in (1, 2, 3)]

        for event in events:
            sink.deliver(event)

        assert list(received()) == [event.event_id for event in events]

    def test_an_event_of_every_type_is_taken(self, sink: EventSink, received: Received) -> None:
        events = [event_of(seq=seq, type=kind) for seq, kind in enumerate(EventType, 1)]

        for event in events:
            sink.deliver(event)

        assert len(received()) == len(events)

    @pytest.mark.parametrize(
        "changes",
        [
            {"payment_id": "!*>.#/%20" + "x" * 119, "tenant_id": "t" * 64},
            {"payload": {"text": "\N{SNOWMAN}\x00\n\ud800", "number": 2**70, "nothing": None}},
            {"occurred_at": None, "version": None},
        ],
        ids=["names", "payload", "nothing"],
    )
    def test_whatever_a_journal_may_hold_is_taken_or_refused(
        self, sink: EventSink, received: Received, changes: dict[str, Any]
    ) -> None:
        event = event_of(**changes)

        try:
            sink.deliver(event)
        except DeliveryError:
            assert not received()
        else:
            assert list(received()) == [event.event_id]


def awaited_sink(sink: AsyncEventSink, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> EventSink:
    """Return *sink* as a synchronous one; *run* runs a coroutine to its end."""
    return cast("EventSink", _Awaited(sink, run))


@attrs.frozen
class _Awaited:
    sink: AsyncEventSink
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def deliver(self, event: JournalEvent, /) -> None:
        self.run(self.sink.deliver(event))


def event_of(payment_id: str = "invoice-1", seq: int = 1, **changes: Any) -> JournalEvent:
    """Return an event of a payment; *changes* are any other attributes."""
    told = JournalEvent(
        tenant_id="tenant-1",
        payment_id=payment_id,
        seq=seq,
        event_id=event_id("tenant-1", _EXECUTION, seq),
        type=EventType.PENDING,
        execution_id=_EXECUTION,
        version=seq,
        from_status="processing",
        to_status="pending",
        payment_rail="card_psp",
        payment_provider="stub",
        idempotency_key=f"{payment_id}/1",
        payload={"operation": "charge", "amount_minor": 1250, "currency": "SAR"},
        occurred_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )
    return attrs.evolve(told, **changes)
