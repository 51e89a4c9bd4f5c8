"""
What is announced to the outside: events on their way from the journal to a sink.

First deliveries of a payment are 1, 2, 3 ... in order; a redelivery may begin again at an earlier
number and goes on from there, and never skips. Consumers keep the last number of each payment and
drop what is not above it.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

import attrs

from railcore import _checks
from railcore.events import JournalEvent
from railcore.redaction import masked

_LONGEST_PROBLEM: Final = 500


@attrs.frozen
class BucketLease:
    """
    Who relays one bucket of payments just now.

    Attributes:
        bucket: 0 to 63; a payment is always in the same one.
        owner: Names the process, for people.
        token: Fencing token: an acknowledgement with an older one changes nothing.
    """

    bucket: int = attrs.field(validator=_checks.whole_number(0))
    owner: str = attrs.field(validator=_checks.text(128))
    token: int = attrs.field(validator=_checks.whole_number(1))


@attrs.frozen
class OutboxEntry:
    """
    An event that is still to be delivered.

    Attributes:
        event: As the journal has it.
        attempts: How often it was tried in vain while the sink took others.
    """

    event: JournalEvent
    attempts: int = attrs.field(default=0, validator=_checks.whole_number(0))


def _printable(said: str) -> str:
    """Return what a sink said as any database keeps it."""
    text = "".join(letter if letter.isprintable() else " " for letter in said)
    return masked(text.encode(errors="replace").decode())[:_LONGEST_PROBLEM]


@attrs.frozen
class FailedDelivery:
    """
    An entry that a sink did not take.

    Attributes:
        entry: Which one.
        problem: What the sink said: at most 500 printable characters, card numbers masked.
        attempts: How often it has been tried in vain by now.
        is_parked: Whether it is tried no more until a person says so: its payment waits, others
            flow.
        retry_s: Otherwise, in how many seconds it is tried again.
    """

    entry: OutboxEntry
    problem: str = attrs.field(converter=_printable)
    attempts: int = attrs.field(validator=_checks.whole_number(0))
    is_parked: bool = False
    retry_s: float = attrs.field(default=0.0, validator=_checks.seconds)


@attrs.frozen
class ParkedPayment:
    """A payment whose next event no sink took, so that it waits for a person."""

    tenant_id: str
    payment_id: str
    seq: int
    event_id: UUID
    attempts: int
    parked_at: datetime
    last_error: str


@attrs.frozen
class Backlog:
    """
    How much is still to be delivered.

    Attributes:
        waiting: Entries, parked payments' included.
        parked: Payments that wait for a person.
        oldest: When the oldest entry was written; None when nothing waits.
    """

    waiting: int
    parked: int
    oldest: datetime | None
