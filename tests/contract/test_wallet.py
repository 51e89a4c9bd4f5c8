"""Every wallet keeps the same promises, in memory and on PostgreSQL, in both colours."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import WalletRepository
from railcore.testing.contracts.wallet import Blocking, Run, WalletRepositoryContract
from railcore.testing.wallet import AsyncInMemoryWalletRepository, InMemoryWalletRepository
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository, SqlWalletRepository
from tests.conftest import fresh_database


@contextmanager
def running_loop() -> Iterator[Run]:
    """A loop in a thread of its own, so that many threads can have their coroutines run at once."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    try:
        yield run
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class TestInMemory(WalletRepositoryContract):
    @pytest.fixture
    def repository(self) -> WalletRepository:
        return InMemoryWalletRepository(SystemClock())


class TestAsyncInMemory(WalletRepositoryContract):
    @pytest.fixture
    def repository(self) -> Iterator[WalletRepository]:
        with running_loop() as run:
            yield Blocking(AsyncInMemoryWalletRepository(SystemClock()), run)


@pytest.fixture(scope="module")
def wallet_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """One database for all: each test has a tenant of its own."""
    with fresh_database(postgres_url, template=template_database) as url:
        yield url


class TestOnPostgres(WalletRepositoryContract):
    @pytest.fixture
    def repository(self, wallet_url: str) -> Iterator[WalletRepository]:
        engine = sqlalchemy.create_engine(wallet_url)
        yield SqlWalletRepository(engine)
        engine.dispose()


class TestAsyncOnPostgres(WalletRepositoryContract):
    @pytest.fixture
    def repository(self, wallet_url: str) -> Iterator[WalletRepository]:
        with running_loop() as run:
            engine = create_async_engine(wallet_url)
            yield Blocking(AsyncSqlWalletRepository(engine), run)
            run(engine.dispose())
