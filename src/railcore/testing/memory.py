"""
Stores that live in memory, for tests and first steps: nothing survives the process.

They keep the promises of the ports, each method under one lock, and pass the same contract
classes as the stores on Postgres.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import attrs

from railcore.enums import ExecutionStatus, Operation
from railcore.errors import ExecutionNotFoundError
from railcore.events import EventDraft, JournalEvent
from railcore.execution import Lease, PaymentExecution, PaymentView
from railcore.lifecycle import ABSENT, Discrepancy, check_edge
from railcore.ports import Clock
from railcore.protocol import (
    Acquired,
    Claim,
    ClaimOutcome,
    ClaimVerdict,
    Recording,
    in_the_way,
)

_DOING: Final[Mapping[Operation, str]] = MappingProxyType(
    {
        Operation.CHARGE: "charging_minor",
        Operation.AUTHORIZE: "charging_minor",
        Operation.CAPTURE: "capturing_minor",
        Operation.VOID: "voiding_minor",
        Operation.REFUND: "refunding_minor",
    }
)
_DONE: Final[Mapping[Operation, tuple[str, ...]]] = MappingProxyType(
    {
        Operation.CHARGE: ("authorized_minor", "captured_minor"),
        Operation.AUTHORIZE: ("authorized_minor",),
        Operation.CAPTURE: ("captured_minor",),
        Operation.VOID: ("voided_minor",),
        Operation.REFUND: ("refunded_minor",),
    }
)


@attrs.frozen
class Undelivered:
    """An event that nobody has delivered yet: where it queues, and its place in its payment."""

    bucket: int
    tenant_id: str
    payment_id: str
    seq: int


class InMemoryExecutionStore:
    """An ``ExecutionStore`` in memory, safe between threads; *clock* dates what is stored."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._executions: dict[tuple[str, UUID], PaymentExecution] = {}
        self._ids: dict[tuple[str, str], UUID] = {}
        self._payments: dict[tuple[str, str], PaymentView] = {}
        self._events: dict[tuple[str, str], list[JournalEvent]] = {}
        self._outbox: list[Undelivered] = []
        self._discrepancies: dict[tuple[str, UUID], Discrepancy] = {}

    @property
    def outbox(self) -> Sequence[Undelivered]:
        """The events that are still to be delivered, in the order in which they were stored."""
        with self._lock:
            return tuple(self._outbox)

    @property
    def discrepancies(self) -> Sequence[Discrepancy]:
        """The contradictions that were noted, oldest first."""
        with self._lock:
            return tuple(self._discrepancies.values())

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        execution = claim.execution
        with self._lock:
            stored = self.find(execution.tenant_id, execution.idempotency_key)
            if stored is not None:
                return ClaimOutcome(ClaimVerdict.DUPLICATE, stored)
            head = self.payment(execution.tenant_id, execution.payment_id)
            refusal = _refusal(claim, head)
            if refusal is not None:
                return ClaimOutcome(refusal, self._in_the_way(execution, refusal))
            return ClaimOutcome(ClaimVerdict.CLAIMED, self._begin(claim, head))

    def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change where status and version still hold; None when somebody knew first."""
        before, after = recording.before, recording.after
        with self._lock:
            stored = self.get(before.tenant_id, before.execution_id)
            if stored is None or not _still_holds(recording, stored):
                return None
            check_edge(before.status, after.status)
            now = self._clock.now()
            changed = _scheduled(_recorded(stored, after, now), recording, now)
            self._keep(changed)
            head = _ended(self._payments[after.tenant_id, after.payment_id], changed)
            self._tell(changed, recording.event, head, before.status, changed.version)
            return changed

    def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take a free or expired lease of an open execution, with a new fencing token."""
        with self._lock:
            now = self._clock.now()
            stored = self.get(tenant_id, execution_id)
            if stored is None or not stored.is_open or _is_held(stored.lease, now):
                return None
            until = now + timedelta(seconds=lease_s)
            acquired = attrs.evolve(
                stored,
                lease=Lease(owner, stored.lease.token + 1, until),
                next_check_at=_later(stored.next_check_at, until),
                updated_at=now,
            )
            self._keep(acquired)
            return Acquired(acquired, now)

    def mark_sent(self, execution: PaymentExecution, lease_s: float, /) -> PaymentExecution | None:
        """Commit a send mark and extend the lease, if the token still holds it; else None."""
        with self._lock:
            stored = self._held(execution)
            if stored is None:
                return None
            now = self._clock.now()
            until = now + timedelta(seconds=lease_s)
            sent = attrs.evolve(
                stored,
                lease=attrs.evolve(stored.lease, until=until),
                send_count=stored.send_count + 1,
                first_sent_at=stored.first_sent_at or now,
                last_sent_at=now,
                next_check_at=_later(stored.next_check_at, until),
                updated_at=now,
            )
            self._keep(sent)
            return sent

    def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Give the lease back and look again later; whether the token still held it."""
        with self._lock:
            stored = self._held(execution)
            if stored is None:
                return False
            now = self._clock.now()
            self._keep(
                attrs.evolve(
                    stored,
                    lease=Lease(None, stored.lease.token, None),
                    check_count=stored.check_count + 1,
                    next_check_at=now + timedelta(seconds=next_check_s),
                    updated_at=now,
                )
            )
            return True

    def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        with self._lock:
            stored = self.get(execution.tenant_id, execution.execution_id)
            if stored is None:
                raise ExecutionNotFoundError(execution.tenant_id, execution.execution_id)
            name = (execution.tenant_id, discrepancy.discrepancy_id)
            if name in self._discrepancies:
                return False
            self._discrepancies[name] = discrepancy
            head = self._payments[stored.tenant_id, stored.payment_id]
            self._tell(stored, event, attrs.evolve(head, seq=head.seq + 1), stored.status, None)
            return True

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        with self._lock:
            return self._executions.get((tenant_id, execution_id))

    def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        with self._lock:
            execution_id = self._ids.get((tenant_id, idempotency_key))
            return None if execution_id is None else self._executions[tenant_id, execution_id]

    def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        wanted = (tenant_id, payment_id)
        with self._lock:
            every = self._executions.values()
            return [one for one in every if (one.tenant_id, one.payment_id) == wanted]

    def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        with self._lock:
            due = [(one.next_check_at, one) for one in self._executions.values()]
        waiting = [(at, one) for at, one in due if at is not None]
        return [one for _, one in sorted(waiting, key=lambda pair: pair[0])][:limit]

    def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        with self._lock:
            return self._payments.get((tenant_id, payment_id))

    def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        with self._lock:
            return tuple(self._events.get((tenant_id, payment_id), ()))

    def _begin(self, claim: Claim, head: PaymentView | None) -> PaymentExecution:
        begun = _claimed(claim, self._clock.now())
        self._ids[begun.tenant_id, begun.idempotency_key] = begun.execution_id
        self._keep(begun)
        self._tell(begun, claim.event, _begun(head, begun), ABSENT, begun.version)
        return begun

    def _keep(self, execution: PaymentExecution) -> None:
        self._executions[execution.tenant_id, execution.execution_id] = execution

    def _held(self, execution: PaymentExecution) -> PaymentExecution | None:
        stored = self.get(execution.tenant_id, execution.execution_id)
        if stored is None or not stored.is_open or stored.lease.owner is None:
            return None
        return stored if stored.lease.token == execution.lease.token else None

    def _in_the_way(
        self, execution: PaymentExecution, refusal: ClaimVerdict
    ) -> PaymentExecution | None:
        if refusal is not ClaimVerdict.LIVE:
            return None
        return in_the_way(self.executions(execution.tenant_id, execution.payment_id))

    def _tell(
        self,
        execution: PaymentExecution,
        event: EventDraft,
        head: PaymentView,
        from_status: str,
        version: int | None,
    ) -> None:
        name = (execution.tenant_id, execution.payment_id)
        self._payments[name] = head
        self._outbox.append(Undelivered(event.bucket, *name, head.seq))
        told = JournalEvent(
            tenant_id=execution.tenant_id,
            payment_id=execution.payment_id,
            seq=head.seq,
            event_id=event.event_id,
            type=event.type,
            execution_id=execution.execution_id,
            version=version,
            from_status=str(from_status),
            to_status=execution.status.value,
            payment_rail=execution.rail.value,
            payment_provider=execution.provider,
            idempotency_key=execution.idempotency_key,
            payload=event.payload,
            occurred_at=self._clock.now(),
        )
        self._events.setdefault(name, []).append(told)


class AsyncInMemoryExecutionStore:
    """The same, asynchronous; over what the synchronous store *shared* holds, when given."""

    def __init__(self, clock: Clock, *, shared: InMemoryExecutionStore | None = None) -> None:
        self._store = shared or InMemoryExecutionStore(clock)

    @property
    def outbox(self) -> Sequence[Undelivered]:
        """The events that are still to be delivered, in the order in which they were stored."""
        return self._store.outbox

    @property
    def discrepancies(self) -> Sequence[Discrepancy]:
        """The contradictions that were noted, oldest first."""
        return self._store.discrepancies

    async def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        return self._store.claim(claim)

    async def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change where status and version still hold; None when somebody knew first."""
        return self._store.record(recording)

    async def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take a free or expired lease of an open execution, with a new fencing token."""
        return self._store.acquire(tenant_id, execution_id, owner, lease_s)

    async def mark_sent(
        self, execution: PaymentExecution, lease_s: float, /
    ) -> PaymentExecution | None:
        """Commit a send mark and extend the lease, if the token still holds it; else None."""
        return self._store.mark_sent(execution, lease_s)

    async def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Give the lease back and look again later; whether the token still held it."""
        return self._store.reschedule(execution, next_check_s)

    async def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        return self._store.note(execution, discrepancy, event)

    async def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        return self._store.get(tenant_id, execution_id)

    async def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        return self._store.find(tenant_id, idempotency_key)

    async def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        return self._store.executions(tenant_id, payment_id)

    async def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        return self._store.open_executions(limit)

    async def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        return self._store.payment(tenant_id, payment_id)

    async def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        return self._store.events(tenant_id, payment_id)


def _refusal(claim: Claim, head: PaymentView | None) -> ClaimVerdict | None:
    context = claim.execution.context
    if head is None:
        return ClaimVerdict.NO_PAYMENT if context.operation.follows_a_parent else None
    if head.currency.code != context.money.currency.code:
        return ClaimVerdict.CURRENCY
    if claim.head_seq is not None and claim.head_seq != head.seq:
        return ClaimVerdict.MOVED
    if context.money.amount_minor <= head.available_minor(context.operation):
        return None
    return ClaimVerdict.LIMIT if context.operation.follows_a_parent else ClaimVerdict.LIVE


def _still_holds(recording: Recording, stored: PaymentExecution) -> bool:
    before = recording.before
    if (stored.status, stored.version) != (before.status, before.version):
        return False
    return not recording.is_fenced or stored.lease.token == before.lease.token


def _claimed(claim: Claim, now: datetime) -> PaymentExecution:
    lease = Lease(claim.owner, 1, now + timedelta(seconds=claim.lease_s))
    return attrs.evolve(
        claim.execution,
        lease=lease if claim.is_sent else Lease(None, 0, None),
        send_count=int(claim.is_sent),
        first_sent_at=now if claim.is_sent else None,
        last_sent_at=now if claim.is_sent else None,
        next_check_at=now + timedelta(seconds=claim.check_after_s),
        created_at=now,
        updated_at=now,
    )


def _recorded(stored: PaymentExecution, after: PaymentExecution, now: datetime) -> PaymentExecution:
    return attrs.evolve(
        stored,
        status=after.status,
        pending_reason=after.pending_reason,
        failure=after.failure,
        cause=after.cause,
        version=stored.version + 1,
        phase=after.phase,
        progress=after.progress,
        provider_ref=after.provider_ref,
        settled_minor=after.settled_minor,
        next_action=after.next_action,
        expires_at=after.expires_at,
        provider_response=after.provider_response,
        updated_at=now,
    )


def _scheduled(changed: PaymentExecution, recording: Recording, now: datetime) -> PaymentExecution:
    """Let only the newest token end the lease and move the schedule; nothing finished is due."""
    if changed.lease.token == recording.before.lease.token:
        check_s = recording.next_check_s
        next_check_at = None if check_s is None else now + timedelta(seconds=check_s)
        free = Lease(None, changed.lease.token, None)
        return attrs.evolve(changed, lease=free, next_check_at=next_check_at)
    return changed if changed.is_open else attrs.evolve(changed, next_check_at=None)


def _begun(head: PaymentView | None, execution: PaymentExecution) -> PaymentView:
    doing, amount = _DOING[execution.operation], execution.money.amount_minor
    if head is None:
        return PaymentView(
            tenant_id=execution.tenant_id,
            payment_id=execution.payment_id,
            currency=execution.money.currency,
            seq=1,
            due_minor=execution.context.due_minor,
            charging_minor=amount,
        )
    return attrs.evolve(head, seq=head.seq + 1, **{doing: getattr(head, doing) + amount})


def _ended(head: PaymentView, execution: PaymentExecution) -> PaymentView:
    moved: dict[str, Any] = {"seq": head.seq + 1}
    amount = execution.money.amount_minor
    if not execution.is_open:
        doing = _DOING[execution.operation]
        moved[doing] = getattr(head, doing) - amount
    if execution.status is ExecutionStatus.COMPLETED:
        moved.update({done: getattr(head, done) + amount for done in _DONE[execution.operation]})
    return attrs.evolve(head, **moved)


def _is_held(lease: Lease, now: datetime) -> bool:
    return lease.until is not None and lease.until > now


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
