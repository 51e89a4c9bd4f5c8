"""
Exceptions: misuse and broken surroundings. What a provider refuses is a value, never an exception.

::

    RailcoreError
    ├── InvalidValueError (ValueError)        a value that cannot exist
    │   └── MoneyError                        an amount that cannot be expressed
    ├── MisconfiguredError (ValueError)       settings that contradict or lead nowhere
    ├── RefusedError                          nothing was sent or stored; has a code
    │   ├── RouteNotFoundError (LookupError)  no route for the context; has the trace
    │   ├── UnsupportedOperationError         the route cannot do this
    │   ├── IdempotencyConflict               the key belongs to another request
    │   ├── LiveExecutionExists               the debt is being collected, or collected
    │   ├── LimitExceededError                more than is left, doubt included
    │   ├── InDoubtError                      another operation has to be known first
    │   ├── CurrencyMismatchError             the payment is held in another currency
    │   ├── ApprovalError                     the operator may not decide this
    │   ├── AlreadyResolvedError              somebody decided otherwise; says who
    │   └── NoRemedyError                     this does not mend that discrepancy
    ├── UnknownProviderError (LookupError)    no rail is registered for the route
    ├── ExecutionNotFoundError (LookupError)  no such execution
    ├── DiscrepancyNotFoundError (LookupError)  no such discrepancy
    ├── InProgressError                       somebody else holds the key: retry
    ├── IllegalTransitionError                no edge of the transition table
    ├── TransportError                        no answer; says whether it may have left
    │   └── SendDeadlinePassed                too late to send; nothing has left
    ├── StoreError                            says whether it may have committed
    ├── DeliveryError                         a sink did not take an event
    ├── WebhookRefusedError                   not what its provider sends; nothing was stored
    └── OutcomeUnknownError                   sent, but not recorded: ask again later
"""

from datetime import timedelta
from uuid import UUID

import attrs

from railcore.failures import PaymentFailureCode


class RailcoreError(Exception):
    """The root of every exception that railcore raises on purpose."""


@attrs.define(eq=False, slots=False)
class InvalidValueError(RailcoreError, ValueError):
    """A value that cannot exist: *field* wanted one thing and found another."""

    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.field}: wanted {self.wanted}, found {self.found}"


class MoneyError(InvalidValueError):
    """An amount or a currency that cannot be expressed exactly. Nothing is rounded silently."""


@attrs.define(eq=False, slots=False)
class MisconfiguredError(RailcoreError, ValueError):
    """Settings that contradict each other or lead nowhere; *place* names where."""

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}. {self.remedy}"


class RefusedError(RailcoreError):
    """Refused before anything was sent or stored."""

    code: PaymentFailureCode = PaymentFailureCode.CONFIGURATION_ERROR


@attrs.define(eq=False, slots=False)
class RouteNotFoundError(RefusedError, LookupError):
    """
    No route takes this context.

    *trace* says which candidates were looked at and why they were not taken.
    """

    tenant_id: str
    payment_option_key: str
    trace: tuple[str, ...] = ()
    code = PaymentFailureCode.ROUTE_NOT_FOUND

    def __str__(self) -> str:
        looked = "; ".join(self.trace) or "nothing is configured"
        return (
            f"no route for option {self.payment_option_key!r} of tenant {self.tenant_id!r} "
            f"({looked}). "
            "Add an exact route, a default for the option, or a default route"
        )


@attrs.define(eq=False, slots=False)
class UnsupportedOperationError(RefusedError):
    """The route exists but cannot do what was asked."""

    route: str
    wanted: str
    offered: str
    code = PaymentFailureCode.UNSUPPORTED_OPERATION

    def __str__(self) -> str:
        return f"route {self.route} cannot do {self.wanted}; it offers {self.offered}"


@attrs.define(eq=False, slots=False)
class IdempotencyConflict(RefusedError):
    """The idempotency key belongs to a request that differs in something that moves money."""

    idempotency_key: str
    execution_id: UUID
    differs_in: tuple[str, ...]

    def __str__(self) -> str:
        fields = ", ".join(self.differs_in) or "what moves money"
        return (
            f"key {self.idempotency_key!r} already belongs to execution {self.execution_id}, "
            f"which differs in {fields}. "
            "Nothing was sent; use a new key for a new request"
        )


@attrs.define(eq=False, slots=False)
class LiveExecutionExists(RefusedError):
    """Another execution is collecting, or has collected, this debt."""

    payment_id: str
    execution_id: UUID | None

    def __str__(self) -> str:
        first = f"execution {self.execution_id}" if self.execution_id else "an earlier execution"
        return (
            f"payment {self.payment_id!r} is covered by {first}: "
            "together they would exceed what is due. Nothing was sent"
        )


@attrs.define(eq=False, slots=False)
class LimitExceededError(RefusedError):
    """More than the payment still allows, money in doubt counted."""

    payment_id: str
    operation: str
    asked_minor: int
    available_minor: int | None

    def __str__(self) -> str:
        rest = "less" if self.available_minor is None else f"{self.available_minor} minor units"
        return (
            f"{self.operation} of {self.asked_minor} minor units on payment {self.payment_id!r}: "
            f"{rest} available, amounts in doubt counted. Nothing was sent"
        )


@attrs.define(eq=False, slots=False)
class InDoubtError(RefusedError):
    """
    Other executions, whose outcome decides whether this is possible, are not known for sure.

    Ask again when *execution_ids* are known; ``engine.refresh`` asks their provider. Where there
    are *discrepancy_ids*, they failed and money may have moved all the same: a person has to
    resolve those first, with ``engine.resolve``.
    """

    payment_id: str
    operation: str
    execution_ids: tuple[UUID, ...]
    discrepancy_ids: tuple[UUID, ...] = ()

    def __str__(self) -> str:
        others = ", ".join(str(one) for one in self.execution_ids)
        if self.discrepancy_ids:
            noted = ", ".join(str(one) for one in self.discrepancy_ids)
            return (
                f"{self.operation} on payment {self.payment_id!r}: {others} may have moved money "
                f"all the same. Nothing was sent; discrepancy {noted} has to be resolved first"
            )
        return (
            f"{self.operation} on payment {self.payment_id!r} depends on what becomes of {others}, "
            "which is not known yet. Nothing was sent; ask again when it is"
        )


@attrs.define(eq=False, slots=False)
class CurrencyMismatchError(RefusedError):
    """The payment is held in another currency."""

    payment_id: str
    wanted: str

    def __str__(self) -> str:
        return (
            f"payment {self.payment_id!r} is not held in {self.wanted}. "
            "Nothing was sent; use the first execution's currency"
        )


@attrs.define(eq=False, slots=False)
class ApprovalError(RefusedError):
    """An operator's decision that the rail does not accept."""

    execution_id: UUID
    problem: str
    code = PaymentFailureCode.UNSUPPORTED_OPERATION

    def __str__(self) -> str:
        return f"execution {self.execution_id}: {self.problem}"


@attrs.define(eq=False, slots=False)
class AlreadyResolvedError(RefusedError):
    """A discrepancy that was resolved before, in another way or by somebody else."""

    discrepancy_id: UUID
    remedy: str
    actor: str
    code = PaymentFailureCode.UNSUPPORTED_OPERATION

    def __str__(self) -> str:
        return (
            f"discrepancy {self.discrepancy_id} was resolved as {self.remedy} by {self.actor}. "
            "That stands; nothing was sent or stored"
        )


@attrs.define(eq=False, slots=False)
class NoRemedyError(RefusedError):
    """A remedy that does not mend this discrepancy."""

    discrepancy_id: UUID
    remedy: str
    problem: str
    code = PaymentFailureCode.UNSUPPORTED_OPERATION

    def __str__(self) -> str:
        return (
            f"discrepancy {self.discrepancy_id} cannot be resolved as {self.remedy}: "
            f"{self.problem}. Nothing was sent or stored"
        )


@attrs.define(eq=False, slots=False)
class UnknownProviderError(RailcoreError, LookupError):
    """No rail is registered for this rail and provider."""

    wanted: str
    offered: tuple[str, ...]

    def __str__(self) -> str:
        offered = ", ".join(self.offered) or "none"
        return f"nothing is registered for {self.wanted}; registered are: {offered}"


@attrs.define(eq=False, slots=False)
class ExecutionNotFoundError(RailcoreError, LookupError):
    """No execution has this id, or this key where it was looked for by its key."""

    tenant_id: str
    execution_id: UUID | str

    def __str__(self) -> str:
        return f"tenant {self.tenant_id!r} has no execution {self.execution_id}"


@attrs.define(eq=False, slots=False)
class DiscrepancyNotFoundError(RailcoreError, LookupError):
    """No discrepancy has this id."""

    tenant_id: str
    discrepancy_id: UUID

    def __str__(self) -> str:
        return f"tenant {self.tenant_id!r} has no discrepancy {self.discrepancy_id}"


@attrs.define(eq=False, slots=False)
class InProgressError(RailcoreError):
    """
    Another transaction holds the key or the payment just now. Retry after *retry_after*.

    Nothing was sent.
    """

    what: str
    retry_after: timedelta

    def __str__(self) -> str:
        wait_s = self.retry_after.total_seconds()
        return f"{self.what} is in progress elsewhere; retry after {wait_s:g} s. Nothing was sent"


@attrs.define(eq=False, slots=False)
class IllegalTransitionError(RailcoreError):
    """A change that is no edge of the transition table: a defect, never news."""

    from_status: str
    to_status: str

    def __str__(self) -> str:
        return f"no edge leads from {self.from_status} to {self.to_status}"


@attrs.define(eq=False, slots=False)
class TransportError(RailcoreError):
    """
    A request got no answer.

    *may_have_left* is false only when it is proven that no byte reached the provider.
    """

    problem: str
    may_have_left: bool

    def __str__(self) -> str:
        left = "the request may have left" if self.may_have_left else "nothing was sent"
        return f"{self.problem} ({left})"


class SendDeadlinePassed(TransportError):
    """The send deadline passed before the first byte; nothing was sent."""


@attrs.define(eq=False, slots=False)
class StoreError(RailcoreError):
    """The store failed. Where *may_have_committed*, the same call with the same key finds out."""

    problem: str
    may_have_committed: bool

    def __str__(self) -> str:
        may = "the change may have been committed"
        return f"{self.problem} ({may if self.may_have_committed else 'nothing was committed'})"


@attrs.define(eq=False, slots=False)
class OutcomeUnknownError(RailcoreError):
    """
    The provider was called, but what it said could not be recorded.

    The execution stays open and is looked up later.
    """

    tenant_id: str
    execution_id: UUID

    def __str__(self) -> str:
        return (
            f"execution {self.execution_id} of tenant {self.tenant_id!r} was sent; "
            "its outcome could not be recorded and is unknown"
        )


@attrs.define(eq=False, slots=False)
class DeliveryError(RailcoreError):
    """A sink did not take an event. Where *is_poison*, this event can never be taken as it is."""

    problem: str
    is_poison: bool = False

    def __str__(self) -> str:
        return f"{self.problem} ({'never to be taken' if self.is_poison else 'try again later'})"


@attrs.define(eq=False, slots=False)
class WebhookRefusedError(RailcoreError):
    """A delivery that is not proven to come from its provider. Nothing of it was stored."""

    provider: str
    problem: str

    def __str__(self) -> str:
        return f"webhook of {self.provider!r} refused: {self.problem}"
