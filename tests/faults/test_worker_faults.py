"""Workers that are killed or frozen, wherever they are, cost nobody any money or much time."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore.budget import AccountLimits
from railcore.context import PaymentContext
from railcore.engine import PaymentEngine
from railcore.enums import PaymentRail
from railcore.execution import PaymentExecution
from railcore.money import SAR, Money
from railcore.ports import Rail
from railcore.protocol import Due
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore_adapters.cli import wiring
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.worker import AsyncWorker, WorkerSettings
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import conninfo
from tests.core.hosts import FakeRail
from tests.faults.worker_nursery import POINTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

HERE = Path(__file__).parent
KILLS = int(os.environ.get("RAILCORE_FAULT_KILLS", "12"))
SEED = int(os.environ.get("RAILCORE_FAULT_SEED", "20260301"))
LEASE_S = 1.5
GRACE_S = 2.0
TOKENS = ("visa", "visa", "slow", "lose_answer", "503", "429", "500_after", "garbage", "drop")
ROUTES = """
routes.cards = {rail = "card_psp", provider = "stub", account = "main", mode = "sandbox"}
default_route = "cards"
"""


@attrs.define
class Nursery:
    """Starts workers, and knows what became of them."""

    process: "subprocess.Popen[str]"
    pids: set[int] = attrs.field(factory=set)

    def start(self, **fate: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fate) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        self.pids.add(pid)
        return pid

    def end(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z (dead) or nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def ended_by(pid: int) -> int:
    """The signal that ended a process which nobody has waited for yet; 0 for none."""
    status = Path(f"/proc/{pid}/stat").read_text().split()[-1]
    return int(status) & 0x7F


@attrs.frozen
class Bench:
    sandbox: Sandbox
    url: str
    nursery: Nursery
    engine: PaymentEngine
    store: SqlExecutionStore
    routes: Path

    def enqueue(self, *names: str, token: str | None = None) -> list[PaymentExecution]:
        contexts = [
            PaymentContext(
                tenant_id="acme",
                payment_id=name,
                idempotency_key=name,
                money=Money(1200 + number, SAR),
                payment_option_key="card",
                instrument_token=f"tok_{token or TOKENS[number % len(TOKENS)]}",
            )
            for number, name in enumerate(names)
        ]
        found = self.engine.enqueue_many(contexts)
        return [one for one in found if isinstance(one, PaymentExecution)]

    def ask(self, query: Any, *values: Any) -> Any:
        with psycopg.connect(
            conninfo(self.url), autocommit=True, prepare_threshold=None
        ) as connection:
            return connection.execute(query, values or None).fetchone()

    def row(self, execution: PaymentExecution) -> PaymentExecution:
        found = self.store.get(execution.tenant_id, execution.execution_id)
        assert found is not None
        return found

    def open_count(self) -> int:
        (count,) = self.ask(
            "select count(*) from railcore_execution where next_check_at is not null"
        )
        return int(count)


@pytest.fixture
def bench(railcore_sandbox: Sandbox, database_url: str, tmp_path: Path) -> Iterator[Bench]:
    routes = tmp_path / "routes.toml"
    routes.write_text(ROUTES)
    railcore_sandbox.amount_faults = False
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail())
    engine = sqlalchemy.create_engine(database_url)
    store = SqlExecutionStore(engine)
    found = ConfigDrivenRouteResolver.from_toml(routes, offered=rails.offered)
    with nursed(railcore_sandbox, database_url, routes) as nursery:
        payments = PaymentEngine(rails=rails, routes=found, store=store)
        yield Bench(railcore_sandbox, database_url, nursery, payments, store, routes)
    engine.dispose()


@contextmanager
def nursed(sandbox: Sandbox, url: str, routes: Path) -> Iterator[Nursery]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.faults.worker_nursery",
            url,
            sandbox.url,
            routes,
            f"{LEASE_S}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RAILCORE_SECRET_STUB_MAIN": sandbox.accounts["main"]},
        cwd=HERE.parents[1],
        text=True,
    )
    nursery = Nursery(process)
    try:
        yield nursery
    finally:
        nursery.end()
        if process.stdout is not None:
            process.stdout.close()


def wait_until(condition: Callable[[], bool], within_s: float) -> float:
    """Return after how many seconds *condition* held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - started_s


class Overdue(threading.Thread):
    """Watches how long work whose holder is gone waits for somebody else."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.worst_s = 0.0
        self.stopping = threading.Event()
        self._url = url

    def run(self) -> None:
        asked = """
            select coalesce(max(extract(epoch from now() - lease_until)), 0)::float8
            from railcore_execution where next_check_at <= now() and lease_until < now()
        """
        with psycopg.connect(
            conninfo(self._url), autocommit=True, prepare_threshold=None
        ) as connection:
            while not self.stopping.wait(0.05):
                row = connection.execute(asked).fetchone()
                assert row is not None
                self.worst_s = max(self.worst_s, row[0])


@attrs.define
class Chaos:
    """Workers that come to grief, and how many of them did, by where they were."""

    nursery: Nursery
    chance: random.Random
    killed: Counter[str] = attrs.field(factory=Counter)
    frozen: Counter[str] = attrs.field(factory=Counter)
    alive: dict[int, str] = attrs.field(factory=dict)
    late: dict[int, float] = attrs.field(factory=dict)
    thawing: dict[int, float] = attrs.field(factory=dict)

    @property
    def count(self) -> int:
        return self.killed.total() + self.frozen.total()

    def go_on(self) -> None:
        while len(self.alive) < 4:
            self.start()
        for pid in tuple(self.alive):
            self.look_after(pid)
        for pid, at_s in tuple(self.thawing.items()):
            if time.monotonic() > at_s:
                self.thaw(pid)

    def start(self) -> None:
        point = self.chance.choice(POINTS)
        number = signal.SIGSTOP if self.chance.random() < 0.25 else signal.SIGKILL
        nth = self.chance.randint(1, 3)
        pid = self.nursery.start(point=point, nth=nth, number=int(number))
        self.alive[pid] = point
        self.late[pid] = time.monotonic() + self.chance.uniform(0.5, 2.0)

    def look_after(self, pid: int) -> None:
        match state_of(pid):
            case "Z":
                assert ended_by(pid) == signal.SIGKILL, "a worker ended by itself"
                self.killed[self.alive.pop(pid)] += 1
            case "T":
                self.frozen[self.alive.pop(pid)] += 1
                self.thawing[pid] = time.monotonic() + LEASE_S * 1.5
            case _ if time.monotonic() > self.late[pid]:  # its point is rare: any moment will do
                os.kill(pid, signal.SIGKILL)
                self.alive[pid] = "any moment"

    def thaw(self, pid: int) -> None:
        del self.thawing[pid]
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(120 + KILLS * 3)
def test_workers_killed_and_frozen_anywhere_charge_each_key_once(bench: Bench) -> None:
    chaos, asked = Chaos(bench.nursery, random.Random(SEED)), 0
    deadline_s = time.monotonic() + 30 + KILLS * 3
    overdue = Overdue(bench.url)
    bench.nursery.start()  # one that nothing happens to
    overdue.start()
    try:
        while chaos.count < KILLS:
            assert time.monotonic() < deadline_s, chaos
            if bench.open_count() < 30:
                bench.enqueue(*(f"pay-{asked + number}" for number in range(60)))
                asked += 60
            chaos.go_on()
            time.sleep(0.02)
        for pid in tuple(chaos.thawing):
            chaos.thaw(pid)
        wait_until(lambda: not bench.open_count(), 60)
    finally:
        overdue.stopping.set()
        overdue.join()
    sys.stdout.write(
        f"\n{chaos.killed.total()} killed, {chaos.frozen.total()} frozen, {asked} payments, "
        f"worst takeover {overdue.worst_s:.2f} s after the lease\n"
        f"{dict(chaos.killed)}\n{dict(chaos.frozen)}\n"
    )

    charged = bench.sandbox.ledger.by_reference()
    assert not bench.sandbox.ledger.double_charges()
    assert overdue.worst_s <= GRACE_S
    states = bench.ask(
        "select count(*) filter (where status = 'completed'), count(*) from railcore_execution"
    )
    assert states == (asked, asked)
    assert len(charged) == asked
    gaps = bench.ask("""
        select count(*) from railcore_execution x where version <>
          (select count(*) from railcore_event e where e.execution_id = x.execution_id)
    """)
    assert gaps == (0,)


def test_another_worker_takes_over_within_the_lease_and_two_seconds(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="visa")
    pid = bench.nursery.start(point="after_mark_sent", nth=1, number=int(signal.SIGKILL))
    wait_until(lambda: state_of(pid) == "Z", 10)
    bench.nursery.start()

    took_s = wait_until(lambda: bench.row(queued).lease.token > 1, 10)

    assert took_s <= LEASE_S + GRACE_S
    wait_until(lambda: not bench.row(queued).is_open, 10)
    assert len(bench.sandbox.ledger.charges) == 1


def freeze(bench: Bench, queued: PaymentExecution, point: str, nth: int = 1) -> int:
    """Have a worker freeze at *point*, and another process take the lease it loses."""
    pid = bench.nursery.start(point=point, nth=nth, number=int(signal.SIGSTOP))
    wait_until(lambda: state_of(pid) == "T", 10)
    due = Due(owner="other", lease_s=60.0, limit=1)
    wait_until(lambda: bool(bench.store.acquire_due(due)), LEASE_S + GRACE_S)
    assert bench.row(queued).lease.owner == "other"
    return pid


def test_the_late_answer_of_a_zombie_is_news(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="visa")
    pid = freeze(bench, queued, "before_record")
    held = bench.row(queued)

    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not bench.row(queued).is_open, 10)

    after = bench.row(queued)
    assert (after.status, after.lease, after.version) == ("completed", held.lease, 2)
    assert len(bench.sandbox.ledger.charges) == 1


def test_a_zombie_moves_neither_lease_nor_schedule(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="pending")
    pid = freeze(bench, queued, "before_reschedule")
    held = bench.row(queued)

    os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)

    assert bench.row(queued) == held


def test_a_zombie_does_not_send(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="visa")
    pid = freeze(bench, queued, "after_mark_sent")
    held = bench.row(queued)

    os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)

    assert bench.row(queued) == held
    assert not bench.sandbox.ledger.requests


def test_a_worker_that_is_told_to_stop_gives_back_what_it_holds(bench: Bench) -> None:
    bench.sandbox.latency_s = 0.2
    bench.enqueue(*(f"pay-{number}" for number in range(40)), token="visa")
    pid = bench.nursery.start()
    wait_until(lambda: len(bench.sandbox.ledger.requests) > 3, 10)

    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: state_of(pid) == "Z", 10)

    assert bench.ask("select count(*) from railcore_execution where lease_owner is not null") == (
        0,
    )
    sent = bench.ask("select count(*) from railcore_execution where send_count > 0")
    assert sent == (len(bench.sandbox.ledger.requests),)


def test_after_a_day_without_workers_the_oldest_come_first_and_no_faster(bench: Bench) -> None:
    queued = bench.enqueue(*(f"pay-{number:03}" for number in range(120)), token="visa")
    with psycopg.connect(
        conninfo(bench.url), autocommit=True, prepare_threshold=None
    ) as connection:
        connection.execute(
            "update railcore_execution set next_check_at = now() - interval '24 hours'"
            " + right(payment_id, 3)::int * interval '10 minutes'"
        )
    keys = {one.provider_key: one.payment_id for one in queued}
    limits = AccountLimits(at_once=4, per_second=40.0, burst=4)

    asyncio.run(worked(bench, limits))

    seen = [(keys[one.reference], one.at) for one in bench.sandbox.ledger.requests]
    assert len(seen) == 120
    order = [int(name[4:]) for name, _ in seen]
    assert all(abs(place - number) <= limits.at_once for place, number in enumerate(order))
    for (_, first), (_, later) in zip(seen, seen[24:], strict=False):
        assert (later - first).total_seconds() >= (24 - limits.burst) / limits.per_second * 0.8


@attrs.frozen
class Keys:
    key: str

    def secret(self, *_: str) -> Secret:
        return Secret(self.key)


async def worked(bench: Bench, limits: AccountLimits) -> None:
    """Work through what is due in this process, within *limits*."""
    wishes = wiring.Wishes(
        database_url=bench.url,
        configuration=read_configuration(bench.routes),
        credentials=Keys(bench.sandbox.accounts["main"]),
        stub_url=bench.sandbox.url,
    )
    async with wiring.open_host(wishes) as host:
        settings = WorkerSettings(default_limits=limits)
        await AsyncWorker(host.payments, settings=settings).run_once()
