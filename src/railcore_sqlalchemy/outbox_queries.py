"""
What an outbox does, as flows that ask for statements and receive rows.

Each is one statement, but for a replay, which walks the journal page by page. What lost a race or
waited too long for a lock is run again: nothing of it was committed.
"""

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Final, TypeVar

import orjson

from railcore.delivery import Backlog, BucketLease, FailedDelivery, OutboxEntry, ParkedPayment
from railcore.errors import InvalidValueError
from railcore.events import bucket_of
from railcore_sqlalchemy import rows
from railcore_sqlalchemy.driver import Query, StatementFailed, template
from railcore_sqlalchemy.rows import Row

Result = TypeVar("Result")
Flow = Generator[Query, Sequence[Row], Result]
"""A conversation with the database."""

ATTEMPTS: Final = 3
PAGE: Final = 5_000
"""How many events of the journal a replay looks at in one statement."""

_LEASE: Final = template("outbox_lease", writes=True, prepared=True)
_WAITING: Final = template("outbox_waiting")
_ACKNOWLEDGE: Final = template("outbox_acknowledge", writes=True, prepared=True)
_RELEASE: Final = template("outbox_release", writes=True, prepared=True)
_PARKED: Final = template("outbox_parked")
_UNPARK: Final = template("outbox_unpark", writes=True)
_BACKLOG: Final = template("outbox_backlog")
_JOURNAL: Final = template("outbox_journal")
_REPLAY: Final = template("outbox_replay", writes=True)

_PASSING: Final = frozenset({"40001", "40P01", "55P03"})
_BEFORE_ALL: Final = ("", 0, "")


def lease(owner: str, lease_s: float) -> Flow[BucketLease | None]:
    """Take a free bucket with something to deliver."""
    found = yield from _patiently(_LEASE({"owner": owner, "lease_s": rows.seconds(lease_s)}))
    return BucketLease(found[0]["bucket"], owner, found[0]["token"]) if found else None


def waiting(lease: BucketLease, limit: int, per_payment: int) -> Flow[Sequence[OutboxEntry]]:
    """Read what the holder of a bucket delivers next."""
    found = yield _WAITING(
        {"bucket": str(lease.bucket), "limit": str(limit), "per_payment": str(per_payment)}
    )
    return [OutboxEntry(rows.event_of(row), row["attempts"]) for row in found]


def acknowledge(
    lease: BucketLease,
    delivered: Sequence[OutboxEntry],
    failed: Sequence[FailedDelivery],
    lease_s: float,
) -> Flow[bool]:
    """Remove and note, for the holder of the lease."""
    query = _ACKNOWLEDGE(
        {
            **_held(lease),
            "lease_s": rows.seconds(lease_s),
            "delivered": _json([_key(entry) for entry in delivered]),
            "failed": _json([_failure(one) for one in failed]),
        }
    )
    (row,) = yield from _patiently(query)
    return bool(row["held"])


def release(lease: BucketLease) -> Flow[None]:
    """Give a lease back, for its holder."""
    yield from _patiently(_RELEASE(_held(lease)))


def parked(limit: int) -> Flow[Sequence[ParkedPayment]]:
    """Read which payments wait for a person."""
    found = yield _PARKED({"limit": str(limit)})
    return [_parked_of(row) for row in found]


def unpark(tenant_id: str, payment_id: str) -> Flow[bool]:
    """Let a parked payment go on."""
    key = {
        "bucket": str(bucket_of(tenant_id, payment_id)),
        "tenant_id": tenant_id,
        "aggregateid": payment_id,
    }
    return bool((yield from _patiently(_UNPARK(key))))


def backlog() -> Flow[Backlog]:
    """Count what waits."""
    (row,) = yield _BACKLOG({})
    oldest = row["oldest"]
    return Backlog(
        waiting=row["waiting"],
        parked=row["parked"],
        oldest=None if oldest is None else rows.instant(oldest),
    )


def replay(since: datetime) -> Flow[int]:
    """
    Put events back into the queue; how many were not there already.

    Raises:
        InvalidValueError: *since* has no time zone.
    """
    if since.utcoffset() is None:
        raise InvalidValueError("since", "an aware datetime", "one without a time zone")
    put_back, after = 0, _BEFORE_ALL
    while True:
        page = yield _JOURNAL(_page_after(after, since))
        if not page:
            return put_back
        after = max((row["aggregateid"], row["last_seq"], row["tenant_id"]) for row in page)
        items = [_replayed(row) for row in page if row["first_seq"] is not None]
        if items:
            (row,) = yield from _patiently(_REPLAY({"items": _json(items)}))
            put_back += row["put_back"]


def _page_after(key: tuple[str, int, str], since: datetime) -> dict[str, str | None]:
    payment_id, seq, tenant_id = key
    return {
        "aggregateid": payment_id,
        "seq": str(seq),
        "tenant_id": tenant_id,
        "since": since.isoformat(),
        "limit": str(PAGE),
    }


def _replayed(row: Row) -> dict[str, object]:
    return {
        "bucket": bucket_of(row["tenant_id"], row["aggregateid"]),
        "aggregateid": row["aggregateid"],
        "tenant_id": row["tenant_id"],
        "first_seq": row["first_seq"],
    }


def _held(lease: BucketLease) -> dict[str, str | None]:
    return {"bucket": str(lease.bucket), "token": str(lease.token), "owner": lease.owner}


def _key(entry: OutboxEntry) -> dict[str, object]:
    event = entry.event
    return {"tenant_id": event.tenant_id, "aggregateid": event.payment_id, "seq": event.seq}


def _failure(failed: FailedDelivery) -> dict[str, object]:
    return {
        **_key(failed.entry),
        "attempts": failed.attempts,
        "problem": failed.problem,
        "is_parked": failed.is_parked,
        "retry_s": failed.retry_s,
    }


def _parked_of(row: Row) -> ParkedPayment:
    return ParkedPayment(
        tenant_id=row["tenant_id"],
        payment_id=row["aggregateid"],
        seq=row["seq"],
        event_id=row["event_id"],
        attempts=row["attempts"],
        parked_at=rows.instant(row["parked_at"]),
        last_error=row["last_error"] or "",
    )


def _json(value: Sequence[object]) -> str:
    return orjson.dumps(value).decode()


def _patiently(query: Query) -> Flow[Sequence[Row]]:
    """Run *query* again, twice at most, when it lost a race or a lock was not free in time."""
    for _ in range(ATTEMPTS - 1):
        try:
            return (yield query)
        except StatementFailed as failed:
            if failed.sqlstate not in _PASSING:
                raise
    return (yield query)
