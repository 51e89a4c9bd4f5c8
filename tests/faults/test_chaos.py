"""
Chaos on real processes: hosts, workers and servers come to grief, and two ledgers are the judges.

``RAILCORE_CHAOS`` says for how many payments, and with them how much goes wrong;
``RAILCORE_CHAOS_SEED`` says when. Processes run as they like, so a seed gives the same plan, not
the same run.
"""

import math
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from railcore_adapters.embedded import find_server
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.webhooks import How
from railcore_sqlalchemy import schema
from tests.faults import fences
from tests.faults.clusters import Pair, clock_library, pair
from tests.faults.host_process import INVOICES, TOLD_TO_STOP, is_enqueued, order, token
from tests.faults.ledgers import read_deliveries
from tests.faults.nurseries import ROUTES, Nursery, ended_by, ended_with, nursed, state_of
from tests.faults.worker_nursery import NOT_BEGUN, Ground

SEED = int(os.environ.get("RAILCORE_CHAOS_SEED", "20260301"))
EXECUTIONS = int(os.environ.get("RAILCORE_CHAOS", "240"))
FAULTS = {
    "kill": 4 + EXECUTIONS // 180,
    "stop": 3 + EXECUTIONS // 180,
    "term": 2 + EXECUTIONS // 1000,
    "cut": 2 + EXECUTIONS // 1000,
    "crash": 1 + EXECUTIONS // 1600,
    "full": 1 + EXECUTIONS // 6000,
    "failover": 1 + EXECUTIONS // 5000,
}
LEASE_S = 1.5
BATCH = 40
DISK_MB = 1024
HOWS: tuple[How, ...] = ("on_time", "late", "twice", "reversed", "forged")
PATIENCE_S = 120 + EXECUTIONS / 10 + 10 * sum(FAULTS.values())

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.usefixtures("own_sessions"),
]


@attrs.define
class Member:
    """A process, the payments that it is to ask for, and what was done to it."""

    orders: list[int] | None
    done_to: str = ""
    thaws_at_s: float = math.inf


@attrs.define
class Director:
    servers: Pair
    nursery: Nursery
    sandbox: Sandbox
    sink: Path
    chance: random.Random
    counted: Counter[str] = attrs.field(factory=Counter)
    members: dict[int, Member] = attrs.field(factory=dict)
    batches: list[list[int]] = attrs.field(factory=list)
    handed: set[int] = attrs.field(factory=set)
    unsettled: set[str] = attrs.field(factory=set)
    faults: list[str] = attrs.field(factory=list)
    done: int = 0
    since: str | None = None
    at_failover: int = 0

    def __attrs_post_init__(self) -> None:
        numbers = list(range(EXECUTIONS))
        self.batches = [numbers[at : at + BATCH] for at in range(0, EXECUTIONS, BATCH)]
        self.faults = [name for name, count in FAULTS.items() for _ in range(count)]
        self.chance.shuffle(self.faults)

    def run(self) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while self.batches or self.done < len(self.faults) or self.hosts():
            assert time.monotonic() < until_s, self
            self.step()
            share = (self.done + 1) / (len(self.faults) + 1)
            if self.done < len(self.faults) and len(self.handed) >= share * EXECUTIONS * 0.9:
                getattr(self, self.faults[self.done])()
                self.done += 1
            time.sleep(0.02)
        while not self.is_over():
            assert time.monotonic() < until_s, self
            self.step()
            time.sleep(0.1)

    def hosts(self) -> list[int]:
        return [pid for pid, one in self.members.items() if one.orders]

    def step(self) -> None:
        for pid, member in tuple(self.members.items()):
            if time.monotonic() > member.thaws_at_s:
                member.thaws_at_s = math.inf
                os.kill(pid, signal.SIGCONT)
            if state_of(pid) == "Z":
                self.bury(pid, self.members.pop(pid))
        fit = [one for one in self.members.values() if one.thaws_at_s == math.inf]
        if sum(one.orders is None for one in fit) < 3:
            self.start(None)
        if not any(one.orders == [] for one in fit):
            self.start([])
        if self.batches and sum(bool(one.orders) for one in fit) < 3:
            batch = self.batches.pop(0)
            self.handed.update(batch)
            self.unsettled |= {
                order(one).provider_key for one in batch if token(one) == "tok_pending"
            }
            self.start(batch)
        if self.chance.random() < 0.05:
            self.sandbox.webhooks.how = self.chance.choice(HOWS)
        for name in self.chance.sample(sorted(self.unsettled), min(2, len(self.unsettled))):
            with suppress(LookupError, ValueError):
                self.sandbox.psp.settle(name)
                self.unsettled.discard(name)

    def start(self, orders: list[int] | None, **fate: Any) -> None:
        if orders is not None:
            fate["orders"] = orders
        if self.since is not None:
            fate["recovery_since"] = self.since
        if orders != [] and self.chance.random() < 0.15:
            fate["shift_s"] = self.chance.choice((-3600, 3600))
            self.counted["processes with a wrong clock"] += 1
        self.members[self.nursery.start(**fate)] = Member(orders)

    def bury(self, pid: int, member: Member) -> None:
        by, status = ended_by(pid), ended_with(pid)
        if not by:
            assert status in {0, NOT_BEGUN, TOLD_TO_STOP}, f"a process ended with {status}"
            self.counted["processes that found no database"] += status == NOT_BEGUN
        if member.orders and (by or status):
            self.batches.append(member.orders)

    def victim(self) -> int:
        fit = [pid for pid, one in self.members.items() if not one.done_to]
        return self.chance.choice(fit or list(self.members))

    def kill(self) -> None:
        os.kill(self.victim(), signal.SIGKILL)

    def stop(self) -> None:
        pid = self.victim()
        os.kill(pid, signal.SIGSTOP)
        self.members[pid].done_to = "stop"
        self.members[pid].thaws_at_s = time.monotonic() + LEASE_S * 1.5

    def term(self) -> None:
        pid = self.victim()
        self.members[pid].done_to = "term"
        os.kill(pid, signal.SIGTERM)

    def cut(self) -> None:
        self.servers.primary.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name ~ '^(worker|host)-' and random() < 0.7"
        )

    def crash(self) -> None:
        self.servers.primary.crash()
        shift_s = self.chance.choice((0, 3, 6)) if clock_library() else 0
        self.servers.primary.start(shift_s)
        self.counted["servers with a wrong clock"] += bool(shift_s)

    def full(self) -> None:
        primary = self.servers.primary
        if not primary.has_own_disk:
            self.counted["full disks skipped: no right to mount one"] += 1
            return
        primary.fill()
        time.sleep(1.0)
        primary.free()
        time.sleep(0.3)
        if not primary.is_running:
            primary.start()
            self.counted["servers that a full disk ended"] += 1
        primary.wait()

    def failover(self) -> None:
        receiver = self.servers.hold_back()
        time.sleep(self.chance.uniform(0.3, 0.8))
        for pid in self.members:  # who goes on would not know what was forgotten
            os.kill(pid, signal.SIGKILL)
        states = "select execution_id, version from railcore_execution"
        before = set(self.servers.primary.ask(states))
        self.servers.fail_over(receiver)
        self.counted["states lost in failovers"] += len(
            before - set(self.servers.primary.ask(states))
        )
        self.at_failover = len(read_deliveries(self.sink))
        self.since = datetime.now(UTC).isoformat()
        self.servers.standby.follow(self.servers.primary)

    def is_over(self) -> bool:
        """Whether everything asked for is there and settled; ask again for what was lost."""
        ask = self.servers.primary.ask
        known = {row[0] for row in ask("select idempotency_key from railcore_execution")}
        lost = [one for one in self.handed if f"pay-{one}" not in known]
        if lost and not self.hosts() and not self.batches:
            self.counted["payments asked for again after a failover"] += len(lost)
            self.batches.append(lost)
        frozen = any(one.thaws_at_s < math.inf for one in self.members.values())
        ((waiting,),) = ask("""
            select (select count(*) from railcore_execution where next_check_at is not null)
              + (select count(*) from railcore_inbox where state = 'received')
              + (select count(*) from railcore_outbox)
        """)
        busy = lost or frozen or waiting or self.batches or self.hosts()
        return not busy and self.sandbox.webhooks.settle(0.1)


@contextmanager
def stage(sandbox: Sandbox, folder: Path) -> Iterator[Director]:
    if not shutil.which("pg_basebackup", path=str(find_server().bindir)):
        pytest.skip("there is no pg_basebackup among the server's binaries")
    sandbox.amount_faults = False
    (folder / "routes.toml").write_text(ROUTES)
    with pair(DISK_MB) as servers, socket.create_server(("127.0.0.1", 0)) as listening:
        schema.install(servers.url)
        schema.install_roles(servers.url)
        servers.primary.ask(INVOICES)
        with psycopg.connect(f"host={servers.primary.run} user=postgres") as connection:
            fences.watch(connection)
        servers.standby.follow(servers.primary)
        ground = Ground(
            database_url=servers.url,
            stub_url=sandbox.url,
            routes=str(folder / "routes.toml"),
            lease_s=LEASE_S,
            sink=str(folder / "sink"),
            notes=str(folder / "notes"),
            listen=listening.fileno(),
        )
        Path(ground.sink).touch()
        sandbox.webhooks.url = f"http://127.0.0.1:{listening.getsockname()[1]}/webhook/stub/main"
        with nursed(sandbox, ground) as nursery:
            yield Director(servers, nursery, sandbox, Path(ground.sink), random.Random(SEED))


@pytest.mark.timeout(PATIENCE_S + 120)
def test_cp4_db3_ob3_chaos_loses_nothing_and_charges_nobody_twice(
    railcore_sandbox: Sandbox, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    with stage(railcore_sandbox, tmp_path) as director:
        director.run()
        ask, counted = director.servers.primary.ask, director.counted
        rows = ask("select idempotency_key, provider_key, status from railcore_execution")
        wrong = wrongly_ended(director, railcore_sandbox)
        gaps = ask("""
            select count(*) from railcore_payment p where seq <>
              (select count(*) from railcore_event e where e.aggregateid = p.payment_id)
        """)
        journal = {
            (name, seq): id_
            for name, seq, id_ in ask("select aggregateid, seq, id from railcore_event")
        }
        invoices = {row[0] for row in ask("select name from invoice")}
        watched = Counter(dict(ask("select seen, count(*) from fence_watch group by seen")))
    judge_sink(director, journal)
    charged = railcore_sandbox.ledger.by_reference()
    counted["executions"] = len(rows)
    counted["charges"] = len(railcore_sandbox.ledger.charges)
    counted["payments that failed, none of them charged"] = sum(it == "failed" for *_, it in rows)
    counted["double charges"] = len(railcore_sandbox.ledger.double_charges())
    counted["writes within the lease of another"] = sum(fences.breaches(watched).values())
    report(director, time.monotonic() - started_s)

    assert {row[0] for row in rows} == {f"pay-{number}" for number in range(EXECUTIONS)}
    assert not counted["double charges"]
    assert not wrong
    assert {key for _, key, status in rows if status == "completed"} == set(charged)
    assert {status for _, _, status in rows} <= {"completed", "failed"}
    assert gaps == [(0,)]
    assert invoices == {f"pay-{number}" for number in range(EXECUTIONS) if is_enqueued(number)}
    assert not fences.breaches(watched)


def wrongly_ended(director: Director, sandbox: Sandbox) -> list[tuple[Any, ...]]:
    """Return what failed here and was charged there, with all that tells why."""
    charged = sandbox.ledger.by_reference()
    failed = director.servers.primary.ask("""
        select idempotency_key, provider_key, failure_code, cause_code, send_count, refused_count,
          lease_token, created_at, first_sent_at, last_sent_at, updated_at, provider_response,
          (select json_agg(payload order by seq) from railcore_event e
            where e.execution_id = x.execution_id)
        from railcore_execution x where status = 'failed'
    """)
    asked = defaultdict[str, list[str]](list)
    for one in sandbox.ledger.requests:
        asked[one.reference].append(f"{one.at:%H:%M:%S.%f} {one.fault}")
    return [
        (*row, asked[row[1]], [f"{one.at:%H:%M:%S.%f}" for one in charged[row[1]]], director.since)
        for row in failed
        if row[1] in charged
    ]


def judge_sink(director: Director, journal: dict[tuple[str, int], Any]) -> None:
    """Check that all of the journal came, without a gap; only a failover may forget what came."""
    highest, came = defaultdict[str, int](int), set[tuple[str, int, Any]]()
    for place, one in enumerate(read_deliveries(director.sink)):
        assert one.seq <= highest[one.payment_id] + 1, f"{one} skips one"
        director.counted["events that came again"] += one.seq <= highest[one.payment_id]
        highest[one.payment_id] = max(one.seq, highest[one.payment_id])
        came.add((one.payment_id, one.seq, one.event_id))
        if journal.get((one.payment_id, one.seq)) != one.event_id:
            assert place < director.at_failover, f"{one} is not in the journal"
            director.counted["events that came and were lost in a failover"] += 1
    missing = {(*name, id_) for name, id_ in journal.items()} - came
    assert not missing
    director.counted["events"] = len(journal)


def report(director: Director, took_s: float) -> None:
    names = {"kill": "SIGKILL", "stop": "SIGSTOP past the lease", "term": "SIGTERM"}
    names |= {"cut": "connections cut", "crash": "crashes of Postgres"}
    names |= {"full": "full disks", "failover": "failovers"}
    figures = {names[name]: count for name, count in FAULTS.items()} | dict(director.counted)
    lines = [f"| {name} | {count:,} |" for name, count in figures.items()]
    table = "\n".join(["| what | how many |", "| --- | ---: |", *lines])
    sys.stdout.write(f"seed {SEED}, {took_s:.0f} s\n{table}\n")
