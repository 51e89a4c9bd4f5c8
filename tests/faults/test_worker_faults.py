"""Workers that are killed or frozen, wherever they are, cost nobody any money or much time."""

import asyncio
import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from wsgiref.simple_server import WSGIRequestHandler, make_server

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore.budget import AccountLimits
from railcore.context import PaymentContext
from railcore.engine import PaymentEngine
from railcore.enums import PaymentRail
from railcore.execution import PaymentExecution
from railcore.intake import Webhooks
from railcore.money import SAR, Money
from railcore.ports import Rail
from railcore.protocol import Due
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore.webhooks import Headers, WebhookAccount, WebhookReceipt, WebhookSettings
from railcore_adapters.cli import wiring
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.credentials import FixedWebhookAccounts
from railcore_adapters.mounts import WebhookWsgi
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.webhooks import DEFAULT_SECRET, How
from railcore_adapters.stub import StubWebhooks
from railcore_adapters.worker import AsyncWorker, WorkerSettings
from railcore_sqlalchemy.inbox import SqlWebhookInbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import conninfo
from tests.core.hosts import FakeRail
from tests.faults import fences, ledgers
from tests.faults.nurseries import ROUTES, Nursery, ended_by, nursed, state_of
from tests.faults.worker_nursery import POINTS, Ground

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

HERE = Path(__file__).parent
KILLS = int(os.environ.get("RAILCORE_FAULT_KILLS", "12"))
SEED = int(os.environ.get("RAILCORE_FAULT_SEED", "20260301"))
LEASE_S = 1.5
GRACE_S = 2.0
TOKENS = (
    *("visa", "pending", "slow", "lose_answer", "503", "429", "500_after", "garbage", "drop"),
    *("visa", "pending"),
)
HOWS: tuple[How, ...] = ("on_time", "late", "twice", "reversed", "forged")


@attrs.frozen
class Bench:
    sandbox: Sandbox
    url: str
    nursery: Nursery
    engine: PaymentEngine
    store: SqlExecutionStore
    ground: Ground

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

    def is_all_done(self) -> bool:
        """Whether nothing is open, to be applied or to be delivered."""
        (waiting,) = self.ask("""
            select (select count(*) from railcore_execution where next_check_at is not null)
              + (select count(*) from railcore_inbox where state = 'received')
              + (select count(*) from railcore_outbox)
        """)
        return not waiting

    @property
    def sink(self) -> Path:
        return Path(self.ground.sink)

    def notes(self) -> Counter[str]:
        """Return which writes of workers that were frozen changed nothing."""
        lines = Path(self.ground.notes).read_text().splitlines()
        return Counter(line.partition(" ")[2] for line in lines)

    def journal(self) -> dict[tuple[str, int], UUID]:
        with psycopg.connect(
            conninfo(self.url), autocommit=True, prepare_threshold=None
        ) as connection:
            rows = connection.execute("select aggregateid, seq, id from railcore_event").fetchall()
        return {(name, seq): id_ for name, seq, id_ in rows}


@attrs.frozen
class Shelving:
    """Takes deliveries and applies none: a host that dies as soon as it has said that it took."""

    engine: PaymentEngine

    def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        return self.engine.receive_webhook(provider, headers, raw_body, account)

    def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        return receipt


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, /, *_: Any) -> None:  # noqa: A002 - the base's name
        pass


@contextmanager
def listening(engine: PaymentEngine) -> Iterator[str]:
    """Take webhooks while inside, and leave it to workers to apply them; yield the address."""
    application = WebhookWsgi(Shelving(engine))
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/webhook/stub/main"
        server.shutdown()
        thread.join()


@pytest.fixture
def bench(railcore_sandbox: Sandbox, database_url: str, tmp_path: Path) -> Iterator[Bench]:
    ground = Ground(
        database_url=database_url,
        stub_url=railcore_sandbox.url,
        routes=str(tmp_path / "routes.toml"),
        lease_s=LEASE_S,
        sink=str(tmp_path / "sink.log"),
        notes=str(tmp_path / "notes.log"),
    )
    Path(ground.routes).write_text(ROUTES)
    Path(ground.notes).touch()
    railcore_sandbox.amount_faults = False
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail())
    engine = sqlalchemy.create_engine(database_url)
    store = SqlExecutionStore(engine)
    found = ConfigDrivenRouteResolver.from_toml(Path(ground.routes), offered=rails.offered)
    account = WebhookAccount(account="main", secrets=(Secret(DEFAULT_SECRET),))
    webhooks = Webhooks(
        providers={"stub": StubWebhooks()},
        accounts=FixedWebhookAccounts({"stub": [account]}),
        inbox=SqlWebhookInbox(engine),
        settings=WebhookSettings(lease_s=0.0),  # due at once: nobody here applies it
    )
    with nursed(railcore_sandbox, ground) as nursery:
        payments = PaymentEngine(rails=rails, routes=found, store=store, webhooks=webhooks)
        yield Bench(railcore_sandbox, database_url, nursery, payments, store, ground)
    engine.dispose()


def wait_until(condition: Callable[[], bool], within_s: float) -> float:
    """Return after how many seconds *condition* held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - started_s


def slowness() -> float:
    """
    Return how many times as long things may take as on a machine that has nothing else to do.

    Many short steps of several processes make one whole, and each of them waits for its turn.
    """
    return math.pow(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), 1.5)


class Overdue(threading.Thread):
    """Watches how long work whose holder is gone waits for somebody else, by kind of work."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.worst_s = {"send and check": 0.0, "apply": 0.0, "relay": 0.0}
        self.grace_s = GRACE_S
        self.stopping = threading.Event()
        self._url = url

    def run(self) -> None:
        asked = """
            select coalesce(extract(epoch from now() - (
                select min(lease_until) from railcore_execution
                where next_check_at <= now() and lease_until < now())), 0)::float8,
              coalesce(extract(epoch from now() - (
                select min(next_attempt_at) from railcore_inbox
                where next_attempt_at < now() and attempts > 1)), 0)::float8,
              coalesce(extract(epoch from now() - (
                select min(until) from railcore_bucket b
                where owner is not null and until < now() and exists (
                  select from railcore_outbox o where o.bucket = b.bucket))), 0)::float8
        """
        with psycopg.connect(
            conninfo(self._url), autocommit=True, prepare_threshold=None
        ) as connection:
            while not self.stopping.wait(0.05):
                row = connection.execute(asked).fetchone()
                assert row is not None
                self.grace_s = max(self.grace_s, GRACE_S * slowness())
                for kind, overdue_s in zip(self.worst_s, row, strict=True):
                    self.worst_s[kind] = max(self.worst_s[kind], overdue_s)


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

    def go_on(self) -> None:
        while len(self.alive) < 4:
            self.start()
        for pid in tuple(self.alive):
            self.look_after(pid)
        for pid, at_s in tuple(self.thawing.items()):
            if time.monotonic() > at_s:
                self.thaw(pid)

    def start(self) -> None:
        point = self.chance.choice(tuple(POINTS))
        number = signal.SIGSTOP if self.chance.random() < 0.25 else signal.SIGKILL
        nth = self.chance.randint(1, 3)
        pid = self.nursery.start(point=point, nth=nth, number=int(number))
        self.alive[pid] = point
        self.late[pid] = time.monotonic() + self.chance.uniform(1.0, 2.5) * slowness()

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
        """Let it go on, as one more for a while, which is then killed."""
        del self.thawing[pid]
        os.kill(pid, signal.SIGCONT)
        self.alive[pid] = "thawed"
        self.late[pid] = time.monotonic() + self.chance.uniform(1.0, 2.5) * slowness()


@attrs.define
class Provider:
    """A provider in an odd mood: it tells late, twice or backwards, and settles when it likes."""

    sandbox: Sandbox
    chance: random.Random
    unsettled: list[str] = attrs.field(factory=list)
    hows: Counter[str] = attrs.field(factory=Counter)
    changes_at_s: float = 0.0

    def go_on(self) -> None:
        if time.monotonic() > self.changes_at_s:
            how = self.chance.choice(HOWS)
            self.hows[how] += 1
            self.sandbox.webhooks.how = how
            self.changes_at_s = time.monotonic() + self.chance.uniform(0.2, 1.0)
        self.settle(3)

    def settle_all(self) -> bool:
        self.settle(len(self.unsettled))
        return not self.unsettled

    def settle(self, most: int) -> None:
        """Settle some of the charges that wait for that, once they are there."""
        for name in self.chance.sample(self.unsettled, min(most, len(self.unsettled))):
            with suppress(LookupError):  # it was not asked for yet
                self.sandbox.psp.settle(name)
                self.unsettled.remove(name)


@pytest.mark.timeout(240 + KILLS * 6)
def test_rc3_workers_killed_and_frozen_anywhere_charge_each_key_once(bench: Bench) -> None:
    chaos, asked = Chaos(bench.nursery, random.Random(SEED)), 0
    provider = Provider(bench.sandbox, random.Random(SEED + 1))
    with psycopg.connect(conninfo(bench.url)) as connection:
        fences.watch(connection)
    deadline_s = time.monotonic() + 60 + KILLS * 6
    overdue = Overdue(bench.url)
    bench.nursery.start()  # one that nothing happens to
    overdue.start()
    with listening(bench.engine) as bench.sandbox.webhooks.url:
        try:
            while chaos.killed.total() < KILLS or not chaos.frozen:
                assert time.monotonic() < deadline_s, chaos
                if bench.open_count() < 30:
                    queued = bench.enqueue(*(f"pay-{asked + number}" for number in range(60)))
                    asked += 60
                    provider.unsettled += [
                        one.provider_key
                        for one in queued
                        if one.context.instrument_token == "tok_pending"
                    ]
                chaos.go_on()
                provider.go_on()
                time.sleep(0.02)
            for pid in tuple(chaos.thawing):
                chaos.thaw(pid)
            wait_until(provider.settle_all, 60)
            assert bench.sandbox.webhooks.settle(30)
            wait_until(bench.is_all_done, 60)
        finally:
            overdue.stopping.set()
            overdue.join()
    time.sleep(0.1)  # a delivery that is under way
    with psycopg.connect(conninfo(bench.url)) as connection:
        watched = fences.seen(connection)
    delivered = ledgers.check(ledgers.read_deliveries(bench.sink), bench.journal())
    told = Counter((one.is_true, one.status) for one in bench.sandbox.webhooks.sent)
    tell(chaos, f"{asked} payments, webhooks {dict(provider.hows)}, sent {dict(told)}")
    tell(chaos, f"sink {dict(delivered)}, watched {dict(watched)}, refused {dict(bench.notes())}")
    tell(chaos, f"worst takeover after the lease {overdue.worst_s}, allowed {overdue.grace_s:.1f}")

    assert not fences.breaches(watched)
    assert max(overdue.worst_s.values()) <= overdue.grace_s
    charged = bench.sandbox.ledger.by_reference()
    assert not bench.sandbox.ledger.double_charges()
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
    heard = {one.event_id for one in bench.sandbox.webhooks.sent if 200 <= one.status < 300}
    assert all(one.is_true for one in bench.sandbox.webhooks.sent if 200 <= one.status < 300)
    kept = bench.ask(
        "select count(*) filter (where state = 'applied'), count(*) from railcore_inbox"
    )
    assert kept == (len(heard), len(heard))


def tell(chaos: Chaos, line: str) -> None:
    by_duty = Counter[str]()
    for point, count in (chaos.killed + chaos.frozen).items():
        by_duty[POINTS.get(point, point)] += count
    head = f"{chaos.killed.total()} killed, {chaos.frozen.total()} frozen {dict(by_duty)}"
    sys.stdout.write(f"{head}\n{line}\n")


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


def test_a_zombie_ends_no_try_of_a_delivery(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="pending")
    with psycopg.connect(conninfo(bench.url)) as connection:
        fences.watch(connection)
    sender = bench.nursery.start(duties=["send"])
    wait_until(lambda: bench.row(queued).pending_reason == "provider_processing", 10)
    os.kill(sender, signal.SIGTERM)
    wait_until(lambda: state_of(sender) == "Z", 10)
    with listening(bench.engine) as bench.sandbox.webhooks.url:
        bench.sandbox.psp.settle(queued.provider_key)
        assert bench.sandbox.webhooks.settle()
    told = {"point": "before_settle", "nth": 1, "number": int(signal.SIGSTOP), "duties": ["apply"]}
    frozen = bench.nursery.start(**told)
    wait_until(lambda: state_of(frozen) == "T", 10)
    bench.nursery.start(**told)
    tries = "select attempts, state from railcore_inbox"
    wait_until(lambda: bool(bench.ask(tries) == (3, "received")), LEASE_S + GRACE_S)

    os.kill(frozen, signal.SIGCONT)
    wait_until(lambda: bool(bench.notes()), 10)

    assert bench.ask(tries) == (3, "received")
    assert bench.notes() == {"settle": 1}
    bench.nursery.start(duties=["apply"])
    wait_until(lambda: bool(bench.ask(tries) == (4, "applied")), LEASE_S + GRACE_S)
    assert (bench.row(queued).status, bench.row(queued).version) == ("completed", 3)
    with psycopg.connect(conninfo(bench.url)) as connection:
        assert not fences.breaches(fences.seen(connection))


class TestTheJudge:
    """A judge who never objects proves nothing."""

    @pytest.mark.parametrize(
        ("wrong", "breach"),
        [
            (
                "update railcore_execution set next_check_at = now()",
                "lease or schedule of an execution",
            ),
            (
                "update railcore_execution set lease_token = lease_token + 1",
                "an execution was taken within a lease",
            ),
            ("update railcore_bucket set until = now()", "lease of a bucket"),
            ("update railcore_bucket set token = token + 1", "a bucket was taken within a lease"),
            ("delete from railcore_outbox", "an event was taken from a bucket"),
        ],
    )
    def test_it_objects(self, bench: Bench, wrong: str, breach: str) -> None:
        bench.enqueue("pay-1", token="visa")
        assert bench.store.acquire_due(Due(owner="holder", lease_s=60.0, limit=1))
        with psycopg.connect(conninfo(bench.url)) as connection:
            connection.execute("update railcore_bucket set owner = 'holder', until = 'infinity'")
            fences.watch(connection)
            connection.execute(wrong)

            assert set(fences.breaches(fences.seen(connection))) == {f"breach: {breach}"}


def test_uo5_a_zombie_does_not_send(bench: Bench) -> None:
    (queued,) = bench.enqueue("pay-1", token="visa")
    pid = freeze(bench, queued, "after_mark_sent")
    held = bench.row(queued)

    os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)

    assert bench.row(queued) == held
    assert not bench.sandbox.ledger.requests


def test_cp5_a_worker_that_is_told_to_stop_gives_back_what_it_holds(bench: Bench) -> None:
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


def test_rc1_after_a_day_without_workers_the_oldest_come_first_and_no_faster(bench: Bench) -> None:
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
        configuration=read_configuration(Path(bench.ground.routes)),
        credentials=Keys(bench.sandbox.accounts["main"]),
        stub_url=bench.sandbox.url,
    )
    async with wiring.open_host(wishes) as host:
        settings = WorkerSettings(default_limits=limits)
        await AsyncWorker(host.payments, settings=settings).run_once()
