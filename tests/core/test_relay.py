"""A relay delivers in order, parks what cannot be taken, and waits for a sink that is down."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from railcore.delivery import BucketLease, FailedDelivery, OutboxEntry
from railcore.errors import DeliveryError, InvalidValueError, StoreError
from railcore.events import BUCKETS, JournalEvent, bucket_of
from railcore.observability import EventParkedObserved, Observed
from railcore.relay import AsyncRelay, Relay, RelayRun, RelaySettings
from railcore.testing.contracts.execution_store import TENANT
from railcore.testing.contracts.outbox import neighbours, write
from railcore.testing.memory import InMemoryExecutionStore
from railcore.testing.outbox import (
    AsyncInMemoryOutbox,
    AsyncInMemorySink,
    InMemoryOutbox,
    InMemorySink,
)
from tests.core.made import FakeClock

SETTINGS = RelaySettings(attempts=3, first_retry_s=1.0, last_retry_s=300.0)


@attrs.frozen
class InAsync:
    """An asynchronous relay as a synchronous one."""

    relay: AsyncRelay

    def run(self) -> RelayRun:
        return asyncio.run(self.relay.run())

    def run_once(self) -> int:
        return asyncio.run(self.relay.run_once())

    def drain(self) -> int:
        return asyncio.run(self.relay.drain())


@attrs.frozen
class Notes:
    """An observer that breaks after it has taken note."""

    told: list[Observed] = attrs.field(factory=list)

    def observe(self, observed: Observed, /) -> None:
        self.told.append(observed)
        raise RuntimeError("the log is full")


@attrs.define
class Scene:
    """A store, its outbox, a sink and the relay between them."""

    colour: str
    settings: RelaySettings = SETTINGS
    clock: FakeClock = attrs.field(factory=FakeClock)
    sink: InMemorySink = attrs.field(factory=InMemorySink)
    chance: float = 1.0
    notes: Notes = attrs.field(factory=Notes)
    store: InMemoryExecutionStore = attrs.field(init=False)
    outbox: InMemoryOutbox = attrs.field(init=False)
    relay: Relay | InAsync = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = InMemoryExecutionStore(self.clock)
        self.outbox = InMemoryOutbox(self.store, self.clock)
        self.relay = self.another()

    def another(self, outbox: Any = None) -> Relay | InAsync:
        outbox, chance = outbox or self.outbox, lambda: self.chance
        if self.colour == "sync":
            return Relay(
                outbox,
                self.sink,
                self.settings,
                clock=self.clock,
                chance=chance,
                observer=self.notes,
            )
        return InAsync(
            AsyncRelay(
                AsyncInMemoryOutbox(outbox),
                AsyncInMemorySink(self.sink),
                self.settings,
                gather=asyncio.gather,
                clock=self.clock,
                chance=chance,
                observer=self.notes,
            )
        )

    def write(self, *payments: str, events: int = 1, key: str = "k1") -> None:
        for payment_id in payments:
            write(self.store, payment_id, events, key=key)

    def taken(self, payment_id: str) -> list[int]:
        return [event.seq for event in self.sink.taken if event.payment_id == payment_id]

    @property
    def parked(self) -> list[tuple[str, int]]:
        return [(one.payment_id, one.seq) for one in self.outbox.parked(1000)]


@pytest.fixture(params=["sync", "async"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def refusing(
    payment_id: str, seq: int | None = None, *, is_poison: bool = False
) -> Callable[[JournalEvent], None]:
    def refuse(event: JournalEvent) -> None:
        if event.payment_id == payment_id and seq in {None, event.seq}:
            raise DeliveryError("not that one", is_poison=is_poison)

    return refuse


def down(event: JournalEvent) -> None:
    raise DeliveryError("nobody answers")


# A run -----------------------------------------------------------------------------------------


def test_an_idle_relay_says_so(scene: Scene) -> None:
    run = scene.relay.run()

    assert (run.bucket, run.is_idle, run.pause_s) == (None, True, 0.0)
    assert scene.relay.run_once() == 0
    assert scene.relay.drain() == 0


def test_a_run_delivers_one_bucket_in_order(scene: Scene) -> None:
    one, other = neighbours_of(2)
    elsewhere = next(name for name in names() if bucket_of(TENANT, name) == 1)
    scene.write(one, other, elsewhere, events=3)

    assert scene.relay.run_once() == 6

    assert scene.taken(one) == scene.taken(other) == [1, 2, 3]
    assert scene.taken(elsewhere) == []
    assert scene.outbox.backlog().waiting == 3


def test_a_drain_delivers_everything_once(scene: Scene) -> None:
    payments = [f"invoice-{number}" for number in range(100)]
    scene.write(*payments, events=3)

    assert scene.relay.drain() == 300

    assert all(scene.taken(payment) == [1, 2, 3] for payment in payments)
    assert scene.outbox.backlog().waiting == 0


def test_a_lease_is_given_back_after_a_run(scene: Scene) -> None:
    scene.write("invoice-1")
    assert scene.relay.run_once() == 1
    scene.write("invoice-1", key="k2")

    assert scene.another().run_once() == 1


def test_a_busy_payment_starves_nobody(scene: Scene) -> None:
    scene.settings = RelaySettings(batch=20, per_payment=5)
    relay = scene.another()
    busy, *others = sorted(neighbours_of(4))
    scene.write(busy, events=100)
    scene.write(*others, events=2)

    assert relay.run_once() == 11

    assert scene.taken(busy) == [1, 2, 3, 4, 5]
    assert all(scene.taken(payment) == [1, 2] for payment in others)


# Failures --------------------------------------------------------------------------------------


def test_ob5_a_payment_stops_at_its_first_failure(scene: Scene) -> None:
    one, other = neighbours_of(2)
    scene.write(one, other, events=3)
    scene.sink.refuse = refusing(one, 2)

    run = scene.relay.run()

    assert run.acknowledged == 4
    assert scene.taken(one) == [1]
    assert scene.taken(other) == [1, 2, 3]
    assert [(failed.entry.event.seq, failed.is_parked) for failed in run.failed] == [(2, False)]


def test_a_failure_is_tried_again_and_goes_on_from_there(scene: Scene) -> None:
    scene.write("invoice-1", events=3)
    scene.sink.refuse = refusing("invoice-1", 2)
    scene.relay.drain()
    scene.sink.refuse = None
    assert scene.relay.drain() == 0

    scene.clock.advance(1.5)

    assert scene.relay.drain() == 2
    assert scene.taken("invoice-1") == [1, 2, 3]


def test_poison_parks_its_payment_at_once_and_no_other(scene: Scene) -> None:
    one, other = neighbours_of(2)
    scene.write(one, other, events=3)
    scene.sink.refuse = refusing(one, 2, is_poison=True)

    run = scene.relay.run()

    assert [failed.entry.event.seq for failed in run.parked] == [2]
    assert scene.parked == [(one, 2)]
    assert scene.taken(other) == [1, 2, 3]
    scene.sink.refuse = None
    assert scene.outbox.unpark(TENANT, one)
    assert scene.relay.drain() == 2
    assert scene.taken(one) == [1, 2, 3]


def test_an_event_that_is_parked_is_told_of(scene: Scene) -> None:
    scene.write("invoice-1", "invoice-2")
    scene.sink.refuse = refusing("invoice-1", is_poison=True)

    run = scene.relay.run()
    while not run.is_idle:
        run = scene.relay.run()

    (told,) = scene.notes.told
    assert isinstance(told, EventParkedObserved)
    assert (told.tenant_id, told.payment_id, told.seq) == (TENANT, "invoice-1", 1)
    assert told.problem == "not that one"


def test_poison_is_parked_while_the_sink_takes_nothing_else(scene: Scene) -> None:
    scene.write("invoice-1")
    scene.sink.refuse = refusing("invoice-1", is_poison=True)

    assert scene.relay.run_once() == 0

    assert scene.parked == [("invoice-1", 1)]


def test_what_fails_while_others_are_taken_is_parked_after_so_many_attempts(scene: Scene) -> None:
    one, other = neighbours_of(2)
    scene.sink.refuse = refusing(one)
    scene.write(one, events=2)
    for number in range(SETTINGS.attempts):
        assert scene.parked == []
        scene.write(other, key=f"k{number}")
        scene.relay.drain()
        scene.clock.advance(SETTINGS.last_retry_s)

    assert scene.parked == [(one, 1)]
    assert [one.attempts for one in scene.outbox.parked(1)] == [SETTINGS.attempts]


def test_others_may_be_taken_from_other_buckets(scene: Scene) -> None:
    scene.sink.refuse = refusing("invoice-1")
    elsewhere = next(name for name in names() if not shares_a_bucket(name, "invoice-1"))
    scene.write("invoice-1")
    for number in range(SETTINGS.attempts):
        scene.write(elsewhere, key=f"k{number}")
        scene.relay.drain()
        scene.clock.advance(SETTINGS.last_retry_s)

    assert scene.parked == [("invoice-1", 1)]


def test_ob4_a_sink_that_is_down_for_an_hour_parks_nothing(scene: Scene) -> None:
    payments = [f"invoice-{number}" for number in range(300)]
    scene.write(*payments, events=2)
    scene.sink.refuse = down
    pauses = list[float]()
    until = scene.clock.monotonic() + 3600
    while scene.clock.monotonic() < until:
        run = scene.relay.run()
        pauses.append(run.pause_s)
        scene.clock.advance(max(run.pause_s, 0.01))
    assert scene.parked == []
    assert max(pauses) == 5.0
    assert len(pauses) < 1000

    scene.sink.refuse = None
    scene.clock.advance(SETTINGS.last_retry_s)

    assert scene.relay.drain() == 600
    assert all(scene.taken(payment) == [1, 2] for payment in payments)


def test_a_sink_that_is_down_is_tried_a_little(scene: Scene) -> None:
    tried = Counter[str]()

    def refuse(event: JournalEvent) -> None:
        tried[event.payment_id] += 1
        raise DeliveryError("nobody answers")

    scene.write(*neighbours_of(200))
    scene.sink.refuse = refuse
    scene.relay.run()
    first = tried.total()
    scene.relay.run()

    assert first <= SETTINGS.at_once
    assert tried.total() - first == 3
    assert max(tried.values()) == 1, "each run tries others"


def test_what_a_sink_that_is_down_did_not_take_makes_room_for_others(scene: Scene) -> None:
    scene.write(*neighbours_of(60))
    scene.sink.refuse = down

    runs = [scene.relay.run() for _ in range(4)]

    assert [run.failed[0].retry_s for run in runs] == [2, 4, 8, 16]
    assert all(run.failed[0].retry_s > run.pause_s for run in runs)


def test_a_sink_that_came_back_is_noticed_by_the_next_run(scene: Scene) -> None:
    scene.write(*neighbours_of(20))
    scene.sink.refuse = down
    assert scene.relay.run().pause_s == 0.2
    assert scene.relay.run().pause_s == 0.4
    scene.sink.refuse = None

    run = scene.relay.run()

    assert (run.acknowledged, run.pause_s) == (3, 0.0)


def test_a_sink_that_breaks_has_not_taken_the_event(scene: Scene) -> None:
    def breaks(event: JournalEvent) -> None:
        raise KeyError("4111 1111 1111 1111")

    scene.write("invoice-1")
    scene.sink.refuse = breaks

    run = scene.relay.run()

    assert [failed.problem for failed in run.failed] == ["KeyError"]
    assert scene.outbox.backlog().waiting == 1


# Leases ----------------------------------------------------------------------------------------


def test_a_relay_that_froze_acknowledges_nothing(scene: Scene) -> None:
    scene.write("invoice-1", events=2)

    def freeze(event: JournalEvent) -> None:
        scene.sink.refuse = None
        scene.clock.advance(SETTINGS.lease_s + 1)
        assert scene.outbox.lease("other", 60) is not None

    scene.sink.refuse = freeze

    run = scene.relay.run()

    assert (run.is_fenced, run.acknowledged, run.is_idle) == (True, 0, False)
    assert scene.taken("invoice-1") == [1], "it stopped when its own time was over"
    assert scene.outbox.backlog().waiting == 2
    scene.clock.advance(61)
    assert scene.another().drain() == 2
    assert scene.taken("invoice-1") == [1, 1, 2]


def test_a_slow_sink_is_acknowledged_well_before_the_lease_ends(scene: Scene) -> None:
    def slow(event: JournalEvent) -> None:
        scene.clock.advance(4)

    scene.write("invoice-1", events=20)
    scene.sink.refuse = slow

    run = scene.relay.run()

    assert scene.taken("invoice-1") == [1, 2, 3, 4]
    assert (run.acknowledged, run.failed, run.is_fenced) == (4, (), False)


def test_an_outbox_that_cannot_acknowledge_repeats(scene: Scene) -> None:
    class Broken(InMemoryOutbox):
        def acknowledge(
            self,
            lease: BucketLease,
            delivered: Sequence[OutboxEntry],
            failed: Sequence[FailedDelivery],
            lease_s: float,
            /,
        ) -> bool:
            raise StoreError("lost", may_have_committed=True)

    scene.write("invoice-1", events=2)
    with pytest.raises(StoreError, match="lost"):
        scene.another(Broken(scene.store, scene.clock)).run()

    assert scene.relay.drain() == 2
    assert scene.taken("invoice-1") == [1, 2, 1, 2]


# Both colours ----------------------------------------------------------------------------------


async def test_payments_go_side_by_side_and_their_events_do_not() -> None:
    scene = Scene("async")
    payments = neighbours_of(10)
    scene.write(*payments, events=3)
    under_way, most = Counter[str](), 0

    class Sink:
        async def deliver(self, event: JournalEvent, /) -> None:
            nonlocal most
            under_way[event.payment_id] += 1
            assert under_way[event.payment_id] == 1
            most = max(most, under_way.total())
            await asyncio.sleep(0.001)
            under_way[event.payment_id] -= 1
            scene.sink.taken.append(event)

    relay = AsyncRelay(
        AsyncInMemoryOutbox(scene.outbox),
        Sink(),
        RelaySettings(at_once=4),
        gather=asyncio.gather,
        clock=scene.clock,
    )

    assert await relay.drain() == 30
    assert most == 4
    assert all(scene.taken(payment) == [1, 2, 3] for payment in payments)


async def test_a_cancelled_run_leaves_its_events() -> None:
    scene = Scene("async")
    scene.write("invoice-1", events=2)
    begun = asyncio.Event()

    class Hanging:
        async def deliver(self, event: JournalEvent, /) -> None:
            begun.set()
            await asyncio.Event().wait()

    outbox = AsyncInMemoryOutbox(scene.outbox)
    relay = AsyncRelay(outbox, Hanging(), SETTINGS, gather=asyncio.gather, clock=scene.clock)
    task = asyncio.create_task(relay.run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    scene.clock.advance(SETTINGS.lease_s)
    other = AsyncRelay(
        outbox, AsyncInMemorySink(scene.sink), gather=asyncio.gather, clock=scene.clock
    )
    assert await other.drain() == 2


# Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"owner": ""},
        {"lease_s": 0},
        {"batch": 0},
        {"per_payment": 0},
        {"at_once": 0},
        {"attempts": 0},
        {"first_retry_s": 0},
        {"first_retry_s": 10, "last_retry_s": 9},
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RelaySettings(**given)


def test_waits_double_up_to_the_longest() -> None:
    waits = [SETTINGS.retry_s(tries, lambda: 1.0) for tries in (0, 1, 2, 8, 9, 10_000)]

    assert waits == [1, 2, 4, 256, 300, 300]
    assert SETTINGS.retry_s(5, lambda: 0.0) == 0


def test_waits_of_the_machine_are_by_chance() -> None:
    scene = Scene("sync")
    scene.write(*neighbours_of(2))
    scene.sink.refuse = down
    run = Relay(scene.outbox, scene.sink, clock=scene.clock).run()

    waits = [failed.retry_s for failed in run.failed]

    assert len(set(waits)) == 2
    assert all(0 <= wait < 1 for wait in waits)


def names() -> Iterator[str]:
    return (f"other-{number}" for number in range(100 * BUCKETS))


def shares_a_bucket(one: str, other: str) -> bool:
    return bucket_of(TENANT, one) == bucket_of(TENANT, other)


def neighbours_of(how_many: int) -> list[str]:
    found = neighbours()
    return [next(found) for _ in range(how_many)]
