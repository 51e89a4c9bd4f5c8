"""Every outbox, in both colours, keeps the promises of the port; on Postgres, as its own role."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import ExecutionStore, Outbox
from railcore.testing.contracts.outbox import OutboxContract, awaited_outbox
from railcore.testing.memory import InMemoryExecutionStore
from railcore.testing.outbox import AsyncInMemoryOutbox, InMemoryOutbox
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.outbox import AsyncSqlOutbox, SqlOutbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import fresh_database
from tests.contract.loops import Blocking, event_loop, rest

AS_RELAY = {"connect_args": {"options": "-c role=railcore_relay -c lock_timeout=500ms"}}


@pytest.fixture(scope="module")
def own_database(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url, template="template0") as url:
        yield url


@pytest.fixture
def clean_url(own_database: str) -> str:
    engine = sqlalchemy.create_engine(own_database, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        schema.drop(connection)
        schema.install(connection)
        schema.install_roles(connection)
    return own_database


class InMemory(OutboxContract):
    @pytest.fixture
    def store(self) -> InMemoryExecutionStore:
        return InMemoryExecutionStore(SystemClock())


class OnPostgres(OutboxContract):
    @pytest.fixture
    def store(self, clean_url: str) -> Iterator[ExecutionStore]:
        engine = sqlalchemy.create_engine(clean_url)
        yield SqlExecutionStore(engine)
        engine.dispose()


class TestInMemory(InMemory):
    @pytest.fixture
    def outbox(self, store: Any) -> Outbox:
        return InMemoryOutbox(store, SystemClock())


class TestAsyncInMemory(InMemory):
    @pytest.fixture
    def outbox(self, store: Any) -> Iterator[Outbox]:
        with event_loop() as loop:
            shared = InMemoryOutbox(store, SystemClock())
            yield awaited_outbox(AsyncInMemoryOutbox(shared), Blocking(loop))


class TestPostgres(OnPostgres):
    @pytest.fixture
    def outbox(self, store: ExecutionStore, clean_url: str) -> Iterator[Outbox]:
        engine = sqlalchemy.create_engine(clean_url, **AS_RELAY)
        yield SqlOutbox(engine)
        engine.dispose()


class TestAsyncPostgres(OnPostgres):
    @pytest.fixture
    def outbox(self, store: ExecutionStore, clean_url: str) -> Iterator[Outbox]:
        with event_loop() as loop:
            run = Blocking(loop)
            engine = create_async_engine(clean_url, **AS_RELAY)
            yield awaited_outbox(AsyncSqlOutbox(engine), run)
            run(rest())
            run(engine.dispose())
