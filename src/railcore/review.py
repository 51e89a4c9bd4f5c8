"""
What a person has to look at, and how it ends.

A discrepancy is news that cannot be folded in: it contradicts a finished execution, or belongs to
none at all (an *orphan*: money that the provider took and that nobody here asked for). It is noted
once and stays open until a named person resolves it, on evidence, with a *remedy*.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid5

import attrs

from railcore import _checks
from railcore.enums import ExecutionStatus, Operation, PaymentRail, RouteMode
from railcore.errors import InvalidValueError
from railcore.execution import PaymentExecution
from railcore.lifecycle import Decision, Discrepancy, DiscrepancyKind
from railcore.money import Money
from railcore.redaction import kept_reference, shown_reference

_REFUNDING: Final = "railcore.refund."
_NAMESPACE: Final = UUID("9a3b1f52-7c1e-5d0a-8b57-2f6d4c8e0a13")


class Remedy(StrEnum):
    """
    How a discrepancy ends.

    ``accepted``: nothing is to be done, which is written down. ``adopt``: the money is ours and is
    booked, as a completed execution of its own that can be refunded. ``refund``: the same, and it
    is given back at once.
    """

    ACCEPTED = "accepted"
    ADOPT = "adopt"
    REFUND = "refund"


@attrs.frozen(kw_only=True)
class Orphan:
    """
    A charge at a provider that no execution of ours asked for.

    Attributes:
        rail, provider, account, mode: Where it was found.
        provider_ref: What the provider calls it.
        money: How much was taken; above zero.
    """

    tenant_id: str = attrs.field(validator=_checks.text(64))
    rail: PaymentRail = attrs.field(validator=_checks.one_of(PaymentRail))
    provider: str = attrs.field(validator=_checks.text(32))
    account: str = attrs.field(validator=_checks.text(64))
    mode: RouteMode = attrs.field(validator=_checks.one_of(RouteMode))
    provider_ref: str = attrs.field(
        validator=[_checks.one_of(str), _checks.reference(255)], repr=shown_reference
    )
    money: Money = attrs.field(validator=_checks.one_of(Money))

    def __attrs_post_init__(self) -> None:
        if self.money.amount_minor <= 0:
            raise InvalidValueError("money", "an amount above zero", str(self.money))

    @property
    def discrepancy(self) -> Discrepancy:
        """The discrepancy that tells of it, the same however often it is found."""
        name = kept_reference(self.provider_ref)
        names = (self.tenant_id, self.rail, self.provider, self.account, name)
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        discrepancy_id = uuid5(_NAMESPACE, digest)
        return Discrepancy(
            discrepancy_id=discrepancy_id,
            execution_id=adopting_id(discrepancy_id),
            kind=DiscrepancyKind.ORPHAN_CHARGE,
            sides=(f"charged {self.money} as {name}", "never asked for"),
            provider_ref=self.provider_ref,
            reported=self.money,
        )

    @property
    def payment_id(self) -> str:
        """The payment that keeps its events, and that an adoption books it on."""
        return f"orphan-{self.discrepancy.discrepancy_id.hex}"


@attrs.frozen(kw_only=True)
class Resolved:
    """
    How a discrepancy ended.

    Attributes:
        actor: Who decided.
        evidence: An opaque reference to what it rests on.
        execution_id: What was made of it: the adopting execution or the refund; None for
            ``accepted``.
    """

    remedy: Remedy
    actor: str
    evidence: str
    at: datetime
    execution_id: UUID | None = None


@attrs.frozen(kw_only=True)
class NotedDiscrepancy:
    """
    A discrepancy as stored.

    Attributes:
        payment_id: The payment whose events tell of it.
        orphan: The charge that nobody asked for, where it is one; it contradicts no execution.
        resolved: How it ended; None while it is open.
        disputed_minor: How much of its payment it keeps in doubt while it is open.
    """

    tenant_id: str
    payment_id: str
    discrepancy: Discrepancy
    opened_at: datetime
    orphan: Orphan | None = None
    resolved: Resolved | None = None
    disputed_minor: int = 0

    @property
    def discrepancy_id(self) -> UUID:
        """Its id."""
        return self.discrepancy.discrepancy_id

    @property
    def execution_id(self) -> UUID | None:
        """The execution that it contradicts; None for an orphan."""
        return None if self.orphan is not None else self.discrepancy.execution_id

    @property
    def is_open(self) -> bool:
        """Whether nobody has resolved it yet."""
        return self.resolved is None

    @property
    def is_in_dispute(self) -> bool:
        """Whether it is open and tells of money that an execution may have moved."""
        return self.is_open and self.discrepancy.kind.tells_of_money


@attrs.frozen(kw_only=True)
class Review:
    """
    What people have to look at, the oldest first.

    Attributes:
        discrepancies: Open contradictions, to be resolved.
        waiting: Executions that are pending with ``manual_review``, to be confirmed or rejected.
    """

    discrepancies: Sequence[NotedDiscrepancy]
    waiting: Sequence[PaymentExecution]


def adopting_id(discrepancy_id: UUID) -> UUID:
    """Return the id of the execution that adopts the money of a discrepancy."""
    return uuid5(discrepancy_id, "adopt")


def refunding_id(discrepancy_id: UUID) -> UUID:
    """Return the id of the execution that gives the money of a discrepancy back."""
    return uuid5(discrepancy_id, "refund")


def adopting_key(discrepancy_id: UUID) -> str:
    """Return the idempotency key of the execution that adopts the money of a discrepancy."""
    return f"railcore.adopt.{discrepancy_id}"


def refunding_key(discrepancy_id: UUID) -> str:
    """Return the idempotency key of the execution that gives the money back."""
    return f"{_REFUNDING}{discrepancy_id}"


def disputed_minor(execution: PaymentExecution, discrepancy: Discrepancy) -> int:
    """
    Return how much may have come that counts nowhere, in minor units of what was asked.

    It counts for charges and authorizations that are not completed, and the whole debt at most. A
    second reference is of one that completes in the same step.
    """
    kind, asked, told = discrepancy.kind, execution.money, discrepancy.reported
    is_second = kind is DiscrepancyKind.SECOND_REFERENCE
    if is_second or not kind.tells_of_money or execution.operation.follows_a_parent:
        return 0
    if told is None or told.currency != asked.currency:
        return asked.amount_minor
    return max(asked.amount_minor, told.amount_minor)


def not_given_back(execution: PaymentExecution, decision: Decision) -> tuple[Discrepancy, ...]:
    """Return what *decision* leaves for review: a resolving refund fails, and the money stays."""
    change = decision.change
    is_refunding = execution.idempotency_key.startswith(_REFUNDING)
    if change is None or change.status is not ExecutionStatus.FAILED or not is_refunding:
        return ()
    if execution.operation is not Operation.REFUND:
        return ()
    return (
        Discrepancy(
            discrepancy_id=uuid5(execution.execution_id, DiscrepancyKind.REFUND_FAILED),
            execution_id=execution.execution_id,
            kind=DiscrepancyKind.REFUND_FAILED,
            sides=(f"{execution.money} to be given back", f"failed {change.failure}"),
        ),
    )
