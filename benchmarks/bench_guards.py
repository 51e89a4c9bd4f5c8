"""
What the guards cost: claim and record by pgbench, with and without each of them.

Every variant runs the SQL files of the library (`claim.sql`, then `record.sql`: one payment is two
statements, each its own transaction, synced to disk) on a database of its own in one private
cluster. They are compared with prototypes that promise nothing: one execution row and one outbox
row, a unique key, no head, no journal, no guards. The execution row of the first holds a dozen
columns; that of the second holds what the library's holds, so that it could run the same protocol.
Rounds alternate, forwards and backwards, because
a shared machine changes its pace from minute to minute: trust the ratios, taken within a round.

    python benchmarks/bench_guards.py --clients 16 --rounds 5 --seconds 3
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import UUID

import attrs
import psycopg
import sqlalchemy

from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.statements import statement

SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "max_connections": "100",
    "jit": "off",
}
SESSION = {**schema.HOT_SETTINGS, "jit": "off"}
BATCH = 64
NESTED = ("payload", "request", "provider_response")

CONSTANTS: Mapping[str, str] = {
    "tenant_id": "acme",
    "operation": "charge",
    "amount_minor": "1250",
    "currency": "SAR",
    "fingerprint": "\\x" + "ab" * 32,
    "rail": "card_psp",
    "provider": "stub",
    "account": "main",
    "mode": "sandbox",
    "request": json.dumps({"instrument": "tok_visa", "metadata": {"order": "x" * 120}}),
    "lease_owner": "worker-1",
    "lease_s": "30",
    "sent": "true",
    "check_after_s": "60",
    "event_type": "payment.execution.started",
    "payload": json.dumps({"data": "x" * 588}),  # 600 bytes
    "bucket": "7",
    "version": "1",
    "from_status": "processing",
    "to_status": "completed",
    "phase": "3",
    "progress": "0",
    "provider_ref": "ch_1234567890",
    "provider_response": json.dumps({"id": "ch_1234567890", "status": "succeeded"}),
    "token": "1",
    "fenced": "false",
}
# pgbench knows numbers only: what differs between payments is made from :n, the absent is null.
EXPRESSIONS: Mapping[str, str] = {
    "execution_id": "(lpad(:n::text, 32, '0'))",
    "event_id": "(lpad(:n::text, 32, '0'))",
    "payment_id": ":n",
    "idempotency_key": ":n",
    "provider_key": ":n",
}

PROTOTYPE = """
create table execution (tenant_id text not null, execution_id uuid not null,
  idempotency_key text not null, amount_minor bigint not null, currency text not null,
  rail text not null, provider text not null, status text not null, version integer not null,
  provider_ref text, created_at timestamptz not null, updated_at timestamptz not null,
  primary key (tenant_id, execution_id), unique (tenant_id, idempotency_key));
create index on execution (status);
create table outbox (id bigint generated always as identity primary key,
  tenant_id text not null, execution_id uuid not null, payload jsonb not null,
  created_at timestamptz not null default now());
"""
PROTOTYPE_CLAIM = """
insert into execution values (:tenant_id::text, :execution_id::uuid, :idempotency_key::text,
  :amount_minor::bigint, :currency::text, :rail::text, :provider::text, 'processing', 1, null,
  now(), now())
on conflict do nothing returning execution_id
"""
PROTOTYPE_RECORD = """
with x as (
  update execution set status = :to_status::text, version = version + 1,
    provider_ref = :provider_ref::text, updated_at = now()
  where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid
    and status = :from_status::text and version = :version::integer
  returning tenant_id, execution_id)
insert into outbox (tenant_id, execution_id, payload)
select tenant_id, execution_id, :payload::jsonb from x
"""

SAME_ROW = """
create table execution (like railcore_execution including defaults including storage,
  primary key (tenant_id, execution_id), unique (idempotency_key, tenant_id))
  with (fillfactor = 70);
create index on execution (next_check_at) where next_check_at is not null;
create table outbox (id bigint generated always as identity primary key,
  tenant_id text not null, execution_id uuid not null, payload json not null,
  created_at timestamptz not null default now());
"""
SAME_ROW_CLAIM = """
insert into execution (
  tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key,
  fingerprint, provider_key, rail, provider, account, mode, created_at, status, version,
  lease_owner, lease_token, lease_until, send_count, first_sent_at, last_sent_at, next_check_at,
  check_count, updated_at, request)
values (:tenant_id::text, :execution_id::uuid, :payment_id::text, :operation::text,
  :amount_minor::bigint, :currency::text, :idempotency_key::text, :fingerprint::bytea,
  :provider_key::text, :rail::text, :provider::text, :account::text, :mode::text, now(),
  'processing', 1, :lease_owner::text, 1, now() + make_interval(secs => :lease_s::float8), 1,
  now(), now(), now() + make_interval(secs => :check_after_s::float8), 0, now(), :request::json)
on conflict do nothing returning execution_id
"""
SAME_ROW_RECORD = """
with x as (
  update execution set status = :to_status::text, version = version + 1,
    provider_ref = :provider_ref::text, provider_response = :provider_response::json,
    lease_owner = null, lease_until = null, next_check_at = null, updated_at = now()
  where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid
    and status = :from_status::text and version = :version::integer
  returning tenant_id, execution_id)
insert into outbox (tenant_id, execution_id, payload)
select tenant_id, execution_id, :payload::json from x
"""

NO_CHECKS = "alter table railcore_execution drop constraint never_forgotten;"
NO_KEYS = """
alter table railcore_execution drop constraint state_has_event;
alter table railcore_payment drop constraint head_has_event;
"""
NO_GUARDS = """
alter table railcore_execution disable trigger user;
alter table railcore_payment disable trigger user;
alter table railcore_event disable trigger user;
"""
NO_STATE_INDEX = """
alter table railcore_execution drop constraint state_has_event;
alter table railcore_event drop constraint railcore_event_state;
"""
NO_DUE_INDEX = "drop index railcore_execution_due;"


@attrs.frozen(kw_only=True)
class Variant:
    """A schema and the two statements that make a payment on it."""

    name: str
    damage: str = ""
    """SQL that takes guards away from the full schema, or adds the tables of a prototype."""
    claim: str = statement("claim").text
    record: str = statement("record").text


VARIANTS = (
    Variant(name="prototype", damage=PROTOTYPE, claim=PROTOTYPE_CLAIM, record=PROTOTYPE_RECORD),
    Variant(
        name="prototype, same row", damage=SAME_ROW, claim=SAME_ROW_CLAIM, record=SAME_ROW_RECORD
    ),
    Variant(name="full"),
    Variant(name="without checks", damage=NO_CHECKS),
    Variant(name="without foreign keys", damage=NO_KEYS),
    Variant(name="without triggers", damage=NO_GUARDS),
    Variant(name="without the index of states", damage=NO_STATE_INDEX),
    Variant(name="without the due index", damage=NO_DUE_INDEX),
    Variant(name="bare", damage=NO_CHECKS + NO_KEYS + NO_GUARDS),
)

Run = Callable[[int], float]
"""Runs for some seconds and returns payments a second."""


class Bench:
    """One cluster with a database for each variant, and pgbench."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.pgbench = shutil.which("pgbench", path=f"{server.bindir}:{os.environ['PATH']}")
        if not self.pgbench:
            sys.exit(f"Wanted pgbench in {server.bindir} or on the PATH, found none: install it.")
        self._runs = count(1)

    def prepare(self, number: int, variant: Variant) -> str:
        """Create the database of a variant and return its address."""
        name = f"variant_{number}"
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        url = sqlalchemy.make_url(self.server.url).set(database=name)
        with psycopg.connect(self._conninfo(name), autocommit=True) as connection:
            schema.install(url)
            connection.execute((variant.damage or "select 1").encode())
        text = script((variant.claim, variant.record))
        (self.folder / name).write_text(text, encoding="utf-8")
        self.payments(name, clients=4, seconds=1)
        with psycopg.connect(self._conninfo(name), autocommit=True) as connection:
            connection.execute("vacuum analyze")
        return name

    def payments(self, name: str, *, clients: int, seconds: int) -> float:
        """Return the payments a second of one run of pgbench."""
        options = " ".join(f"-c {key}={value}" for key, value in SESSION.items())
        command = [
            *(self.pgbench or "", "--host", str(self.server.folder / "run"), "--username=postgres"),
            *("--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2"),
            *(f"--time={seconds}", f"--file={self.folder / name}"),
            *("-D", "i=0", "-D", f"base={10**18 + next(self._runs) * 10**12}"),
            *(word for key, value in CONSTANTS.items() for word in ("-D", f"{key}={value}")),
            name,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PGOPTIONS": options}
        )
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if done.returncode or not found:
            sys.exit(f"pgbench failed on {name}:\n{done.stderr[-2000:]}")
        return float(found[1])

    def batches(self, name: str, *, connections: int, seconds: int) -> float:
        """Return the payments a second of claim_many and record_many, 64 payments a statement."""
        work = [self._items(next(self._runs)) for _ in range(connections)]
        with ThreadPoolExecutor(connections) as pool:
            rates = [pool.submit(self._batch, name, seconds, it) for it in work]
            return sum(it.result() for it in rates)

    def _batch(self, name: str, seconds: int, work: Iterator[tuple[str, str]]) -> float:
        ready = [next(work) for _ in range(40 * seconds)]
        claim, record = statement("claim_many").named, statement("record_many").named
        options = " ".join(f"-c {key}={value}" for key, value in SESSION.items())
        with psycopg.connect(self._conninfo(name), autocommit=True, options=options) as connection:
            connection.prepare_threshold = 0
            start = time.perf_counter()
            done = 0
            for claims, records in ready:
                for sql, items in ((claim, claims), (record, records)):
                    rows = connection.execute(sql.encode(), {"items": items}).fetchall()
                    assert {row[1] for row in rows} <= {"claimed", "recorded"}
                done += BATCH
                if time.perf_counter() - start > seconds:
                    break
            return done / (time.perf_counter() - start)

    def _items(self, run: int) -> Iterator[tuple[str, str]]:
        for number in count(run * 1_000_000_000, BATCH):
            rows = [batch_row(number + ord_, ord_) for ord_ in range(BATCH)]
            items = json.dumps(rows)
            yield items, items

    def _conninfo(self, name: str) -> str:
        return psycopg.conninfo.make_conninfo(self.server.conninfo, dbname=name)


def batch_row(number: int, ord_: int) -> dict[str, object]:
    """Return one member of a batch: a claim and its answer, whose members do not overlap."""
    return {
        **CONSTANTS,
        "fingerprint": "ab" * 32,
        **{
            name: json.loads(CONSTANTS[name])
            for name in ("payload", "request", "provider_response")
        },
        "sent": True,
        "fenced": False,
        "ord": ord_,
        "execution_id": str(UUID(int=number)),
        "event_id": str(UUID(int=number)),
        "payment_id": f"pay_{number:030}",
        "idempotency_key": f"key_{number:030}",
        "provider_key": f"rc_{number:030}",
    }


def script(statements: Sequence[str]) -> str:
    """Return *statements* as a script of pgbench, whose :n differs in every payment."""
    known = {*CONSTANTS, *EXPRESSIONS}

    def value(found: re.Match[str]) -> str:
        name = found[1]
        return EXPRESSIONS.get(name, f":{name}") if name in known else "null"

    ready = [re.sub(r"(?<![:\w]):([a-z_]+)", value, " ".join(it.split())) for it in statements]
    counter = "\\set i :i + 1\n\\set n :base + :client_id * 1000000 + :i\n"
    return counter + "".join(f"{it};\n" for it in ready)


def alternate(runs: Mapping[str, Run], *, rounds: int, seconds: int) -> dict[str, list[float]]:
    """Run all, forwards and backwards by turns, and return what each reached in every round."""
    reached: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, key=list(runs).index, reverse=bool(number % 2)):
            reached[name].append(runs[name](seconds))
    return reached


def table(title: str, reached: Mapping[str, Sequence[float]]) -> str:
    """Return a Markdown table of medians and spreads, against the first and the second row."""
    first, second, *_ = reached
    lines = [
        f"### {title}",
        "",
        f"| | payments/s | of {first} | of {second} |",
        "|---|---|---|---|",
    ]
    for name, rates in reached.items():
        ratios = [spread(within(rates, reached[it]), ".2f") for it in (first, second)]
        lines.append(f"| {name} | {spread(rates, '.0f')} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def within(rates: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio of every round."""
    return [rate / other for rate, other in zip(rates, base, strict=True)]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median and, in brackets, the least and the greatest."""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:{form}} ({least:{form}}-{most:{form}})"


def main() -> None:
    """Measure, print, and write the tables where --output says."""
    parser = argparse.ArgumentParser(description="What the guards cost.")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="variants beside both prototypes and full")
    parser.add_argument("--output", type=Path, help="a Markdown file to write as well")
    options, _ = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(SETTINGS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(server, folder)
        wanted = [it for it in VARIANTS if chosen(it, options.only)]
        names = {it.name: bench.prepare(n, it) for n, it in enumerate(wanted)}
        setting = (
            f"PostgreSQL {server.version}, {os.cpu_count()} processors shared with pgbench, "
            f"synced to disk, {options.rounds} rounds of {options.seconds} s; "
            "median (least-greatest), ratios within a round.\n"
        )
        tables = [setting]
        for clients in options.clients:
            tables.append(single(bench, names, clients, options))
            print(tables[-1], flush=True)
        tables.append(many(bench, names, options))
        print(tables[-1], flush=True)
    if options.output:
        command = f"`python benchmarks/bench_guards.py {' '.join(sys.argv[1:])}`\n"
        options.output.write_text("\n".join(["# Guards\n", command, *tables]), encoding="utf-8")


def chosen(variant: Variant, only: Sequence[str] | None) -> bool:
    """Return whether --only asks for *variant*; the prototypes and the full schema always run."""
    return only is None or variant.name in {"prototype", "prototype, same row", "full", *only}


def single(
    bench: Bench, names: Mapping[str, str], clients: int, options: argparse.Namespace
) -> str:
    """Compare all variants, one payment a call."""

    def run(name: str) -> Run:
        return lambda seconds: bench.payments(name, clients=clients, seconds=seconds)

    runs = {variant: run(name) for variant, name in names.items()}
    reached = alternate(runs, rounds=options.rounds, seconds=options.seconds)
    return table(f"One payment a statement, {clients} clients", reached)


def many(bench: Bench, names: Mapping[str, str], options: argparse.Namespace) -> str:
    """Compare statements for 64 payments with those for one."""
    one = "one a statement, 16 clients"
    names = {f"{it}, {one}": names[it] for it in ("prototype", "prototype, same row", "full")}

    def run(name: str) -> Run:
        return lambda seconds: bench.payments(name, clients=16, seconds=seconds)

    runs = {variant: run(name) for variant, name in names.items()}
    full = names[f"full, {one}"]
    runs[f"full, {BATCH} a statement, 2 connections"] = lambda seconds: bench.batches(
        full, connections=2, seconds=seconds
    )
    return table(
        f"{BATCH} payments a statement",
        alternate(runs, rounds=options.rounds, seconds=options.seconds),
    )


if __name__ == "__main__":
    main()
