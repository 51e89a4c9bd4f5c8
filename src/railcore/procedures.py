"""
What an engine does, step by step, written once for both colours.

A procedure is a flow whose every ``yield`` is one call of the store or of a rail. The synchronous
engine makes the call and sends the value back; the asynchronous one awaits it first. Between two
yields nothing is held: no connection, no transaction, no lock. Here the ports are typed as the
synchronous ones; ``AsyncPaymentEngine`` hands in the asynchronous twins and awaits what they
return.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import attrs

from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.driven import operator_of
from railcore.errors import (
    ExecutionNotFoundError,
    InProgressError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.events import draft_discrepancy
from railcore.execution import Lease, PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.kernel import Kernel, Plan, Record, Resend, Wait
from railcore.lifecycle import Decision, Fact, FactSource, decide
from railcore.observability import Observed, execution_observed, rail_observed
from railcore.ports import ExecutionStore, OperatorDecided, OperatorDecision, Rail
from railcore.protocol import ClaimOutcome, ClaimVerdict, Recording
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult

T = TypeVar("T")
Call = Callable[[], Any]
Procedure = Generator[Call, Any, T]
"""
Yields calls, is sent what they return, and returns a T.

``ask`` keeps the types of each pair together.
"""

News = Callable[[PaymentExecution], Fact]
Judgement = Callable[[OperatorDecided, PaymentExecution], RailResult]

_DECISIONS = 5
"""How often a follow-up is decided anew before the host is told that the payment is busy."""

_NO_LEASE = Lease(None, 0, None)
"""Tokens begin at 1: whoever writes with this one changes neither lease nor schedule."""


def ask(call: Callable[[], T]) -> Procedure[T]:
    """Return a procedure of one step: have *call* made and return its value."""
    value: T = yield call
    return value


@attrs.frozen
class Procedures:
    """The procedures of one engine."""

    kernel: Kernel
    rails: PaymentRailRegistry[Rail]
    store: ExecutionStore

    def execute(self, context: PaymentContext) -> Procedure[PaymentExecution]:
        """Claim, call, record; or return what the key already stands for."""
        started_s = self.kernel.clock.monotonic()
        execution, is_repeat = yield from self._claimed_or_known(context)
        took_s = self.kernel.clock.monotonic() - started_s
        self._tell(lambda: execution_observed(execution, took_s, is_repeat=is_repeat))
        return execution

    def refresh(self, tenant_id: str, execution_id: UUID) -> Procedure[PaymentExecution]:
        """Take the lease, look up, and record, resend or put off."""
        settings, monotonic = self.kernel.settings, self.kernel.clock.monotonic
        started_s = monotonic()
        acquired = yield from ask(
            lambda: self.store.acquire(tenant_id, execution_id, settings.owner, settings.lease_s)
        )
        if acquired is None:
            return (yield from self.get(tenant_id, execution_id))
        execution = acquired.execution
        if execution.send_count == 0:
            return (yield from self._send_again(execution))
        result = yield from self._look_up(execution)
        took_s = monotonic() - started_s
        match self.kernel.after_lookup(execution, result, acquired.at, took_s):
            case Record(fact):
                return (yield from self._fold(execution, lambda _: fact))
            case Resend():
                return (yield from self._send_again(execution))
            case Wait(seconds):
                return (yield from self._put_off(execution, seconds))

    def judge(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, judgement: Judgement
    ) -> Procedure[PaymentExecution]:
        """Fold in what a named person says; judged anew whenever somebody else was quicker."""
        execution = yield from self.get(tenant_id, execution_id)
        rail = self.rails.find(execution.rail, execution.provider)
        operator = operator_of(rail)
        if operator is None:
            raise UnsupportedOperationError(
                execution.provider, "an operator's decision", "the provider's own news"
            )
        unheld = execution.changed(lease=_NO_LEASE)
        return (
            yield from self._fold(
                unheld, lambda found: _judged(judgement(operator, found), found, decision)
            )
        )

    def get(self, tenant_id: str, execution_id: UUID) -> Procedure[PaymentExecution]:
        """Return an execution, or raise ``ExecutionNotFoundError``."""
        execution = yield from ask(lambda: self.store.get(tenant_id, execution_id))
        if execution is None:
            raise ExecutionNotFoundError(tenant_id, execution_id)
        return execution

    def _claimed_or_known(
        self, context: PaymentContext
    ) -> Procedure[tuple[PaymentExecution, bool]]:
        try:
            outcome, send_by = yield from self._claim(context)
        except (RefusedError, ExecutionNotFoundError, UnknownProviderError):
            stored = yield from ask(
                lambda: self.store.find(context.tenant_id, context.idempotency_key)
            )
            if stored is None:
                raise
            return self.kernel.known(context, stored), True
        if outcome.verdict is not ClaimVerdict.CLAIMED or outcome.execution is None:
            return self.kernel.not_claimed(context, outcome), True
        sent = yield from self._send(outcome.execution, send_by)
        return sent, False

    def _claim(self, context: PaymentContext) -> Procedure[tuple[ClaimOutcome, Deadline]]:
        """Claim; decide again, a few times, where the payment moved since the decision."""
        outcome, send_by = yield from self._claim_once(context)
        for _ in range(_DECISIONS - 1):
            if outcome.verdict is not ClaimVerdict.MOVED:
                break
            outcome, send_by = yield from self._claim_once(context)
        return outcome, send_by

    def _claim_once(self, context: PaymentContext) -> Procedure[tuple[ClaimOutcome, Deadline]]:
        plan = yield from self._plan(context)
        send_by = self.kernel.send_by(plan.timing)
        outcome = yield from ask(lambda: self.store.claim(plan.claim))
        return outcome, send_by

    def _plan(self, context: PaymentContext) -> Procedure[Plan]:
        parent_id = context.parent_execution_id
        if parent_id is None:
            return self.kernel.plan(context)
        parent = yield from ask(lambda: self.store.get(context.tenant_id, parent_id))
        payment = yield from ask(lambda: self.store.payment(context.tenant_id, context.payment_id))
        executions = yield from ask(
            lambda: self.store.executions(context.tenant_id, context.payment_id)
        )
        return self.kernel.plan_follow_up(context, parent, payment, executions)

    def _send_again(self, execution: PaymentExecution) -> Procedure[PaymentExecution]:
        send_by = self.kernel.send_by(self.kernel.capabilities(execution).timing)
        marked = yield from ask(
            lambda: self.store.mark_sent(execution, self.kernel.settings.lease_s)
        )
        if marked is None:
            return (yield from self.get(execution.tenant_id, execution.execution_id))
        return (yield from self._send(marked, send_by))

    def _send(self, execution: PaymentExecution, send_by: Deadline) -> Procedure[PaymentExecution]:
        if send_by.has_passed():
            return (yield from self._too_late(execution))
        rail = self.rails.find(execution.rail, execution.provider)
        try:
            result = yield from self._timed(
                execution, "execute", lambda: rail.execute(execution, send_by=send_by)
            )
            fact = self.kernel.fact_of_answer(execution, result)
        except Exception:
            yield from self._fold(execution, self.kernel.fact_of_exception)
            raise
        return (yield from self._fold(execution, lambda _: fact))

    def _too_late(self, execution: PaymentExecution) -> Procedure[PaymentExecution]:
        """Nothing has left. Mark a slow claim anew, once: a slow store is no refusal."""
        if execution.send_count == 1:
            return (yield from self._send_again(execution))
        return (yield from self._fold(execution, self.kernel.fact_of_silence))

    def _look_up(self, execution: PaymentExecution) -> Procedure[RailResult]:
        rail = self.rails.find(execution.rail, execution.provider)
        try:
            return (
                yield from self._timed(
                    execution, "check_status", lambda: rail.check_status(execution)
                )
            )
        except Exception:  # noqa: BLE001 - observed; a lookup that breaks is no news, and the execution stays due
            return RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR)

    def _timed(
        self, execution: PaymentExecution, step: str, call: Callable[[], RailResult]
    ) -> Procedure[RailResult]:
        started_s = self.kernel.clock.monotonic()
        try:
            answer = yield from ask(call)
        except BaseException as error:
            self._tell_of_call(execution, step, started_s, error)
            raise
        self._tell_of_call(execution, step, started_s, answer)
        return answer

    def _record(self, recording: Recording) -> Procedure[PaymentExecution | None]:
        return (yield from ask(lambda: self.store.record(recording)))

    def _fold(self, execution: PaymentExecution, news: News) -> Procedure[PaymentExecution]:
        lease = execution.lease
        try:
            while True:
                fact = news(execution)
                decision = decide(execution, fact)
                yield from self._note(execution, decision)
                recording = self.kernel.recording(execution, fact, decision)
                if recording is None:
                    return (
                        yield from self._put_off(execution, self.kernel.next_check_s(execution))
                    )
                stored = yield from self._record(recording)
                if stored is not None:
                    return stored
                fresh = yield from self.get(execution.tenant_id, execution.execution_id)
                if fact.is_own_try and fresh.lease.token != lease.token:
                    return fresh
                execution = fresh.changed(lease=lease)
        except (StoreError, InProgressError, ExecutionNotFoundError) as error:
            raise OutcomeUnknownError(execution.tenant_id, execution.execution_id) from error

    def _note(self, execution: PaymentExecution, decision: Decision) -> Procedure[None]:
        found = decision.discrepancy
        if found is not None:
            event = draft_discrepancy(execution, found)
            yield from ask(lambda: self.store.note(execution, found, event))

    def _put_off(self, execution: PaymentExecution, seconds: float) -> Procedure[PaymentExecution]:
        if execution.is_open:
            yield from ask(lambda: self.store.reschedule(execution, seconds))
        return (yield from self.get(execution.tenant_id, execution.execution_id))

    def _tell_of_call(
        self,
        execution: PaymentExecution,
        step: str,
        started_s: float,
        answer: RailResult | BaseException,
    ) -> None:
        took_s = self.kernel.clock.monotonic() - started_s
        self._tell(lambda: rail_observed(execution, step, took_s, answer))

    def _tell(self, observed: Callable[[], Observed]) -> None:
        observer = self.kernel.observer
        if observer is not None:
            with suppress(Exception):
                observer.observe(observed())


def _judged(result: RailResult, execution: PaymentExecution, decision: OperatorDecision) -> Fact:
    return Fact(
        result=result,
        source=FactSource.OPERATOR,
        phase=execution.phase,
        actor=decision.actor,
        evidence=decision.evidence,
    )
