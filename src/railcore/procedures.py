"""
What an engine does, step by step, written once for both colours.

A procedure is a flow whose every ``yield`` is one call of the store or of a rail. The synchronous
engine makes the call and sends the value back; the asynchronous one awaits it first. Between two
yields nothing is held: no connection, no transaction, no lock. Here the ports are typed as the
synchronous ones; ``AsyncPaymentEngine`` hands in the asynchronous twins and awaits what they
return.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs

from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.driven import operator_of
from railcore.errors import (
    ExecutionNotFoundError,
    InDoubtError,
    InProgressError,
    OutcomeUnknownError,
    RailcoreError,
    RefusedError,
    StoreError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.events import draft_discrepancy
from railcore.execution import Lease, PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.follow_ups import disputed
from railcore.kernel import Kernel, Plan, Record, Resend, Wait, tells
from railcore.lifecycle import Decision, Fact, FactSource, decide
from railcore.observability import Observed, execution_observed, rail_observed
from railcore.ports import ExecutionStore, OperatorDecided, OperatorDecision, Rail
from railcore.protocol import Acquired, ClaimOutcome, ClaimVerdict, Due, Recording
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.review import not_given_back

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

_REFUSALS: Final = (RefusedError, ExecutionNotFoundError, UnknownProviderError)
"""What a known key is looked for after: it stands, whatever has changed since."""

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
        settings = self.kernel.settings
        started_s = self.kernel.clock.monotonic()
        acquired = yield from ask(
            lambda: self.store.acquire(tenant_id, execution_id, settings.owner, settings.lease_s)
        )
        if acquired is None:
            return (yield from self.get(tenant_id, execution_id))
        return (yield from self.check(acquired, started_s))

    def check(self, acquired: Acquired, started_s: float) -> Procedure[PaymentExecution]:
        """
        Do what is due for an execution whose lease we hold: send it, or look it up.

        Args:
            acquired: As the store gave it.
            started_s: What the monotonic clock showed before the store was asked.
        """
        execution = acquired.execution
        if execution.is_unsent:
            return (yield from self._first_send(acquired))
        result = yield from self._look_up(execution)
        took_s = self.kernel.clock.monotonic() - started_s
        match self.kernel.after_lookup(execution, result, acquired.at, took_s):
            case Record(fact):
                return (yield from self._fold(execution, lambda _: fact))
            case Resend():
                return (yield from self._send_again(execution))
            case Wait(seconds):
                return (yield from self._put_off(execution, seconds))

    def _first_send(self, acquired: Acquired) -> Procedure[PaymentExecution]:
        execution = acquired.execution
        is_too_late = self.kernel.is_too_late(execution)
        if self.kernel.looks_up_first(execution):
            result = yield from self._look_up(execution)
            match self.kernel.after_recovery_lookup(execution, result, acquired.at):
                case Record(fact):
                    return (yield from self._fold(execution, lambda _: fact))
                case Wait(seconds):
                    return (yield from self._put_off(execution, seconds))
                case Resend():
                    pass
        if is_too_late:
            return (yield from self._fold(execution, self.kernel.fact_of_silence))
        if self.kernel.is_too_late(execution):  # only just: no lookup has proven anything of that
            return (yield from self._put_off(execution, 0.0))
        return (yield from self._send_again(execution))

    def acquire_due(self, due: Due) -> Procedure[Sequence[Acquired]]:
        """Take the leases of what is due."""
        return (yield from ask(lambda: self.store.acquire_due(due)))

    def give_back(self, acquired: Acquired) -> Procedure[bool]:
        """Give back the lease of what was not begun: it is due at once."""
        return (yield from ask(lambda: self.store.reschedule(acquired.execution, 0.0)))

    def enqueue(
        self, context: PaymentContext, send_before: datetime
    ) -> Procedure[PaymentExecution]:
        """Claim, or return what the key already stands for; a worker sends."""
        try:
            outcome, _ = yield from self._claim(context, send_before)
        except _REFUSALS as refusal:
            return (yield from self._known_or(context, refusal))
        return (yield from self._claimed(context, outcome))

    def enqueue_many(
        self, contexts: Sequence[PaymentContext], send_before: datetime
    ) -> Procedure[Sequence[PaymentExecution | RailcoreError]]:
        """Claim many: for each what ``enqueue`` would have returned or raised."""
        planned: list[Plan | RailcoreError] = []
        for context in contexts:
            plan = yield from self._planned(context, send_before)
            planned.append(plan)
        claims = [plan.claim for plan in planned if isinstance(plan, Plan)]
        outcomes = iter((yield from ask(lambda: self.store.claim_many(claims))))
        results: list[PaymentExecution | RailcoreError] = []
        for context, each in zip(contexts, planned, strict=True):
            found = next(outcomes) if isinstance(each, Plan) else each
            results.append((yield from self._enqueued(context, send_before, found)))
        return results

    def _planned(
        self, context: PaymentContext, send_before: datetime
    ) -> Procedure[Plan | RailcoreError]:
        try:
            return (yield from self._plan(context, send_before))
        except RailcoreError as error:
            return error

    def _enqueued(
        self, context: PaymentContext, send_before: datetime, found: ClaimOutcome | RailcoreError
    ) -> Procedure[PaymentExecution | RailcoreError]:
        try:
            if isinstance(found, _REFUSALS):
                return (yield from self._known_or(context, found))
            if isinstance(found, RailcoreError):
                return found
            if found.verdict is ClaimVerdict.MOVED:
                return (yield from self.enqueue(context, send_before))
            return (yield from self._claimed(context, found))
        except RailcoreError as error:
            return error

    def _claimed(
        self, context: PaymentContext, outcome: ClaimOutcome
    ) -> Procedure[PaymentExecution]:
        if outcome.verdict is ClaimVerdict.CLAIMED and outcome.execution is not None:
            return outcome.execution
        return (yield from self._not_claimed(context, outcome))

    def _not_claimed(
        self, context: PaymentContext, outcome: ClaimOutcome
    ) -> Procedure[PaymentExecution]:
        """Return what the key stands for, or say what is in the way, discrepancies by name."""
        if outcome.verdict is ClaimVerdict.IN_DOUBT:
            noted = yield from ask(
                lambda: self.store.discrepancies_of(context.tenant_id, context.payment_id)
            )
            found = [one for one in noted if one.is_in_dispute]
            if found:
                raise disputed(context, [one for one in found if one.disputed_minor] or found)
        return self.kernel.not_claimed(context, outcome)

    def _known_or(
        self, context: PaymentContext, refusal: RailcoreError
    ) -> Procedure[PaymentExecution]:
        """Return what the key stands for already, whatever keeps it from being asked anew."""
        stored = yield from ask(lambda: self.store.find(context.tenant_id, context.idempotency_key))
        if stored is None:
            raise refusal
        return self.kernel.known(context, stored)

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

    def hear(self, execution: PaymentExecution, fact: Fact) -> Procedure[PaymentExecution]:
        """Fold in what nobody was asked for; neither lease nor schedule of others is touched."""
        if not tells(fact.result):
            return execution
        return (yield from self._fold(execution.changed(lease=_NO_LEASE), lambda _: fact))

    def ask_about(self, execution: PaymentExecution) -> Procedure[bool]:
        """
        Look up without the lease, and fold in what is found; whether anything is settled.

        Silence settles nothing, not even about a finished execution: nobody looks at it again.
        """
        result = yield from self._look_up(execution)
        fact = Fact(result=result, source=FactSource.LOOKUP, phase=execution.phase)
        yield from self.hear(execution, fact)
        return tells(result) or (result.is_absent and not execution.is_open)

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
            outcome, send_by = yield from self._claim_knowing(context)
        except _REFUSALS as refusal:
            return (yield from self._known_or(context, refusal)), True
        if outcome.verdict is not ClaimVerdict.CLAIMED or outcome.execution is None:
            return (yield from self._not_claimed(context, outcome)), True
        sent = yield from self._send(outcome.execution, send_by)
        return sent, False

    def _claim_knowing(self, context: PaymentContext) -> Procedure[tuple[ClaimOutcome, Deadline]]:
        """Claim; where the outcome of others decides, ask their provider first (rule R6)."""
        try:
            outcome, send_by = yield from self._claim(context)
        except InDoubtError as doubt:
            in_doubt = doubt.execution_ids
            key = context.idempotency_key
            if (yield from ask(lambda: self.store.find(context.tenant_id, key))) is not None:
                raise
        else:
            first = outcome.execution
            if outcome.verdict is not ClaimVerdict.LIVE or first is None or not first.is_in_doubt:
                return outcome, send_by
            in_doubt = (first.execution_id,)
        for execution_id in in_doubt:
            yield from self._check_first(context.tenant_id, execution_id)
        return (yield from self._claim(context))

    def _check_first(self, tenant_id: str, execution_id: UUID) -> Procedure[None]:
        """Look up and send nothing; what goes wrong leaves it as much in doubt as it was."""
        with suppress(Exception):
            execution = yield from self.get(tenant_id, execution_id)
            if execution.send_count and execution.is_open:
                yield from self.ask_about(execution)

    def _claim(
        self, context: PaymentContext, send_before: datetime | None = None
    ) -> Procedure[tuple[ClaimOutcome, Deadline]]:
        """Claim; decide again, a few times, where the payment moved since the decision."""
        outcome, send_by = yield from self._claim_once(context, send_before)
        for _ in range(_DECISIONS - 1):
            if outcome.verdict is not ClaimVerdict.MOVED:
                break
            outcome, send_by = yield from self._claim_once(context, send_before)
        return outcome, send_by

    def _claim_once(
        self, context: PaymentContext, send_before: datetime | None
    ) -> Procedure[tuple[ClaimOutcome, Deadline]]:
        plan = yield from self._plan(context, send_before)
        send_by = self.kernel.send_by(plan.timing)
        outcome = yield from ask(lambda: self.store.claim(plan.claim))
        return outcome, send_by

    def _plan(self, context: PaymentContext, send_before: datetime | None) -> Procedure[Plan]:
        parent_id = context.parent_execution_id
        if parent_id is None:
            return self.kernel.plan(context, send_before)
        parent = yield from ask(lambda: self.store.get(context.tenant_id, parent_id))
        payment = yield from ask(lambda: self.store.payment(context.tenant_id, context.payment_id))
        executions = yield from ask(
            lambda: self.store.executions(context.tenant_id, context.payment_id)
        )
        return self.kernel.plan_follow_up(context, parent, payment, executions, send_before)

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
                execution,
                "execute",
                lambda: rail.execute(execution, send_by=send_by),
                RailResult.failed(PaymentFailureCode.PROVIDER_UNAVAILABLE),
            )
            fact = self.kernel.fact_of_answer(execution, result)
        except Exception:
            yield from self._fold(execution, self.kernel.fact_of_exception)
            raise
        wait_s = self.kernel.put_back_s(execution, result)
        if wait_s is not None:
            return (yield from self._put_back(execution, wait_s))
        return (yield from self._fold(execution, lambda _: fact))

    def _put_back(self, execution: PaymentExecution, wait_s: float) -> Procedure[PaymentExecution]:
        """Nothing was done, for certain: leave it to be sent anew."""
        try:
            yield from ask(lambda: self.store.put_back(execution, wait_s))
            return (yield from self.get(execution.tenant_id, execution.execution_id))
        except (StoreError, InProgressError, ExecutionNotFoundError) as error:
            raise OutcomeUnknownError(execution.tenant_id, execution.execution_id) from error

    def _too_late(self, execution: PaymentExecution) -> Procedure[PaymentExecution]:
        """Nothing has left. Mark a slow claim anew, once: a slow store is no refusal."""
        if execution.tries == 1:
            return (yield from self._send_again(execution))
        return (yield from self._fold(execution, self.kernel.fact_of_silence))

    def _look_up(self, execution: PaymentExecution) -> Procedure[RailResult]:
        rail = self.rails.find(execution.rail, execution.provider)
        try:
            return (
                yield from self._timed(
                    execution,
                    "check_status",
                    lambda: rail.check_status(execution),
                    RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT),
                )
            )
        except Exception:  # noqa: BLE001 - observed; a lookup that breaks is no news, and the execution stays due
            return RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR)

    def _timed(
        self,
        execution: PaymentExecution,
        step: str,
        call: Callable[[], RailResult],
        not_made: RailResult,
    ) -> Procedure[RailResult]:
        """Make a call, and learn from it; while the account's breaker is open return *not_made*."""
        traffic, account = self.kernel.traffic, execution.account_key
        started_s = self.kernel.clock.monotonic()
        left_s = traffic.enter(account, started_s)
        if left_s:
            answer = attrs.evolve(not_made, retry_after_s=left_s)
            self._tell_of_call(execution, step, started_s, answer)
            return answer
        try:
            answer = yield from ask(call)
        except BaseException as error:
            if isinstance(error, Exception):
                traffic.hear(account, None, self.kernel.clock.monotonic())
            self._tell_of_call(execution, step, started_s, error)
            raise
        traffic.hear(account, answer, self.kernel.clock.monotonic())
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
                if fact.is_fenced and fresh.lease.token != lease.token:
                    return fresh
                execution = fresh.changed(lease=lease)
        except (StoreError, InProgressError, ExecutionNotFoundError) as error:
            raise OutcomeUnknownError(execution.tenant_id, execution.execution_id) from error

    def _note(self, execution: PaymentExecution, decision: Decision) -> Procedure[None]:
        for found in (*decision.discrepancies, *not_given_back(execution, decision)):
            event = draft_discrepancy(execution, found)
            yield from ask(partial(self.store.note, execution, found, event))

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

    def tell(self, observed: Callable[[], Observed]) -> None:
        """Tell the observer, if there is one; what it raises is ignored."""
        self._tell(observed)

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
