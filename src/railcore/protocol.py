"""
The values that engine and store exchange.

What to claim, what to record, and what became of it.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import attrs

from railcore import _checks
from railcore.enums import ExecutionStatus
from railcore.events import EventDraft
from railcore.execution import PaymentExecution


class ClaimVerdict(StrEnum):
    """What became of a claim."""

    CLAIMED = "claimed"
    DUPLICATE = "duplicate"
    LIVE = "live"
    LIMIT = "limit"
    NO_PAYMENT = "no_payment"
    CURRENCY = "currency"
    MOVED = "moved"


@attrs.frozen(kw_only=True)
class Claim:
    """
    An execution to be stored before anything is sent.

    Attributes:
        execution: ``processing``, version 1, without times: the store's clock gives them.
        event: Its ``started`` event.
        owner: Who will send it.
        lease_s: For how long nobody else may.
        is_sent: Whether this claim is also the send mark. False for enqueued work: not sent, no
            lease.
        check_after_s: When somebody looks at it at the latest.
        head_seq: For capture, void and refund: the payment's ``seq`` that the decision was made on;
            a moved one is refused.
    """

    execution: PaymentExecution
    event: EventDraft
    owner: str
    lease_s: float = attrs.field(validator=_checks.seconds)
    is_sent: bool
    check_after_s: float = attrs.field(validator=_checks.seconds)
    head_seq: int | None = None


@attrs.frozen
class ClaimOutcome:
    """
    What became of a claim.

    Attributes:
        verdict: ``claimed``, ``duplicate``, or why it was refused.
        execution: As stored: the claimed one, the one that holds the key, or for ``live`` the one
            in the way if known.
    """

    verdict: ClaimVerdict
    execution: PaymentExecution | None = None


@attrs.frozen(kw_only=True)
class Recording:
    """
    A change to be stored, if nobody knew more first.

    Attributes:
        before: The execution that the change was decided on; its status and version are the guard.
        after: The same, evolved.
        event: Its event.
        next_check_s: Seconds until somebody looks again; None exactly when ``after`` is terminal.
        is_fenced: Whether the news speaks only for the writer's own try (it never left), so that it
            counts only while ``before.lease.token`` still holds the lease. A provider's answer is
            news from anybody.
    """

    before: PaymentExecution
    after: PaymentExecution
    event: EventDraft
    next_check_s: float | None
    is_fenced: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.next_check_s is None) is self.after.is_open:
            raise ValueError("an open execution needs a next check, a terminal one has none")


@attrs.frozen
class Acquired:
    """An execution whose lease we now hold, and the store's time."""

    execution: PaymentExecution
    at: datetime


def in_the_way(executions: Sequence[PaymentExecution]) -> PaymentExecution | None:
    """Return which execution of a payment a new charge runs into: open ones come first."""
    collecting = [one for one in executions if not one.operation.follows_a_parent]
    still_open = (one for one in collecting if one.is_open)
    completed = (one for one in collecting if one.status is ExecutionStatus.COMPLETED)
    return next(still_open, None) or next(completed, None)
