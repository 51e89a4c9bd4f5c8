"""The engines on real Postgres: one key is one call, and no connection waits for a provider."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore import (
    AsyncPaymentEngine,
    ConfigDrivenRouteResolver,
    Deadline,
    ExecutionStatus,
    IdempotencyConflict,
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
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore

RACERS = 50
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "fake", "account": "main", "mode": "sandbox"}
    },
    "defaults": {"card": "cards"},
}


def context(key: str = "inv-1/1", amount_minor: int = 1250) -> PaymentContext:
    return PaymentContext(
        tenant_id="acme",
        payment_id=key.partition("/")[0],
        idempotency_key=key,
        money=Money(amount_minor, SAR),
        payment_option_key="card",
        instrument_token="tok_visa",
    )


@attrs.define
class CountingRail:
    """Succeeds after a moment, and counts the calls."""

    calls: int = 0
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    moment: threading.Event = attrs.field(factory=threading.Event)
    capabilities: RouteCapabilities = attrs.field(factory=RouteCapabilities)

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        assert not send_by.has_passed()
        with self.lock:
            self.calls += 1
        self.moment.wait(0.05)
        return RailResult.success(f"ref-{execution.idempotency_key}", execution.money)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return self.execute(execution, send_by=send_by)

    def check_status(self, _: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


@attrs.define
class AsyncCountingRail:
    """Succeeds when the gate opens, and counts the calls."""

    calls: int = 0
    gate: asyncio.Event = attrs.field(factory=asyncio.Event)
    all_in_flight: asyncio.Event = attrs.field(factory=asyncio.Event)
    wanted: int = 1
    capabilities: RouteCapabilities = attrs.field(factory=RouteCapabilities)

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        assert not send_by.has_passed()
        self.calls += 1
        if self.calls == self.wanted:
            self.all_in_flight.set()
        await self.gate.wait()
        return RailResult.success(f"ref-{execution.idempotency_key}", execution.money)

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return await self.execute(execution, send_by=send_by)

    async def check_status(self, _: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


def sync_engine(rail: CountingRail, database: sqlalchemy.Engine) -> PaymentEngine:
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "fake", rail)
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    return PaymentEngine(rails=rails, routes=routes, store=SqlExecutionStore(database))


def async_engine(rail: AsyncCountingRail, store: AsyncSqlExecutionStore) -> AsyncPaymentEngine:
    rails = PaymentRailRegistry[AsyncRail]()
    rails.register(PaymentRail.CARD_PSP, "fake", rail)
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    return AsyncPaymentEngine(rails=rails, routes=routes, store=store)


@pytest.fixture
def database(database_url: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(database_url, pool_size=10, max_overflow=0)
    yield engine
    engine.dispose()


@pytest.fixture
async def narrow_store(database_url: str) -> AsyncIterator[AsyncSqlExecutionStore]:
    """A store whose host has one connection, and not one more."""
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=10)
    yield AsyncSqlExecutionStore(engine)
    await engine.dispose()


def test_ir1_fifty_threads_on_one_key_call_the_provider_once(database: sqlalchemy.Engine) -> None:
    rail = CountingRail()
    engine = sync_engine(rail, database)
    barrier = threading.Barrier(RACERS)

    def race(_: int) -> PaymentExecution:
        barrier.wait()
        return engine.execute(context())

    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(race, range(RACERS)))

    assert rail.calls == 1
    assert len({answer.execution_id for answer in answers}) == 1
    final = {engine.execute(context()) for _ in range(RACERS)}
    assert [one.status for one in final] == [ExecutionStatus.COMPLETED]
    assert [event.seq for event in engine.events("acme", "inv-1")] == [1, 2]


async def test_ir1_fifty_tasks_on_one_key_call_the_provider_once(
    narrow_store: AsyncSqlExecutionStore,
) -> None:
    rail = AsyncCountingRail()
    engine = async_engine(rail, narrow_store)
    racers = [asyncio.create_task(engine.execute(context())) for _ in range(RACERS)]
    await asyncio.wait_for(rail.all_in_flight.wait(), 10)
    rail.gate.set()
    answers = await asyncio.gather(*racers)

    assert rail.calls == 1
    assert len({answer.execution_id for answer in answers}) == 1
    final = {await engine.execute(context()) for _ in range(RACERS)}
    assert [one.status for one in final] == [ExecutionStatus.COMPLETED]
    assert [event.seq for event in await engine.events("acme", "inv-1")] == [1, 2]


def test_ir2_a_known_key_with_another_amount_sends_nothing(database: sqlalchemy.Engine) -> None:
    rail = CountingRail()
    engine = sync_engine(rail, database)
    first = engine.execute(context())

    with pytest.raises(IdempotencyConflict) as refused:
        engine.execute(context(amount_minor=1300))

    assert refused.value.execution_id == first.execution_id
    assert refused.value.differs_in == ("amount_minor", "due_minor")
    assert rail.calls == 1
    assert engine.get("acme", first.execution_id) == first


async def test_no_connection_is_held_while_a_hundred_providers_are_called(
    narrow_store: AsyncSqlExecutionStore, database_url: str
) -> None:
    payments = 100
    rail = AsyncCountingRail(wanted=payments)
    engine = async_engine(rail, narrow_store)

    running = [
        asyncio.create_task(engine.execute(context(f"inv-{number}/1")))
        for number in range(payments)
    ]
    # With one connection in the pool, a hundred calls in flight at once mean that none holds it.
    await asyncio.wait_for(rail.all_in_flight.wait(), 20)
    open_transactions = await asyncio.to_thread(transactions_open_in, database_url)
    committed = await engine.open_executions(payments + 1)
    rail.gate.set()
    finished = await asyncio.gather(*running)

    assert rail.calls == payments
    assert open_transactions == 0
    assert {one.status for one in committed} == {ExecutionStatus.PROCESSING}
    assert len(committed) == payments
    assert {one.status for one in finished} == {ExecutionStatus.COMPLETED}


def transactions_open_in(url: str) -> int:
    parsed = sqlalchemy.make_url(url)
    conninfo = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where datname = %s and xact_start is not null "
            "and pid <> pg_backend_pid()",
            [parsed.database],
        ).fetchone()
    assert row is not None
    return int(row[0])
