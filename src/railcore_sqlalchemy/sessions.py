"""
Where statements run: on connections borrowed from a host, or inside a host's open transaction.

A borrowed connection is idle when it comes and when it goes: a statement is a transaction, and none
is ever open while a provider is called. Inside a host's transaction each statement has a savepoint,
so that a refusal leaves the transaction as it was; committing is the host's.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final, Protocol, cast

import attrs
import psycopg
import sqlalchemy
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from railcore.errors import MisconfiguredError, StoreError
from railcore_sqlalchemy.driver import AnyConnection, AsyncDriver, Driver, Known, Query
from railcore_sqlalchemy.rows import Row

__all__ = [
    "Ask",
    "AsyncAsk",
    "AsyncBorrowed",
    "AsyncJoined",
    "AsyncSessions",
    "Borrowed",
    "Joined",
    "Sessions",
    "check_driver",
]

Ask = Callable[[Query], Sequence[Row]]
"""Answers one query."""

AsyncAsk = Callable[[Query], Any]
"""Answers one query when awaited."""

_INFO: Final = "railcore"
_DRIVERS: Final = frozenset({"psycopg", "psycopg_async"})


class Sessions(Protocol):
    """Gives something that answers queries, for as long as one flow runs."""

    def open(self) -> AbstractContextManager[Ask]:
        """Return a context manager of it."""
        ...


class AsyncSessions(Protocol):
    """The same, asynchronous."""

    def open(self) -> AbstractAsyncContextManager[AsyncAsk]:
        """Return an asynchronous context manager of it."""
        ...


@attrs.frozen
class Borrowed:
    """Borrows a connection of the engine's pool for each flow."""

    engine: sqlalchemy.Engine
    prepare: bool

    @contextmanager
    def open(self) -> Iterator[Ask]:
        """Yield the ``ask`` of an idle connection."""
        try:
            borrowed = self.engine.raw_connection()
        except (SQLAlchemyError, psycopg.Error) as error:
            raise _unreachable(error) from error
        connection = cast("psycopg.Connection[Any]", borrowed.driver_connection)
        try:
            if not _is_idle(connection):
                connection.commit()  # a pool event has set something, for the session
            known = _known(connection, borrowed.info)
            yield Driver(connection, known, self.prepare, commits=True).ask
        finally:
            if _is_idle(connection):
                borrowed.close()
            else:
                borrowed.invalidate()


@attrs.frozen
class AsyncBorrowed:
    """The same, asynchronous."""

    engine: AsyncEngine
    prepare: bool

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncAsk]:
        """Yield the ``ask`` of an idle connection."""
        try:
            borrowed = await self.engine.raw_connection()
        except (SQLAlchemyError, psycopg.Error) as error:
            raise _unreachable(error) from error
        connection = cast("psycopg.AsyncConnection[Any]", borrowed.driver_connection)
        try:
            if not _is_idle(connection):
                await connection.commit()
            known = _known(connection, borrowed.info)
            yield AsyncDriver(connection, known, self.prepare, commits=True).ask
        finally:
            if _is_idle(connection):
                await greenlet_spawn(borrowed.close)
            else:
                await greenlet_spawn(borrowed.invalidate)


@attrs.frozen
class Joined:
    """Runs statements inside a host's transaction, which the host commits or rolls back."""

    connection: sqlalchemy.Connection

    @contextmanager
    def open(self) -> Iterator[Ask]:
        """Yield the ``ask`` of the host's connection; each query has a savepoint."""
        driver = cast("psycopg.Connection[Any]", self.connection.connection.driver_connection)
        check_transaction(driver)
        inner = Driver(driver, Known(driver), prepare=False, commits=False)

        def ask(query: Query) -> Sequence[Row]:
            with _in_a_hosts_transaction():
                savepoint = self.connection.begin_nested()
            try:
                found = inner.ask(query)
            except BaseException:
                if not driver.closed:
                    with _in_a_hosts_transaction():
                        savepoint.rollback()
                raise
            with _in_a_hosts_transaction():
                savepoint.commit()
            return found

        yield ask


@attrs.frozen
class AsyncJoined:
    """The same, asynchronous."""

    connection: AsyncConnection

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncAsk]:
        """Yield the ``ask`` of the host's connection; each query has a savepoint."""
        borrowed = await self.connection.get_raw_connection()
        driver = cast("psycopg.AsyncConnection[Any]", borrowed.driver_connection)
        check_transaction(driver)
        inner = AsyncDriver(driver, Known(driver), prepare=False, commits=False)

        async def ask(query: Query) -> Sequence[Row]:
            with _in_a_hosts_transaction():
                savepoint = await self.connection.begin_nested()
            try:
                found = await inner.ask(query)
            except BaseException:
                if not driver.closed:
                    with _in_a_hosts_transaction():
                        await savepoint.rollback()
                raise
            with _in_a_hosts_transaction():
                await savepoint.commit()
            return found

        yield ask


def check_driver(engine: sqlalchemy.Engine | AsyncEngine) -> None:
    """
    Check that the engine speaks to PostgreSQL through psycopg 3.

    Raises:
        MisconfiguredError: It does not.
    """
    if engine.dialect.name != "postgresql" or engine.dialect.driver not in _DRIVERS:
        found = f"{engine.dialect.name}+{engine.dialect.driver}"
        raise MisconfiguredError(
            "engine",
            f"railcore speaks to PostgreSQL through psycopg 3, not {found}",
            "Create it with a URL that begins with postgresql+psycopg://",
        )


def check_transaction(
    connection: AnyConnection,
) -> None:
    """
    Check that a host's connection can hold a transaction.

    Raises:
        MisconfiguredError: It commits every statement by itself.
    """
    if connection.autocommit:
        raise MisconfiguredError(
            "connection",
            "it is in autocommit mode, so there is no transaction to join",
            "Give a connection with another isolation level, or use the store itself",
        )


def _is_idle(connection: AnyConnection) -> bool:
    return connection.pgconn.transaction_status == TransactionStatus.IDLE


def _known(connection: AnyConnection, info: dict[Any, Any]) -> Known:
    """Return what is known of a connection; SQLAlchemy empties *info* when it replaces one."""
    known = info.get(_INFO)
    if not isinstance(known, Known):
        known = info[_INFO] = Known(connection)
    return known


@contextmanager
def _in_a_hosts_transaction() -> Iterator[None]:
    """Turn what became of a host's connection into a StoreError: nothing of ours is committed."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error) as error:
        problem = f"the host's transaction cannot go on: {type(error).__name__}"
        raise StoreError(problem, may_have_committed=False) from error


def _unreachable(error: Exception) -> StoreError:
    problem = f"no connection to the database: {type(error).__name__}"
    return StoreError(problem, may_have_committed=False)
