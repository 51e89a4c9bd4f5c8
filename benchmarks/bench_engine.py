"""
Claim and record through the engine, against pgbench running the very same SQL files.

pgbench is the limit: it runs `claim.sql` and `record.sql` with next to no work of its own. The
engine does all that a host gets (routes, fingerprints, keys, events, values that validate) on a
rail that succeeds at once; requests are built beforehand, as they are the host's. Both synced to
disk, with every guard on, on one private cluster that shares the processors with them; one process
each. Rounds alternate, ratios are within a round.

    python benchmarks/bench_engine.py --rounds 5 --seconds 5
"""

import argparse
import asyncio
import contextlib
import gc
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import sqlalchemy
from bench_guards import SESSION, SETTINGS, VARIANTS, Bench, Run, alternate, table
from sqlalchemy.ext.asyncio import create_async_engine

from railcore import (
    AsyncPaymentEngine,
    ConfigDrivenRouteResolver,
    Deadline,
    Money,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentRail,
    PaymentRailRegistry,
    RailResult,
    RouteCapabilities,
)
from railcore.money import SAR
from railcore.ports import AsyncRail, Rail
from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore

CALLERS = 16
IN_FLIGHT = 64
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
    },
    "defaults": {"card": "cards"},
}
MOST_PER_S = 8000
_numbers = count(1)


class InstantRail:
    """Succeeds at once, so that nothing but the engine and the database is measured."""

    capabilities = RouteCapabilities()

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Succeed."""
        return RailResult.success("ch_1234567890", execution.money)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Succeed."""
        return self.execute(execution, send_by=send_by)

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Know nothing."""
        return RailResult.absent()


class AsyncInstantRail:
    """The same, asynchronous."""

    capabilities = RouteCapabilities()

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Succeed."""
        return RailResult.success("ch_1234567890", execution.money)

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Succeed."""
        return await self.execute(execution, send_by=send_by)

    async def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Know nothing."""
        return RailResult.absent()


def requests(callers: int, seconds: int) -> list[Iterator[PaymentContext]]:
    """Return for each caller more requests that nobody made before than it can get done."""
    many = MOST_PER_S * seconds // callers
    return [iter([_request(next(_numbers)) for _ in range(many)]) for _ in range(callers)]


def _request(number: int) -> PaymentContext:
    return PaymentContext(
        tenant_id="acme",
        payment_id=f"pay_{number:030}",
        idempotency_key=f"key_{number:030}",
        money=Money(1250, SAR),
        payment_option_key="card",
        instrument_token="tok_visa",
        metadata={"order": "x" * 120},
    )


def call_by_call(url: str, callers: int) -> Run:
    """Return a run of the synchronous engine in *callers* threads."""

    def run(seconds: int) -> float:
        database = sqlalchemy.create_engine(
            url, pool_size=callers, max_overflow=0, connect_args=_session()
        )
        rails = PaymentRailRegistry[Rail]()
        rails.register(PaymentRail.CARD_PSP, "stub", InstantRail())
        routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
        engine = PaymentEngine(rails=rails, routes=routes, store=SqlExecutionStore(database))
        start = threading.Barrier(callers + 1)
        ready = requests(callers, seconds)
        _tune_collector()

        def work(asked: Iterator[PaymentContext]) -> int:
            engine.execute(next(asked))
            start.wait()
            return _count_sync(engine.execute, asked, time.perf_counter() + seconds)

        with ThreadPoolExecutor(callers) as pool:
            done = [pool.submit(work, asked) for asked in ready]
            start.wait()
            began = time.perf_counter()
            total = sum(one.result() for one in done)
        took = time.perf_counter() - began
        database.dispose()
        return total / took

    return run


def in_bulk(url: str, in_flight: int) -> Run:
    """Return a run of the asynchronous engine with *in_flight* payments at a time."""

    async def main(seconds: int) -> float:
        database = create_async_engine(url, pool_size=4, max_overflow=0, connect_args=_session())
        rails = PaymentRailRegistry[AsyncRail]()
        rails.register(PaymentRail.CARD_PSP, "stub", AsyncInstantRail())
        routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
        store = AsyncSqlExecutionStore(database)
        engine = AsyncPaymentEngine(rails=rails, routes=routes, store=store)
        asked = requests(in_flight, seconds)
        _tune_collector()
        await asyncio.gather(*(engine.execute(next(one)) for one in asked))
        began = time.perf_counter()
        end = began + seconds
        total = sum(await asyncio.gather(*(_count(engine.execute, one, end) for one in asked)))
        took = time.perf_counter() - began
        await database.dispose()
        return total / took

    return lambda seconds: asyncio.run(main(seconds))


def _tune_collector() -> None:
    """Do what docs/howto/store-on-postgres.md advises a host: fewer, larger collections."""
    gc.freeze()
    gc.set_threshold(20_000)


Execute = Callable[[PaymentContext], PaymentExecution]
AsyncExecute = Callable[[PaymentContext], Awaitable[PaymentExecution]]


def _count_sync(execute: Execute, asked: Iterator[PaymentContext], end: float) -> int:
    done = 0
    while time.perf_counter() < end:
        execute(next(asked))
        done += 1
    return done


async def _count(execute: AsyncExecute, asked: Iterator[PaymentContext], end: float) -> int:
    done = 0
    while time.perf_counter() < end:
        await execute(next(asked))
        done += 1
    return done


def _session() -> dict[str, str]:
    return {"options": " ".join(f"-c {name}={value}" for name, value in SESSION.items())}


def main() -> None:
    """Measure, print, and write the table where --output says."""
    parser = argparse.ArgumentParser(description="The engine against pgbench.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a Markdown file to write as well")
    options, _ = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(SETTINGS))
        bench = Bench(server, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        full = next(number for number, one in enumerate(VARIANTS) if one.name == "full")
        name = bench.prepare(full, VARIANTS[full])
        url = sqlalchemy.make_url(server.url).set(database=name)
        address = url.render_as_string(hide_password=False)
        runs: dict[str, Run] = {
            f"pgbench, {CALLERS} clients": lambda seconds: bench.payments(
                name, clients=CALLERS, seconds=seconds
            ),
            f"engine, call by call, {CALLERS} threads": call_by_call(address, CALLERS),
            f"asynchronous engine, {IN_FLIGHT} in flight": in_bulk(address, IN_FLIGHT),
        }
        reached = alternate(runs, rounds=options.rounds, seconds=options.seconds)
        shown = table(
            f"The engine against pgbench, Python {platform.python_version()}, "
            f"PostgreSQL {server.version}, "
            f"{os.cpu_count()} processors, {options.rounds} rounds of {options.seconds} s",
            reached,
        )
    print(shown)
    if options.output:
        command = f"`python benchmarks/bench_engine.py {' '.join(sys.argv[1:])}`\n"
        options.output.write_text(f"# Engine\n\n{command}\n{shown}", encoding="utf-8")


if __name__ == "__main__":
    main()
