"""
Relays are killed, frozen and slow; nothing is lost, and no payment skips an event.

``RAILCORE_FAULTS`` is how many seconds the chaos lasts; a few by default.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore.errors import DeliveryError, InProgressError
from railcore.events import JournalEvent, bucket_of
from railcore.money import SAR, Money
from railcore.relay import Relay, RelaySettings
from railcore.testing.contracts.execution_store import TENANT, asked, claim_of
from railcore.testing.contracts.outbox import neighbours, write
from railcore.testing.outbox import InMemorySink
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.outbox import SqlOutbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import conninfo
from tests.faults.ledgers import Delivery, check, read_deliveries

HERE = Path(__file__).parent
CHAOS_S = float(os.environ.get("RAILCORE_FAULTS", "4"))
LEASE_S = 0.5
FROZEN_S = 1.5
PAYMENTS = tuple(f"invoice-{number}" for number in range(6))


@attrs.define
class Stand:
    """A database, the log of a sink, and relays in processes of their own."""

    url: str
    log: Path
    relays: list[subprocess.Popen[str]] = attrs.field(factory=list)
    engine: sqlalchemy.Engine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        bounds = {"options": "-c lock_timeout=500ms"}
        self.engine = sqlalchemy.create_engine(self.url, connect_args=bounds, pool_size=20)

    @property
    def store(self) -> SqlExecutionStore:
        return SqlExecutionStore(self.engine)

    @property
    def outbox(self) -> SqlOutbox:
        return SqlOutbox(self.engine)

    def start(self, colour: str, *own_end: str) -> subprocess.Popen[str]:
        program = (sys.executable, "-m", "tests.faults.relay_process")
        words = [*program, self.url, str(self.log), str(LEASE_S), colour, *own_end]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1])
        self.relays.append(process)
        return process

    def stop(self) -> str:
        """End all relays; what they said."""
        ended, self.relays = self.relays, []
        for process in ended:
            process.kill()
        return "".join(process.communicate()[0] for process in ended)

    def delivering(self) -> subprocess.Popen[str] | None:
        """Return the relay that delivered last, if it runs still."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 200))
            lines = log.read().decode().splitlines()
        owner = lines[-1].split()[0] if lines else ""
        running = (process for process in self.relays if process.returncode is None)
        return next((one for one in running if owner == f"relay-{one.pid}"), None)

    def wait_until_empty(self, timeout_s: float) -> float:
        """Wait until nothing waits to be delivered; how long it took."""
        started, outbox = time.monotonic(), self.outbox
        while outbox.backlog().waiting:
            took_s = time.monotonic() - started
            assert took_s < timeout_s, f"{outbox.backlog()} after {took_s:.1f} s"
            time.sleep(0.02)
        return time.monotonic() - started

    def deliveries(self) -> Sequence[Delivery]:
        return read_deliveries(self.log)

    def journal(self) -> Mapping[tuple[str, int], UUID]:
        query = "select aggregateid, seq, id from railcore_event"
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(query)
            return {(name, seq): id_ for name, seq, id_ in rows}


@pytest.fixture
def stand(database_url: str, tmp_path: Path) -> Iterator[Stand]:
    schema.install_roles(database_url)
    log = tmp_path / "sink.log"
    log.touch()
    stand = Stand(database_url, log)
    try:
        yield stand
    finally:
        stand.stop()
        stand.engine.dispose()


class TestTheChecker:
    """A checker that never says no proves nothing."""

    journal: ClassVar = {("a", seq): UUID(int=seq) for seq in (1, 2, 3)}

    def deliveries(self, *seqs: int) -> Sequence[Delivery]:
        return [Delivery("me", "a", seq, UUID(int=seq)) for seq in seqs]

    def test_it_counts_what_was_repeated(self) -> None:
        found = check(self.deliveries(1, 2, 1, 2, 3, 2, 3), self.journal)

        assert found == {"events": 3, "repeated": 4}

    @pytest.mark.parametrize("seqs", [(1, 3, 2), (1, 2), (2, 1, 3), ()])
    def test_it_sees_what_was_skipped(self, seqs: tuple[int, ...]) -> None:
        with pytest.raises(AssertionError):
            check(self.deliveries(*seqs), self.journal)

    def test_it_sees_another_id(self) -> None:
        forged = [*self.deliveries(1, 2), Delivery("me", "a", 3, UUID(int=9))]
        with pytest.raises(AssertionError):
            check(forged, self.journal)


# Processes that die and freeze ------------------------------------------------------------------


def keep_writing(stand: Stand, done: threading.Event, writer: int) -> None:
    """Claim one execution after the other on payments that others write to as well."""
    store, own = stand.store, random.Random(writer)
    for number in itertools.count():
        if done.is_set():
            return
        payment_id = own.choice(PAYMENTS)
        claim = claim_of(
            asked(f"{writer}/{number}", 1, payment_id=payment_id, due=Money(10**9, SAR))
        )
        try:
            store.claim(claim)
        except InProgressError:
            continue
        time.sleep(0.004)


@pytest.mark.slow
@pytest.mark.timeout(CHAOS_S * 3 + 120)
def test_ob2_relays_that_die_and_freeze_lose_nothing(stand: Stand) -> None:
    chance = random.Random(20260301)
    done = threading.Event()
    kills, stops, thawed_at = 0, 0, 0.0
    for colour in ("sync", "async", "sync", "async"):
        stand.start(colour)
    with ThreadPoolExecutor(4) as writers, ExitStack() as stack:
        running = [writers.submit(keep_writing, stand, done, writer) for writer in range(4)]
        stack.callback(done.set)
        while len({one.owner for one in stand.deliveries()}) < 2:
            time.sleep(0.05)
        until = time.monotonic() + CHAOS_S
        while time.monotonic() < until or kills + stops < 4:
            time.sleep(chance.uniform(0.1, 0.6))
            process = stand.delivering()
            if process is None:
                continue
            if time.monotonic() < thawed_at or chance.random() < 0.4:
                process.kill()
                process.wait()
                kills += 1
                stand.start(chance.choice(("sync", "async")))
            else:
                process.send_signal(signal.SIGSTOP)
                threading.Timer(FROZEN_S, process.send_signal, [signal.SIGCONT]).start()
                thawed_at = time.monotonic() + FROZEN_S
                stops += 1
        done.set()
        for one in running:
            one.result()
        time.sleep(FROZEN_S)  # until the last one that froze is back
        stand.start("sync")
        stand.wait_until_empty(60)
    time.sleep(0.1)  # a delivery that is under way
    fenced = stand.stop().count("fenced")

    counted = check(stand.deliveries(), stand.journal())

    sys.stdout.write(f"{kills} kills, {stops} stops, {fenced} fenced, {dict(counted)}\n")
    assert counted["repeated"] > 0, "not one was killed between delivery and acknowledgement"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_killed_relay_is_taken_over_within_lease_and_two_seconds(
    stand: Stand, colour: str
) -> None:
    names = list(itertools.islice(neighbours(), 5))
    for payment_id in names:
        write(stand.store, payment_id, 4)
    killed = stand.start(colour, "SIGKILL", "7")
    assert killed.wait(20) == -signal.SIGKILL
    assert stand.outbox.backlog().waiting == 20, "what was delivered is not acknowledged"

    started = time.monotonic()
    stand.start(colour)
    stand.wait_until_empty(20)
    took_s = time.monotonic() - started

    assert check(stand.deliveries(), stand.journal()) == {"events": 20, "repeated": 7}
    assert took_s < LEASE_S + 2 + start_s()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_ob3_a_relay_that_froze_past_its_lease_repeats_and_deletes_nothing(
    stand: Stand, colour: str
) -> None:
    names = list(itertools.islice(neighbours(), 3))
    for payment_id in names:
        write(stand.store, payment_id, 4)
    frozen = stand.start(colour, "SIGSTOP", "5")
    wait_until_stopped(frozen)
    first = stand.deliveries()
    stand.start(colour)
    stand.wait_until_empty(20)
    # The poison of this test: rows that only the frozen relay could delete.
    assert stand.outbox.replay(datetime(2000, 1, 1, tzinfo=UTC)) == 12
    other = stand.relays[-1]
    other.send_signal(signal.SIGSTOP)
    wait_until_stopped(other)
    waiting = stand.outbox.backlog().waiting

    frozen.send_signal(signal.SIGCONT)
    assert frozen.stdout is not None
    assert frozen.stdout.readline() == "fenced\n"
    frozen.kill()
    stand.outbox.replay(datetime(2000, 1, 1, tzinfo=UTC))
    other.send_signal(signal.SIGCONT)
    stand.wait_until_empty(20)

    assert len(first) == 5
    assert waiting <= 12
    check(stand.deliveries(), stand.journal())


def start_s() -> float:
    """How long a process of Python with all of this takes to start, on this machine."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import railcore_sqlalchemy.outbox"], check=True)
    return time.monotonic() - started


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    for _ in range(2000):
        state = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "T":
            return
        time.sleep(0.01)
    pytest.fail("the relay did not stop")


# What commits late, what cannot be taken, what is lost ------------------------------------------


def test_ob1_what_commits_late_is_not_skipped(stand: Stand) -> None:
    first, *others = sorted(itertools.islice(neighbours(), 3))
    sink = InMemorySink()
    relay = Relay(stand.outbox, sink)
    write(stand.store, first)
    with stand.engine.begin() as connection:
        late = asked("late", 1, payment_id=first)
        stand.store.within(connection).claim(claim_of(late, is_sent=False))
        for payment_id in others:
            write(stand.store, payment_id, 2)
        assert relay.drain() == 5

    assert relay.drain() == 1
    assert [event.seq for event in sink.taken if event.payment_id == first] == [1, 2]


def test_ob5_a_poisoned_event_parks_one_payment_and_no_other(stand: Stand) -> None:
    poisoned, *others = sorted(itertools.islice(neighbours(), 4))
    for payment_id in (poisoned, *others):
        write(stand.store, payment_id, 5)

    def refuse(event: JournalEvent) -> None:
        if (event.payment_id, event.seq) == (poisoned, 3):
            raise DeliveryError("too large", is_poison=True)

    sink = InMemorySink(refuse=refuse)
    relay = Relay(stand.outbox, sink)
    relay.drain()
    assert Counter(event.payment_id for event in sink.taken) == {
        poisoned: 2,
        **dict.fromkeys(others, 5),
    }
    assert [(one.payment_id, one.seq) for one in stand.outbox.parked(10)] == [(poisoned, 3)]
    write(stand.store, poisoned, key="later")
    assert relay.drain() == 0

    sink.refuse = None
    assert stand.outbox.unpark(TENANT, poisoned)
    assert relay.drain() == 4

    assert [event.seq for event in sink.taken if event.payment_id == poisoned] == [1, 2, 3, 4, 5, 6]


def test_ob6_what_a_broker_lost_is_delivered_again_under_the_same_ids(stand: Stand) -> None:
    for payment_id in PAYMENTS:
        write(stand.store, payment_id, 3)
    sink = InMemorySink()
    relay = Relay(stand.outbox, sink)
    relay.drain()
    before = sorted(sink.taken, key=lambda event: (event.payment_id, event.seq))
    sink.taken.clear()

    assert stand.outbox.replay(datetime(2000, 1, 1, tzinfo=UTC)) == len(before)
    relay.drain()

    assert sorted(sink.taken, key=lambda event: (event.payment_id, event.seq)) == before


def test_a_replay_skips_nothing_that_is_dated_earlier_than_what_came_before(stand: Stand) -> None:
    """A transaction that began first may have waited for the payment, and come second."""
    journal(stand.url, {"invoice-1": 3})
    dates = {1: 10, 2: 20, 3: 15}
    with psycopg.connect(conninfo(stand.url), autocommit=True) as connection:
        connection.execute("alter table railcore_event disable trigger event_change")
        for seq, minute in dates.items():
            at = datetime(2026, 3, 1, 12, minute, tzinfo=UTC)
            change = "update railcore_event set occurred_at = %s where seq = %s"
            connection.execute(change, (at, seq))
    sink = InMemorySink()
    relay = Relay(stand.outbox, sink)
    relay.drain()
    sink.taken.clear()

    assert stand.outbox.replay(datetime(2026, 3, 1, 12, 20, tzinfo=UTC)) == 2
    relay.drain()

    assert [event.seq for event in sink.taken] == [2, 3]


def test_a_replay_of_many_pages_brings_every_event(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("railcore_sqlalchemy.outbox_queries.PAGE", 7)
    journal(stand.url, {f"invoice-{number}": number for number in range(1, 20)})
    sink = InMemorySink()
    relay = Relay(stand.outbox, sink)
    assert relay.drain() == 190
    before = {(event.payment_id, event.seq) for event in sink.taken}
    sink.taken.clear()

    assert stand.outbox.replay(datetime(2000, 1, 1, tzinfo=UTC)) == 190

    assert relay.drain() == 190
    assert {(event.payment_id, event.seq) for event in sink.taken} == before


def test_ob7_a_payment_of_ten_thousand_events_starves_nobody(stand: Stand) -> None:
    busy, *others = sorted(itertools.islice(neighbours(), 6))
    journal(stand.url, {busy: 10_000, **dict.fromkeys(others, 3)})
    sink = InMemorySink()
    relay = Relay(stand.outbox, sink, RelaySettings(batch=100, per_payment=20))

    assert relay.run_once() == 20 + 3 * len(others)

    assert {event.payment_id for event in sink.taken} == {busy, *others}
    started = time.monotonic()
    assert relay.drain() == 10_000 - 20
    assert time.monotonic() - started < 20
    assert [event.seq for event in sink.taken if event.payment_id == busy] == [*range(1, 10_001)]


def journal(url: str, events: Mapping[str, int]) -> None:
    """Write so many events of each payment, straight into journal and outbox."""
    rows = [(name, seq) for name, most in events.items() for seq in range(1, most + 1)]
    with psycopg.connect(conninfo(url)) as connection, connection.cursor() as cursor:
        into_journal = (
            "copy railcore_event (tenant_id, aggregateid, seq, id, aggregatetype, type,"
            " execution_id, version, from_status, to_status, payment_rail, payment_provider,"
            " idempotency_key, occurred_at, payload) from stdin"
        )
        with cursor.copy(into_journal) as copy:
            for name, seq in rows:
                fixed = ("payment", "billing.execution.pending", str(UUID(int=1)))
                told = ("card_psp", "stub", "k1", datetime.now(UTC), "{}")
                states = (hash(name) % 2**31, "pending", f"pending-{seq}")
                copy.write_row((TENANT, name, seq, str(uuid4()), *fixed, *states, *told))
        with cursor.copy(
            "copy railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at) from stdin"
        ) as copy:
            for name, seq in rows:
                copy.write_row((bucket_of(TENANT, name), TENANT, name, seq, datetime.now(UTC)))
