"""An outbox that lives in memory, over the execution store in memory, and a sink that remembers."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import dropwhile, groupby, islice

import attrs

from railcore.delivery import Backlog, BucketLease, FailedDelivery, OutboxEntry, ParkedPayment
from railcore.events import BUCKETS, JournalEvent, bucket_of
from railcore.ports import Clock
from railcore.testing.memory import InMemoryExecutionStore, Payment, Undelivered


@attrs.define
class _Bucket:
    owner: str | None = None
    token: int = 0
    until: datetime | None = None


@attrs.frozen
class _Trouble:
    """What was noted of an event that was not taken."""

    attempts: int
    problem: str
    due_at: datetime | None
    parked_at: datetime | None

    def holds_back(self, now: datetime) -> bool:
        return self.parked_at is not None or (self.due_at is not None and self.due_at > now)


class InMemoryOutbox:
    """An ``Outbox`` of what *store* holds, safe between threads; *clock* dates leases."""

    def __init__(self, store: InMemoryExecutionStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._buckets = [_Bucket() for _ in range(BUCKETS)]
        self._troubles: dict[Undelivered, _Trouble] = {}

    def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """Take the free or expired lease of a bucket with something to deliver; else None."""
        now = self._clock.now()
        with self._store.queue() as (rows, _):
            ready = {row.bucket for row in _lowest(rows) if not self._is_held_back(row, now)}
            free = [number for number in sorted(ready) if _is_free(self._buckets[number], now)]
            if not free:
                return None
            number = min(free, key=lambda one: _waited_since(self._buckets[one]))
            bucket = self._buckets[number]
            bucket.owner, bucket.until = owner, now + timedelta(seconds=lease_s)
            bucket.token += 1
            return BucketLease(number, owner, bucket.token)

    def waiting(self, lease: BucketLease, limit: int, per_payment: int, /) -> Sequence[OutboxEntry]:
        """Return what to deliver next, payment by payment, those of each in order."""
        now = self._clock.now()
        with self._store.queue() as (rows, events):
            mine = _in_order([row for row in rows if row.bucket == lease.bucket])
            queues = (list(queue) for _, queue in groupby(mine, _payment))
            chosen = (row for queue in queues for row in self._first(queue, now, per_payment))
            return [
                OutboxEntry(events[_payment(row)][row.seq - 1], self._attempts(row))
                for row in islice(chosen, limit)
            ]

    def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """Remove, note and extend the lease; False, and nothing changed, if it was lost."""
        with self._store.queue() as (rows, _):
            now = self._clock.now()
            if not self._holds(lease):
                return False
            gone = {_row_of(entry.event) for entry in delivered}
            rows[:] = [row for row in rows if row not in gone]
            for row in gone:
                self._troubles.pop(row, None)
            for one in failed:
                self._troubles[_row_of(one.entry.event)] = _trouble(one, now)
            self._buckets[lease.bucket].until = now + timedelta(seconds=lease_s)
            return True

    def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        with self._store.queue():
            if self._holds(lease):
                self._buckets[lease.bucket].owner = None
                self._buckets[lease.bucket].until = self._clock.now()

    def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        with self._store.queue() as (rows, events):
            found = dict[Payment, ParkedPayment]()
            for row in _in_order(rows):
                trouble = self._troubles.get(row)
                name = _payment(row)
                if trouble is not None and trouble.parked_at is not None and name not in found:
                    found[name] = ParkedPayment(
                        *name,
                        row.seq,
                        events[name][row.seq - 1].event_id,
                        trouble.attempts,
                        trouble.parked_at,
                        trouble.problem,
                    )
            return sorted(found.values(), key=lambda one: one.parked_at)[:limit]

    def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        with self._store.queue():
            parked = [
                row
                for row, trouble in self._troubles.items()
                if _payment(row) == (tenant_id, payment_id) and trouble.parked_at is not None
            ]
            for row in parked:
                del self._troubles[row]
            return bool(parked)

    def replay(self, since: datetime, /) -> int:
        """Put every event since *since* back into the queue, from the journal; how many."""
        with self._store.queue() as (rows, events):
            known = set(rows)
            back = [
                row
                for journal in events.values()
                for row in map(_row_of, _from_first(journal, since))
                if row not in known
            ]
            rows.extend(back)
            for bucket in self._buckets:
                bucket.owner, bucket.until = None, self._clock.now()
                bucket.token += 1
            return len(back)

    def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        with self._store.queue() as (rows, events):
            written = [events[_payment(row)][row.seq - 1].occurred_at for row in rows]
            return Backlog(
                waiting=len(rows),
                parked=len(self.parked(len(rows))),
                oldest=min((at for at in written if at is not None), default=None),
            )

    def _first(
        self, queue: Sequence[Undelivered], now: datetime, per_payment: int
    ) -> Iterator[Undelivered]:
        for row in queue[:per_payment]:
            if self._is_held_back(row, now):
                return
            yield row

    def _is_held_back(self, row: Undelivered, now: datetime) -> bool:
        trouble = self._troubles.get(row)
        return trouble is not None and trouble.holds_back(now)

    def _attempts(self, row: Undelivered) -> int:
        trouble = self._troubles.get(row)
        return 0 if trouble is None else trouble.attempts

    def _holds(self, lease: BucketLease) -> bool:
        bucket = self._buckets[lease.bucket]
        return (bucket.owner, bucket.token) == (lease.owner, lease.token)


class AsyncInMemoryOutbox:
    """The same, asynchronous; over what the synchronous outbox *shared* holds."""

    def __init__(self, shared: InMemoryOutbox) -> None:
        self._outbox = shared

    async def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """Take the free or expired lease of a bucket with something to deliver; else None."""
        return self._outbox.lease(owner, lease_s)

    async def waiting(
        self, lease: BucketLease, limit: int, per_payment: int, /
    ) -> Sequence[OutboxEntry]:
        """Return what to deliver next, payment by payment, those of each in order."""
        return self._outbox.waiting(lease, limit, per_payment)

    async def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """Remove, note and extend the lease; False, and nothing changed, if it was lost."""
        return self._outbox.acknowledge(lease, delivered, failed, lease_s)

    async def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        self._outbox.release(lease)

    async def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        return self._outbox.parked(limit)

    async def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        return self._outbox.unpark(tenant_id, payment_id)

    async def replay(self, since: datetime, /) -> int:
        """Put every event since *since* back into the queue, from the journal; how many."""
        return self._outbox.replay(since)

    async def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        return self._outbox.backlog()


@attrs.define
class InMemorySink:
    """
    An ``EventSink`` that remembers what it took, in order.

    Attributes:
        taken: Every delivery, repeated ones too.
        refuse: Is called with each event before it is taken, and may raise ``DeliveryError``.
    """

    taken: list[JournalEvent] = attrs.field(factory=list)
    refuse: Callable[[JournalEvent], None] | None = None

    def deliver(self, event: JournalEvent, /) -> None:
        """Take *event*."""
        if self.refuse is not None:
            self.refuse(event)
        self.taken.append(event)


@attrs.define
class AsyncInMemorySink:
    """The same, asynchronous; remembers in the sink *shared*."""

    shared: InMemorySink = attrs.field(factory=InMemorySink)

    async def deliver(self, event: JournalEvent, /) -> None:
        """Take *event*."""
        self.shared.deliver(event)


def _in_order(rows: Sequence[Undelivered]) -> Sequence[Undelivered]:
    return sorted(rows, key=lambda row: (row.bucket, row.payment_id, row.tenant_id, row.seq))


def _payment(row: Undelivered) -> Payment:
    return row.tenant_id, row.payment_id


def _lowest(rows: Sequence[Undelivered]) -> Sequence[Undelivered]:
    """Return the first row of each payment."""
    first = dict[Payment, Undelivered]()
    for row in rows:
        name = _payment(row)
        if name not in first or row.seq < first[name].seq:
            first[name] = row
    return list(first.values())


def _row_of(event: JournalEvent) -> Undelivered:
    bucket = bucket_of(event.tenant_id, event.payment_id)
    return Undelivered(bucket, event.tenant_id, event.payment_id, event.seq)


def _trouble(failed: FailedDelivery, now: datetime) -> _Trouble:
    due_at = None if failed.is_parked else now + timedelta(seconds=failed.retry_s)
    parked_at = now if failed.is_parked else None
    return _Trouble(failed.attempts, failed.problem, due_at, parked_at)


def _from_first(journal: Sequence[JournalEvent], since: datetime) -> Sequence[JournalEvent]:
    """Return the first event since *since* and all that follow."""
    return list(
        dropwhile(lambda event: not event.occurred_at or event.occurred_at < since, journal)
    )


def _is_free(bucket: _Bucket, now: datetime) -> bool:
    return bucket.until is None or bucket.until <= now


def _waited_since(bucket: _Bucket) -> tuple[bool, datetime | None]:
    return bucket.until is not None, bucket.until
