"""Every wallet keeps the same promises, in memory and on PostgreSQL, in both colours."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import WalletRepository
from railcore.testing.contracts.wallet import Blocking, WalletRepositoryContract
from railcore.testing.wallet import AsyncInMemoryWalletRepository, InMemoryWalletRepository
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository, SqlWalletRepository
from tests.conftest import fresh_database
from tests.contract import loops


class TestInMemory(WalletRepositoryContract):
    @pytest.fixture
    def repository(self) -> WalletRepository:
        return InMemoryWalletRepository(SystemClock())


class TestAsyncInMemory(WalletRepositoryContract):
    @pytest.fixture
    def repository(self) -> Iterator[WalletRepository]:
        with loops.event_loop() as loop:
            yield Blocking(AsyncInMemoryWalletRepository(SystemClock()), loops.Blocking(loop))


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
        with loops.event_loop() as loop:
            run = loops.Blocking(loop)
            engine = create_async_engine(wallet_url)
            yield Blocking(AsyncSqlWalletRepository(engine), run)
            run(loops.rest())
            run(engine.dispose())
