"""
Delivering the outbox: a relay takes one bucket of payments at a time.

It leases the bucket, reads what waits, hands it to the sink, acknowledges, and gives the lease
back. What it does is written once for both colours, as in ``railcore.procedures``. Three rules:

1. Within a payment, one event after the other, and none after one that was not taken. Different
   payments have nothing to wait for each other for.
2. Whoever has lost the lease changes nothing: the acknowledgement carries the token. So a relay
   that dies, freezes or comes back late repeats events and never loses one.
3. A sink that takes nothing is down, and that is no event's fault. A failure counts against its
   event only while the sink takes others; an event that cannot be taken at all is parked at once,
   any other after so many counted attempts.

Nothing here sleeps: ``RelayRun.pause_s`` says how long the caller had better wait.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, Final, TypeVar, cast

import attrs

from railcore import _checks
from railcore.clock import Deadline, SystemClock
from railcore.delivery import BucketLease, FailedDelivery, OutboxEntry
from railcore.errors import DeliveryError, InvalidValueError
from railcore.flow import adrive, drive
from railcore.observability import EventParkedObserved
from railcore.ports import AsyncEventSink, AsyncOutbox, Clock, EventSink, Observer, Outbox
from railcore.procedures import Procedure, ask

T = TypeVar("T")

Chance = Callable[[], float]
"""Returns a number from 0 up to, not including, 1."""

Gather = Callable[..., Awaitable[Any]]
"""Awaits everything that it is given, side by side, as ``asyncio.gather`` does."""

_DOUBTED_AFTER: Final = 3
"""So many failures in a row, and nothing taken, mean that the sink is down."""

_PROBES: Final = 3
"""How many payments a run tries at a sink that is down."""

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0
_MOST_DOUBLINGS: Final = 30
_SMALLEST_CHANCE: Final = 2.0**-53


@attrs.frozen(kw_only=True)
class RelaySettings:
    """
    How a relay works.

    Attributes:
        owner: Names this process in leases, for people.
        lease_s: For how long nobody else takes the bucket. A relay begins deliveries in the first
            half of it; a sink has to give up well within the other.
        batch: The most events of one run.
        per_payment: The most events of one payment in one run, so that a busy one starves nobody.
        at_once: How many payments an asynchronous relay delivers side by side.
        attempts: After how many counted failures an event is parked.
        first_retry_s: The longest wait after the first failure; doubles with each. The wait itself
            is any part of it, by chance.
        last_retry_s: The longest wait of all.
    """

    owner: str = attrs.field(default="relay", validator=_checks.text(128))
    lease_s: float = attrs.field(default=30.0, validator=_checks.seconds)
    batch: int = attrs.field(default=256, validator=_checks.whole_number(1))
    per_payment: int = attrs.field(default=64, validator=_checks.whole_number(1))
    at_once: int = attrs.field(default=32, validator=_checks.whole_number(1))
    attempts: int = attrs.field(default=20, validator=_checks.whole_number(1))
    first_retry_s: float = attrs.field(default=1.0, validator=_checks.seconds)
    last_retry_s: float = attrs.field(default=300.0, validator=_checks.seconds)

    def __attrs_post_init__(self) -> None:
        if self.lease_s <= 0:
            raise InvalidValueError("lease_s", "above zero", f"{self.lease_s:g} s")
        if not 0 < self.first_retry_s <= self.last_retry_s:
            wanted = f"above zero, at most last_retry_s = {self.last_retry_s:g} s"
            raise InvalidValueError("first_retry_s", wanted, f"{self.first_retry_s:g} s")

    def retry_s(self, attempts: int, chance: Chance) -> float:
        """Return how long to wait after *attempts* failures: full jitter."""
        return chance() * _doubled(self.first_retry_s, attempts, self.last_retry_s)


@attrs.frozen(kw_only=True)
class RelayRun:
    """
    What became of one run.

    Attributes:
        bucket: Which one it had; None when there was nothing to do.
        acknowledged: How many events were delivered and taken from the queue.
        failed: What the sink did not take, parked or put off.
        is_fenced: Whether somebody else took the lease meanwhile, so that nothing was
            acknowledged: what was delivered comes again.
        pause_s: How long the caller had better wait before the next run, because the sink takes
            nothing; zero while it does. Not about whether there is more to do.
    """

    bucket: int | None = None
    acknowledged: int = 0
    failed: Sequence[FailedDelivery] = ()
    is_fenced: bool = False
    pause_s: float = 0.0

    @property
    def parked(self) -> Sequence[FailedDelivery]:
        """What waits for a person from now on: something to raise an alarm about."""
        return tuple(one for one in self.failed if one.is_parked)

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing that this relay could do."""
        return not (self.acknowledged or self.failed or self.is_fenced)


class Relay:
    """
    Delivers the outbox, synchronously. For one thread; any number of relays work side by side.

    Args:
        outbox: The queue.
        sink: Where events go.
        settings: Leases, batches and retries.
        clock: Injected time; the machine's by default.
        chance: Injected chance, for waits; the machine's by default.
        observer: Is told of every event that is parked.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: EventSink,
        settings: RelaySettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._relaying = _relaying(outbox, sink, settings, clock, chance, observer, _one_by_one)

    def run(self) -> RelayRun:
        """
        Relay one bucket, and return what became of it.

        Raises:
            StoreError: The outbox failed. Nothing is lost; what was delivered may come again.
        """
        return _run(self._relaying.run())

    def run_once(self) -> int:
        """
        Relay one bucket; how many events were acknowledged, 0 when there was nothing to do.

        Raises as ``run`` does.
        """
        return self.run().acknowledged

    def drain(self) -> int:
        """
        Relay until there is nothing to do or the sink takes nothing; how many were acknowledged.

        Raises as ``run`` does.
        """
        return _run(self._relaying.drain())


class AsyncRelay:
    """
    Delivers the outbox, asynchronously: the payments of a batch side by side.

    Cancelling a run leaves the bucket to the next relay, when the lease has run out.

    Args:
        outbox: The queue.
        sink: Where events go; several deliveries are under way at a time.
        settings: Leases, batches and retries.
        gather: Runs awaitables side by side: ``asyncio.gather``.
        clock: Injected time; the machine's by default.
        chance: Injected chance, for waits; the machine's by default.
        observer: Is told of every event that is parked.
    """

    def __init__(
        self,
        outbox: AsyncOutbox,
        sink: AsyncEventSink,
        settings: RelaySettings | None = None,
        *,
        gather: Gather,
        clock: Clock | None = None,
        chance: Chance | None = None,
        observer: Observer | None = None,
    ) -> None:
        settings = settings or RelaySettings()
        # The procedures are typed with the synchronous ports; _arun awaits what these return.
        self._relaying = _relaying(
            cast("Outbox", outbox),
            cast("EventSink", sink),
            settings,
            clock,
            chance,
            observer,
            partial(_side_by_side, gather, settings.at_once),
        )

    async def run(self) -> RelayRun:
        """
        Relay one bucket, and return what became of it.

        Raises:
            StoreError: The outbox failed. Nothing is lost; what was delivered may come again.
        """
        return await _arun(self._relaying.run())

    async def run_once(self) -> int:
        """
        Relay one bucket; how many events were acknowledged, 0 when there was nothing to do.

        Raises as ``run`` does.
        """
        return (await self.run()).acknowledged

    async def drain(self) -> int:
        """
        Relay until there is nothing to do or the sink takes nothing; how many were acknowledged.

        Raises as ``run`` does.
        """
        return await _arun(self._relaying.drain())


@attrs.define
class _Batch:
    """What became of the events of one run so far."""

    until: Deadline
    taken: list[OutboxEntry] = attrs.field(factory=list)
    refused: list[tuple[OutboxEntry, DeliveryError]] = attrs.field(factory=list)
    poisoned: list[tuple[OutboxEntry, DeliveryError]] = attrs.field(factory=list)

    def goes_on(self) -> bool:
        """Return whether another delivery may begin."""
        looks_down = len(self.refused) >= _DOUBTED_AFTER and not self.taken
        return not looks_down and not self.until.has_passed()

    def note(self, entry: OutboxEntry, error: DeliveryError) -> None:
        """Take note that *entry* was not taken."""
        (self.poisoned if error.is_poison else self.refused).append((entry, error))


@attrs.define
class _SinkHealth:
    """What this relay has seen of the sink: failures in a row, and runs that found it down."""

    failures: int = 0
    runs_down: int = 0

    @property
    def is_down(self) -> bool:
        """Whether it takes nothing just now."""
        return self.failures >= _DOUBTED_AFTER

    def saw(self, batch: _Batch) -> None:
        """Take note of a run."""
        self.failures = 0 if batch.taken else self.failures + len(batch.refused)
        if not self.is_down:
            self.runs_down = 0
        elif batch.refused:
            self.runs_down += 1


Delivery = Callable[[], Procedure[None]]
"""Begins the deliveries of one payment."""


@attrs.frozen
class _Relaying:
    """
    The procedures of one relay.

    Attributes:
        together: Runs the deliveries of several payments; the two colours differ in how.
    """

    outbox: Outbox
    sink: EventSink
    settings: RelaySettings
    clock: Clock
    chance: Chance
    observer: Observer | None
    together: Callable[[Sequence[Delivery]], Any]
    health: _SinkHealth = attrs.field(factory=_SinkHealth)

    def run(self) -> Procedure[RelayRun]:
        """Lease, read, deliver, acknowledge, release."""
        settings = self.settings
        # Read before the lease begins, so that it ends here no later than in the store.
        until = Deadline(self.clock.monotonic() + settings.lease_s / 2, self.clock.monotonic)
        lease = yield from ask(lambda: self.outbox.lease(settings.owner, settings.lease_s))
        if lease is None:
            return RelayRun()
        batch = yield from self._deliver(lease, until)
        failed = self._judged(batch)
        is_held = yield from ask(
            lambda: self.outbox.acknowledge(lease, batch.taken, failed, settings.lease_s)
        )
        if is_held:
            self._tell(failed)
            yield from ask(lambda: self.outbox.release(lease))
        return RelayRun(
            bucket=lease.bucket,
            acknowledged=len(batch.taken) if is_held else 0,
            failed=tuple(failed) if is_held else (),
            is_fenced=not is_held,
            pause_s=self._pause_s(),
        )

    def drain(self) -> Procedure[int]:
        """Run until there is nothing to do, or the sink is down."""
        acknowledged = 0
        while True:
            run = yield from self.run()
            acknowledged += run.acknowledged
            if run.is_idle or self.health.is_down:
                return acknowledged

    def _deliver(self, lease: BucketLease, until: Deadline) -> Procedure[_Batch]:
        settings, is_down = self.settings, self.health.is_down
        batch_size = min(_PROBES, settings.batch) if is_down else settings.batch
        per_payment = 1 if is_down else settings.per_payment
        entries = yield from ask(lambda: self.outbox.waiting(lease, batch_size, per_payment))
        batch = _Batch(until)
        deliveries = [
            partial(self._payment, batch, list(of_one)) for _, of_one in groupby(entries, _payment)
        ]
        yield from ask(lambda: self.together(deliveries))
        return batch

    def _payment(self, batch: _Batch, entries: Sequence[OutboxEntry]) -> Procedure[None]:
        for entry in entries:
            if not batch.goes_on():
                return
            try:
                yield from ask(partial(self.sink.deliver, entry.event))
            except DeliveryError as error:
                return batch.note(entry, error)
            except Exception as error:  # noqa: BLE001 - a sink that breaks has not taken the event
                return batch.note(entry, DeliveryError(type(error).__name__))
            batch.taken.append(entry)

    def _tell(self, failed: Sequence[FailedDelivery]) -> None:
        observer = self.observer
        if observer is not None:
            for one in failed:
                if one.is_parked:
                    with suppress(Exception):
                        observer.observe(_observed(one))

    def _judged(self, batch: _Batch) -> Sequence[FailedDelivery]:
        """Return what to do about failures, which count only while the sink takes others."""
        counts = bool(batch.taken) or not self.health.is_down
        self.health.saw(batch)
        parked = [
            FailedDelivery(entry, error.problem, entry.attempts + 1, is_parked=True)
            for entry, error in batch.poisoned
        ]
        return [*parked, *(self._put_off(*one, counts=counts) for one in batch.refused)]

    def _put_off(self, entry: OutboxEntry, error: DeliveryError, *, counts: bool) -> FailedDelivery:
        attempts = entry.attempts + counts
        if counts and attempts >= self.settings.attempts:
            return FailedDelivery(entry, error.problem, attempts, is_parked=True)
        # At a sink that is down, the longer it lasts the longer: so that each run tries others.
        tried = max(entry.attempts, self.health.runs_down)
        retry_s = self.settings.retry_s(tried, self.chance)
        return FailedDelivery(entry, error.problem, attempts, retry_s=retry_s)

    def _pause_s(self) -> float:
        runs = self.health.runs_down
        return self.chance() * _doubled(_FIRST_PAUSE_S, runs, _LAST_PAUSE_S) if runs else 0.0


def _observed(failed: FailedDelivery) -> EventParkedObserved:
    event = failed.entry.event
    return EventParkedObserved(
        tenant_id=event.tenant_id,
        payment_id=event.payment_id,
        seq=event.seq,
        event_id=event.event_id,
        problem=failed.problem,
    )


def _payment(entry: OutboxEntry) -> tuple[str, str]:
    return entry.event.tenant_id, entry.event.payment_id


def _doubled(first_s: float, times: int, last_s: float) -> float:
    return min(last_s, first_s * 2.0 ** min(times, _MOST_DOUBLINGS))


def _machine_chance() -> float:
    return (int.from_bytes(os.urandom(7)) >> 3) * _SMALLEST_CHANCE


def _one_by_one(deliveries: Sequence[Delivery]) -> None:
    for begin in deliveries:
        _run(begin())


async def _side_by_side(gather: Gather, at_once: int, deliveries: Sequence[Delivery]) -> None:
    """Deliver in so many lanes, each of which takes the next payment that nobody has taken."""
    waiting = iter(deliveries)

    async def lane() -> None:
        for begin in waiting:
            await _arun(begin())

    await gather(*(lane() for _ in range(min(at_once, len(deliveries)))))


def _run(procedure: Procedure[T]) -> T:
    return drive(procedure, lambda call: call())


async def _arun(procedure: Procedure[T]) -> T:
    return await adrive(procedure, lambda call: call())


def _relaying(  # noqa: PLR0917 - one place for the defaults of both colours
    outbox: Outbox,
    sink: EventSink,
    settings: RelaySettings | None,
    clock: Clock | None,
    chance: Chance | None,
    observer: Observer | None,
    together: Callable[[Sequence[Delivery]], Any],
) -> _Relaying:
    return _Relaying(
        outbox,
        sink,
        settings or RelaySettings(),
        clock or SystemClock(),
        chance or _machine_chance,
        observer,
        together,
    )
