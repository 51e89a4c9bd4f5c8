"""
A rail written as flows, run by a synchronous or an asynchronous answerer.

A transport's ``send``, a wallet's ``answer``.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs

from railcore.clock import Deadline
from railcore.execution import PaymentExecution
from railcore.flow import adrive, drive
from railcore.ports import AsyncRail, FlowRail, OperatorDecided, Rail
from railcore.results import RailResult
from railcore.routing import RouteCapabilities

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")


@attrs.frozen
class DrivenRail(Generic[Ask, Reply]):
    """
    Runs the flows of a rail synchronously.

    Attributes:
        flows: The rail.
        answer: Answers one thing that a flow asks for; given the send deadline for what moves
            money.
    """

    flows: FlowRail[Ask, Reply]
    answer: Callable[[Ask, Deadline | None], Reply]

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the rail can do."""
        return self.flows.capabilities

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Start the operation."""
        return drive(self.flows.execute(execution), lambda ask: self.answer(ask, send_by))

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Go on after a customer action."""
        return drive(self.flows.advance(execution), lambda ask: self.answer(ask, send_by))

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Ask what became of it."""
        return drive(self.flows.check_status(execution), lambda ask: self.answer(ask, None))


@attrs.frozen
class AsyncDrivenRail(Generic[Ask, Reply]):
    """
    Runs the flows of a rail asynchronously.

    Attributes:
        flows: The rail.
        answer: Answers one thing that a flow asks for; given the send deadline for what moves
            money.
    """

    flows: FlowRail[Ask, Reply]
    answer: Callable[[Ask, Deadline | None], Awaitable[Reply]]

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the rail can do."""
        return self.flows.capabilities

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Start the operation."""
        return await adrive(self.flows.execute(execution), lambda ask: self.answer(ask, send_by))

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Go on after a customer action."""
        return await adrive(self.flows.advance(execution), lambda ask: self.answer(ask, send_by))

    async def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Ask what became of it."""
        return await adrive(self.flows.check_status(execution), lambda ask: self.answer(ask, None))


def operator_of(rail: Rail | AsyncRail) -> OperatorDecided | None:
    """Return what takes an operator's decisions for *rail*, if anything does."""
    flows = rail.flows if isinstance(rail, DrivenRail | AsyncDrivenRail) else rail
    return flows if isinstance(flows, OperatorDecided) else None
