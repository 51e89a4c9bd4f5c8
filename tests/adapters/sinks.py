"""An event, and its sinks in both colours."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import attrs

from railcore.events import EventType, JournalEvent, event_id

EXECUTION = UUID("018f4d0e-0000-7000-8000-000000000001")


def event_of(payment_id: str = "inv-1", seq: int = 1, **changes: Any) -> JournalEvent:
    """Return the event of a payment that completed."""
    told = JournalEvent(
        tenant_id="acme",
        payment_id=payment_id,
        seq=seq,
        event_id=event_id("acme", EXECUTION, seq),
        type=EventType.COMPLETED,
        execution_id=EXECUTION,
        version=seq,
        from_status="processing",
        to_status="completed",
        payment_rail="card_psp",
        payment_provider="stub",
        idempotency_key=f"{payment_id}/1",
        payload={"operation": "charge", "amount_minor": 1250, "currency": "SAR"},
        occurred_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )
    return attrs.evolve(told, **changes)


Deliver = Callable[[JournalEvent], None]


def delivered_by(sink: Any) -> Deliver:
    """Return what delivers one event to *sink*, whatever its colour."""

    def deliver(event: JournalEvent) -> None:
        answer = sink.deliver(event)
        if asyncio.iscoroutine(answer):
            asyncio.run(answer)

    return deliver
