"""
The webhook inbox on PostgreSQL, in both colours.

A delivery and its body are kept by one statement, committed when ``receive`` returns. The rows
outlive the bodies: they are what knows a redelivery.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.errors import InProgressError
from railcore.flow import adrive, drive
from railcore.webhooks import InboxItem, InboxVerdict, ParkedDelivery, Settlement
from railcore_sqlalchemy import rows
from railcore_sqlalchemy.driver import template
from railcore_sqlalchemy.queries import ATTEMPTS, RETRY_AFTER, Flow, patiently
from railcore_sqlalchemy.rows import Parameters, Row
from railcore_sqlalchemy.sessions import AsyncBorrowed, Borrowed, check_driver

__all__ = ["AsyncSqlWebhookInbox", "SqlWebhookInbox"]

Result = TypeVar("Result")

_RECEIVE: Final = template("inbox_receive", writes=True, prepared=True)
_DUE: Final = template("inbox_due", writes=True)
_SETTLE: Final = template("inbox_settle", writes=True, prepared=True)
_PARKED: Final = template("inbox_parked")
_REPLAY: Final = template("inbox_replay", writes=True)

_NOBODY: Final = ""
"""The tenant of an account that tenants share."""


class SqlWebhookInbox:
    """
    A ``WebhookInbox`` on PostgreSQL, over a host's engine. Safe to share between threads.

    Args:
        engine: With a URL that begins with ``postgresql+psycopg://``.
        prepare: Whether the hot statements are prepared. Turn it off behind a PgBouncer before
            1.21.

    Raises:
        MisconfiguredError: The engine does not speak to PostgreSQL through psycopg 3.
    """

    def __init__(self, engine: sqlalchemy.Engine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions = Borrowed(engine, prepare)

    def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """Store a delivery once, its first try begun."""
        return self._run(_receive(item, lease_s))

    def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first."""
        return self._run(_due(limit, lease_s))

    def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun."""
        return self._run(_settle(item, settlement))

    def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        return self._run(_parked(limit))

    def replay(self, event_id: str, /) -> int:
        """Make an event due again; how many were made due."""
        return self._run(_replay(event_id, None))

    def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        return self._run(_replay(None, since))

    def _run(self, flow: Flow[Result]) -> Result:
        with self._sessions.open() as ask:
            return drive(flow, ask)


class AsyncSqlWebhookInbox:
    """The same, asynchronous."""

    def __init__(self, engine: AsyncEngine, *, prepare: bool = True) -> None:
        check_driver(engine)
        self._sessions = AsyncBorrowed(engine, prepare)

    async def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """Store a delivery once, its first try begun."""
        return await self._run(_receive(item, lease_s))

    async def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first."""
        return await self._run(_due(limit, lease_s))

    async def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun."""
        return await self._run(_settle(item, settlement))

    async def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        return await self._run(_parked(limit))

    async def replay(self, event_id: str, /) -> int:
        """Make an event due again; how many were made due."""
        return await self._run(_replay(event_id, None))

    async def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        return await self._run(_replay(None, since))

    async def _run(self, flow: Flow[Result]) -> Result:
        async with self._sessions.open() as ask:
            return await adrive(flow, ask)


def _receive(item: InboxItem, lease_s: float) -> Flow[InboxVerdict]:
    query = _RECEIVE(
        {
            **_name(item),
            "body_hash": _octets(item.body_sha256),
            "signed_at": None if item.signed_at is None else item.signed_at.isoformat(),
            "lease_s": rows.seconds(lease_s),
            "body": _octets(item.body),
        }
    )
    for _ in range(ATTEMPTS):
        found = yield from patiently(query)
        if found:
            return InboxVerdict(found[0]["verdict"])
    raise InProgressError(f"webhook event {item.event_id!r}", RETRY_AFTER)


def _due(limit: int, lease_s: float) -> Flow[Sequence[InboxItem]]:
    query = _DUE({"limit": str(limit), "lease_s": rows.seconds(lease_s)})
    found = yield from patiently(query)
    return [_item(row) for row in found]


def _settle(item: InboxItem, settlement: Settlement) -> Flow[bool]:
    retry_s = settlement.retry_s
    query = _SETTLE(
        {
            **_name(item),
            "attempts": str(item.attempts),
            "state": settlement.state,
            "retry_s": None if retry_s is None else rows.seconds(retry_s),
            "problem": settlement.problem,
            "is_fault": "true" if settlement.is_fault else "false",
        }
    )
    return bool((yield from patiently(query)))


def _parked(limit: int) -> Flow[Sequence[ParkedDelivery]]:
    found = yield _PARKED({"limit": str(limit)})
    return [_parked_of(row) for row in found]


def _replay(event_id: str | None, since: datetime | None) -> Flow[int]:
    at = None if since is None else since.isoformat()
    (row,) = yield from patiently(_REPLAY({"event_id": event_id, "since": at}))
    return int(row["again"])


def _name(item: InboxItem) -> Parameters:
    return {
        "tenant_id": item.tenant_id or _NOBODY,
        "provider": item.provider,
        "account": item.account,
        "event_id": item.event_id,
    }


def _octets(body: bytes) -> str:
    return f"\\x{body.hex()}"


def _item(row: Row) -> InboxItem:
    signed_at = row["signed_at"]
    return InboxItem(
        tenant_id=row["tenant_id"] or None,
        provider=row["provider"],
        account=row["account"],
        event_id=row["event_id"],
        body_sha256=bytes(row["body_sha256"]),
        body=bytes(row["body"] or b""),
        signed_at=None if signed_at is None else rows.instant(signed_at),
        attempts=row["attempts"],
        faults=row["faults"],
        waited_s=row["waited_s"],
    )


def _parked_of(row: Row) -> ParkedDelivery:
    return ParkedDelivery(
        tenant_id=row["tenant_id"] or None,
        provider=row["provider"],
        account=row["account"],
        event_id=row["event_id"],
        received_at=rows.instant(row["received_at"]),
        attempts=row["attempts"],
        problem=row["problem"] or "",
    )
