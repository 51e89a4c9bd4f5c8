"""
Stores that live in memory, for tests and first steps: nothing survives the process.

They keep the promises of the ports, each method under one lock, and pass the same contract
classes as the stores on Postgres.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from datetime import datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import attrs

from railcore.enums import ExecutionStatus, Operation, PendingReason
from railcore.errors import ExecutionNotFoundError, RailcoreError
from railcore.events import EventDraft, JournalEvent
from railcore.execution import Account, Lease, PaymentExecution, PaymentView, available_of
from railcore.lifecycle import ABSENT, Discrepancy, check_edge
from railcore.ports import Clock
from railcore.protocol import (
    Acquired,
    Adoption,
    Claim,
    ClaimOutcome,
    ClaimVerdict,
    Due,
    Recording,
    ResolveOutcome,
    ResolveVerdict,
    Resolving,
    in_the_way,
)
from railcore.review import (
    NotedDiscrepancy,
    Orphan,
    Resolved,
    adopting_id,
    adopting_key,
    disputed_minor,
)
from railcore.webhooks import Sought

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


_BOOKED_AS: Final[Mapping[Operation, Operation]] = {Operation.CAPTURE: Operation.CHARGE}
"""A charge and a capture take money alike."""

_MOVED_BY_A_CHANGE: Final = ("_executions", "_ids", "_payments", "_outbox")


Payment = tuple[str, str]
"""Tenant and payment."""


@attrs.frozen
class Undelivered:
    """An event that nobody has delivered yet: where it queues, and its place in its payment."""

    bucket: int
    tenant_id: str
    payment_id: str
    seq: int


Queue = tuple[list[Undelivered], Mapping[Payment, Sequence[JournalEvent]]]
"""What an outbox works on: the events still to be delivered, and the journal."""


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
        self._discrepancies: dict[tuple[str, UUID], NotedDiscrepancy] = {}

    @property
    def outbox(self) -> Sequence[Undelivered]:
        """The events that are still to be delivered, in the order in which they were stored."""
        with self._lock:
            return tuple(self._outbox)

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        """Yield the events still to be delivered, to be changed in place, and the journal."""
        with self._lock:
            yield self._outbox, self._events

    @property
    def discrepancies(self) -> Sequence[Discrepancy]:
        """The contradictions that were noted, oldest first."""
        with self._lock:
            return tuple(one.discrepancy for one in self._discrepancies.values())

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        return self._claim(claim)

    def _claim(self, claim: Claim, *, is_resolving: bool = False) -> ClaimOutcome:
        """Claim; what resolves a discrepancy books or gives back what is known."""
        execution = claim.execution
        with self._lock:
            stored = self.find(execution.tenant_id, execution.idempotency_key)
            if stored is not None:
                return ClaimOutcome(ClaimVerdict.DUPLICATE, stored)
            head = self.payment(execution.tenant_id, execution.payment_id)
            refusal = _refusal(claim, head, is_resolving=is_resolving)
            if refusal is None and execution.operation.follows_a_parent:
                refusal = self._refusal_of_parent(execution, is_resolving=is_resolving)
            if refusal is not None:
                return ClaimOutcome(refusal, self._in_the_way(execution, refusal))
            return ClaimOutcome(ClaimVerdict.CLAIMED, self._begin(claim, head))

    def claim_many(self, claims: Sequence[Claim], /) -> Sequence[ClaimOutcome | RailcoreError]:
        """Claim many: for each what ``claim`` would have returned or raised."""
        return [self._claimed_or_refused(claim) for claim in claims]

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
            acquired = _taken(stored, owner, now, now + timedelta(seconds=lease_s))
            acquired = attrs.evolve(
                acquired, next_check_at=_later(stored.next_check_at, acquired.next_check_at)
            )
            self._keep(acquired)
            return Acquired(acquired, now)

    def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take leases of due executions that nobody holds, those due longest first."""
        with self._lock:
            now = self._clock.now()
            until = now + timedelta(seconds=due.lease_s)
            found = [one for one in self._executions.values() if _is_due(one, due, now)]
            found.sort(key=lambda one: (one.next_check_at, one.execution_id))
            counted = Counter[Account]()
            taken = list[Acquired]()
            for one in found[: due.limit]:
                counted[one.account_key] += 1
                if counted[one.account_key] <= due.room(one.account_key):
                    taken.append(Acquired(_taken(one, due.owner, now, until), now))
            for acquired in taken:
                self._keep(acquired.execution)
            return taken

    def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Count out a send that was refused for certain; whether the token still held the lease."""
        with self._lock:
            stored = self._held(execution)
            if stored is None or stored.status is not ExecutionStatus.PROCESSING:
                return False
            if not stored.tries:
                return False
            now = self._clock.now()
            self._keep(
                attrs.evolve(
                    stored,
                    lease=Lease(None, stored.lease.token, None),
                    refused_count=stored.refused_count + 1,
                    next_check_at=now + timedelta(seconds=next_check_s),
                    updated_at=now,
                )
            )
            return True

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
                first_sent_at=(stored.first_sent_at or now) if stored.tries else now,
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
            head = self._payments[stored.tenant_id, stored.payment_id]
            is_booked = stored.status is ExecutionStatus.COMPLETED
            told = 0 if is_booked else disputed_minor(stored, discrepancy)
            noted = NotedDiscrepancy(
                tenant_id=stored.tenant_id,
                payment_id=stored.payment_id,
                discrepancy=discrepancy,
                opened_at=self._clock.now(),
                disputed_minor=min(told, head.due_minor),
            )
            self._discrepancies[name] = noted
            head = attrs.evolve(head, disputed_minor=head.disputed_minor + noted.disputed_minor)
            self._tell(stored, event, attrs.evolve(head, seq=head.seq + 1), stored.status, None)
            return True

    def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        name = (orphan.tenant_id, orphan.discrepancy.discrepancy_id)
        with self._lock:
            if name in self._discrepancies:
                return False
            self._discrepancies[name] = NotedDiscrepancy(
                tenant_id=orphan.tenant_id,
                payment_id=orphan.payment_id,
                discrepancy=orphan.discrepancy,
                opened_at=self._clock.now(),
                orphan=orphan,
            )
            head = PaymentView(
                tenant_id=orphan.tenant_id,
                payment_id=orphan.payment_id,
                currency=orphan.money.currency,
                seq=1,
                due_minor=orphan.money.amount_minor,
            )
            self._tell_of_orphan(orphan, event, head)
            return True

    def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        with self._lock:
            return self._discrepancies.get((tenant_id, discrepancy_id))

    def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        with self._lock:
            found = list(self._discrepancies.values())
        wanted = (one for one in found if tenant_id in {None, one.tenant_id})
        return [one for one in wanted if one.is_open or not open_only][:limit]

    def discrepancies_of(self, tenant_id: str, payment_id: str, /) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        wanted = (tenant_id, payment_id)
        with self._lock:
            every = self._discrepancies.values()
            return [one for one in every if (one.tenant_id, one.payment_id) == wanted]

    def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        with self._lock:
            found = list(self._executions.values())
        wanted = (one for one in found if tenant_id in {None, one.tenant_id})
        reviewed = (one for one in wanted if one.pending_reason is PendingReason.MANUAL_REVIEW)
        return sorted(reviewed, key=attrgetter("created_at"))[:limit]

    def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """Store how an open discrepancy ends, with its event and executions, all or nothing."""
        noted = resolving.noted
        with self._lock:
            stored = self.discrepancy(noted.tenant_id, noted.discrepancy_id)
            if stored is None:
                return ResolveOutcome(ResolveVerdict.UNKNOWN)
            if not stored.is_open:
                return ResolveOutcome(ResolveVerdict.ALREADY, stored)
            before = {name: copy(getattr(self, name)) for name in _MOVED_BY_A_CHANGE}
            before["_events"] = {name: list(told) for name, told in self._events.items()}
            if resolving.ends is not None and self.record(resolving.ends) is None:
                return ResolveOutcome(ResolveVerdict.MOVED)
            refusal = self._adopt(resolving) if resolving.adoptions else None
            if resolving.refund is not None and not self._is_claimed(resolving.refund):
                refusal = ResolveVerdict.REFUSED
            if refusal is not None:
                vars(self).update(before)
                return ResolveOutcome(refusal)
            return ResolveOutcome(ResolveVerdict.RESOLVED, self._resolved(stored, resolving))

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        with self._lock:
            return self._executions.get((tenant_id, execution_id))

    def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        with self._lock:
            execution_id = self._ids.get((tenant_id, idempotency_key))
            return None if execution_id is None else self._executions[tenant_id, execution_id]

    def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        with self._lock:
            ours = [one for one in self._executions.values() if _is_of_account(one, sought)]
        by_key = [one for one in ours if one.provider_key == sought.provider_key]
        by_ref = [
            one
            for one in ours
            if sought.provider_ref is not None and one.provider_ref == sought.provider_ref
        ]
        return (by_key or by_ref)[:2]

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

    def _claimed_or_refused(self, claim: Claim) -> ClaimOutcome | RailcoreError:
        try:
            return self.claim(claim)
        except RailcoreError as error:
            return error

    def _refusal_of_parent(
        self, execution: PaymentExecution, *, is_resolving: bool
    ) -> ClaimVerdict | None:
        others = self.executions(execution.tenant_id, execution.payment_id)
        noted = self.discrepancies_of(execution.tenant_id, execution.payment_id)
        failed = {
            one.execution_id
            for one in others
            if one.status is ExecutionStatus.FAILED and one.operation.follows_a_parent
        }
        if not is_resolving and any(
            one.is_in_dispute and one.execution_id in failed for one in noted
        ):
            return ClaimVerdict.IN_DOUBT
        return ClaimVerdict.LIMIT if _exceeds_parent(execution, others) else None

    def _is_claimed(self, claim: Claim) -> bool:
        return self._claim(claim, is_resolving=True).verdict is ClaimVerdict.CLAIMED

    def _adopt(self, resolving: Resolving) -> ResolveVerdict | None:
        """Book money where there is room; return what is in the way."""
        for adoption in resolving.adoptions:
            if self._is_claimed(adoption.claim):
                self.record(adoption.recording)
                if not self._is_booked_once(adoption):
                    return ResolveVerdict.BOOKED
                if adoption.refund is not None and not self._is_claimed(adoption.refund):
                    return ResolveVerdict.REFUSED
                return None
        return ResolveVerdict.REFUSED

    def _is_booked_once(self, adoption: Adoption) -> bool:
        execution, wanted = adoption.claim.execution, adoption.recording.after.provider_ref
        alike = [
            one
            for one in self._executions.values()
            if one.status is ExecutionStatus.COMPLETED
            and one.provider_ref == wanted
            and (one.tenant_id, one.provider, one.account)
            == (execution.tenant_id, execution.provider, execution.account)
            and _BOOKED_AS.get(one.operation, one.operation)
            is _BOOKED_AS.get(execution.operation, execution.operation)
        ]
        return not adoption.is_named or len(alike) == 1

    def _resolved(self, noted: NotedDiscrepancy, resolving: Resolving) -> NotedDiscrepancy:
        resolved = Resolved(
            remedy=resolving.remedy,
            actor=resolving.actor,
            evidence=resolving.evidence,
            at=self._clock.now(),
            execution_id=resolving.execution_id,
        )
        after = attrs.evolve(noted, resolved=resolved)
        self._discrepancies[noted.tenant_id, noted.discrepancy_id] = after
        head = self._payments[noted.tenant_id, noted.payment_id]
        head = attrs.evolve(
            head, seq=head.seq + 1, disputed_minor=head.disputed_minor - noted.disputed_minor
        )
        if noted.orphan is not None:
            self._tell_of_orphan(noted.orphan, resolving.event, head)
        else:
            stored = self._executions[noted.tenant_id, noted.discrepancy.execution_id]
            self._tell(stored, resolving.event, head, stored.status, None)
        return after

    def _tell_of_orphan(self, orphan: Orphan, event: EventDraft, head: PaymentView) -> None:
        discrepancy_id = orphan.discrepancy.discrepancy_id
        self._append(
            JournalEvent(
                tenant_id=orphan.tenant_id,
                payment_id=orphan.payment_id,
                seq=head.seq,
                event_id=event.event_id,
                type=event.type,
                execution_id=adopting_id(discrepancy_id),
                version=None,
                from_status=ABSENT,
                to_status=ABSENT,
                payment_rail=orphan.rail.value,
                payment_provider=orphan.provider,
                idempotency_key=adopting_key(discrepancy_id),
                payload=event.payload,
                occurred_at=self._clock.now(),
            ),
            event,
            head,
        )

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
        mine = (execution.lease.owner, execution.lease.token)
        return stored if (stored.lease.owner, stored.lease.token) == mine else None

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
        self._append(told, event, head)

    def _append(self, told: JournalEvent, event: EventDraft, head: PaymentView) -> None:
        name = (told.tenant_id, told.payment_id)
        self._payments[name] = head
        self._outbox.append(Undelivered(event.bucket, *name, head.seq))
        self._events.setdefault(name, []).append(told)


class AsyncInMemoryExecutionStore:
    """The same, asynchronous; over what the synchronous store *shared* holds, when given."""

    def __init__(self, clock: Clock, *, shared: InMemoryExecutionStore | None = None) -> None:
        self._store = shared or InMemoryExecutionStore(clock)

    @property
    def outbox(self) -> Sequence[Undelivered]:
        """The events that are still to be delivered, in the order in which they were stored."""
        return self._store.outbox

    def queue(self) -> AbstractContextManager[Queue]:
        """Yield the events still to be delivered, to be changed in place, and the journal."""
        return self._store.queue()

    @property
    def discrepancies(self) -> Sequence[Discrepancy]:
        """The contradictions that were noted, oldest first."""
        return self._store.discrepancies

    async def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        return self._store.claim(claim)

    async def claim_many(
        self, claims: Sequence[Claim], /
    ) -> Sequence[ClaimOutcome | RailcoreError]:
        """Claim many: for each what ``claim`` would have returned or raised."""
        return self._store.claim_many(claims)

    async def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change where status and version still hold; None when somebody knew first."""
        return self._store.record(recording)

    async def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take a free or expired lease of an open execution, with a new fencing token."""
        return self._store.acquire(tenant_id, execution_id, owner, lease_s)

    async def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take leases of due executions that nobody holds, those due longest first."""
        return self._store.acquire_due(due)

    async def mark_sent(
        self, execution: PaymentExecution, lease_s: float, /
    ) -> PaymentExecution | None:
        """Commit a send mark and extend the lease, if the token still holds it; else None."""
        return self._store.mark_sent(execution, lease_s)

    async def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Give the lease back and look again later; whether the token still held it."""
        return self._store.reschedule(execution, next_check_s)

    async def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Count out a send that was refused for certain; whether the token still held the lease."""
        return self._store.put_back(execution, next_check_s)

    async def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        return self._store.note(execution, discrepancy, event)

    async def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        return self._store.note_orphan(orphan, event)

    async def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        return self._store.discrepancy(tenant_id, discrepancy_id)

    async def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        return self._store.list_discrepancies(tenant_id, limit, open_only=open_only)

    async def discrepancies_of(
        self, tenant_id: str, payment_id: str, /
    ) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        return self._store.discrepancies_of(tenant_id, payment_id)

    async def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        return self._store.waiting_for_review(tenant_id, limit)

    async def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """Store how an open discrepancy ends, with its event and executions, all or nothing."""
        return self._store.resolve(resolving)

    async def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        return self._store.get(tenant_id, execution_id)

    async def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        return self._store.find(tenant_id, idempotency_key)

    async def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        return self._store.find_named(sought)

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


def _is_of_account(execution: PaymentExecution, sought: Sought) -> bool:
    named = (execution.provider, execution.account)
    if named != (sought.provider, sought.account):
        return False
    return sought.tenant_id in {None, execution.tenant_id}


def _refusal(claim: Claim, head: PaymentView | None, *, is_resolving: bool) -> ClaimVerdict | None:
    context = claim.execution.context
    if head is None:
        return ClaimVerdict.NO_PAYMENT if context.operation.follows_a_parent else None
    if head.currency.code != context.money.currency.code:
        return ClaimVerdict.CURRENCY
    if claim.head_seq is not None and claim.head_seq != head.seq:
        return ClaimVerdict.MOVED
    left_minor = head.available_minor(context.operation) - context.money.amount_minor
    if context.operation.follows_a_parent:
        return ClaimVerdict.LIMIT if left_minor < 0 else None
    if left_minor < 0:
        return ClaimVerdict.LIVE
    is_disputed = left_minor < head.disputed_minor
    return ClaimVerdict.IN_DOUBT if is_disputed and not is_resolving else None


def _exceeds_parent(execution: PaymentExecution, executions: Sequence[PaymentExecution]) -> bool:
    """Return whether more is asked than the execution that is followed has left."""
    parent_id = execution.context.parent_execution_id
    parent = next((one for one in executions if one.execution_id == parent_id), None)
    if parent is None:
        return False
    return execution.money.amount_minor > available_of(parent, execution.operation, executions)


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


def _is_due(execution: PaymentExecution, due: Due, now: datetime) -> bool:
    if execution.next_check_at is None or execution.next_check_at > now:
        return False
    is_wanted = due.is_unsent is None or execution.is_unsent is due.is_unsent
    return (
        is_wanted
        and not _is_held(execution.lease, now)
        and due.most.get(execution.account_key) != 0
    )


def _taken(
    execution: PaymentExecution, owner: str, now: datetime, until: datetime
) -> PaymentExecution:
    return attrs.evolve(
        execution,
        lease=Lease(owner, execution.lease.token + 1, until),
        check_count=execution.check_count + 1,
        next_check_at=until,
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


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)
