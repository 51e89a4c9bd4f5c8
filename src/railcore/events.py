"""
The journal's events.

Every change of an execution has exactly one, with an id that every redelivery repeats.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid5

import attrs

from railcore._ids import text_of
from railcore.execution import PaymentExecution
from railcore.lifecycle import Discrepancy, Fact
from railcore.redaction import kept_reference
from railcore.review import NotedDiscrepancy, Orphan, Remedy

BUCKETS: Final = 64
"""How many delivery queues there are; a payment always falls into the same one."""

_NAMESPACE: Final = UUID("6f2c1d5e-8f2b-5b0e-9d6c-0e1a7b3c4d5e").bytes


class EventType(StrEnum):
    """The catalogue of events."""

    STARTED = "billing.execution.started"
    PENDING = "billing.execution.pending"
    COMPLETED = "billing.execution.completed"
    FAILED = "billing.execution.failed"
    DISCREPANCY = "billing.execution.discrepancy"
    ORPHAN = "billing.charge.orphaned"
    RESOLVED = "billing.discrepancy.resolved"


_BY_STATUS: Final = {
    "processing": EventType.STARTED,
    "pending": EventType.PENDING,
    "completed": EventType.COMPLETED,
    "failed": EventType.FAILED,
}


@attrs.frozen(kw_only=True)
class EventDraft:
    """
    An event about to be stored with the change that it tells of.

    The store adds its place in the payment.

    Attributes:
        event_id: Derived from tenant, execution and version: the same on every redelivery.
        payload: JSON-like; holds opaque references only, no personal data.
        bucket: The delivery queue, 0 to 63, by tenant and payment.
    """

    event_id: UUID
    type: EventType
    payload: Mapping[str, object] = attrs.field(hash=False)
    bucket: int


@attrs.frozen(kw_only=True)
class JournalEvent:
    """
    An event as stored.

    Attributes:
        seq: 1, 2, 3 ... without a gap within one payment.
        version: The execution's version that it tells of; None for a discrepancy, which changes no
            execution.
    """

    tenant_id: str
    payment_id: str
    seq: int
    event_id: UUID
    type: EventType
    execution_id: UUID
    version: int | None
    from_status: str
    to_status: str
    payment_rail: str
    payment_provider: str
    idempotency_key: str
    payload: Mapping[str, object] = attrs.field(hash=False)
    occurred_at: datetime | None = None


def event_id(tenant_id: str, execution_id: UUID, version: int) -> UUID:
    """Return the id of the event that tells of *version* of an execution."""
    name = f"{tenant_id}/{text_of(execution_id)}/{version}"
    digest = hashlib.sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)


def bucket_of(tenant_id: str, payment_id: str) -> int:
    """Return the delivery queue of a payment, the same in every process and release."""
    digest = hashlib.blake2b(f"{tenant_id}\x00{payment_id}".encode(), digest_size=2).digest()
    return int.from_bytes(digest) % BUCKETS


def draft_event(
    execution: PaymentExecution, fact: Fact | None = None, trace: tuple[str, ...] = ()
) -> EventDraft:
    """Return the event of the change that led to *execution* as it now is."""
    return EventDraft(
        event_id=event_id(execution.tenant_id, execution.execution_id, execution.version),
        type=_BY_STATUS[execution.status],
        payload=_payload(execution, fact, trace),
        bucket=bucket_of(execution.tenant_id, execution.payment_id),
    )


def draft_discrepancy(execution: PaymentExecution, discrepancy: Discrepancy) -> EventDraft:
    """Return the event that announces a contradiction."""
    payload = {
        **_identity(execution),
        "discrepancy_id": str(discrepancy.discrepancy_id),
        "kind": discrepancy.kind.value,
        "sides": list(discrepancy.sides),
        "needs_review": discrepancy.kind.needs_review,
        **({} if discrepancy.evidence is None else {"evidence": discrepancy.evidence}),
    }
    return EventDraft(
        event_id=discrepancy.discrepancy_id,
        type=EventType.DISCREPANCY,
        payload=payload,
        bucket=bucket_of(execution.tenant_id, execution.payment_id),
    )


def draft_orphan(orphan: Orphan) -> EventDraft:
    """Return the event that announces a charge that nobody asked for."""
    found = orphan.discrepancy
    payload = {
        "tenant_id": orphan.tenant_id,
        "payment_id": orphan.payment_id,
        "discrepancy_id": str(found.discrepancy_id),
        "kind": found.kind.value,
        "sides": list(found.sides),
        "needs_review": True,
        "payment_rail": orphan.rail,
        "payment_provider": orphan.provider,
        "account": orphan.account,
        "mode": orphan.mode,
        "provider_ref": kept_reference(orphan.provider_ref),
        "amount_minor": orphan.money.amount_minor,
        "currency": orphan.money.currency.code,
    }
    return EventDraft(
        event_id=found.discrepancy_id,
        type=EventType.ORPHAN,
        payload=payload,
        bucket=bucket_of(orphan.tenant_id, orphan.payment_id),
    )


def draft_resolution(
    noted: NotedDiscrepancy,
    remedy: Remedy,
    actor: str,
    evidence: str,
    execution_id: UUID | None,
) -> EventDraft:
    """Return the event that tells how a discrepancy ended, who decided it, and on what."""
    told = {
        "tenant_id": noted.tenant_id,
        "payment_id": noted.payment_id,
        "execution_id": None if noted.execution_id is None else text_of(noted.execution_id),
        "discrepancy_id": str(noted.discrepancy_id),
        "kind": noted.discrepancy.kind.value,
        "resolution": remedy.value,
        "actor": actor,
        "evidence": evidence,
        "resolving_execution_id": None if execution_id is None else text_of(execution_id),
    }
    return EventDraft(
        event_id=uuid5(noted.discrepancy_id, "resolved"),
        type=EventType.RESOLVED,
        payload={name: value for name, value in told.items() if value is not None},
        bucket=bucket_of(noted.tenant_id, noted.payment_id),
    )


def _identity(execution: PaymentExecution) -> dict[str, object]:
    context = execution.context
    return {
        "tenant_id": context.tenant_id,
        "payment_id": context.payment_id,
        "execution_id": text_of(execution.execution_id),
        "operation": context.operation,
        "amount_minor": context.money.amount_minor,
        "currency": context.money.currency.code,
        "payment_rail": execution.rail,
        "payment_provider": execution.provider,
        "account": execution.account,
        "mode": execution.mode,
        "idempotency_key": context.idempotency_key,
    }


def _kept(reference: str | None) -> str | None:
    return None if reference is None else kept_reference(reference)


def _payload(
    execution: PaymentExecution, fact: Fact | None, trace: tuple[str, ...]
) -> dict[str, object]:
    said = {
        "version": execution.version,
        "status": execution.status,
        "pending_reason": execution.pending_reason,
        "failure_code": execution.failure,
        "cause_code": execution.cause,
        "provider_ref": _kept(execution.provider_ref),
        "settled_minor": execution.settled_minor,
        "correlation_id": execution.context.correlation_id,
        "source": None if fact is None else fact.source,
        "actor": None if fact is None else fact.actor,
        "evidence": None if fact is None else fact.evidence,
        "route": list(trace) or None,
    }
    return {
        **_identity(execution),
        **{name: value for name, value in said.items() if value is not None},
    }
