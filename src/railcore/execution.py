"""One money-moving operation as it is stored, and the payment that several of them add up to."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import attrs

from railcore import _checks
from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.errors import InvalidValueError
from railcore.failures import UNKNOWN_CAUSES, PaymentFailureCode
from railcore.money import Currency, Money
from railcore.redaction import shown_reference
from railcore.results import NextAction

_NOTHING: Final[Mapping[str, object]] = {}


Account = tuple[PaymentRail, str, str]
"""Rail, provider and account: one set of credentials."""


@attrs.frozen
class Lease:
    """
    Who may act on an execution just now.

    Attributes:
        owner: Names the process, for people.
        token: Fencing token: a write with an older one changes neither lease nor schedule.
        until: Database time.
    """

    owner: str | None = attrs.field(validator=_checks.text(128, optional=True))
    token: int = attrs.field(validator=_checks.whole_number(0))
    until: datetime | None = attrs.field(validator=_checks.aware)


@attrs.frozen(kw_only=True, slots=False)
class PaymentExecution:
    """
    One money-moving operation, stored: the unit of idempotency and of doubt.

    Attributes:
        execution_id: Made by the client; means nothing, orders nothing.
        context: What the host asked for, as stored.
        rail, provider, account, mode: The route that was resolved when the execution was claimed.
        status, pending_reason, failure, cause: See ``railcore.lifecycle``.
        version: Counts changes; each has exactly one event.
        phase: How many steps that move money have been begun; orders news across steps.
        provider_ref: The provider's id of it.
        settled_minor: What the provider says it moved or received so far.
        next_action: What the payer has to do.
        progress: Orders news of the same pending reason.
        parent_ref: The provider's id of what a capture, void or refund acts on.
        send_before: Until when enqueued work may be sent for the first time; None for what was sent
            with its claim.
        refused_count: How many of the sends were refused for certain before anything was done.
        lease, send_count, first_sent_at, last_sent_at, next_check_at, check_count: Who acts, and
            when it is looked at next.
    """

    execution_id: UUID
    context: PaymentContext
    rail: PaymentRail
    provider: str = attrs.field(validator=_checks.text(32))
    account: str = attrs.field(validator=_checks.text(64))
    mode: RouteMode
    parent_ref: str | None = attrs.field(default=None, repr=shown_reference)
    send_before: datetime | None = None
    status: ExecutionStatus = ExecutionStatus.PROCESSING
    pending_reason: PendingReason | None = None
    failure: PaymentFailureCode | None = None
    cause: PaymentFailureCode | None = None
    version: int = 1
    phase: int = 0
    progress: int = 0
    provider_ref: str | None = attrs.field(default=None, repr=shown_reference)
    settled_minor: int | None = None
    next_action: NextAction | None = None
    expires_at: datetime | None = None
    provider_response: Mapping[str, object] = attrs.field(default=_NOTHING, hash=False)
    lease: Lease = Lease(None, 0, None)
    send_count: int = 0
    refused_count: int = 0
    first_sent_at: datetime | None = None
    last_sent_at: datetime | None = None
    next_check_at: datetime | None = None
    check_count: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        shape = tuple(map(type, _of_kinds(self)))
        if shape not in _sound_shapes:
            _check_kinds(self)
            _sound_shapes.add(shape)
        _a_reference(self, _provider_ref, self.provider_ref)
        if self.version < 1 or min(_of_counts(self)) < 0:
            raise InvalidValueError("version", "counts of zero or more, version from 1", "less")
        for at in _of_instants(self):
            if at is not None and at.tzinfo is None:
                raise InvalidValueError("next_check_at", "aware instants", _checks.shape(at))
        self._check_state()

    def changed(self, **changes: Any) -> "PaymentExecution":
        """
        Return a copy with *changes*, checked as on construction; what it is cannot be changed.

        Executions are rebuilt three times a payment: this costs a third of ``attrs.evolve``.
        """
        if not _MAY_CHANGE.issuperset(changes):
            raise TypeError(f"no change of an execution: {', '.join(changes.keys() - _MAY_CHANGE)}")
        copy = object.__new__(PaymentExecution)
        vars(copy).update(vars(self), **changes)
        copy.__attrs_post_init__()
        return copy

    def _check_state(self) -> None:
        reason, failure, cause = self.pending_reason, self.failure, self.cause
        if (self.status is ExecutionStatus.PENDING) is (reason is None):
            raise InvalidValueError("pending_reason", "a reason exactly when pending", f"{reason}")
        if (self.status is ExecutionStatus.FAILED) is (failure is None):
            raise InvalidValueError("failure", "a code exactly when failed", f"{failure}")
        if failure is not None and not failure.is_definite:
            raise InvalidValueError("failure", "a code that proves that no money moved", failure)
        in_doubt = reason is PendingReason.OUTCOME_UNKNOWN
        if cause is not None and (not in_doubt or cause not in UNKNOWN_CAUSES):
            raise InvalidValueError("cause", "the cause of an unknown outcome", cause)

    @property
    def tenant_id(self) -> str:
        """Whose money."""
        return self.context.tenant_id

    @property
    def payment_id(self) -> str:
        """The debt."""
        return self.context.payment_id

    @property
    def idempotency_key(self) -> str:
        """The host's key."""
        return self.context.idempotency_key

    @property
    def operation(self) -> Operation:
        """What it does."""
        return self.context.operation

    @property
    def money(self) -> Money:
        """How much was asked."""
        return self.context.money

    @property
    def provider_key(self) -> str:
        """The derived key at the provider."""
        return self.context.provider_key

    @property
    def is_open(self) -> bool:
        """Whether the outcome may still change, so that somebody has to look again."""
        return not self.status.is_terminal

    @property
    def account_key(self) -> Account:
        """Whose credentials at whom: what limits and breakers go by."""
        return self.rail, self.provider, self.account

    @property
    def tries(self) -> int:
        """How many sends may have arrived."""
        return self.send_count - self.refused_count

    @property
    def is_unsent(self) -> bool:
        """Whether it is certain that nothing has been sent yet, so that the first send is due."""
        return self.status is ExecutionStatus.PROCESSING and not self.tries

    @property
    def is_in_doubt(self) -> bool:
        """Whether money may have moved without a definite answer."""
        return (
            self.status is ExecutionStatus.PROCESSING
            or self.pending_reason is PendingReason.OUTCOME_UNKNOWN
        )


_NONE: Final = type(None)
_COUNTS: Final = ("version", "phase", "progress", "send_count", "refused_count", "check_count")
_INSTANTS: Final = (
    "send_before",
    "expires_at",
    "first_sent_at",
    "last_sent_at",
    "next_check_at",
    "created_at",
    "updated_at",
)
_KINDS: Final[Mapping[str, Any]] = {
    "execution_id": UUID,
    "context": PaymentContext,
    "rail": PaymentRail,
    "mode": RouteMode,
    "status": ExecutionStatus,
    "pending_reason": (PendingReason, _NONE),
    "failure": (PaymentFailureCode, _NONE),
    "cause": (PaymentFailureCode, _NONE),
    "parent_ref": (str, _NONE),
    "provider_ref": (str, _NONE),
    "settled_minor": (int, _NONE),
    "next_action": (NextAction, _NONE),
    "provider_response": Mapping,
    "lease": Lease,
    **dict.fromkeys(_INSTANTS, (datetime, _NONE)),
    **dict.fromkeys(_COUNTS, int),
}
_IDENTITY: Final = frozenset(
    {"execution_id", "context", "rail", "provider", "account", "mode", "parent_ref", "send_before"}
)
_MAY_CHANGE: Final = frozenset(attrs.fields_dict(PaymentExecution)) - _IDENTITY
_provider_ref: Final = attrs.fields(PaymentExecution).provider_ref
_a_reference: Final = _checks.reference(255)
_sound_shapes: Final = set[tuple[type, ...]]()
"""
The combinations of field types that were found right before.

There are few, and executions are built several times a payment.
"""
_of_kinds: Final = attrgetter(*_KINDS)
_of_counts: Final = attrgetter(*_COUNTS)
_of_instants: Final = attrgetter(*_INSTANTS)


def _check_kinds(execution: PaymentExecution) -> None:
    for name, kind in _KINDS.items():
        value = getattr(execution, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidValueError(name, f"{kind}", _checks.shape(value))


_amount = _checks.whole_number(0)


@attrs.frozen(kw_only=True)
class PaymentView:
    """
    The payment: all executions that collect one debt, in minor units of one currency.

    Attributes:
        seq: Number of the payment's last event.
        due_minor: The whole debt.
        charging_minor: In open charges and authorizations: in doubt or under way.
        authorized_minor: Ever authorized, by charge or authorization.
        capturing_minor, voiding_minor, refunding_minor: In open captures, voids and refunds.
        captured_minor, voided_minor, refunded_minor: Completed ones.
        disputed_minor: What open discrepancies tell of charges and authorizations that are not
            completed: it may have come all the same.
    """

    tenant_id: str = attrs.field(validator=_checks.text(64))
    payment_id: str = attrs.field(validator=_checks.text(128))
    currency: Currency = attrs.field(validator=_checks.one_of(Currency))
    seq: int = attrs.field(validator=_checks.whole_number(1))
    due_minor: int = attrs.field(validator=_amount)
    charging_minor: int = attrs.field(default=0, validator=_amount)
    authorized_minor: int = attrs.field(default=0, validator=_amount)
    capturing_minor: int = attrs.field(default=0, validator=_amount)
    captured_minor: int = attrs.field(default=0, validator=_amount)
    voiding_minor: int = attrs.field(default=0, validator=_amount)
    voided_minor: int = attrs.field(default=0, validator=_amount)
    refunding_minor: int = attrs.field(default=0, validator=_amount)
    refunded_minor: int = attrs.field(default=0, validator=_amount)
    disputed_minor: int = attrs.field(default=0, validator=_amount)

    @property
    def chargeable_minor(self) -> int:
        """What a new charge or authorization may still ask for."""
        return self.due_minor - self.charging_minor - self.authorized_minor + self.voided_minor

    @property
    def capturable_minor(self) -> int:
        """What a capture or a void may still ask for, doubt counted."""
        taken = self.captured_minor + self.capturing_minor + self.voided_minor + self.voiding_minor
        return self.authorized_minor - taken

    @property
    def refundable_minor(self) -> int:
        """What a refund may still ask for, doubt counted."""
        return self.captured_minor - self.refunded_minor - self.refunding_minor

    def available_minor(self, operation: Operation) -> int:
        """Return how much *operation* may still ask for."""
        match operation:
            case Operation.CHARGE | Operation.AUTHORIZE:
                return self.chargeable_minor
            case Operation.CAPTURE | Operation.VOID:
                return self.capturable_minor
            case Operation.REFUND:
                return self.refundable_minor


def available_of(
    parent: PaymentExecution, operation: Operation, executions: Iterable[PaymentExecution]
) -> int:
    """
    Return how much *operation* may still ask of *parent* itself, doubt counted.

    The payment's own limit is beside this one: of two authorizations of a payment each gives no
    more than it holds, and no charge gives back what another one collected.

    Args:
        executions: All executions of the payment.
    """
    alive = [one for one in executions if one.status is not ExecutionStatus.FAILED]
    if operation is not Operation.REFUND:
        taken = (one for one in alive if one.context.parent_execution_id == parent.execution_id)
        return parent.money.amount_minor - _total(
            one for one in taken if one.operation in {Operation.CAPTURE, Operation.VOID}
        )
    own = _refundable(parent.money.amount_minor, {parent.execution_id}, alive)
    if parent.operation is Operation.CHARGE:
        return own
    is_root = parent.operation is Operation.AUTHORIZE
    root_id = parent.execution_id if is_root else parent.context.parent_execution_id
    captures = [
        one
        for one in alive
        if one.operation is Operation.CAPTURE
        and one.status is ExecutionStatus.COMPLETED
        and one.context.parent_execution_id == root_id
    ]
    names = {root_id, *(one.execution_id for one in captures)}
    return min(own, _refundable(_total(captures), names, alive))


def _refundable(
    captured_minor: int, names: set[UUID | None], alive: Iterable[PaymentExecution]
) -> int:
    refunds = (one for one in alive if one.operation is Operation.REFUND)
    return captured_minor - _total(
        one for one in refunds if one.context.parent_execution_id in names
    )


def _total(executions: Iterable[PaymentExecution]) -> int:
    return sum(one.money.amount_minor for one in executions)
