"""
The values that engine and store exchange.

What to claim, what to record, and what became of it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import attrs

from railcore import _checks
from railcore.enums import ExecutionStatus
from railcore.events import EventDraft
from railcore.execution import Account, PaymentExecution
from railcore.review import NotedDiscrepancy, Remedy


class ClaimVerdict(StrEnum):
    """What became of a claim."""

    CLAIMED = "claimed"
    DUPLICATE = "duplicate"
    LIVE = "live"
    IN_DOUBT = "in_doubt"
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
        verdict: ``claimed``, ``duplicate``, or why it was refused; ``in_doubt``: there is room only
            if none of the money came that open discrepancies tell of.
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
        is_fenced: Whether the news speaks only for the tries that the writer knew of (its own never
            left; the provider had not seen any), so that it counts only while
            ``before.lease.token`` still holds the lease. A provider's answer is news from anybody.
    """

    before: PaymentExecution
    after: PaymentExecution
    event: EventDraft
    next_check_s: float | None
    is_fenced: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.next_check_s is None) is self.after.is_open:
            raise ValueError("an open execution needs a next check, a terminal one has none")


@attrs.frozen(kw_only=True)
class Due:
    """
    Which due executions to take, for whom.

    Attributes:
        owner: Who takes the leases.
        lease_s: For how long.
        limit: The most of all.
        is_unsent: True for work that was never sent, False for everything else, None for both.
        most: The most of single accounts; none at all of those with 0.
        most_each: The most of every other account; None sets no bound but *limit*.
    """

    owner: str = attrs.field(validator=_checks.text(128))
    lease_s: float = attrs.field(validator=_checks.seconds)
    limit: int = attrs.field(validator=_checks.whole_number(0))
    is_unsent: bool | None = None
    most: Mapping[Account, int] = attrs.field(factory=dict, hash=False)
    most_each: int | None = attrs.field(
        default=None, validator=_checks.whole_number(0, optional=True)
    )

    def room(self, account: Account) -> int:
        """Return how many may be taken of *account*."""
        each = self.limit if self.most_each is None else self.most_each
        return self.most.get(account, each)


@attrs.frozen
class Acquired:
    """An execution whose lease we now hold, and the store's time."""

    execution: PaymentExecution
    at: datetime


@attrs.frozen(kw_only=True)
class Adoption:
    """
    Money that is already at the provider, to be booked: nothing is ever sent for it.

    Attributes:
        claim: The adopting execution. It is stored and completed in one step, so that nobody ever
            finds it unsent.
        recording: Completes it.
        refund: What gives the money back, to be sent once it is committed.
        is_named: Whether its reference is the provider's own, under which it is booked once.
    """

    claim: Claim
    recording: Recording
    refund: Claim | None = None
    is_named: bool = True


@attrs.frozen(kw_only=True)
class Resolving:
    """
    How a discrepancy is to end: all of it in one atomic step, or nothing.

    Attributes:
        noted: What it ends.
        actor, evidence: Who decided, and on what.
        execution_id: The adopting execution or the refund; None for ``accepted``.
        event: Tells of it.
        ends: What the decision makes of an execution that is still in doubt.
        adoptions: Where the money may be booked, the best place first; the first one that has room
            is taken.
        refund: What gives back money that is booked already.
    """

    noted: NotedDiscrepancy
    remedy: Remedy
    actor: str
    evidence: str
    execution_id: UUID | None
    event: EventDraft
    ends: Recording | None = None
    adoptions: tuple[Adoption, ...] = ()
    refund: Claim | None = None


class ResolveVerdict(StrEnum):
    """What became of a resolution."""

    RESOLVED = "resolved"
    ALREADY = "already"
    UNKNOWN = "unknown"
    MOVED = "moved"
    REFUSED = "refused"
    BOOKED = "booked"


@attrs.frozen
class ResolveOutcome:
    """
    What became of a resolution.

    Attributes:
        verdict: ``resolved``; ``already``: somebody was quicker; ``unknown``: no such discrepancy;
            ``moved``: the execution has changed since, decide again; ``refused``: a limit or a key
            is in the way; ``booked``: another execution has the same charge of the provider.
        noted: As stored, for ``resolved`` and ``already``.
    """

    verdict: ResolveVerdict
    noted: NotedDiscrepancy | None = None


def in_the_way(executions: Sequence[PaymentExecution]) -> PaymentExecution | None:
    """Return which execution of a payment a new charge runs into: open ones come first."""
    collecting = [one for one in executions if not one.operation.follows_a_parent]
    still_open = (one for one in collecting if one.is_open)
    completed = (one for one in collecting if one.status is ExecutionStatus.COMPLETED)
    return next(still_open, None) or next(completed, None)
