"""
The outbox on PostgreSQL, in both colours.

Every decision is in ``outbox_queries``; a method here names a flow and runs it on a connection of
the host's own engine, which may log in with the role ``railcore_relay``: it sees no execution. A
statement is a transaction, and no connection is held while a sink is called.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.delivery import Backlog, BucketLease, FailedDelivery, OutboxEntry, ParkedPayment
from railcore.flow import adrive, drive
from railcore_sqlalchemy import outbox_queries as queries
from railcore_sqlalchemy.outbox_queries import Flow
from railcore_sqlalchemy.sessions import (
    AsyncBorrowed,
    AsyncSessions,
    Borrowed,
    Sessions,
    check_driver,
)

__all__ = ["AsyncSqlOutbox", "SqlOutbox"]

Result = TypeVar("Result")


class SqlOutbox:
    """
    An ``Outbox`` on PostgreSQL, over a host's engine. Safe to share between threads.

    Args:
        engine: With a URL that begins with ``postgresql+psycopg://``.
        prepare: Whether hot statements are prepared. Turn it off behind a PgBouncer before 1.21.

    Raises:
        MisconfiguredError: The engine does not speak to PostgreSQL through psycopg 3.
    """

    def __init__(self, engine: sqlalchemy.Engine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions: Sessions = Borrowed(engine, prepare)

    def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """Take the free or expired lease of a bucket with something to deliver; else None."""
        return self._run(queries.lease(owner, lease_s))

    def waiting(self, lease: BucketLease, limit: int, per_payment: int, /) -> Sequence[OutboxEntry]:
        """Return what to deliver next, payment by payment, those of each in order."""
        return self._run(queries.waiting(lease, limit, per_payment))

    def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """Remove, note and extend the lease; False, and nothing changed, if it was lost."""
        return self._run(queries.acknowledge(lease, delivered, failed, lease_s))

    def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        self._run(queries.release(lease))

    def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        return self._run(queries.parked(limit))

    def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        return self._run(queries.unpark(tenant_id, payment_id))

    def replay(self, since: datetime, /) -> int:
        """
        Put every event since *since* back into the queue, from the journal; how many.

        Reads the whole journal, a page a statement.
        """
        return self._run(queries.replay(since))

    def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        return self._run(queries.backlog())

    def _run(self, flow: Flow[Result]) -> Result:
        with self._sessions.open() as ask:
            return drive(flow, ask)


class AsyncSqlOutbox:
    """The same over a host's ``AsyncEngine``, for one event loop."""

    def __init__(self, engine: AsyncEngine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions: AsyncSessions = AsyncBorrowed(engine, prepare)

    async def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """Take the free or expired lease of a bucket with something to deliver; else None."""
        return await self._run(queries.lease(owner, lease_s))

    async def waiting(
        self, lease: BucketLease, limit: int, per_payment: int, /
    ) -> Sequence[OutboxEntry]:
        """Return what to deliver next, payment by payment, those of each in order."""
        return await self._run(queries.waiting(lease, limit, per_payment))

    async def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """Remove, note and extend the lease; False, and nothing changed, if it was lost."""
        return await self._run(queries.acknowledge(lease, delivered, failed, lease_s))

    async def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        await self._run(queries.release(lease))

    async def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        return await self._run(queries.parked(limit))

    async def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        return await self._run(queries.unpark(tenant_id, payment_id))

    async def replay(self, since: datetime, /) -> int:
        """
        Put every event since *since* back into the queue, from the journal; how many.

        Reads the whole journal, a page a statement.
        """
        return await self._run(queries.replay(since))

    async def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        return await self._run(queries.backlog())

    async def _run(self, flow: Flow[Result]) -> Result:
        async with self._sessions.open() as ask:
            return await adrive(flow, ask)
