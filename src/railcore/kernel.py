"""
What an engine decides, without any I/O: both colours of engine ask here.

The rules are those of the call protocol: R1 claim before sending, R2 a send deadline, R3 resend
only what is idempotent and only after a lookup, R4 when silence proves something, R5 only definite
facts end an execution.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from railcore import _checks
from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Idempotency, Operation, PaymentRail, PendingReason
from railcore.errors import (
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    InProgressError,
    InvalidValueError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.events import draft_event
from railcore.execution import PaymentExecution, PaymentView, available_of
from railcore.failures import FailureCategory, PaymentFailureCode, UnknownCause
from railcore.lifecycle import Decision, Fact, FactSource, evolve
from railcore.ports import Clock, Observer, RouteResolver
from railcore.protocol import Claim, ClaimOutcome, ClaimVerdict, Recording
from railcore.results import RailResult
from railcore.routing import Offered, PaymentRoute, RouteCapabilities, TimingBounds

_SOON_S: Final = 0.05


@attrs.frozen(kw_only=True)
class EngineSettings:
    """
    How an engine leases and looks again.

    Attributes:
        owner: Names this process in leases, for people.
        lease_s: For how long nobody else may act on an execution that this engine calls the
            provider for. Has to be longer than any rail's send deadline and answer timeout
            together.
        first_check_s: When an open execution is looked at again first; doubles with every look.
        last_check_s: The longest wait between two looks.
    """

    owner: str = attrs.field(default="engine", validator=_checks.text(128))
    lease_s: float = attrs.field(default=60.0, validator=_checks.seconds)
    first_check_s: float = attrs.field(default=15.0, validator=_checks.seconds)
    last_check_s: float = attrs.field(default=86_400.0, validator=_checks.seconds)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.first_check_s <= self.last_check_s:
            wanted = f"above zero, at most last_check_s = {self.last_check_s:g} s"
            raise InvalidValueError("first_check_s", wanted, f"{self.first_check_s:g} s")


@attrs.frozen
class Plan:
    """What to claim, and the bounds of the route that it is claimed for."""

    claim: Claim
    timing: TimingBounds


@attrs.frozen
class Record:
    """After a lookup: this is news."""

    fact: Fact


@attrs.frozen
class Resend:
    """After a lookup: rule R3 allows the same request again, with the same key."""


@attrs.frozen
class Wait:
    """After a lookup: nothing new is known; look again in *seconds*."""

    seconds: float


AfterLookup = Record | Resend | Wait
"""What a lookup leads to."""


@attrs.frozen(kw_only=True)
class Kernel:
    """
    The decisions of one engine.

    Attributes:
        routes: Finds routes for new executions.
        offered: What is registered, with capabilities.
        observer: Is told of rail calls and answers, if there is one.
        clock: Time for deadlines and expiry; leases and due dates are the store's.
        new_id: Makes execution ids.
    """

    routes: RouteResolver
    offered: Offered
    settings: EngineSettings
    clock: Clock
    observer: Observer | None
    new_id: Callable[[], UUID]

    def plan(self, context: PaymentContext) -> Plan:
        """
        Return what to claim for a charge or an authorization.

        Raises:
            RefusedError: No route, or the route cannot do it. Nothing was sent or stored.
            UnknownProviderError: The route leads to a rail that is not registered.
        """
        resolution = self.routes.resolve(context)
        self._offered(resolution.route.rail, resolution.route.provider)
        resolution.route.check(context)
        return self._plan(context, resolution.route, resolution.trace, head_seq=None)

    def plan_follow_up(
        self,
        context: PaymentContext,
        parent: PaymentExecution | None,
        payment: PaymentView | None,
        executions: Sequence[PaymentExecution],
    ) -> Plan:
        """
        Return what to claim for a capture, void or refund: on the route that the parent took.

        Args:
            executions: All of the payment, read after *payment*: what has been added since moves
                the payment's ``seq``, which refuses the claim.

        Raises:
            RefusedError: The parent or the payment does not allow it. Nothing was sent or stored.
            ExecutionNotFoundError: There is no such parent.
        """
        if parent is None or payment is None or parent.payment_id != context.payment_id:
            raise ExecutionNotFoundError(
                context.tenant_id, context.parent_execution_id or UUID(int=0)
            )
        if parent.status is not ExecutionStatus.COMPLETED:
            raise UnsupportedOperationError(
                parent.provider,
                f"{context.operation} of an execution that is {parent.status}",
                "completed executions",
            )
        if parent.operation not in _PARENTS[context.operation]:
            raise UnsupportedOperationError(
                parent.provider,
                f"{context.operation} of a {parent.operation}",
                ", ".join(sorted(_PARENTS[context.operation])),
            )
        route = self._route_of(parent)
        route.check(context)
        self._check_limits(context, payment, parent, executions)
        return self._plan(context, route, (f"the parent's route: {route}",), head_seq=payment.seq)

    def send_by(self, timing: TimingBounds) -> Deadline:
        """Return the send deadline of a request that is marked as sent from now on (rule R2)."""
        monotonic = self.clock.monotonic
        return Deadline(monotonic() + timing.send_deadline_s, monotonic)

    def capabilities(self, execution: PaymentExecution) -> RouteCapabilities:
        """
        Return what the rail of a stored execution declares.

        Raises:
            UnknownProviderError: Nothing is registered for it any more.
        """
        return self._offered(execution.rail, execution.provider)

    def known(self, context: PaymentContext, stored: PaymentExecution) -> PaymentExecution:
        """
        Return the execution that holds the key, if it is the same request.

        Raises:
            IdempotencyConflict: It differs in something that moves money.
        """
        if stored.context.fingerprint == context.fingerprint:
            return stored
        raise IdempotencyConflict(
            context.idempotency_key, stored.execution_id, context.differences(stored.context)
        )

    def not_claimed(self, context: PaymentContext, outcome: ClaimOutcome) -> PaymentExecution:
        """
        Return the stored execution of a known key; otherwise say why the claim was refused.

        Raises:
            RefusedError: The typed reason. Nothing was sent or stored.
        """
        match outcome.verdict:
            case ClaimVerdict.DUPLICATE if outcome.execution is not None:
                return self.known(context, outcome.execution)
            case ClaimVerdict.LIVE:
                found = outcome.execution
                raise LiveExecutionExists(
                    context.payment_id, None if found is None else found.execution_id
                )
            case ClaimVerdict.CURRENCY:
                raise CurrencyMismatchError(context.payment_id, context.money.currency.code)
            case ClaimVerdict.LIMIT | ClaimVerdict.NO_PAYMENT:
                raise LimitExceededError(
                    context.payment_id, context.operation, context.money.amount_minor, None
                )
            case _:
                raise InProgressError(f"payment {context.payment_id!r}", timedelta(seconds=_SOON_S))

    def fact_of_answer(self, execution: PaymentExecution, result: RailResult) -> Fact:
        """
        Return what the answer to our own request says of the execution.

        The answer to a *repeated* request speaks for the first one only where the provider
        consulted the key: a refusal for want of credentials, capacity or connection says nothing
        about the try before it.
        """
        own_try = (
            result.failure is not None and result.failure.category is not FailureCategory.PERMANENT
        )
        if own_try and execution.send_count > 1:
            return self._unknown(execution, PaymentFailureCode.PROVIDER_TIMEOUT)
        return Fact(
            result=result, source=FactSource.CALL, phase=execution.phase, is_own_try=own_try
        )

    def fact_of_exception(self, execution: PaymentExecution) -> Fact:
        """Return what an exception during a call proves: nothing (rule R5)."""
        return self._unknown(execution, PaymentFailureCode.INTERNAL_ERROR)

    def fact_of_silence(self, execution: PaymentExecution) -> Fact:
        """
        Return what is known when the send deadline passed before the call.

        This request never left.
        """
        return self.fact_of_answer(execution, RailResult.failed(PaymentFailureCode.NETWORK_ERROR))

    def after_lookup(
        self, execution: PaymentExecution, result: RailResult, at: datetime, took_s: float = 0.0
    ) -> AfterLookup:
        """
        Return what *result* of a lookup leads to.

        Args:
            at: What the store's clock showed before it was asked: what silence proves (rule R4) is
                counted up to then.
            took_s: How long ago that is by now: what may be repeated (rule R3) is counted up to
                now.
        """
        if result.is_absent:
            return self._after_absence(execution, at, took_s)
        tells = result.pending_reason is not PendingReason.OUTCOME_UNKNOWN and (
            result.failure is None or result.failure.category is FailureCategory.PERMANENT
        )
        if tells:
            return Record(Fact(result=result, source=FactSource.LOOKUP, phase=execution.phase))
        return self._nothing_new(execution, self.next_check_s(execution))

    def recording(
        self, execution: PaymentExecution, fact: Fact, decision: Decision
    ) -> Recording | None:
        """Return the change to store for *decision*, if it makes one."""
        if decision.change is None:
            return None
        after = evolve(execution, decision.change)
        return Recording(
            before=execution,
            after=after,
            event=draft_event(after, fact),
            next_check_s=None if after.status.is_terminal else self.next_check_s(after),
            is_fenced=fact.is_own_try,
        )

    def next_check_s(self, execution: PaymentExecution) -> float:
        """
        Return in how many seconds an open execution is looked at again.

        For ever, at most ``last_check_s`` apart.
        """
        settings = self.settings
        patience = settings.first_check_s * 2.0 ** min(execution.check_count, 30)
        if execution.pending_reason in _WAITS_FOR_PEOPLE:
            patience = settings.last_check_s
        if execution.expires_at is not None:
            left = (execution.expires_at - self.clock.now()).total_seconds()
            patience = min(patience, left) if left > 0 else patience
        return max(_SOON_S, min(patience, settings.last_check_s))

    def _plan(
        self,
        context: PaymentContext,
        route: PaymentRoute,
        trace: tuple[str, ...],
        *,
        head_seq: int | None,
    ) -> Plan:
        execution = PaymentExecution(
            execution_id=self.new_id(),
            context=context,
            rail=route.rail,
            provider=route.provider,
            account=route.account,
            mode=route.mode,
        )
        claim = Claim(
            execution=execution,
            event=draft_event(execution, trace=trace),
            owner=self.settings.owner,
            lease_s=self.settings.lease_s,
            is_sent=True,
            check_after_s=self.settings.lease_s,
            head_seq=head_seq,
        )
        return Plan(claim, route.capabilities.timing)

    def _offered(self, rail: PaymentRail, provider: str) -> RouteCapabilities:
        try:
            return self.offered[rail, provider]
        except KeyError:
            known = tuple(sorted(f"{one}/{two}" for one, two in self.offered))
            raise UnknownProviderError(f"{rail}/{provider}", known) from None

    def _route_of(self, parent: PaymentExecution) -> PaymentRoute:
        return PaymentRoute(
            name=f"{parent.provider}/{parent.account}",
            rail=parent.rail,
            provider=parent.provider,
            account=parent.account,
            mode=parent.mode,
            capabilities=self.capabilities(parent),
        )

    def _check_limits(
        self,
        context: PaymentContext,
        payment: PaymentView,
        parent: PaymentExecution,
        executions: Sequence[PaymentExecution],
    ) -> None:
        if parent.money.currency != context.money.currency:
            raise CurrencyMismatchError(context.payment_id, context.money.currency.code)
        available = min(
            payment.available_minor(context.operation),
            available_of(parent, context.operation, executions),
        )
        if context.money.amount_minor > available:
            raise LimitExceededError(
                context.payment_id, context.operation, context.money.amount_minor, available
            )

    def _after_absence(
        self, execution: PaymentExecution, at: datetime, took_s: float
    ) -> AfterLookup:
        can = self.capabilities(execution)
        if not execution.is_in_doubt:
            return Wait(self.next_check_s(execution))
        if may_resend(execution, can, at + timedelta(seconds=took_s)):
            return Resend()
        if absence_is_proof(execution, can, at):
            failed = RailResult.failed(PaymentFailureCode.NETWORK_ERROR)
            return Record(Fact(result=failed, source=FactSource.LOOKUP, phase=execution.phase))
        return self._nothing_new(
            execution, _until_proof_s(execution, can, at) or self.next_check_s(execution)
        )

    def _nothing_new(self, execution: PaymentExecution, wait_s: float) -> AfterLookup:
        if execution.status is not ExecutionStatus.PROCESSING:
            return Wait(wait_s)
        return Record(self._unknown(execution, PaymentFailureCode.PROVIDER_TIMEOUT))

    def _unknown(self, execution: PaymentExecution, cause: UnknownCause) -> Fact:
        return Fact(
            result=RailResult.unknown(cause), source=FactSource.KERNEL, phase=execution.phase
        )


_PARENTS: Final[Mapping[Operation, frozenset[Operation]]] = {
    Operation.CAPTURE: frozenset({Operation.AUTHORIZE}),
    Operation.VOID: frozenset({Operation.AUTHORIZE}),
    Operation.REFUND: frozenset({Operation.CHARGE, Operation.AUTHORIZE, Operation.CAPTURE}),
}
"""What a follow-up may act on: a refund of a refund would take the money again."""

_WAITS_FOR_PEOPLE: Final = frozenset({PendingReason.AWAITING_FUNDS, PendingReason.MANUAL_REVIEW})


def may_resend(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> bool:
    """
    Return whether rule R3 allows the same request again.

    An idempotent provider, well inside its key window.
    """
    if can.idempotency is Idempotency.NONE:
        return False
    if can.timing.key_window_s is None or execution.first_sent_at is None:
        return True
    settled = timedelta(seconds=can.timing.send_deadline_s + can.timing.latest_arrival_s)
    return at + settled < execution.first_sent_at + timedelta(seconds=can.timing.key_window_s)


def absence_is_proof(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> bool:
    """Return whether rule R4 lets "not found", heard at *at*, prove that nothing happened."""
    waiting_s = _until_proof_s(execution, can, at)
    return can.lookup_is_authoritative and waiting_s is not None and waiting_s < 0


def _until_proof_s(
    execution: PaymentExecution, can: RouteCapabilities, at: datetime
) -> float | None:
    if execution.last_sent_at is None or not can.lookup_is_authoritative:
        return None
    if execution.provider_ref is not None:  # the provider has named it, so it was there
        return None
    proven_at = execution.last_sent_at + timedelta(seconds=can.timing.silence_proves_after_s)
    return (proven_at - at).total_seconds()


def check_leases(offered: Offered, settings: EngineSettings) -> None:
    """
    Check that the lease outlasts every rail's call.

    Raises:
        MisconfiguredError: It does not; the inequality is printed.
    """
    for (rail, provider), can in offered.items():
        call_s = can.timing.send_deadline_s + can.timing.answer_timeout_s
        if settings.lease_s <= call_s:
            problem = (
                f"lease_s = {settings.lease_s:g} is not above send deadline + answer timeout "
                f"= {call_s:g} s of {rail}/{provider}"
            )
            raise MisconfiguredError("settings.lease_s", problem, "Lengthen the lease")
