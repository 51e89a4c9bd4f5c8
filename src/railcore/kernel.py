"""
What an engine decides, without any I/O: both colours of engine ask here.

The rules are those of the call protocol: R1 claim before sending, R2 a send deadline, R3 resend
only what is idempotent and only after a lookup, R4 when silence proves something, R5 only definite
facts end an execution.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from railcore import _checks
from railcore.breaker import BreakerSettings, Traffic
from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Idempotency, PaymentRail, PendingReason
from railcore.errors import (
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    InProgressError,
    InvalidValueError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    RefusedError,
    UnknownProviderError,
)
from railcore.events import draft_event
from railcore.execution import PaymentExecution, PaymentView
from railcore.failures import FailureCategory, PaymentFailureCode, UnknownCause
from railcore.follow_ups import check_follow_up, check_parent
from railcore.lifecycle import Decision, Fact, FactSource, evolve
from railcore.ports import Clock, KnowsRoutes, Observer, RouteResolver
from railcore.protocol import Claim, ClaimOutcome, ClaimVerdict, Recording
from railcore.results import RailResult
from railcore.routing import Offered, PaymentRoute, RouteCapabilities, TimingBounds, narrowest

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
        last_check_s: The longest wait between two looks. After the first, waits are spread by
            chance over all of their length: what broke together does not come back together.
        send_within_s: For how long enqueued work may be sent, where its caller does not say.
        recovery_since: When a database came back that may have lost its last commits (a restored
            copy, a failover): what was enqueued before is looked up before it is first sent, and
            nothing fails for not having been sent before the provider was asked about its key.
        breaker: When the provider's accounts are left alone; None never does so.
    """

    owner: str = attrs.field(default="engine", validator=_checks.text(128))
    lease_s: float = attrs.field(default=60.0, validator=_checks.seconds)
    first_check_s: float = attrs.field(default=15.0, validator=_checks.seconds)
    last_check_s: float = attrs.field(default=86_400.0, validator=_checks.seconds)
    send_within_s: float = attrs.field(default=604_800.0, validator=_checks.seconds)
    recovery_since: datetime | None = attrs.field(default=None, validator=_checks.aware)
    breaker: BreakerSettings | None = attrs.field(
        default=BreakerSettings(), validator=_checks.one_of(BreakerSettings, optional=True)
    )

    def __attrs_post_init__(self) -> None:
        if not 0 < self.first_check_s <= self.last_check_s:
            wanted = f"above zero, at most last_check_s = {self.last_check_s:g} s"
            raise InvalidValueError("first_check_s", wanted, f"{self.first_check_s:g} s")


def _no_chance() -> float:
    return 1.0


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
        chance: Returns a number from 0 to 1, which spreads waits; 1 makes them as long as they get.
        traffic: The breakers of this process.
    """

    routes: RouteResolver
    offered: Offered
    settings: EngineSettings
    clock: Clock
    observer: Observer | None
    new_id: Callable[[], UUID]
    chance: Callable[[], float] = _no_chance
    traffic: Traffic = attrs.field(factory=lambda: Traffic(None))

    def plan(self, context: PaymentContext, send_before: datetime | None = None) -> Plan:
        """
        Return what to claim for a charge or an authorization.

        With *send_before* a worker sends it; otherwise the claim is the send mark.

        Raises:
            RefusedError: No route, or the route cannot do it. Nothing was sent or stored.
            UnknownProviderError: The route leads to a rail that is not registered.
        """
        resolution = self.routes.resolve(context)
        self._offered(resolution.route.rail, resolution.route.provider)
        resolution.route.check(context)
        return self._plan(
            context, resolution.route, resolution.trace, head_seq=None, send_before=send_before
        )

    def plan_follow_up(
        self,
        context: PaymentContext,
        parent: PaymentExecution | None,
        payment: PaymentView | None,
        executions: Sequence[PaymentExecution],
        send_before: datetime | None = None,
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
        check_parent(context, parent)
        route = self._route_of(parent, executions)
        route.check(context)
        check_follow_up(context, parent, payment, executions, route)
        trace = (f"the parent's route: {route}",)
        return self._plan(
            context,
            route,
            trace,
            head_seq=payment.seq,
            send_before=send_before,
            parent_ref=parent.provider_ref,
        )

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
        about the try before it. After a recovery every try counts as repeated: its key may have
        been sent under a claim that was lost.
        """
        own_try = (
            result.failure is not None and result.failure.category is not FailureCategory.PERMANENT
        )
        is_recovering = self.settings.recovery_since is not None
        if own_try and execution.tries > (0 if is_recovering else 1):
            return self._unknown(
                execution, PaymentFailureCode.PROVIDER_TIMEOUT, result.retry_after_s
            )
        return Fact(result=result, source=FactSource.CALL, phase=execution.phase, is_fenced=own_try)

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
        if tells(result):
            return Record(Fact(result=result, source=FactSource.LOOKUP, phase=execution.phase))
        return self._nothing_new(
            execution, self.next_check_s(execution, result.retry_after_s), result.retry_after_s
        )

    def put_back_s(self, execution: PaymentExecution, result: RailResult) -> float | None:
        """
        Return in how many seconds an enqueued execution is sent anew, if *result* allows that.

        It was refused for certain before anything was done, and its time is not over.
        """
        refused = result.failure is not None and result.failure.allows_failover
        left_s = self.send_left_s(execution)
        is_first = execution.status is ExecutionStatus.PROCESSING and execution.tries == 1
        if not refused or not is_first or left_s is None or left_s <= 0:
            return None
        return min(self.next_check_s(execution, result.retry_after_s), left_s)

    def send_before(self) -> datetime:
        """Return until when what is enqueued now may be sent, where nobody says otherwise."""
        return self.clock.now() + timedelta(seconds=self.settings.send_within_s)

    def send_left_s(self, execution: PaymentExecution) -> float | None:
        """Return for how many seconds enqueued work may still be sent; None for other work."""
        if execution.send_before is None:
            return None
        return (execution.send_before - self.clock.now()).total_seconds()

    def is_too_late(self, execution: PaymentExecution) -> bool:
        """Whether the time is over in which enqueued work may be sent."""
        left_s = self.send_left_s(execution)
        return left_s is not None and left_s <= 0

    def looks_up_first(self, execution: PaymentExecution) -> bool:
        """
        Whether unsent work is looked up: a database that lost commits may have forgotten a send.

        That is so for what is older than the recovery, before it is sent; and for all that comes
        too late to be sent, before it fails, since its key may have been sent under a lost claim.
        """
        since, created_at = self.settings.recovery_since, execution.created_at
        if since is None or created_at is None:
            return False
        return created_at < since or self.is_too_late(execution)

    def after_recovery_lookup(
        self, execution: PaymentExecution, result: RailResult, at: datetime
    ) -> AfterLookup:
        """Return what a lookup before a first send leads to; ``Resend`` is the first send."""
        if not result.is_absent:
            return self.after_lookup(execution, result, at)
        can, since = self.capabilities(execution), self.settings.recovery_since
        forgotten = execution.changed(first_sent_at=execution.created_at, last_sent_at=since)
        is_sendable = not self.is_too_late(execution) and may_resend(forgotten, can, at)
        if is_sendable or absence_is_proof(forgotten, can, at):
            return Resend()
        return Wait(_until_proof_s(forgotten, can, at) or self.next_check_s(execution))

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
            next_check_s=None
            if after.status.is_terminal
            else self.next_check_s(after, fact.result.retry_after_s),
            is_fenced=fact.is_fenced,
        )

    def next_check_s(
        self, execution: PaymentExecution, retry_after_s: float | None = None
    ) -> float:
        """
        Return in how many seconds an open execution is looked at again.

        For ever, at most ``last_check_s`` apart, and not before the provider's *retry_after_s*.
        """
        spread_s = self._next_check_s(execution)
        return min(max(spread_s, retry_after_s or 0.0), self.settings.last_check_s)

    def _next_check_s(self, execution: PaymentExecution) -> float:
        settings = self.settings
        patience = settings.first_check_s * 2.0 ** min(max(execution.check_count - 1, 0), 30)
        if execution.pending_reason in _WAITS_FOR_PEOPLE:
            patience = settings.last_check_s
        patience = min(patience, settings.last_check_s)
        if execution.check_count:  # the first looks are spread by when their payments were made
            patience *= self.chance()
        if execution.expires_at is not None:
            left = (execution.expires_at - self.clock.now()).total_seconds()
            patience = min(patience, left) if left > 0 else patience
        return max(_SOON_S, patience)

    def _plan(
        self,
        context: PaymentContext,
        route: PaymentRoute,
        trace: tuple[str, ...],
        *,
        head_seq: int | None,
        send_before: datetime | None,
        parent_ref: str | None = None,
    ) -> Plan:
        is_sent = send_before is None
        execution = PaymentExecution(
            execution_id=self.new_id(),
            context=context,
            rail=route.rail,
            provider=route.provider,
            account=route.account,
            mode=route.mode,
            parent_ref=parent_ref,
            send_before=send_before,
        )
        claim = Claim(
            execution=execution,
            event=draft_event(execution, trace=trace),
            owner=self.settings.owner,
            lease_s=self.settings.lease_s,
            is_sent=is_sent,
            check_after_s=self.settings.lease_s if is_sent else 0.0,
            head_seq=head_seq,
        )
        return Plan(claim, route.capabilities.timing)

    def _offered(self, rail: PaymentRail, provider: str) -> RouteCapabilities:
        try:
            return self.offered[rail, provider]
        except KeyError:
            known = tuple(sorted(f"{one}/{two}" for one, two in self.offered))
            raise UnknownProviderError(f"{rail}/{provider}", known) from None

    def _route_of(
        self, parent: PaymentExecution, executions: Sequence[PaymentExecution]
    ) -> PaymentRoute:
        """
        Return the route that *parent* took, as narrow as it is configured today.

        Where nothing leads to its account any more, the rail alone says what can be done: a change
        of routes strands no refund. Currencies are narrowed for new payments only.
        """
        declared = self.capabilities(parent)
        configured = self._configured(parent, executions)
        if not configured:
            return _route_to(parent, f"{parent.provider}/{parent.account}", declared)
        names = ", ".join(sorted({route.name for route in configured}))
        return _route_to(
            parent, names, narrowest(declared, [route.capabilities for route in configured])
        )

    def _configured(
        self, parent: PaymentExecution, executions: Sequence[PaymentExecution]
    ) -> Sequence[PaymentRoute]:
        root_id = parent.context.parent_execution_id
        root = next((one for one in executions if one.execution_id == root_id), parent)
        try:
            found = self.routes.resolve(root.context).route
        except RefusedError:
            pass
        else:
            if _leads_to(found, parent):
                return [found]
        if isinstance(self.routes, KnowsRoutes):
            return [route for route in self.routes.known_routes if _leads_to(route, parent)]
        return []

    def _after_absence(
        self, execution: PaymentExecution, at: datetime, took_s: float
    ) -> AfterLookup:
        can = self.capabilities(execution)
        if not execution.is_in_doubt:
            return Wait(self.next_check_s(execution))
        if may_resend(execution, can, at + timedelta(seconds=took_s)):
            return Resend()
        if absence_is_proof(execution, can, at):
            return Record(self._fact_of_absence(execution))
        return self._nothing_new(
            execution, _until_proof_s(execution, can, at) or self.next_check_s(execution)
        )

    @staticmethod
    def _fact_of_absence(execution: PaymentExecution) -> Fact:
        """Return that no send arrived; fenced, for who holds the lease now may have sent since."""
        return Fact(
            result=RailResult.failed(PaymentFailureCode.NETWORK_ERROR),
            source=FactSource.LOOKUP,
            phase=execution.phase,
            is_fenced=True,
        )

    def _nothing_new(
        self, execution: PaymentExecution, wait_s: float, retry_after_s: float | None = None
    ) -> AfterLookup:
        if execution.status is not ExecutionStatus.PROCESSING:
            return Wait(wait_s)
        if execution.is_unsent:
            return Wait(wait_s)
        return Record(self._unknown(execution, PaymentFailureCode.PROVIDER_TIMEOUT, retry_after_s))

    def _unknown(
        self,
        execution: PaymentExecution,
        cause: UnknownCause,
        retry_after_s: float | None = None,
    ) -> Fact:
        result = attrs.evolve(RailResult.unknown(cause), retry_after_s=retry_after_s)
        return Fact(result=result, source=FactSource.KERNEL, phase=execution.phase)


_WAITS_FOR_PEOPLE: Final = frozenset({PendingReason.AWAITING_FUNDS, PendingReason.MANUAL_REVIEW})


def tells(result: RailResult) -> bool:
    """
    Return whether news that answers no try of ours says anything of an execution.

    A lookup or a webhook that has no access, no capacity or no answer speaks of itself.
    """
    return result.pending_reason is not PendingReason.OUTCOME_UNKNOWN and (
        result.failure is None or result.failure.category is FailureCategory.PERMANENT
    )


def _leads_to(route: PaymentRoute, execution: PaymentExecution) -> bool:
    account = route.rail, route.provider, route.account, route.mode
    return account == (execution.rail, execution.provider, execution.account, execution.mode)


def _route_to(
    execution: PaymentExecution, name: str, capabilities: RouteCapabilities
) -> PaymentRoute:
    return PaymentRoute(
        name=name,
        rail=execution.rail,
        provider=execution.provider,
        account=execution.account,
        mode=execution.mode,
        capabilities=capabilities,
    )


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
