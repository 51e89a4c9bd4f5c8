"""``railcore webhooks``: deliveries that wait for a person, and applying some of them again."""

from datetime import datetime

import sqlalchemy

from railcore.webhooks import ParkedDelivery
from railcore_adapters.embedded import open_database
from railcore_sqlalchemy.inbox import SqlWebhookInbox


def replay(database_url: str, what: str) -> int:
    """Make the event *what* due again, or everything since the instant *what*; how many."""
    since = instant_of(what)
    with open_database(database_url) as database:
        inbox = _inbox(database.url)
        return inbox.replay(what) if since is None else inbox.replay_since(since)


def parked(database_url: str, limit: int) -> list[ParkedDelivery]:
    """Return what waits for a person, the oldest first."""
    with open_database(database_url) as database:
        return list(_inbox(database.url).parked(limit))


def instant_of(what: str) -> datetime | None:
    """
    Return the instant that *what* names, in local time where it says no zone; else None.

    >>> instant_of("2026-03-01T12:00:00+00:00").isoformat()
    '2026-03-01T12:00:00+00:00'
    >>> instant_of("evt_1") is None
    True
    """
    try:
        at = datetime.fromisoformat(what)
    except ValueError:
        return None
    return at.astimezone()


def as_json(one: ParkedDelivery) -> dict[str, object]:
    """Return a parked delivery for programs."""
    return {
        "tenant_id": one.tenant_id,
        "provider": one.provider,
        "account": one.account,
        "event_id": one.event_id,
        "received_at": one.received_at.isoformat(),
        "attempts": one.attempts,
        "problem": one.problem,
    }


def _inbox(url: str) -> SqlWebhookInbox:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    return SqlWebhookInbox(engine)
