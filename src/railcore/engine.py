"""
The engines: what a host calls.

``PaymentEngine`` and ``AsyncPaymentEngine`` stand side by side and hold no decisions: each method
drives a procedure (``railcore.procedures``), which asks the kernel (``railcore.kernel``) what to do
next.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast
from uuid import UUID

from railcore._ids import uuid7_maker
from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.events import JournalEvent
from railcore.execution import PaymentExecution, PaymentView
from railcore.flow import adrive, drive
from railcore.kernel import EngineSettings, Kernel, check_leases
from railcore.ports import (
    AsyncExecutionStore,
    AsyncRail,
    Clock,
    ExecutionStore,
    Observer,
    OperatorDecision,
    Rail,
    RouteResolver,
)
from railcore.procedures import Procedure, Procedures
from railcore.registry import PaymentRailRegistry

T = TypeVar("T")


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
    ) -> None:
        self._store = store
        kernel = _kernel(rails, routes, settings, clock, observer, new_id)
        self._procedures = Procedures(kernel, rails, store)

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
    ) -> None:
        self._store = store
        kernel = _kernel(rails, routes, settings, clock, observer, new_id)
        # The procedures are typed with the synchronous ports; _arun awaits what the asynchronous
        # ones return.
        self._procedures = Procedures(
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
    )
