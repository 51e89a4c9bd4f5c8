"""
The engines: what a host calls.

``PaymentEngine`` and ``AsyncPaymentEngine`` stand side by side and hold no decisions: each method
drives a procedure (``railcore.procedures``), which asks the kernel (``railcore.kernel``) what to do
next.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import attrs

from railcore._ids import any_share, uuid7_maker
from railcore.breaker import Traffic
from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.errors import MisconfiguredError, RailcoreError
from railcore.events import JournalEvent
from railcore.execution import Account, PaymentExecution, PaymentView
from railcore.flow import adrive, drive
from railcore.intake import Webhooks, intake_of
from railcore.kernel import EngineSettings, Kernel, check_leases
from railcore.ports import (
    AsyncExecutionStore,
    AsyncRail,
    AsyncWebhookInbox,
    Clock,
    ExecutionStore,
    Joinable,
    Observer,
    OperatorDecision,
    Rail,
    RouteResolver,
    WebhookInbox,
)
from railcore.procedures import Procedure, Procedures
from railcore.protocol import Acquired, Due
from railcore.registry import PaymentRailRegistry
from railcore.review import NotedDiscrepancy, Orphan, Remedy, Review
from railcore.reviewing import Reviews
from railcore.story import Story
from railcore.webhooks import Headers, WebhookReceipt

T = TypeVar("T")

_MANY: Final = 1_000
"""How many of a bulk are planned at a time."""


class PaymentEngine:
    """
    Executes payments, synchronously. Safe to share between threads, as its store and rails are.

    Args:
        rails: The registered rails.
        routes: Finds the route of a new execution.
        store: Where executions live.
        settings: Leases and looks.
        clock: Injected time; the machine's by default.
        observer: Is told of every rail call and every answer.
        new_id: Makes execution ids; UUID version 7 by default.
        chance: Returns a number from 0 to 1, which spreads waits; the machine's by default.
        webhooks: What is needed to hear providers' own news.

    Raises:
        MisconfiguredError: The lease does not outlast a rail's call.
    """

    def __init__(
        self,
        *,
        rails: PaymentRailRegistry[Rail],
        routes: RouteResolver,
        store: ExecutionStore,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        new_id: Callable[[], UUID] | None = None,
        chance: Callable[[], float] | None = None,
        webhooks: Webhooks[WebhookInbox] | None = None,
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        kernel = _kernel(rails, routes, settings, clock, observer, new_id, chance)
        self._procedures = Reviews(kernel, rails, store)

    def execute(self, context: PaymentContext, /) -> PaymentExecution:
        """
        Carry out *context* once, whatever happens and however often it is asked.

        A known key with the same request returns the stored execution as it is now, processing and
        pending included, and sends nothing. A refusal by the provider is a ``failed`` execution; a
        lost answer is ``pending`` with ``outcome_unknown``.

        Raises:
            RefusedError: Refused before anything was sent or stored; the subclass says why.
            InProgressError: Another transaction holds the key or the payment; retry.
            StoreError: The claim failed; where it may have been committed, retry with the same key.
                Nothing was sent.
            OutcomeUnknownError: The provider was called but the outcome could not be recorded.
        """
        return _run(self._procedures.execute(context))

    def enqueue(
        self,
        context: PaymentContext,
        /,
        *,
        connection: Any = None,
        send_before: datetime | None = None,
    ) -> PaymentExecution:
        """
        Claim *context* now and let a worker send it.

        With *connection* the claim is part of the host's own open transaction: invoice and payment
        are committed together or not at all. A definite refusal before anything was done (no
        connection, an open breaker, too many requests) is tried again until *send_before*. A known
        key is answered as ``execute`` answers it.

        Args:
            context: What to do.
            connection: The host's open connection, as the store's ``within`` takes it.
            send_before: Until when it may be sent; ``EngineSettings.send_within_s`` from now by
                default. Then it fails, and no money has moved.

        Raises:
            RefusedError: Refused before anything was stored; the subclass says why.
            InProgressError: Another transaction holds the key or the payment; retry.
            StoreError: The claim failed; where it may have been committed, retry with the same key.
            MisconfiguredError: The store cannot write in a host's transaction.
        """
        before = send_before or self._procedures.kernel.send_before()
        return _run(self._joined(connection).enqueue(context, before))

    def enqueue_many(
        self,
        contexts: Iterable[PaymentContext],
        /,
        *,
        connection: Any = None,
        send_before: datetime | None = None,
    ) -> Sequence[PaymentExecution | RailcoreError]:
        """
        Claim many: for each of *contexts* in order what ``enqueue`` would have returned or raised.

        They are claimed in shared statements. With *connection* all of them are part of the host's
        own open transaction; otherwise each is committed by itself.

        Raises:
            MisconfiguredError: The store cannot write in a host's transaction.
        """
        procedures = self._joined(connection)
        before = send_before or self._procedures.kernel.send_before()
        results: list[PaymentExecution | RailcoreError] = []
        for some in _batches(contexts, _MANY):
            results += _run(procedures.enqueue_many(some, before))
        return results

    def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take the leases of executions that are due, those due longest first: a worker's step."""
        return _run(self._procedures.acquire_due(due))

    def check(self, acquired: Acquired, started_s: float, /) -> PaymentExecution:
        """
        Do what is due for an execution whose lease is held: send it, or look it up.

        What was never sent is sent; whatever may have been sent is looked up first, and sent again
        only under rule R3.

        Args:
            acquired: As ``acquire_due`` gave it.
            started_s: What the monotonic clock showed before ``acquire_due`` was called.
        """
        return _run(self._procedures.check(acquired, started_s))

    def give_back(self, acquired: Acquired, /) -> bool:
        """Give back the lease of what was taken and not begun; whether it was still held."""
        return _run(self._procedures.give_back(acquired))

    def refresh(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Look an open execution up at its provider and record what is found.

        It is sent again only under rule R3. While another holder's lease lasts, and for a terminal
        execution, nothing is asked: the stored execution is returned.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return _run(self._procedures.refresh(tenant_id, execution_id))

    def confirm(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /
    ) -> PaymentExecution:
        """
        Record that a named person confirms, on evidence, that the money came.

        Raises:
            ExecutionNotFoundError: No such execution.
            UnsupportedOperationError: The rail takes no operator's word.
            ApprovalError: This person may not give it.
        """
        judgement = self._procedures.judge(
            tenant_id, execution_id, decision, lambda rail, found: rail.confirm(found, decision)
        )
        return _run(judgement)

    def reject(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /
    ) -> PaymentExecution:
        """
        Record that a named person says, on evidence, that no money came and none will.

        Raises as ``confirm`` does.
        """
        judgement = self._procedures.judge(
            tenant_id, execution_id, decision, lambda rail, found: rail.reject(found, decision)
        )
        return _run(judgement)

    def handle_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """
        Take a delivery of a provider, and try to apply it.

        When this returns the delivery is stored, or was before, whatever became of applying it.

        Args:
            provider: As in the address that it came to.
            headers: As received.
            raw_body: As received, byte for byte.
            account: As in the address; None tries every account of the provider.

        Raises:
            UnknownProviderError: Nobody reads this provider's deliveries.
            WebhookRefusedError: It is not proven to come from the provider, or its event was here
                before with another body. Nothing was stored.
            StoreError: It could not be stored; the provider has to send it again.
            MisconfiguredError: The engine was made without webhooks, or a secret is no secret.
        """
        intake = intake_of(self._procedures, self._webhooks)
        return _run(intake.handle(provider, headers, raw_body, account))

    def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """
        Take a delivery without applying it: the first half of ``handle_webhook``.

        A host that answers the provider in between gives the receipt to ``apply_webhook``.

        Raises as ``handle_webhook`` does.
        """
        intake = intake_of(self._procedures, self._webhooks)
        return _run(intake.receive(provider, headers, raw_body, account))

    def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        """Apply what was taken; what cannot be applied now is tried again by ``apply_inbox``."""
        return _run(intake_of(self._procedures, self._webhooks).apply(receipt))

    def apply_inbox(self, limit: int = 100, /) -> int:
        """Try the deliveries that are due, at most *limit*; return how many were tried."""
        return _run(intake_of(self._procedures, self._webhooks).apply_due(limit))

    def review(self, tenant_id: str | None = None, limit: int = 100, /) -> Review:
        """
        Return what people have to look at, the oldest first: of one tenant or, for None, of all.

        Args:
            tenant_id: Whose.
            limit: The most discrepancies, and the most executions that wait for review.
        """
        return _run(self._procedures.review(tenant_id, limit))

    def resolve(
        self, tenant_id: str, discrepancy_id: UUID, remedy: Remedy, decision: OperatorDecision, /
    ) -> NotedDiscrepancy:
        """
        End a discrepancy: a named person decides, on evidence, once and for ever.

        ``accepted`` writes down that nothing is to be done. ``adopt`` books the money as a
        completed execution of its own, which can be refunded. ``refund`` does that and gives it
        back at once. The same decision again returns what became of the first.

        Raises:
            DiscrepancyNotFoundError: No such discrepancy.
            AlreadyResolvedError: Somebody has decided otherwise; says who.
            NoRemedyError: This does not mend it; says why. Nothing was sent or stored.
            UnsupportedOperationError: The route cannot refund. Nothing was sent or stored.
            InProgressError: The execution keeps moving; retry.
        """
        return _run(self._procedures.resolve(tenant_id, discrepancy_id, remedy, decision))

    def note_orphan(self, orphan: Orphan, /) -> NotedDiscrepancy:
        """
        Note a charge at a provider that no execution asked for: once, however often it is found.

        Make sure first that it is none of ours, by the reference that it carries.
        """
        return _run(self._procedures.note_orphan(orphan))

    def note_missing(
        self, tenant_id: str, execution_id: UUID, evidence: str, /
    ) -> NotedDiscrepancy:
        """
        Note that the provider's statement lacks what was completed: once, however often it does.

        Wait until the statement must have it: money settles days after it moved. A person ends it
        as accepted, on evidence.

        Args:
            tenant_id: Whose.
            execution_id: What the statement lacks.
            evidence: An opaque reference to the statement.

        Raises:
            ExecutionNotFoundError: No such execution.
            InvalidValueError: It is not completed, so that no statement has to have it.
        """
        return _run(self._procedures.note_missing(tenant_id, execution_id, evidence))

    def explain(self, tenant_id: str, execution_id: UUID, /) -> Story:
        """
        Return the story of a payment, for people and for programs.

        What was asked, why it went where it went, what is known from whom, what is in doubt, and
        what happens next and when.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return _run(self._procedures.explain(tenant_id, execution_id))

    def recheck(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Ask the provider again, also about a finished execution.

        What contradicts it becomes a discrepancy: a second charge under its key, another amount.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return _run(self._procedures.recheck(tenant_id, execution_id))

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Return an execution as it is now.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return _run(self._procedures.get(tenant_id, execution_id))

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

    @property
    def settings(self) -> EngineSettings:
        """Leases and looks."""
        return self._procedures.kernel.settings

    def resting(self) -> Mapping[Account, float]:
        """Return accounts that are left alone just now, and for how many seconds more."""
        kernel = self._procedures.kernel
        return kernel.traffic.resting(kernel.clock.monotonic())

    def _joined(self, connection: Any) -> Procedures:
        return _within(self._procedures, connection)


class AsyncPaymentEngine:
    """
    Executes payments, asynchronously.

    Cancelling a call that has claimed leaves the execution open: it is looked up when its lease has
        run out.

    Args:
        rails: The registered rails.
        routes: Finds the route of a new execution.
        store: Where executions live.
        settings: Leases and looks.
        clock: Injected time; the machine's by default.
        observer: Is told of every rail call and every answer.
        new_id: Makes execution ids; UUID version 7 by default.
        chance: Returns a number from 0 to 1, which spreads waits; the machine's by default.
        webhooks: What is needed to hear providers' own news.

    Raises:
        MisconfiguredError: The lease does not outlast a rail's call.
    """

    def __init__(
        self,
        *,
        rails: PaymentRailRegistry[AsyncRail],
        routes: RouteResolver,
        store: AsyncExecutionStore,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        new_id: Callable[[], UUID] | None = None,
        chance: Callable[[], float] | None = None,
        webhooks: Webhooks[AsyncWebhookInbox] | None = None,
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        kernel = _kernel(rails, routes, settings, clock, observer, new_id, chance)
        # The procedures are typed with the synchronous ports; _arun awaits what the asynchronous
        # ones return.
        self._procedures = Reviews(
            kernel, cast("PaymentRailRegistry[Rail]", rails), cast("ExecutionStore", store)
        )

    async def execute(self, context: PaymentContext, /) -> PaymentExecution:
        """
        Carry out *context* once, whatever happens and however often it is asked.

        A known key with the same request returns the stored execution as it is now, processing and
        pending included, and sends nothing. A refusal by the provider is a ``failed`` execution; a
        lost answer is ``pending`` with ``outcome_unknown``.

        Raises:
            RefusedError: Refused before anything was sent or stored; the subclass says why.
            InProgressError: Another transaction holds the key or the payment; retry.
            StoreError: The claim failed; where it may have been committed, retry with the same key.
                Nothing was sent.
            OutcomeUnknownError: The provider was called but the outcome could not be recorded.
        """
        return await _arun(self._procedures.execute(context))

    async def enqueue(
        self,
        context: PaymentContext,
        /,
        *,
        connection: Any = None,
        send_before: datetime | None = None,
    ) -> PaymentExecution:
        """
        Claim *context* now and let a worker send it.

        With *connection* the claim is part of the host's own open transaction: invoice and payment
        are committed together or not at all. A definite refusal before anything was done (no
        connection, an open breaker, too many requests) is tried again until *send_before*. A known
        key is answered as ``execute`` answers it.

        Args:
            context: What to do.
            connection: The host's open connection, as the store's ``within`` takes it.
            send_before: Until when it may be sent; ``EngineSettings.send_within_s`` from now by
                default. Then it fails, and no money has moved.

        Raises:
            RefusedError: Refused before anything was stored; the subclass says why.
            InProgressError: Another transaction holds the key or the payment; retry.
            StoreError: The claim failed; where it may have been committed, retry with the same key.
            MisconfiguredError: The store cannot write in a host's transaction.
        """
        before = send_before or self._procedures.kernel.send_before()
        return await _arun(self._joined(connection).enqueue(context, before))

    async def enqueue_many(
        self,
        contexts: Iterable[PaymentContext],
        /,
        *,
        connection: Any = None,
        send_before: datetime | None = None,
    ) -> Sequence[PaymentExecution | RailcoreError]:
        """
        Claim many: for each of *contexts* in order what ``enqueue`` would have returned or raised.

        They are claimed in shared statements. With *connection* all of them are part of the host's
        own open transaction; otherwise each is committed by itself.

        Raises:
            MisconfiguredError: The store cannot write in a host's transaction.
        """
        procedures = self._joined(connection)
        before = send_before or self._procedures.kernel.send_before()
        results: list[PaymentExecution | RailcoreError] = []
        for some in _batches(contexts, _MANY):
            results += await _arun(procedures.enqueue_many(some, before))
        return results

    async def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """Take the leases of executions that are due, those due longest first: a worker's step."""
        return await _arun(self._procedures.acquire_due(due))

    async def check(self, acquired: Acquired, started_s: float, /) -> PaymentExecution:
        """
        Do what is due for an execution whose lease is held: send it, or look it up.

        What was never sent is sent; whatever may have been sent is looked up first, and sent again
        only under rule R3.

        Args:
            acquired: As ``acquire_due`` gave it.
            started_s: What the monotonic clock showed before ``acquire_due`` was called.
        """
        return await _arun(self._procedures.check(acquired, started_s))

    async def give_back(self, acquired: Acquired, /) -> bool:
        """Give back the lease of what was taken and not begun; whether it was still held."""
        return await _arun(self._procedures.give_back(acquired))

    async def refresh(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Look an open execution up at its provider and record what is found.

        It is sent again only under rule R3. While another holder's lease lasts, and for a terminal
        execution, nothing is asked: the stored execution is returned.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return await _arun(self._procedures.refresh(tenant_id, execution_id))

    async def confirm(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /
    ) -> PaymentExecution:
        """
        Record that a named person confirms, on evidence, that the money came.

        Raises:
            ExecutionNotFoundError: No such execution.
            UnsupportedOperationError: The rail takes no operator's word.
            ApprovalError: This person may not give it.
        """
        judgement = self._procedures.judge(
            tenant_id, execution_id, decision, lambda rail, found: rail.confirm(found, decision)
        )
        return await _arun(judgement)

    async def reject(
        self, tenant_id: str, execution_id: UUID, decision: OperatorDecision, /
    ) -> PaymentExecution:
        """
        Record that a named person says, on evidence, that no money came and none will.

        Raises as ``confirm`` does.
        """
        judgement = self._procedures.judge(
            tenant_id, execution_id, decision, lambda rail, found: rail.reject(found, decision)
        )
        return await _arun(judgement)

    async def handle_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """
        Take a delivery of a provider, and try to apply it.

        When this returns the delivery is stored, or was before, whatever became of applying it.

        Args:
            provider: As in the address that it came to.
            headers: As received.
            raw_body: As received, byte for byte.
            account: As in the address; None tries every account of the provider.

        Raises:
            UnknownProviderError: Nobody reads this provider's deliveries.
            WebhookRefusedError: It is not proven to come from the provider, or its event was here
                before with another body. Nothing was stored.
            StoreError: It could not be stored; the provider has to send it again.
            MisconfiguredError: The engine was made without webhooks, or a secret is no secret.
        """
        intake = intake_of(self._procedures, self._webhooks)
        return await _arun(intake.handle(provider, headers, raw_body, account))

    async def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """
        Take a delivery without applying it: the first half of ``handle_webhook``.

        A host that answers the provider in between gives the receipt to ``apply_webhook``.

        Raises as ``handle_webhook`` does.
        """
        intake = intake_of(self._procedures, self._webhooks)
        return await _arun(intake.receive(provider, headers, raw_body, account))

    async def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        """Apply what was taken; what cannot be applied now is tried again by ``apply_inbox``."""
        return await _arun(intake_of(self._procedures, self._webhooks).apply(receipt))

    async def apply_inbox(self, limit: int = 100, /) -> int:
        """Try the deliveries that are due, at most *limit*; return how many were tried."""
        return await _arun(intake_of(self._procedures, self._webhooks).apply_due(limit))

    async def review(self, tenant_id: str | None = None, limit: int = 100, /) -> Review:
        """
        Return what people have to look at, the oldest first: of one tenant or, for None, of all.

        Args:
            tenant_id: Whose.
            limit: The most discrepancies, and the most executions that wait for review.
        """
        return await _arun(self._procedures.review(tenant_id, limit))

    async def resolve(
        self, tenant_id: str, discrepancy_id: UUID, remedy: Remedy, decision: OperatorDecision, /
    ) -> NotedDiscrepancy:
        """
        End a discrepancy: a named person decides, on evidence, once and for ever.

        ``accepted`` writes down that nothing is to be done. ``adopt`` books the money as a
        completed execution of its own, which can be refunded. ``refund`` does that and gives it
        back at once. The same decision again returns what became of the first.

        Raises:
            DiscrepancyNotFoundError: No such discrepancy.
            AlreadyResolvedError: Somebody has decided otherwise; says who.
            NoRemedyError: This does not mend it; says why. Nothing was sent or stored.
            UnsupportedOperationError: The route cannot refund. Nothing was sent or stored.
            InProgressError: The execution keeps moving; retry.
        """
        return await _arun(self._procedures.resolve(tenant_id, discrepancy_id, remedy, decision))

    async def note_orphan(self, orphan: Orphan, /) -> NotedDiscrepancy:
        """
        Note a charge at a provider that no execution asked for: once, however often it is found.

        Make sure first that it is none of ours, by the reference that it carries.
        """
        return await _arun(self._procedures.note_orphan(orphan))

    async def note_missing(
        self, tenant_id: str, execution_id: UUID, evidence: str, /
    ) -> NotedDiscrepancy:
        """
        Note that the provider's statement lacks what was completed: once, however often it does.

        Wait until the statement must have it: money settles days after it moved. A person ends it
        as accepted, on evidence.

        Args:
            tenant_id: Whose.
            execution_id: What the statement lacks.
            evidence: An opaque reference to the statement.

        Raises:
            ExecutionNotFoundError: No such execution.
            InvalidValueError: It is not completed, so that no statement has to have it.
        """
        return await _arun(self._procedures.note_missing(tenant_id, execution_id, evidence))

    async def explain(self, tenant_id: str, execution_id: UUID, /) -> Story:
        """
        Return the story of a payment, for people and for programs.

        What was asked, why it went where it went, what is known from whom, what is in doubt, and
        what happens next and when.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return await _arun(self._procedures.explain(tenant_id, execution_id))

    async def recheck(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Ask the provider again, also about a finished execution.

        What contradicts it becomes a discrepancy: a second charge under its key, another amount.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return await _arun(self._procedures.recheck(tenant_id, execution_id))

    async def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution:
        """
        Return an execution as it is now.

        Raises:
            ExecutionNotFoundError: No such execution.
        """
        return await _arun(self._procedures.get(tenant_id, execution_id))

    async def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key, if any."""
        return await self._store.find(tenant_id, idempotency_key)

    async def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        return await self._store.executions(tenant_id, payment_id)

    async def open_executions(self, limit: int = 100, /) -> Sequence[PaymentExecution]:
        """Return executions that are still open, the one due first first."""
        return await self._store.open_executions(limit)

    async def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the sums of a payment, if it has any execution."""
        return await self._store.payment(tenant_id, payment_id)

    async def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the journal of a payment in order."""
        return await self._store.events(tenant_id, payment_id)

    @property
    def settings(self) -> EngineSettings:
        """Leases and looks."""
        return self._procedures.kernel.settings

    def resting(self) -> Mapping[Account, float]:
        """Return accounts that are left alone just now, and for how many seconds more."""
        kernel = self._procedures.kernel
        return kernel.traffic.resting(kernel.clock.monotonic())

    def _joined(self, connection: Any) -> Procedures:
        return _within(self._procedures, connection)


def _within(procedures: Procedures, connection: Any) -> Procedures:
    """Return the same procedures over a store in the transaction of *connection*, if any."""
    if connection is None:
        return procedures
    store = procedures.store
    if isinstance(store, Joinable):
        return attrs.evolve(procedures, store=store.within(connection))
    raise MisconfiguredError(
        "connection",
        f"{type(store).__name__} cannot write in a host's transaction",
        "Leave connection out, or use a store on the host's database",
    )


def _batches(contexts: Iterable[PaymentContext], size: int) -> Iterator[list[PaymentContext]]:
    rest = iter(contexts)
    while some := list(islice(rest, size)):
        yield some


def _run(procedure: Procedure[T]) -> T:
    return drive(procedure, lambda call: call())


async def _arun(procedure: Procedure[T]) -> T:
    return await adrive(procedure, lambda call: call())


def _kernel(  # noqa: PLR0917 - one place for the defaults of both colours
    rails: PaymentRailRegistry[Rail] | PaymentRailRegistry[AsyncRail],
    routes: RouteResolver,
    settings: EngineSettings | None,
    clock: Clock | None,
    observer: Observer | None,
    new_id: Callable[[], UUID] | None,
    chance: Callable[[], float] | None,
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
        observer=observer,
        new_id=new_id or uuid7_maker(clock.now),
        chance=chance or any_share,
        traffic=Traffic(settings.breaker),
    )
