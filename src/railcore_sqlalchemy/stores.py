"""
The execution store on PostgreSQL, in both colours.

Every decision is in ``queries``; a method here names a flow and runs it. The hot statements go
straight to psycopg on connections of the host's own engine, one statement a step, and none is held
between two steps.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar
from uuid import UUID

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from railcore.errors import MisconfiguredError, RailcoreError
from railcore.events import EventDraft, JournalEvent
from railcore.execution import PaymentExecution, PaymentView
from railcore.flow import adrive, drive
from railcore.lifecycle import Discrepancy
from railcore.protocol import (
    Acquired,
    Claim,
    ClaimOutcome,
    Due,
    Recording,
    ResolveOutcome,
    Resolving,
)
from railcore.review import NotedDiscrepancy, Orphan
from railcore.webhooks import Sought
from railcore_sqlalchemy import queries
from railcore_sqlalchemy.group_commit import GroupCommit
from railcore_sqlalchemy.queries import Flow, Member, Request, Sharing
from railcore_sqlalchemy.sessions import (
    AsyncBorrowed,
    AsyncJoined,
    AsyncSessions,
    Borrowed,
    Joined,
    Sessions,
    check_driver,
)

__all__ = ["AsyncSqlExecutionStore", "SqlExecutionStore"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class SqlExecutionStore:
    """
    An ``ExecutionStore`` on PostgreSQL, over a host's engine. Safe to share between threads.

    Args:
        engine: With a URL that begins with ``postgresql+psycopg://``.
        group: The most members of one statement of ``claim_many`` and ``record_many``.
        prepare: Whether the hot statements are prepared. Turn it off behind a PgBouncer before
            1.21.

    Raises:
        MisconfiguredError: The engine does not speak to PostgreSQL through psycopg 3.
    """

    def __init__(self, engine: sqlalchemy.Engine, *, group: int = 64, prepare: bool = True) -> None:
        check_driver(engine)
        _check_at_least_one("group", group)
        self._group = group
        self._sessions: Sessions = Borrowed(engine, prepare)

    def within(self, connection: sqlalchemy.Connection) -> Self:
        """
        Return a store that writes in the open transaction of *connection*.

        Nothing is committed here, and nothing may be sent before the host commits. What is claimed
        here waits to be sent; a claim that is its own send mark is refused, and so is a lease.
        """
        joined = copy.copy(self)
        joined._sessions = Joined(connection)  # noqa: SLF001 - a copy of us
        return joined

    def verify(self) -> None:
        """
        Check that the database is fit for payments.

        Raises:
            MisconfiguredError: A standby, waits without bounds, or missing fences.
            StoreError: It cannot be asked.
        """
        self._run(queries.verify())

    def claim_many(self, claims: Sequence[Claim], /) -> list[ClaimOutcome | RailcoreError]:
        """Claim many in few statements: for each what ``claim`` would have returned or raised."""
        _refuse_send_marks(self._sessions, *claims)
        return self._share(queries.CLAIMS, claims, queries.claim_request)

    def record_many(
        self, recordings: Sequence[Recording]
    ) -> list[PaymentExecution | RailcoreError | None]:
        """Record many in few statements: for each what ``record`` would have returned or raised."""
        return self._share(queries.RECORDS, recordings, queries.record_request)

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        _refuse_send_marks(self._sessions, claim)
        return self._run(queries.claim(queries.claim_request(claim)))

    def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change where status and version still hold; None when somebody knew first."""
        return self._run(queries.record(queries.record_request(recording)))

    def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take a free or expired lease of an open execution, with a new fencing token."""
        _refuse_inside_a_transaction(self._sessions, "a lease")
        return self._run(queries.acquire(tenant_id, execution_id, owner, lease_s))

    def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take leases of due executions that nobody holds, those due longest first."""
        _refuse_inside_a_transaction(self._sessions, "a lease")
        return self._run(queries.acquire_due(due))

    def mark_sent(self, execution: PaymentExecution, lease_s: float, /) -> PaymentExecution | None:
        """Commit a send mark and extend the lease, if the token still holds it; else None."""
        _refuse_inside_a_transaction(self._sessions, "a send mark")
        return self._run(queries.mark_sent(execution, lease_s))

    def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Give the lease back and look again later; whether the token still held it."""
        return self._run(queries.reschedule(execution, next_check_s))

    def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Count out a send that was refused for certain; whether the token still held the lease."""
        return self._run(queries.put_back(execution, next_check_s))

    def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        return self._run(queries.note(execution, discrepancy, event))

    def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        return self._run(queries.note_orphan(orphan, event))

    def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        return self._run(queries.discrepancy(tenant_id, discrepancy_id))

    def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        return self._run(queries.list_discrepancies(tenant_id, limit, open_only=open_only))

    def discrepancies_of(self, tenant_id: str, payment_id: str, /) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        return self._run(queries.discrepancies_of(tenant_id, payment_id))

    def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        return self._run(queries.waiting_for_review(tenant_id, limit))

    def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """Store how an open discrepancy ends, with its event and executions, all or nothing."""
        _refuse_inside_a_transaction(self._sessions, "a resolution")
        return self._run(queries.resolve(resolving))

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        return self._run(queries.get(tenant_id, execution_id))

    def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        return self._run(queries.find(tenant_id, idempotency_key))

    def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        return self._run(queries.find_named(sought))

    def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        return self._run(queries.executions(tenant_id, payment_id))

    def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        return self._run(queries.open_executions(limit))

    def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        return self._run(queries.payment(tenant_id, payment_id))

    def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        return self._run(queries.events(tenant_id, payment_id))

    def _run(self, flow: Flow[Result]) -> Result:
        with self._sessions.open() as ask:
            return drive(flow, ask)

    def _share(
        self,
        sharing: Sharing[Item, Result],
        items: Sequence[Item],
        encode: Callable[[Item], Request[Item]],
    ) -> list[Result | RailcoreError]:
        outcomes, members = _members(items, encode)
        self._run(queries.share_all(sharing, members, self._group))
        return [outcomes[place] for place in range(len(items))]


class AsyncSqlExecutionStore:
    """
    An ``AsyncExecutionStore`` on PostgreSQL, over a host's engine, with group commit.

    Concurrent claims share statements, and so do concurrent records; each caller goes on only
    after the shared commit.

    Args:
        engine: With a URL that begins with ``postgresql+psycopg://``.
        group: The most members of one statement; 1 for a statement each.
        writers: The most shared statements of one kind at the same time; each borrows a connection.
        prepare: Whether the hot statements are prepared. Turn it off behind a PgBouncer before
            1.21.

    Raises:
        MisconfiguredError: The engine does not speak to PostgreSQL through psycopg 3.
    """

    def __init__(
        self, engine: AsyncEngine, *, group: int = 64, writers: int = 2, prepare: bool = True
    ) -> None:
        check_driver(engine)
        _check_at_least_one("group", group)
        _check_at_least_one("writers", writers)
        self._group = group
        self._sessions: AsyncSessions = AsyncBorrowed(engine, prepare)
        self._claims: GroupCommit[Claim, ClaimOutcome] | None = GroupCommit(
            queries.CLAIMS, self._sessions, group, writers
        )
        self._records: GroupCommit[Recording, PaymentExecution | None] | None = GroupCommit(
            queries.RECORDS, self._sessions, group, writers
        )

    def within(self, connection: AsyncConnection) -> Self:
        """
        Return a store that writes in the open transaction of *connection*.

        Nothing is committed here, and nothing may be sent before the host commits. What is claimed
        here waits to be sent; a claim that is its own send mark is refused, and so is a lease.
        """
        joined = copy.copy(self)
        joined._sessions = AsyncJoined(connection)  # noqa: SLF001 - a copy of us
        joined._claims = joined._records = None  # noqa: SLF001 - as above
        return joined

    async def verify(self) -> None:
        """
        Check that the database is fit for payments.

        Raises:
            MisconfiguredError: A standby, waits without bounds, or missing fences.
            StoreError: It cannot be asked.
        """
        await self._run(queries.verify())

    async def claim_many(self, claims: Sequence[Claim], /) -> list[ClaimOutcome | RailcoreError]:
        """Claim many in few statements: for each what ``claim`` would have returned or raised."""
        _refuse_send_marks(self._sessions, *claims)
        return await self._share(queries.CLAIMS, claims, queries.claim_request)

    async def record_many(
        self, recordings: Sequence[Recording]
    ) -> list[PaymentExecution | RailcoreError | None]:
        """Record many in few statements: for each what ``record`` would have returned or raised."""
        return await self._share(queries.RECORDS, recordings, queries.record_request)

    async def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless something is in the way."""
        _refuse_send_marks(self._sessions, claim)
        request = queries.claim_request(claim)
        if self._claims is None:
            return await self._run(queries.claim(request))
        return await self._claims.submit(request)

    async def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change where status and version still hold; None when somebody knew first."""
        request = queries.record_request(recording)
        if self._records is None:
            return await self._run(queries.record(request))
        return await self._records.submit(request)

    async def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take a free or expired lease of an open execution, with a new fencing token."""
        _refuse_inside_a_transaction(self._sessions, "a lease")
        return await self._run(queries.acquire(tenant_id, execution_id, owner, lease_s))

    async def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take leases of due executions that nobody holds, those due longest first."""
        _refuse_inside_a_transaction(self._sessions, "a lease")
        return await self._run(queries.acquire_due(due))

    async def mark_sent(
        self, execution: PaymentExecution, lease_s: float, /
    ) -> PaymentExecution | None:
        """Commit a send mark and extend the lease, if the token still holds it; else None."""
        _refuse_inside_a_transaction(self._sessions, "a send mark")
        return await self._run(queries.mark_sent(execution, lease_s))

    async def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Give the lease back and look again later; whether the token still held it."""
        return await self._run(queries.reschedule(execution, next_check_s))

    async def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """Count out a send that was refused for certain; whether the token still held the lease."""
        return await self._run(queries.put_back(execution, next_check_s))

    async def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        return await self._run(queries.note(execution, discrepancy, event))

    async def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        return await self._run(queries.note_orphan(orphan, event))

    async def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        return await self._run(queries.discrepancy(tenant_id, discrepancy_id))

    async def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        return await self._run(queries.list_discrepancies(tenant_id, limit, open_only=open_only))

    async def discrepancies_of(
        self, tenant_id: str, payment_id: str, /
    ) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        return await self._run(queries.discrepancies_of(tenant_id, payment_id))

    async def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        return await self._run(queries.waiting_for_review(tenant_id, limit))

    async def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """Store how an open discrepancy ends, with its event and executions, all or nothing."""
        _refuse_inside_a_transaction(self._sessions, "a resolution")
        return await self._run(queries.resolve(resolving))

    async def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        return await self._run(queries.get(tenant_id, execution_id))

    async def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        return await self._run(queries.find(tenant_id, idempotency_key))

    async def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        return await self._run(queries.find_named(sought))

    async def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        return await self._run(queries.executions(tenant_id, payment_id))

    async def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        return await self._run(queries.open_executions(limit))

    async def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        return await self._run(queries.payment(tenant_id, payment_id))

    async def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        return await self._run(queries.events(tenant_id, payment_id))

    async def _run(self, flow: Flow[Result]) -> Result:
        async with self._sessions.open() as ask:
            return await adrive(flow, ask)

    async def _share(
        self,
        sharing: Sharing[Item, Result],
        items: Sequence[Item],
        encode: Callable[[Item], Request[Item]],
    ) -> list[Result | RailcoreError]:
        outcomes, members = _members(items, encode)
        await self._run(queries.share_all(sharing, members, self._group))
        return [outcomes[place] for place in range(len(items))]


def _refuse_send_marks(sessions: Sessions | AsyncSessions, *claims: Claim) -> None:
    if any(claim.is_sent for claim in claims):
        _refuse_inside_a_transaction(sessions, "a claim that is its own send mark")


def _refuse_inside_a_transaction(sessions: Sessions | AsyncSessions, what: str) -> None:
    if isinstance(sessions, Joined | AsyncJoined):
        problem = f"{what} has to be committed before anything is sent, and the host commits later"
        remedy = "Claim work to be sent later here, and send with a store over the engine"
        raise MisconfiguredError("the host's transaction", problem, remedy)


def _members(
    items: Sequence[Item], encode: Callable[[Item], Request[Item]]
) -> tuple[dict[int, Any], list[Member[Item, Any]]]:
    """Return where outcomes are collected, by place, and what is to be written."""
    outcomes: dict[int, Any] = {}
    members: list[Member[Item, Any]] = []
    for place, item in enumerate(items):
        try:
            request = encode(item)
        except RailcoreError as error:
            outcomes[place] = error
        else:
            members.append(Member(request, partial(outcomes.__setitem__, place)))
    return outcomes, members


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise MisconfiguredError(
            name, f"wanted at least 1, found {value}", "Leave it out for the default"
        )
