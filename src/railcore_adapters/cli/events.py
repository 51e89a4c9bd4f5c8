"""``railcore events``: what is still to be delivered, what is parked, and delivering it again."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy

from railcore.delivery import ParkedPayment
from railcore_adapters.embedded import open_database
from railcore_sqlalchemy.outbox import SqlOutbox


@contextmanager
def open_outbox(database_url: str) -> Iterator[SqlOutbox]:
    """Yield the outbox in the database at *database_url*."""
    with open_database(database_url) as database:
        engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
        yield SqlOutbox(engine)


def as_json(one: ParkedPayment) -> dict[str, object]:
    """Return a parked payment for programs."""
    return {
        "tenant_id": one.tenant_id,
        "payment_id": one.payment_id,
        "seq": one.seq,
        "event_id": str(one.event_id),
        "attempts": one.attempts,
        "parked_at": one.parked_at.isoformat(),
        "last_error": one.last_error,
    }


def replay(database_url: str, since: datetime) -> int:
    """Deliver every event since *since* again; how many."""
    with open_outbox(database_url) as outbox:
        return outbox.replay(since.astimezone())
