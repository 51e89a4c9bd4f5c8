"""
What every ``Outbox`` promises.

::

    class TestMyOutbox(OutboxContract):
        @pytest.fixture
        def store(self) -> ExecutionStore:
            return MyStore(...)  # empty

        @pytest.fixture
        def outbox(self, store: ExecutionStore) -> Outbox:
            return MyOutbox(...)  # of what that store writes

An asynchronous outbox takes part through ``awaited_outbox``.
"""

import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Any, Final, cast

import attrs
import pytest

from railcore.delivery import BucketLease, FailedDelivery, OutboxEntry
from railcore.events import bucket_of
from railcore.ports import AsyncOutbox, ExecutionStore, Outbox
from railcore.results import RailResult
from railcore.testing.contracts.execution_store import (
    REFUSED,
    TENANT,
    WAITING,
    asked,
    at_once,
    claim,
    record,
    the,
)

LONG_S: Final = 60.0
SHORT_S: Final = 0.05
MANY: Final = 1000
LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class OutboxContract:
    """The promises; each test gets an empty store, and the outbox of what it writes."""

    @pytest.fixture
    def store(self) -> ExecutionStore:
        """Return an empty store."""
        pytest.fail("give the subclass a fixture named store that returns an empty store")

    @pytest.fixture
    def outbox(self) -> Outbox:
        """Return the outbox of what the store writes."""
        pytest.fail("give the subclass a fixture named outbox that returns the store's outbox")

    # What is written waits ---------------------------------------------------------------------

    def test_an_empty_outbox_has_nothing_to_lease(self, outbox: Outbox) -> None:
        assert outbox.lease("me", LONG_S) is None

    def test_every_event_of_the_journal_waits_as_it_is(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        record(store, claim(store, asked("k1")), REFUSED)

        entries = waiting(outbox, leased(outbox))

        assert [entry.event for entry in entries] == list(store.events(TENANT, "invoice-1"))
        assert [entry.attempts for entry in entries] == [0, 0]

    def test_reading_takes_nothing_away(self, store: ExecutionStore, outbox: Outbox) -> None:
        write(store, "invoice-1")
        lease = leased(outbox)

        assert waiting(outbox, lease) == waiting(outbox, lease)

    def test_what_was_acknowledged_is_gone(self, store: ExecutionStore, outbox: Outbox) -> None:
        write(store, "invoice-1", 3)
        lease = leased(outbox)
        first, *rest = waiting(outbox, lease)

        assert outbox.acknowledge(lease, [first], [], LONG_S)

        assert waiting(outbox, lease) == rest
        assert outbox.acknowledge(lease, rest, [], LONG_S)
        outbox.release(lease)
        assert outbox.lease("me", LONG_S) is None

    def test_acknowledging_twice_is_nothing_new(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 2)
        lease = leased(outbox)
        first, last = waiting(outbox, lease)

        assert outbox.acknowledge(lease, [first], [], LONG_S)
        assert outbox.acknowledge(lease, [first], [], LONG_S)

        assert waiting(outbox, lease) == [last]

    def test_a_later_event_of_a_bucket_under_lease_is_read(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        claimed = claim(store, asked("k1"))
        lease = leased(outbox)
        assert outbox.acknowledge(lease, waiting(outbox, lease), [], LONG_S)

        record(store, claimed, REFUSED)

        assert seqs(waiting(outbox, lease)) == [("invoice-1", 2)]

    # Order and portions ------------------------------------------------------------------------

    def test_a_payments_events_are_together_and_in_order(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        one, other, third = islice(neighbours(), 3)
        for number in range(2):
            for payment_id in (third, one, other):
                write(store, payment_id, 2, key=f"{payment_id}/{number}")

        found = seqs(waiting(outbox, leased(outbox)))

        assert found == [(payment, seq) for payment in order(found) for seq in (1, 2, 3, 4)]
        assert set(order(found)) == {one, other, third}

    def test_a_busy_payment_takes_no_more_than_its_portion(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        payments = sorted(islice(neighbours(), 3))
        busy, *others = payments
        write(store, busy, 9)
        for payment_id in others:
            write(store, payment_id, 2)

        found = seqs(outbox.waiting(leased(outbox), MANY, 3))

        assert [seq for payment, seq in found if payment == busy] == [1, 2, 3]
        assert [seq for payment, seq in found if payment != busy] == [1, 2, 1, 2]

    def test_no_more_than_asked_for_is_read(self, store: ExecutionStore, outbox: Outbox) -> None:
        for payment_id in islice(neighbours(), 4):
            write(store, payment_id, 2)

        found = seqs(outbox.waiting(leased(outbox), 5, MANY))

        assert len(found) == 5
        assert [seq for _, seq in found] == [1, 2, 1, 2, 1]

    def test_two_tenants_payments_of_one_name_are_two_payments(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        tenants = [TENANT, stranger_in_the_bucket_of("invoice-1")]
        for tenant_id in tenants:
            write(store, "invoice-1", 2, tenant_id=tenant_id)
        lease = leased(outbox)
        entries = waiting(outbox, lease)
        mine = [entry for entry in entries if entry.event.tenant_id == TENANT]
        assert len(entries) == 4

        assert outbox.acknowledge(lease, mine[1:], [parking(mine[0])], LONG_S)

        left = [(one.event.tenant_id, one.event.seq) for one in waiting(outbox, lease)]
        assert left == [(tenants[1], 1), (tenants[1], 2)]

    # Leases ------------------------------------------------------------------------------------

    def test_a_bucket_has_one_holder(self, store: ExecutionStore, outbox: Outbox) -> None:
        write(store, "invoice-1")
        lease = leased(outbox)

        assert (lease.bucket, lease.owner) == (bucket_of(TENANT, "invoice-1"), "me")
        assert outbox.lease("other", LONG_S) is None

    def test_a_lease_that_was_given_back_is_taken_at_once(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lease = leased(outbox)

        outbox.release(lease)

        assert the(outbox.lease("other", LONG_S)).token > lease.token

    def test_an_expired_lease_is_taken_over(self, store: ExecutionStore, outbox: Outbox) -> None:
        write(store, "invoice-1")
        lease = leased(outbox, SHORT_S)

        assert taken_over(outbox).token > lease.token

    def test_an_acknowledgement_extends_the_lease(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lease = leased(outbox, SHORT_S)

        assert outbox.acknowledge(lease, [], [], LONG_S)
        pause()

        assert outbox.lease("other", LONG_S) is None

    def test_who_has_lost_the_lease_changes_nothing(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 2)
        lost = leased(outbox, SHORT_S)
        first, second = waiting(outbox, lost)
        lease = taken_over(outbox)

        assert not outbox.acknowledge(lost, [first], [parking(second)], LONG_S)
        outbox.release(lost)

        assert waiting(outbox, lease) == [first, second]
        assert outbox.lease("third", LONG_S) is None
        assert outbox.acknowledge(lease, [first, second], [], LONG_S)

    def test_who_has_lost_the_lease_to_its_namesake_changes_nothing(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lost = leased(outbox, SHORT_S)
        entries = waiting(outbox, lost)
        pause()
        lease = leased(outbox)

        assert lease.owner == lost.owner
        assert not outbox.acknowledge(lost, entries, [], LONG_S)

        assert waiting(outbox, lease) == entries

    def test_who_has_given_the_lease_back_changes_nothing(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lease = leased(outbox)
        entries = waiting(outbox, lease)
        outbox.release(lease)

        assert not outbox.acknowledge(lease, entries, [], LONG_S)

        assert waiting(outbox, leased(outbox)) == entries

    def test_an_expired_lease_that_nobody_took_still_holds(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lease = leased(outbox, SHORT_S)
        pause()

        assert outbox.acknowledge(lease, waiting(outbox, lease), [], LONG_S)

        assert outbox.backlog().waiting == 0

    def test_buckets_take_turns(self, store: ExecutionStore, outbox: Outbox) -> None:
        for number in range(3):
            write(store, f"invoice-{number}")
        buckets = {bucket_of(TENANT, f"invoice-{number}") for number in range(3)}

        served = []
        for _ in range(2 * len(buckets)):
            lease = leased(outbox)
            served.append(lease.bucket)
            outbox.release(lease)

        assert sorted(served) == sorted([*buckets, *buckets])

    def test_racing_relays_lease_different_buckets(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        for number in range(20):
            write(store, f"invoice-{number}")
        buckets = {bucket_of(TENANT, f"invoice-{number}") for number in range(20)}

        found = at_once([lambda: outbox.lease("me", LONG_S)] * 8)

        leases = [lease.bucket for lease in found if lease is not None]
        assert len(leases) == len(set(leases)) > 0
        assert set(leases) <= buckets

    # What was not taken ------------------------------------------------------------------------

    def test_a_payment_that_was_put_off_waits(self, store: ExecutionStore, outbox: Outbox) -> None:
        one, other = islice(neighbours(), 2)
        for payment_id in (one, other):
            write(store, payment_id, 2)
        lease = leased(outbox)
        failed = first_of(one, waiting(outbox, lease))

        assert outbox.acknowledge(lease, [], [putting_off(failed, LONG_S)], LONG_S)

        assert seqs(waiting(outbox, lease)) == [(other, 1), (other, 2)]
        assert outbox.backlog().parked == 0

    def test_a_payment_that_was_put_off_comes_again(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 2)
        lease = leased(outbox)
        failed = waiting(outbox, lease)[0]
        assert outbox.acknowledge(lease, [], [putting_off(failed, SHORT_S, attempts=4)], LONG_S)
        outbox.release(lease)
        pause()

        entries = waiting(outbox, leased(outbox))

        assert [(entry.event.seq, entry.attempts) for entry in entries] == [(1, 4), (2, 0)]

    def test_a_bucket_where_everything_waits_is_not_leased(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        one, other = islice(neighbours(), 2)
        write(store, one, 3)
        write(store, other, 3)
        lease = leased(outbox)
        entries = waiting(outbox, lease)
        failed = [
            parking(first_of(one, entries)),
            putting_off(first_of(other, entries), LONG_S),
        ]

        assert outbox.acknowledge(lease, [], failed, LONG_S)
        outbox.release(lease)

        assert outbox.lease("me", LONG_S) is None

    def test_a_parked_payment_holds_up_no_other(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        one, other = sorted(islice(neighbours(), 2))
        write(store, one, 3)
        write(store, other, 2)
        lease = leased(outbox)
        first, second, *_ = waiting(outbox, lease)

        assert outbox.acknowledge(lease, [first], [parking(second)], LONG_S)

        assert seqs(waiting(outbox, lease)) == [(other, 1), (other, 2)]
        write(store, one, key="later")
        assert seqs(waiting(outbox, lease)) == [(other, 1), (other, 2)]

    def test_a_parked_payment_is_listed_where_it_stopped(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 3)
        lease = leased(outbox)
        first, second, _ = waiting(outbox, lease)
        assert outbox.parked(MANY) == []

        assert outbox.acknowledge(lease, [first], [parking(second, attempts=7)], LONG_S)

        (found,) = outbox.parked(MANY)
        assert (found.tenant_id, found.payment_id, found.seq) == (TENANT, "invoice-1", 2)
        assert found.event_id == second.event.event_id
        assert (found.attempts, found.last_error) == (7, "never seen one like it")
        assert found.parked_at.utcoffset() == timedelta(0)
        assert outbox.backlog().parked == 1

    def test_a_payment_goes_on_where_it_was_parked(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 3)
        lease = leased(outbox)
        first, second, third = waiting(outbox, lease)
        assert outbox.acknowledge(lease, [first], [parking(second, attempts=7)], LONG_S)
        outbox.release(lease)

        assert outbox.unpark(TENANT, "invoice-1")

        assert waiting(outbox, leased(outbox)) == [second, third]
        assert outbox.parked(MANY) == []

    def test_only_a_parked_payment_can_be_let_go_on(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")

        assert not outbox.unpark(TENANT, "invoice-1")
        assert not outbox.unpark(TENANT, "invoice-2")

    def test_the_longest_parked_is_listed_first(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        names = list(islice(neighbours(), 3))
        for payment_id in names:
            write(store, payment_id)
        lease = leased(outbox)
        entries = waiting(outbox, lease)
        for payment_id in reversed(names):
            failed = parking(first_of(payment_id, entries))
            assert outbox.acknowledge(lease, [], [failed], LONG_S)

        assert [one.payment_id for one in outbox.parked(2)] == names[:0:-1]

    def test_what_a_sink_said_is_kept_whatever_it_said(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1")
        lease = leased(outbox)
        said = "no\x00 \ud800 4111 1111 1111 1111 \n" + "x" * 1000
        failed = FailedDelivery(waiting(outbox, lease)[0], said, 1, is_parked=True)

        assert outbox.acknowledge(lease, [], [failed], LONG_S)

        kept = outbox.parked(MANY)[0].last_error
        assert kept.isprintable()
        assert "1111 1111 1111" not in kept
        assert len(kept) == 500

    # Replay and backlog ------------------------------------------------------------------------

    def test_a_replay_brings_the_same_events_again(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 3)
        before = deliver_all(outbox)

        assert outbox.replay(LONG_AGO) == 3

        assert deliver_all(outbox) == before
        assert len(before) == 3

    def test_a_replay_brings_only_what_came_since(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 2)
        write(store, "invoice-2", 1)
        pause()
        last = store.events(TENANT, "invoice-1")[-1].occurred_at
        since = the(last) + timedelta(seconds=SHORT_S / 2)
        write(store, "invoice-1", 2, key="later")
        deliver_all(outbox)

        assert outbox.replay(since) == 2

        assert seqs(deliver_all(outbox)) == [("invoice-1", 3), ("invoice-1", 4)]

    def test_a_replay_adds_nothing_to_what_still_waits(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 4)
        lease = leased(outbox)
        assert outbox.acknowledge(lease, waiting(outbox, lease)[:2], [], LONG_S)

        assert outbox.replay(LONG_AGO) == 2

        assert seqs(deliver_all(outbox)) == [("invoice-1", seq) for seq in (1, 2, 3, 4)]

    def test_who_delivered_during_a_replay_delivers_again(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 2)
        lease = leased(outbox)
        first, second = waiting(outbox, lease)
        assert outbox.acknowledge(lease, [first], [], LONG_S)

        outbox.replay(LONG_AGO)

        assert not outbox.acknowledge(lease, [second], [], LONG_S)
        assert deliver_all(outbox) == [first, second]

    def test_a_replayed_payment_stops_where_it_was_parked(
        self, store: ExecutionStore, outbox: Outbox
    ) -> None:
        write(store, "invoice-1", 4)
        lease = leased(outbox)
        first, second, third, _ = waiting(outbox, lease)
        assert outbox.acknowledge(lease, [first, second], [parking(third)], LONG_S)

        outbox.replay(LONG_AGO)

        assert deliver_all(outbox) == [first, second]
        assert [one.seq for one in outbox.parked(MANY)] == [3]

    def test_the_backlog_counts_what_waits(self, store: ExecutionStore, outbox: Outbox) -> None:
        assert attrs.astuple(outbox.backlog()) == (0, 0, None)
        write(store, "invoice-1", 2)
        write(store, "invoice-2", 1)

        backlog = outbox.backlog()

        assert (backlog.waiting, backlog.parked) == (3, 0)
        assert backlog.oldest == store.events(TENANT, "invoice-1")[0].occurred_at


def awaited_outbox(outbox: AsyncOutbox, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> Outbox:
    """Return *outbox* with methods that block; *run* awaits a coroutine, from any thread."""
    return cast(Outbox, _Awaited(outbox, run))


@attrs.frozen
class _Awaited:
    outbox: AsyncOutbox
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.outbox, name)
        return lambda *args: self.run(method(*args))


def write(
    store: ExecutionStore,
    payment_id: str,
    events: int = 1,
    *,
    tenant_id: str = TENANT,
    key: str = "k1",
) -> None:
    """Write so many events of a payment: a claim, then ever new references while it is pending."""
    context = asked(
        f"{payment_id}/{key}", 1, payment_id=payment_id, tenant_id=tenant_id, due=_large()
    )
    execution = claim(store, context)
    for number in range(1, events):
        execution = record(store, execution, _news(number))


def _large() -> Any:
    return asked("any", 1_000_000).money


def _news(number: int) -> RailResult:
    return attrs.evolve(WAITING, provider_ref=f"ch_{number:06}")


def leased(outbox: Outbox, lease_s: float = LONG_S) -> BucketLease:
    """Return a lease of the only bucket there is."""
    return the(outbox.lease("me", lease_s))


def taken_over(outbox: Outbox) -> BucketLease:
    """Return the lease that another relay of the same name takes when this one has run out."""
    pause()
    return the(outbox.lease("me", LONG_S))


def pause() -> None:
    """Let what is short pass."""
    threading.Event().wait(2 * SHORT_S)


def waiting(outbox: Outbox, lease: BucketLease) -> list[OutboxEntry]:
    """Return all that waits in a bucket."""
    return list(outbox.waiting(lease, MANY, MANY))


def deliver_all(outbox: Outbox) -> list[OutboxEntry]:
    """Acknowledge all that waits, bucket by bucket, and return it."""
    delivered = list[OutboxEntry]()
    while (lease := outbox.lease("me", LONG_S)) is not None:
        entries = waiting(outbox, lease)
        assert entries, "a bucket that is leased has something to deliver"
        assert outbox.acknowledge(lease, entries, [], LONG_S)
        outbox.release(lease)
        delivered += entries
    return delivered


def parking(entry: OutboxEntry, attempts: int = 1) -> FailedDelivery:
    """Return that *entry* can never be taken."""
    return FailedDelivery(entry, "never seen one like it", attempts, is_parked=True)


def putting_off(entry: OutboxEntry, retry_s: float, attempts: int = 1) -> FailedDelivery:
    """Return that *entry* is tried again in *retry_s*."""
    return FailedDelivery(entry, "busy", attempts, retry_s=retry_s)


def seqs(entries: Sequence[OutboxEntry]) -> list[tuple[str, int]]:
    """Return what *entries* are about."""
    return [(entry.event.payment_id, entry.event.seq) for entry in entries]


def order(found: Sequence[tuple[str, int]]) -> list[str]:
    """Return the payments of *found*, each once, as they come."""
    return list(dict.fromkeys(payment for payment, _ in found))


def first_of(payment_id: str, entries: Sequence[OutboxEntry]) -> OutboxEntry:
    """Return the first entry of a payment."""
    return next(entry for entry in entries if entry.event.payment_id == payment_id)


def neighbours() -> Iterator[str]:
    """Yield ever more payments that are all in one bucket."""
    names = (f"invoice-{number}" for number in count())
    return (name for name in names if bucket_of(TENANT, name) == 0)


def stranger_in_the_bucket_of(payment_id: str) -> str:
    """Return another tenant whose payment of that name is in the same bucket."""
    wanted = bucket_of(TENANT, payment_id)
    names = (f"tenant-{number}" for number in count(2))
    return next(name for name in names if bucket_of(name, payment_id) == wanted)
