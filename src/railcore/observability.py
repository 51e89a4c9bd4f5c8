"""
What an ``Observer`` is told: one value a rail call, one value an outcome.

Nothing in them is secret or personal.
"""

from typing import ClassVar
from uuid import UUID

import attrs

from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.results import RailResult, ResultStatus


@attrs.frozen(kw_only=True)
class RailObserved:
    """
    One call of a rail ended.

    Attributes:
        step: ``execute``, ``advance`` or ``check_status``.
        status: What the rail answered; None when it raised.
        error: The type of the exception that it raised, never its text.
    """

    name: ClassVar[str] = "billing.rail.execution"
    step: str
    duration_ms: float
    tenant_id: str
    execution_id: UUID
    operation: Operation
    rail: PaymentRail
    provider: str
    account: str
    correlation_id: str | None
    status: ResultStatus | None
    failure_code: PaymentFailureCode | None
    error: str | None = None


@attrs.frozen(kw_only=True)
class ExecutionObserved:
    """
    One request of the host was answered with an execution.

    *is_repeat* when the key was known already.
    """

    name: ClassVar[str] = "billing.execution.result"
    duration_ms: float
    tenant_id: str
    execution_id: UUID
    operation: Operation
    rail: PaymentRail
    provider: str
    account: str
    correlation_id: str | None
    status: ExecutionStatus
    pending_reason: PendingReason | None
    failure_code: PaymentFailureCode | None
    is_repeat: bool = False


@attrs.frozen(kw_only=True)
class WebhookObserved:
    """
    A delivery came, or was tried.

    Attributes:
        verdict: ``refused``, ``accepted``, ``duplicate`` or ``conflict`` when it comes;
            ``applied``, ``waiting`` or ``parked`` when it is tried.
        account: None where none was proven yet.
        problem: Why it was refused or not applied; no content of the delivery.
    """

    name: ClassVar[str] = "billing.webhook"
    verdict: str
    provider: str
    account: str | None = None
    event_id: str | None = None
    problem: str | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether a person has to look: one event with two bodies, or one that is parked."""
        return self.verdict in {"conflict", "parked"}


@attrs.frozen(kw_only=True)
class DutyObserved:
    """
    Something went wrong in a worker, which goes on.

    Attributes:
        duty: What it was doing.
        error: The type of the exception, never its text.
    """

    name: ClassVar[str] = "billing.worker.trouble"
    duty: str
    error: str


@attrs.frozen(kw_only=True)
class EventParkedObserved:
    """
    No sink took an event: its payment waits for a person, others flow.

    Attributes:
        problem: What the sink said; card numbers masked.
    """

    name: ClassVar[str] = "billing.event.parked"
    tenant_id: str
    payment_id: str
    seq: int
    event_id: UUID
    problem: str


Observed = RailObserved | ExecutionObserved | WebhookObserved | DutyObserved | EventParkedObserved
"""Everything an observer can be told."""


def rail_observed(
    execution: PaymentExecution, step: str, duration_s: float, answer: RailResult | BaseException
) -> RailObserved:
    """Return what to tell of a rail call that took *duration_s* and ended with *answer*."""
    result = answer if isinstance(answer, RailResult) else None
    return RailObserved(
        step=step,
        duration_ms=duration_s * 1000,
        tenant_id=execution.tenant_id,
        execution_id=execution.execution_id,
        operation=execution.operation,
        rail=execution.rail,
        provider=execution.provider,
        account=execution.account,
        correlation_id=execution.context.correlation_id,
        status=None if result is None else result.status,
        failure_code=None if result is None else result.failure or result.cause,
        error=None if result is not None else type(answer).__name__,
    )


def execution_observed(
    execution: PaymentExecution, duration_s: float, *, is_repeat: bool
) -> ExecutionObserved:
    """Return what to tell of *execution* as the host's answer."""
    return ExecutionObserved(
        duration_ms=duration_s * 1000,
        tenant_id=execution.tenant_id,
        execution_id=execution.execution_id,
        operation=execution.operation,
        rail=execution.rail,
        provider=execution.provider,
        account=execution.account,
        correlation_id=execution.context.correlation_id,
        status=execution.status,
        pending_reason=execution.pending_reason,
        failure_code=execution.failure or execution.cause,
        is_repeat=is_repeat,
    )
