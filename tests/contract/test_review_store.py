"""Both execution stores, in both colours, keep what people have to look at."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import ExecutionStore
from railcore.testing.contracts.execution_store import awaited
from railcore.testing.contracts.review import ReviewStoreContract
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.contract.loops import Blocking, event_loop, rest
from tests.contract.test_execution_store import clean_url, own_database

__all__ = ["clean_url", "own_database"]  # fixtures


class TestInMemory(ReviewStoreContract):
    @pytest.fixture
    def store(self) -> ExecutionStore:
        return InMemoryExecutionStore(SystemClock())


class TestAsyncInMemory(ReviewStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ExecutionStore]:
        with event_loop() as loop:
            yield awaited(AsyncInMemoryExecutionStore(SystemClock()), Blocking(loop))


class TestPostgres(ReviewStoreContract):
    @pytest.fixture
    def store(self, clean_url: str) -> Iterator[ExecutionStore]:
        engine = sqlalchemy.create_engine(clean_url, pool_size=20)
        yield SqlExecutionStore(engine)
        engine.dispose()


class TestAsyncPostgres(ReviewStoreContract):
    @pytest.fixture
    def store(self, clean_url: str) -> Iterator[ExecutionStore]:
        with event_loop() as loop:
            run = Blocking(loop)
            engine = create_async_engine(clean_url)
            yield awaited(AsyncSqlExecutionStore(engine), run)
            run(rest())
            run(engine.dispose())
