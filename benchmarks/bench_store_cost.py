"""
What a payment costs this process: CPU of claim and record through the stores, server excluded.

Run it as ``python benchmarks/bench_store_cost.py [ROUNDS]`` with the extras ``sqlalchemy`` and
``embedded`` installed, or with ``RAILCORE_DATABASE_URL`` naming an empty database. Requests are
built beforehand; encoding them, the driver, the pool and the values that come back are counted. The
least of the rounds is the figure: the median follows what else the machine does.
"""

import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.protocol import Claim, ClaimOutcome, Recording
from railcore.testing.contracts.execution_store import asked, claim_of, recording_of, success_of
from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore

PAYMENTS = 1000
Item = TypeVar("Item")
Steps = tuple[Callable[[Sequence[Claim]], list[Any]], Callable[[Sequence[Recording]], list[Any]]]


def claims() -> list[Claim]:
    """Return as many claims as a round takes, all of payments of their own."""
    keys = [uuid4().hex for _ in range(PAYMENTS)]
    return [
        claim_of(asked(key, payment_id=key, instrument_token="tok_visa", metadata={"cart": key}))
        for key in keys
    ]


def recordings(outcomes: Sequence[ClaimOutcome]) -> list[Recording]:
    """Return the success of everything that was claimed."""
    executions = [outcome.execution for outcome in outcomes]
    return [recording_of(one, success_of(one)) for one in executions if one is not None]


def cost_us(
    step: Callable[[Sequence[Item]], list[Any]], items: Sequence[Item]
) -> tuple[float, Any]:
    """Return the CPU of *step* per item in microseconds, and what it returned."""
    gc.collect()
    gc.freeze()
    started = time.process_time()
    returned = step(items)
    return (time.process_time() - started) / len(items) * 1e6, returned


def round_of(steps: Steps) -> tuple[float, float]:
    """Return what a claim and a record cost in one round."""
    claim_us, outcomes = cost_us(steps[0], claims())
    record_us, _ = cost_us(steps[1], recordings(outcomes))
    return claim_us, record_us


@contextmanager
def threads(url: str, count: int) -> Iterator[Steps]:
    """Call by call, in *count* threads."""
    engine = sqlalchemy.create_engine(url, pool_size=count, max_overflow=0)
    store = SqlExecutionStore(engine)
    with ThreadPoolExecutor(count) as pool:

        def spread(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            shares = [items[first::count] for first in range(count)]
            done = pool.map(lambda share: [call(item) for item in share], shares)
            return [one for share in done for one in share]

        yield partial(spread, store.claim), partial(spread, store.record)
    engine.dispose()


@contextmanager
def lists(url: str) -> Iterator[Steps]:
    """Lists, 64 to a statement."""
    engine = sqlalchemy.create_engine(url)
    store = SqlExecutionStore(engine)
    yield store.claim_many, store.record_many
    engine.dispose()


@contextmanager
def tasks(url: str, count: int) -> Iterator[Steps]:
    """Group commit, with *count* tasks in flight."""
    with asyncio.Runner() as runner:
        engine = create_async_engine(url)
        store = AsyncSqlExecutionStore(engine)

        def spread(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            waiting = iter(items)

            async def work() -> list[Any]:
                return [await call(item) for item in waiting]

            async def all_at_once() -> list[Any]:
                done = await asyncio.gather(*[work() for _ in range(count)])
                return [one for share in done for one in share]

            return runner.run(all_at_once())

        yield partial(spread, store.claim), partial(spread, store.record)
        runner.run(engine.dispose())


@contextmanager
def database() -> Iterator[str]:
    """The address of a database with the schema installed and nothing in it."""
    if configured := os.environ.get("RAILCORE_DATABASE_URL"):
        schema.install(configured)
        yield configured
        return
    with EmbeddedPostgres({"jit": "off"}, durable=False) as server:
        schema.install(server.url)
        yield server.url


def main(rounds: int) -> None:
    """Print the CPU per claim, per record and per payment of each way to call the stores."""
    with database() as url:
        ways = {
            "1 thread, call by call": partial(threads, url, 1),
            "16 threads, call by call": partial(threads, url, 16),
            "16 tasks, group commit": partial(tasks, url, 16),
            "64 tasks, group commit": partial(tasks, url, 64),
            "lists of 64": partial(lists, url),
        }
        print("CPU in microseconds, least of the rounds (median of the rounds)")
        print(f"{'':26s}{'claim':>14s}{'record':>14s}{'payment':>14s}")
        for name, way in ways.items():
            with way() as steps:
                round_of(steps)
                found = [round_of(steps) for _ in range(rounds)]
            columns = [*zip(*found, strict=True), [sum(one) for one in found]]
            cells = [f"{min(one):.0f} ({statistics.median(one):.0f})" for one in columns]
            print(f"{name:26s}" + "".join(f"{cell:>14s}" for cell in cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
