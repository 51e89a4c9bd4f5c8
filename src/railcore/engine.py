"""
The engines: what a host calls.

``PaymentEngine`` and ``AsyncPaymentEngine`` stand side by side and hold no decisions: load, decide (in ``railcore.kernel``), commit the
attempt, converse with the rail, record the outcome. No store connection is held while a provider is called.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import attrs

from railcore._ids import uuid7_maker
from railcore.clock import Deadline, SystemClock
from railcore.context import PaymentContext
from railcore.errors import (
    ExecutionNotFoundError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
    UnsupportedOperationError,
)
from railcore.events import JournalEvent, draft_discrepancy
from railcore.execution import Lease, PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.kernel import EngineSettings, Kernel, Plan, Record, Resend, Wait, check_leases
from railcore.lifecycle import Decision, Fact, FactSource, decide
from railcore.observability import Observed, SilentObserver, execution_observed, rail_observed
from railcore.ports import (
    AsyncExecutionStore,
    AsyncRail,
    Clock,
    ExecutionStore,
    Observer,
    OperatorDecided,
    OperatorDecision,
    Rail,
    RouteResolver,
)
from railcore.protocol import ClaimVerdict
from railcore.rails.driven import operator_of
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult

_NO_LEASE = Lease(None, 0, None)
"""Tokens begin at 1: whoever writes with this one changes neither lease nor schedule."""

_News = Callable[[PaymentExecution], Fact]
_Judgement = Callable[[OperatorDecided, PaymentExecution], RailResult]


class PaymentEngine:
    """
    Executes payments, synchronously.

    Args:
        rails: The registered rails.
        routes: Finds the route of a new execution.
        store: Where executions live.
        settings: Leases and looks.
        clock: Injected time; the machine's by default.
        observer: Is told of every rail call and every answer.
        new_id: Makes execution ids; UUID version 7 by default.

    Raises:
        MisconfiguredError: The lease does not outlast a rail's call.
    """

    def __init__(  # noqa: PLR0913 - keyword-only wiring, done once
        self,
        *,
        rails: PaymentRailRegistry[Rail],
        routes: RouteResolver,
        store: ExecutionStore,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        new_id: Callable[[], UUID] | None = None,
    ) -> None:
        self._rails = rails
        self._store = store
        self._kernel = _kernel(rails, routes, settings, clock, observer, new_id)

    def execute(self, context: PaymentContext, /) -> PaymentExecution:
        """
        Carry out *context* once, whatever happens and however often it is asked.

        A known key with the same request returns the stored execution as it is now, processing and pending included, and sends
        nothing. A refusal by the provider is a ``failed`` execution; a lost answer is ``pending`` with ``outcome_unknown``.

        Raises:
            RefusedError: Refused before anything was sent or stored; the subclass says why.
            InProgressError: Another transaction holds the key or the payment; retry.
            StoreError: The claim failed; where it may have been committed, retry with the same key. Nothing was sent.
            OutcomeUnknownError: The provider was called but the outcome could not be recorded.
        """
        started_s = self._kernel.clock.monotonic()
        execution, is_repeat = self._execute(context)
        took_s = self._kernel.clock.monotonic() - started_s
        self._tell(execution_observed(execution, took_s, is_repeat=is_repeat))
        return execution

    def refresh(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Look an open execution up at its provider and record what is found; send it again only under rule R3.

        While another holder's lease lasts, and for a terminal execution, nothing is asked: the stored execution is returned.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        settings = self._kernel.settings
        acquired = self._store.acquire(tenant_id, execution_id, settings.owner, settings.lease_s)
        if acquired is None:
            return self.get(tenant_id, execution_id)
        execution = acquired.execution
        if execution.send_count == 0:
            return self._send_again(execution)
        result = self._look_up(execution)
        match self._kernel.after_lookup(execution, result, acquired.at):
            case Record(fact):
                return self._fold(execution, lambda _: fact)
            case Resend():
                return self._send_again(execution)
            case Wait(seconds):
                return self._put_off(execution, seconds)

    def confirm(self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /) -> PaymentExecution:
        """
        Record that a named person confirms, on evidence, that the money came.

        Raises:
            ExecutionNotFoundError: No such execution.
            UnsupportedOperationError: The rail takes no operator's word.
            ApprovalError: This person may not give it.
        """
        return self._judge(tenant_id, execution_id, decision, lambda rail, found: rail.confirm(found, decision))

    def reject(self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /) -> PaymentExecution:
        """Record that a named person says, on evidence, that no money came and none will. Raises as ``confirm`` does."""
        return self._judge(tenant_id, execution_id, decision, lambda rail, found: rail.reject(found, decision))

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Return an execution as it is now.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        execution = self._store.get(tenant_id, execution_id)
        if execution is None:
            raise ExecutionNotFoundError(tenant_id, execution_id)
        return execution

    def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key, if any."""
        return self._store.find(tenant_id, idempotency_key)

    def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        return self._store.executions(tenant_id, payment_id)

    def open_executions(self, limit: int = 100, /) -> Sequence[PaymentExecution]:
        """Return executions that are still open, the one due first first."""
        return self._store.open_executions(limit)

    def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the sums of a payment, if it has any execution."""
        return self._store.payment(tenant_id, payment_id)

    def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the journal of a payment in order."""
        return self._store.events(tenant_id, payment_id)

    def _execute(self, context: PaymentContext) -> tuple[PaymentExecution, bool]:
        try:
            plan = self._plan(context)
        except (RefusedError, ExecutionNotFoundError):
            stored = self._store.find(context.tenant_id, context.idempotency_key)
            if stored is None:
                raise
            return self._kernel.known(context, stored), True
        send_by = self._kernel.send_by(plan.timing)
        outcome = self._store.claim(plan.claim)
        if outcome.verdict is not ClaimVerdict.CLAIMED or outcome.execution is None:
            return self._kernel.not_claimed(context, outcome), True
        return self._send(outcome.execution, send_by), False

    def _plan(self, context: PaymentContext) -> Plan:
        if context.parent_execution_id is None:
            return self._kernel.plan(context)
        parent = self._store.get(context.tenant_id, context.parent_execution_id)
        payment = self._store.payment(context.tenant_id, context.payment_id)
        return self._kernel.plan_follow_up(context, parent, payment)

    def _send_again(self, execution: PaymentExecution) -> PaymentExecution:
        send_by = self._kernel.send_by(self._kernel.capabilities(execution).timing)
        marked = self._store.mark_sent(execution, self._kernel.settings.lease_s)
        if marked is None:
            return self.get(execution.tenant_id, execution.execution_id)
        return self._send(marked, send_by)

    def _send(self, execution: PaymentExecution, send_by: Deadline) -> PaymentExecution:
        if send_by.has_passed():
            return self._fold(execution, self._kernel.fact_of_silence)
        rail = self._rails.find(execution.rail, execution.provider)
        try:
            result = self._timed(execution, "execute", lambda: rail.execute(execution, send_by=send_by))
        except Exception:
            self._fold(execution, self._kernel.fact_of_exception)
            raise
        fact = self._kernel.fact_of_answer(execution, result)
        return self._fold(execution, lambda _: fact)

    def _look_up(self, execution: PaymentExecution) -> RailResult:
        rail = self._rails.find(execution.rail, execution.provider)
        try:
            return self._timed(execution, "check_status", lambda: rail.check_status(execution))
        except Exception:  # noqa: BLE001 - observed above; a lookup that breaks is no news, and the execution stays due
            return RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR)

    def _timed(self, execution: PaymentExecution, step: str, call: Callable[[], RailResult]) -> RailResult:
        started_s = self._kernel.clock.monotonic()
        try:
            answer: RailResult | BaseException = (result := call())
        except BaseException as error:
            answer = error
            raise
        finally:
            took_s = self._kernel.clock.monotonic() - started_s
            self._tell(rail_observed(execution, step, took_s, answer))
        return result

    def _judge(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, judge: _Judgement
    ) -> PaymentExecution:
        execution = attrs.evolve(self.get(tenant_id, execution_id), lease=_NO_LEASE)
        rail = _operator(self._rails.find(execution.rail, execution.provider), execution)
        return self._fold(execution, lambda found: _judged(judge(rail, found), found, decision))

    def _fold(self, execution: PaymentExecution, news: _News) -> PaymentExecution:
        lease = execution.lease
        try:
            while True:
                fact = news(execution)
                decision = decide(execution, fact)
                self._note(execution, decision)
                recording = self._kernel.recording(execution, fact, decision)
                if recording is None:
                    return self._put_off(execution, self._kernel.next_check_s(execution))
                stored = self._store.record(recording)
                if stored is not None:
                    return stored
                execution = attrs.evolve(self.get(execution.tenant_id, execution.execution_id), lease=lease)
        except StoreError as error:
            raise OutcomeUnknownError(execution.tenant_id, execution.execution_id) from error

    def _note(self, execution: PaymentExecution, decision: Decision) -> None:
        found = decision.discrepancy
        if found is not None:
            self._store.note(execution, found, draft_discrepancy(execution, found))

    def _put_off(self, execution: PaymentExecution, seconds: float) -> PaymentExecution:
        if execution.is_open:
            self._store.reschedule(execution, seconds)
        return self.get(execution.tenant_id, execution.execution_id)

    def _tell(self, observed: Observed) -> None:
        with suppress(Exception):
            self._kernel.observer.observe(observed)


def _kernel(  # noqa: PLR0913 - one place for the defaults of both colours
    rails: PaymentRailRegistry[Rail] | PaymentRailRegistry[AsyncRail],
    routes: RouteResolver,
    settings: EngineSettings | None,
    clock: Clock | None,
    observer: Observer | None,
    new_id: Callable[[], UUID] | None,
) -> Kernel:
    settings = settings or EngineSettings()
    clock = clock or SystemClock()
    offered = rails.offered
    check_leases(offered, settings)
    return Kernel(
        routes=routes,
        offered=offered,
        settings=settings,
        clock=clock,
        observer=observer or SilentObserver(),
        new_id=new_id or uuid7_maker(clock.now),
    )


def _operator(rail: Rail | AsyncRail, execution: PaymentExecution) -> OperatorDecided:
    operator = operator_of(rail)
    if operator is None:
        raise UnsupportedOperationError(execution.provider, "an operator's decision", "the provider's own news")
    return operator


def _judged(result: RailResult, execution: PaymentExecution, decision: OperatorDecision) -> Fact:
    return Fact(
        result=result,
        source=FactSource.OPERATOR,
        phase=execution.phase,
        actor=decision.actor,
        evidence=decision.evidence,
    )
