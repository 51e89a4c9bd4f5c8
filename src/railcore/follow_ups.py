"""
When a capture, a void or a refund may be asked for, decided on what is stored.

Three things stand in the way, each with an error of its own. The *route* may not do it: a second
capture, a part of an amount. The *limits*: no authorization gives more than it holds, nothing gives
back more than was collected, money in doubt counted. And *doubt* (rule R6): where the outcome of
another execution decides, the answer is neither yes nor no until that one is known.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation
from railcore.errors import (
    CurrencyMismatchError,
    InDoubtError,
    LimitExceededError,
    UnsupportedOperationError,
)
from railcore.execution import PaymentExecution, PaymentView, available_of
from railcore.review import NotedDiscrepancy
from railcore.routing import PaymentRoute

_PARENTS: Final[Mapping[Operation, frozenset[Operation]]] = {
    Operation.CAPTURE: frozenset({Operation.AUTHORIZE}),
    Operation.VOID: frozenset({Operation.AUTHORIZE}),
    Operation.REFUND: frozenset({Operation.CHARGE, Operation.AUTHORIZE, Operation.CAPTURE}),
}
"""What a follow-up may act on: a refund of a refund would take the money again."""

_RIVALS: Final[Mapping[Operation, Operation]] = {
    Operation.CAPTURE: Operation.VOID,
    Operation.VOID: Operation.CAPTURE,
}
"""Of these two, providers do not say which one comes first."""


def check_parent(context: PaymentContext, parent: PaymentExecution) -> None:
    """
    Check that *parent* is of a kind that can be followed so, and is completed.

    Raises:
        UnsupportedOperationError: It is of another kind, or failed.
        InDoubtError: It is still open.
    """
    if parent.operation not in _PARENTS[context.operation]:
        raise UnsupportedOperationError(
            parent.provider,
            f"{context.operation} of a {parent.operation}",
            ", ".join(sorted(_PARENTS[context.operation])),
        )
    if parent.is_open:
        raise _in_doubt(context, [parent])
    if parent.status is not ExecutionStatus.COMPLETED:
        raise UnsupportedOperationError(
            parent.provider,
            f"{context.operation} of an execution that is {parent.status}",
            "completed executions",
        )


def check_follow_up(
    context: PaymentContext,
    parent: PaymentExecution,
    payment: PaymentView,
    executions: Sequence[PaymentExecution],
    route: PaymentRoute,
) -> None:
    """
    Check that doubt, limits and *route* allow *context*.

    Args:
        executions: All of the payment.

    Raises:
        CurrencyMismatchError: The parent is in another currency.
        InDoubtError: What becomes of other executions decides.
        LimitExceededError: More than is left, amounts in doubt counted.
        UnsupportedOperationError: The route takes no parts, or no second one.
    """
    if parent.money.currency != context.money.currency:
        raise CurrencyMismatchError(context.payment_id, context.money.currency.code)
    others = _others(context.operation, parent, executions)
    _check_doubt(context, parent, executions)
    _check_limits(context, parent, payment, executions, others)
    _check_number(context, others, route)
    _check_parts(context, parent, executions, route)


def disputed(context: PaymentContext, noted: Sequence[NotedDiscrepancy]) -> InDoubtError:
    """Return that people have to resolve *noted* first."""
    found = dict.fromkeys(one.execution_id for one in noted if one.execution_id is not None)
    return InDoubtError(
        context.payment_id,
        context.operation,
        tuple(found),
        tuple(one.discrepancy_id for one in noted),
    )


def _check_doubt(
    context: PaymentContext, parent: PaymentExecution, executions: Sequence[PaymentExecution]
) -> None:
    rival = _RIVALS.get(context.operation)
    rivals = [
        one
        for one in executions
        if one.is_open
        and one.operation is rival
        and one.context.parent_execution_id == parent.execution_id
    ]
    if rivals:
        raise _in_doubt(context, rivals)


def _check_limits(
    context: PaymentContext,
    parent: PaymentExecution,
    payment: PaymentView,
    executions: Sequence[PaymentExecution],
    others: Sequence[PaymentExecution],
) -> None:
    asked = context.money.amount_minor
    available = min(
        payment.available_minor(context.operation),
        available_of(parent, context.operation, executions),
    )
    if asked <= available:
        return
    deciding = [one for one in others if one.is_open]
    at_best = available_of(
        parent, context.operation, [one for one in executions if one not in deciding]
    )
    if parent.operation is Operation.AUTHORIZE and context.operation is Operation.REFUND:
        captures = [one for one in _captures_of(parent.execution_id, executions) if one.is_open]
        at_best += sum(one.money.amount_minor for one in captures)
        deciding += captures
    if deciding and asked <= at_best:
        raise _in_doubt(context, deciding)
    raise LimitExceededError(context.payment_id, context.operation, asked, available)


def _check_number(
    context: PaymentContext, others: Sequence[PaymentExecution], route: PaymentRoute
) -> None:
    can = route.capabilities
    may_repeat = {
        Operation.CAPTURE: can.multiple_capture,
        Operation.REFUND: can.multiple_refund,
    }.get(context.operation, True)
    same = [one for one in others if one.operation is context.operation]
    if may_repeat or not same:
        return
    if all(one.is_open for one in same):
        raise _in_doubt(context, same)
    operation = context.operation
    raise UnsupportedOperationError(route.name, f"a second {operation}", f"one {operation} only")


def _check_parts(
    context: PaymentContext,
    parent: PaymentExecution,
    executions: Sequence[PaymentExecution],
    route: PaymentRoute,
) -> None:
    can = route.capabilities
    may_part = {
        Operation.CAPTURE: can.partial_capture,
        Operation.REFUND: can.partial_refund,
    }.get(context.operation, True)
    whole = parent.money.amount_minor
    if parent.operation is Operation.AUTHORIZE and context.operation is Operation.REFUND:
        whole = sum(
            one.money.amount_minor
            for one in _captures_of(parent.execution_id, executions)
            if one.status is ExecutionStatus.COMPLETED
        )
    if may_part or context.money.amount_minor == whole:
        return
    raise UnsupportedOperationError(
        route.name,
        f"a {context.operation} of {context.money.amount_minor} of {whole} minor units",
        f"a {context.operation} of the whole amount",
    )


def _others(
    operation: Operation, parent: PaymentExecution, executions: Sequence[PaymentExecution]
) -> Sequence[PaymentExecution]:
    """Return what has been asked of the same money and has not failed."""
    alive = [one for one in executions if one.status is not ExecutionStatus.FAILED]
    if operation is not Operation.REFUND:
        rivals = {Operation.CAPTURE, Operation.VOID}
        names: set[UUID | None] = {parent.execution_id}
        return [
            one
            for one in alive
            if one.operation in rivals and one.context.parent_execution_id in names
        ]
    names = _family(parent, alive)
    return [
        one
        for one in alive
        if one.operation is Operation.REFUND and one.context.parent_execution_id in names
    ]


def _family(parent: PaymentExecution, alive: Sequence[PaymentExecution]) -> set[UUID | None]:
    """Return whose refunds give back the same money as a refund of *parent* would."""
    match parent.operation:
        case Operation.AUTHORIZE:
            captures = _captures_of(parent.execution_id, alive)
            return {parent.execution_id, *(one.execution_id for one in captures)}
        case Operation.CAPTURE:
            return {parent.execution_id, parent.context.parent_execution_id}
        case _:
            return {parent.execution_id}


def _captures_of(
    authorization_id: UUID, executions: Sequence[PaymentExecution]
) -> Sequence[PaymentExecution]:
    return [
        one
        for one in executions
        if one.operation is Operation.CAPTURE
        and one.context.parent_execution_id == authorization_id
    ]


def _in_doubt(context: PaymentContext, executions: Sequence[PaymentExecution]) -> InDoubtError:
    names = tuple(one.execution_id for one in executions)
    return InDoubtError(context.payment_id, context.operation, names)
