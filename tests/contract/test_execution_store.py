"""Both execution stores, in both colours, keep the promises of the port."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import ExecutionStore
from railcore.testing.contracts.execution_store import ExecutionStoreContract, awaited
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.conftest import fresh_database
from tests.contract.loops import Blocking, event_loop, rest


@pytest.fixture(scope="module")
def own_database(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url, template="template0") as url:
        yield url


@pytest.fixture
def clean_url(own_database: str) -> str:
    """The address of a database with fresh tables, sooner than with a fresh database."""
    engine = sqlalchemy.create_engine(own_database)
    with engine.begin() as connection:
        schema.drop(connection)
        schema.install(connection)
    engine.dispose()
    return own_database


class TestInMemory(ExecutionStoreContract):
    @pytest.fixture
    def store(self) -> ExecutionStore:
        return InMemoryExecutionStore(SystemClock())


class TestAsyncInMemory(ExecutionStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ExecutionStore]:
        with event_loop() as loop:
            yield awaited(AsyncInMemoryExecutionStore(SystemClock()), Blocking(loop))


class TestPostgres(ExecutionStoreContract):
    @pytest.fixture
    def store(self, clean_url: str) -> Iterator[ExecutionStore]:
        engine = sqlalchemy.create_engine(clean_url, pool_size=20)
        yield SqlExecutionStore(engine)
        engine.dispose()


class TestAsyncPostgres(ExecutionStoreContract):
    @pytest.fixture
    def store(self, clean_url: str) -> Iterator[ExecutionStore]:
        with event_loop() as loop:
            run = Blocking(loop)
            engine = create_async_engine(clean_url)
            yield awaited(AsyncSqlExecutionStore(engine), run)
            run(rest())
            run(engine.dispose())
