"""Enqueueing on real Postgres: with the host's own rows or not at all, and many in one call."""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from railcore import (
    AsyncPaymentEngine,
    ConfigDrivenRouteResolver,
    ExecutionStatus,
    InProgressError,
    Money,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentRail,
    PaymentRailRegistry,
)
from railcore.money import SAR
from railcore.ports import AsyncRail, Rail
from railcore.protocol import Due
from railcore_sqlalchemy.schema import HOT_SETTINGS
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.core.hosts import AsyncFakeRail, FakeRail

HOT = " ".join(f"-c {name}={value}" for name, value in HOT_SETTINGS.items())
MANY = int(os.environ.get("RAILCORE_ENQUEUE_MANY", "10000"))
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
    },
    "default_route": "cards",
}


def asked(key: str) -> PaymentContext:
    return PaymentContext(
        tenant_id="acme",
        payment_id=key,
        idempotency_key=key,
        money=Money(1250, SAR),
        payment_option_key="card",
    )


@pytest.fixture
def database(database_url: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(
        database_url, connect_args={"options": f"-c lock_timeout=300ms {HOT}"}
    )
    with engine.begin() as connection:
        connection.execute(text("create table invoice (name text primary key)"))
    yield engine
    engine.dispose()


def engine_on(database: sqlalchemy.Engine) -> PaymentEngine:
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail())
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    return PaymentEngine(rails=rails, routes=routes, store=SqlExecutionStore(database))


def invoices(database: sqlalchemy.Engine) -> int:
    with database.connect() as connection:
        return connection.scalar(text("select count(*) from invoice")) or 0


def test_invoice_and_payment_commit_together(database: sqlalchemy.Engine) -> None:
    engine = engine_on(database)

    with database.begin() as connection:
        connection.execute(text("insert into invoice values ('inv-1')"))
        queued = engine.enqueue(asked("inv-1"), connection=connection)
        assert engine.find("acme", "inv-1") is None
        assert not engine.acquire_due(Due(owner="worker", lease_s=60, limit=10))

    assert engine.find("acme", "inv-1") == queued
    assert invoices(database) == 1


def test_neither_is_there_when_the_host_rolls_back(database: sqlalchemy.Engine) -> None:
    engine = engine_on(database)

    with database.connect() as connection:
        connection.execute(text("insert into invoice values ('inv-1')"))
        engine.enqueue(asked("inv-1"), connection=connection)
        engine.enqueue_many([asked("inv-2"), asked("inv-3")], connection=connection)
        connection.rollback()

    assert not engine.open_executions()
    assert invoices(database) == 0


def test_a_refusal_leaves_the_hosts_transaction_as_it_was(database: sqlalchemy.Engine) -> None:
    engine = engine_on(database)
    with database.connect() as holder:
        engine.enqueue(asked("inv-1"), connection=holder)
        with database.begin() as connection:
            connection.execute(text("insert into invoice values ('inv-1')"))
            with pytest.raises(InProgressError):
                engine.enqueue(asked("inv-1"), connection=connection)
        holder.commit()

    assert invoices(database) == 1


def test_the_asynchronous_engine_joins_too(database: sqlalchemy.Engine, database_url: str) -> None:
    async def story() -> None:
        other = create_async_engine(database_url)
        rails = PaymentRailRegistry[AsyncRail]()
        rails.register(PaymentRail.CARD_PSP, "stub", AsyncFakeRail(FakeRail()))
        routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
        engine = AsyncPaymentEngine(rails=rails, routes=routes, store=AsyncSqlExecutionStore(other))
        async with other.begin() as connection:
            await connection.execute(text("insert into invoice values ('inv-1')"))
            await engine.enqueue(asked("inv-1"), connection=connection)
            await engine.enqueue_many([asked("inv-2")], connection=connection)
        (first, second) = await engine.acquire_due(Due(owner="worker", lease_s=60, limit=10))
        done = [await engine.check(one, 0.0) for one in (first, second)]
        assert [one.status for one in done] == [ExecutionStatus.COMPLETED] * 2
        await other.dispose()

    asyncio.run(story())

    assert invoices(database) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_many_thousands_are_enqueued_in_one_call(database: sqlalchemy.Engine) -> None:
    """The names of 100,000 are asked with RAILCORE_ENQUEUE_MANY=100000."""
    engine = engine_on(database)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_s = time.monotonic()

    found = engine.enqueue_many(asked(f"inv-{number}") for number in range(MANY))

    took_s = time.monotonic() - started_s
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    sys.stdout.write(f"\n{MANY / took_s:,.0f} a second; {grown_kb / MANY:.1f} KB each\n")
    assert all(isinstance(one, PaymentExecution) for one in found)
    assert len(found) == MANY
    assert grown_kb < 16 * MANY  # the answer itself, and one batch
