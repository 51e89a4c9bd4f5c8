"""
The wallet on PostgreSQL, in both colours.

Every decision is in ``wallet_queries``; a method here names a flow and runs it. Each transfer is
one statement on a connection of the host's own engine, committed when it returns.
"""

import copy
from collections.abc import Sequence
from typing import Self, TypeVar
from uuid import UUID

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from railcore.clock import Deadline
from railcore.errors import SendDeadlinePassed
from railcore.flow import adrive, drive
from railcore.money import Currency
from railcore.wallet import (
    TransferOutcome,
    WalletAccount,
    WalletAsk,
    WalletBalance,
    WalletTransfer,
)
from railcore_sqlalchemy import wallet_queries as queries
from railcore_sqlalchemy.driver import Query
from railcore_sqlalchemy.rows import Row
from railcore_sqlalchemy.sessions import (
    AsyncBorrowed,
    AsyncJoined,
    AsyncSessions,
    Borrowed,
    Joined,
    Sessions,
    check_driver,
)
from railcore_sqlalchemy.wallet_queries import Flow

__all__ = ["AsyncSqlWalletRepository", "SqlWalletRepository"]

Result = TypeVar("Result")


class SqlWalletRepository:
    """
    A ``WalletRepository`` on PostgreSQL, over a host's engine. Safe to share between threads.

    Args:
        engine: With a URL that begins with ``postgresql+psycopg://``.
        prepare: Whether hot statements are prepared. Turn it off behind a PgBouncer before 1.21.

    Raises:
        MisconfiguredError: The engine does not speak to PostgreSQL through psycopg 3.
    """

    def __init__(self, engine: sqlalchemy.Engine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions: Sessions = Borrowed(engine, prepare)

    def within(self, connection: sqlalchemy.Connection) -> Self:
        """
        Return a wallet that works in the open transaction of *connection*, which the host commits.

        For the host's own transfers, such as a top-up beside its invoice. Never for a rail: its
        transfers have happened when they return.
        """
        joined = copy.copy(self)
        joined._sessions = Joined(connection)  # noqa: SLF001 - a copy
        return joined

    def open_account(self, account: WalletAccount, /) -> bool:
        """Open an account; whether it is new."""
        return self._run(queries.open_account(account))

    def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once."""
        return self._run(queries.transfer(transfer))

    def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it."""
        return self._run(queries.find(tenant_id, transfer_id))

    def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one."""
        return self._run(queries.find_referenced(tenant_id, reference))

    def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none. A house account is summed."""
        return self._run(queries.balance(tenant_id, account_id, currency))

    def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over, each by a transfer; how many."""
        return self._run(queries.expire_holds(limit))

    def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """Answer one thing that a flow asks for; no transfer is made after *send_by*."""
        return self._run(queries.answer(ask), send_by)

    def _run(self, flow: Flow[Result], send_by: Deadline | None = None) -> Result:
        with self._sessions.open() as ask:

            def in_time(query: Query) -> Sequence[Row]:
                check_in_time(query, send_by)
                return ask(query)

            return drive(flow, in_time)


class AsyncSqlWalletRepository:
    """The same over a host's ``AsyncEngine``, for one event loop."""

    def __init__(self, engine: AsyncEngine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions: AsyncSessions = AsyncBorrowed(engine, prepare)

    def within(self, connection: AsyncConnection) -> Self:
        """
        Return a wallet that works in the open transaction of *connection*, which the host commits.

        For the host's own transfers, such as a top-up beside its invoice. Never for a rail: its
        transfers have happened when they return.
        """
        joined = copy.copy(self)
        joined._sessions = AsyncJoined(connection)  # noqa: SLF001 - a copy
        return joined

    async def open_account(self, account: WalletAccount, /) -> bool:
        """Open an account; whether it is new."""
        return await self._run(queries.open_account(account))

    async def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once."""
        return await self._run(queries.transfer(transfer))

    async def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it."""
        return await self._run(queries.find(tenant_id, transfer_id))

    async def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one."""
        return await self._run(queries.find_referenced(tenant_id, reference))

    async def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none. A house account is summed."""
        return await self._run(queries.balance(tenant_id, account_id, currency))

    async def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over, each by a transfer; how many."""
        return await self._run(queries.expire_holds(limit))

    async def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """Answer one thing that a flow asks for; no transfer is made after *send_by*."""
        return await self._run(queries.answer(ask), send_by)

    async def _run(self, flow: Flow[Result], send_by: Deadline | None = None) -> Result:
        async with self._sessions.open() as ask:

            async def in_time(query: Query) -> Sequence[Row]:
                check_in_time(query, send_by)
                rows: Sequence[Row] = await ask(query)
                return rows

            return await adrive(flow, in_time)


def check_in_time(query: Query, send_by: Deadline | None) -> None:
    """
    Check that a statement that moves money may still be sent; the connection is there by now.

    Raises:
        SendDeadlinePassed: It is too late, and nothing was sent.
    """
    if query.template.writes and send_by is not None and send_by.has_passed():
        problem = f"{query.template.name}: the send deadline has passed"
        raise SendDeadlinePassed(problem, may_have_left=False)
