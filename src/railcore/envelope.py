"""
How an event looks outside: CloudEvents 1.0, structured, as JSON.

An event of the journal never changes, and neither do the bytes made of it: a redelivery has the
same ones, so that a consumer may compare or hash them. Names of extension attributes hold only
lower-case letters and digits, as the specification demands.

Source: CloudEvents 1.0.2, its JSON format, and its extensions ``sequence``, ``partitioning`` and
``correlation``, https://github.com/cloudevents/spec.
"""

import json
from datetime import UTC
from typing import Final
from urllib.parse import quote

from railcore.errors import DeliveryError
from railcore.events import JournalEvent

CONTENT_TYPE: Final = "application/cloudevents+json"
"""The media type of what ``structured`` returns."""

SOURCE: Final = "/railcore"
"""Who tells, unless the host names itself: a URI reference. With the id it is unique."""

_SEQUENCE_DIGITS: Final = 19
"""As many as the largest ``bigint`` has: sequences then sort as texts, as CloudEvents asks."""


def structured(event: JournalEvent, source: str = SOURCE) -> bytes:
    """
    Return *event* as one JSON object in ASCII, the same bytes every time.

    Raises:
        DeliveryError: Its payload is no JSON, and never will be.
    """
    try:
        text = json.dumps(
            cloud_event(event, source), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise DeliveryError(
            f"event {event.event_id} holds what is no JSON", is_poison=True
        ) from error
    return text.encode("ascii")


def cloud_event(event: JournalEvent, source: str = SOURCE) -> dict[str, object]:
    """Return the attributes of *event* and, under ``data``, what it tells."""
    attributes: dict[str, object] = {
        "specversion": "1.0",
        "id": str(event.event_id),
        "source": source,
        "type": str(event.type),
        "subject": event.payment_id,
        "datacontenttype": "application/json",
        "tenantid": event.tenant_id,
        "partitionkey": partition_key(event),
        "sequence": f"{event.seq:0{_SEQUENCE_DIGITS}}",
        "data": _data(event),
    }
    if event.occurred_at is not None:
        at = event.occurred_at.astimezone(UTC).replace(tzinfo=None)
        attributes["time"] = at.isoformat(timespec="microseconds") + "Z"
    correlation = event.payload.get("correlation_id")
    if isinstance(correlation, str) and correlation:
        attributes["correlationid"] = correlation
    return attributes


def partition_key(event: JournalEvent) -> str:
    """Return what the events of one payment, and no others, have in common: a visible text."""
    return f"{quote(event.tenant_id, safe='')}/{event.payment_id}"


def _data(event: JournalEvent) -> dict[str, object]:
    """What was told when it happened, and the columns of the journal, which have the last word."""
    return {
        **event.payload,
        "tenant_id": event.tenant_id,
        "payment_id": event.payment_id,
        "execution_id": str(event.execution_id),
        "seq": event.seq,
        "version": event.version,
        "from_status": event.from_status,
        "to_status": event.to_status,
        "payment_rail": event.payment_rail,
        "payment_provider": event.payment_provider,
        "idempotency_key": event.idempotency_key,
    }
