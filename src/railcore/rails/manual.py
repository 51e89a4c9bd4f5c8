"""
Money that a person sees and confirms: cash, cheques, a terminal that nothing is connected to.

Nothing is sent. One named person confirms on evidence, or two different ones where four eyes are
wanted.
"""

from typing import Final

import attrs

from railcore.enums import (
    ExecutionStatus,
    Idempotency,
    Lookup,
    Operation,
    PendingReason,
    SettlementMode,
)
from railcore.errors import ApprovalError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.flow import answered
from railcore.ports import OperatorDecision
from railcore.rails.bank_transfer import NOTHING_SENT, Flow
from railcore.rails.references import readable_reference
from railcore.results import RailResult
from railcore.routing import RouteCapabilities

_MOST_APPROVERS: Final = 2


def _one_or_two(_: object, __: object, value: int) -> None:
    if value not in range(1, _MOST_APPROVERS + 1):
        raise InvalidValueError("approvals_required", "1 or 2", repr(value)[:40])


@attrs.frozen
class _Approval:
    actor: str
    evidence: str


@attrs.frozen
class ManualSettlementRail:
    """
    Waits for a named person; pending ``manual_review`` with a readable reference.

    Attributes:
        approvals_required: 1, or 2 for a second pair of eyes.
    """

    approvals_required: int = attrs.field(default=1, validator=_one_or_two)

    @property
    def capabilities(self) -> RouteCapabilities:
        """Charges and refunds over the counter. The rail is its own provider and knows itself."""
        return RouteCapabilities(
            operations=frozenset({Operation.CHARGE, Operation.REFUND}),
            supports_async=True,
            settlement_mode=SettlementMode.MANUAL,
            partial_refund=True,
            multiple_refund=True,
            idempotency=Idempotency.REFERENCE,
            lookup=Lookup.BY_REFERENCE,
            lookup_is_authoritative=True,
            timing=NOTHING_SENT,
        )

    def execute(self, execution: PaymentExecution, /) -> Flow:
        """Return that a person has to look."""
        return answered(_waiting(execution, ()))

    def advance(self, execution: PaymentExecution, /) -> Flow:
        """Return the same again."""
        return answered(_waiting(execution, ()))

    def check_status(self, execution: PaymentExecution, /) -> Flow:
        """Return the same again: only a person knows more."""
        return answered(_waiting(execution, ()))

    def confirm(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return success once enough different people have confirmed, ``manual_review`` until then.

        Raises:
            ApprovalError: The same person twice, another amount than asked, or a decision that came
                before.
        """
        _check_amount(execution, decision)
        given = _approvals(execution)
        mine = _Approval(decision.actor, decision.evidence)
        if execution.status is ExecutionStatus.COMPLETED:
            return _completed_before(execution, mine in given)
        approvals = _approvals_with(execution, given, mine)
        if len(approvals) < self.approvals_required:
            _check_open(execution)
            return _waiting(execution, approvals)
        return RailResult.success(
            decision.evidence, execution.money, provider_response=_stored(approvals)
        )

    def reject(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return that no money came and none will.

        Raises:
            ApprovalError: It is completed.
        """
        if execution.status is ExecutionStatus.COMPLETED:
            problem = "is completed and cannot be rejected. Refund it instead"
            raise ApprovalError(execution.execution_id, problem)
        said = {"rejected_by": decision.actor, "evidence": decision.evidence}
        return RailResult.failed(PaymentFailureCode.CANCELLED, provider_response=said)


def _waiting(execution: PaymentExecution, approvals: tuple[_Approval, ...]) -> RailResult:
    return RailResult.pending(
        PendingReason.MANUAL_REVIEW,
        provider_ref=readable_reference(execution.provider_key),
        progress=len(approvals),
        provider_response=_stored(approvals) if approvals else {},
    )


def _approvals(execution: PaymentExecution) -> tuple[_Approval, ...]:
    stored = execution.provider_response.get("approvals", ())
    if not isinstance(stored, list | tuple):
        return ()
    return tuple(_Approval(str(one["actor"]), str(one["evidence"])) for one in stored)


def _stored(approvals: tuple[_Approval, ...]) -> dict[str, object]:
    return {"approvals": [attrs.asdict(one) for one in approvals]}


def _approvals_with(
    execution: PaymentExecution, given: tuple[_Approval, ...], mine: _Approval
) -> tuple[_Approval, ...]:
    if any(one.actor.casefold() == mine.actor.casefold() for one in given):
        problem = (
            f"{mine.actor} has confirmed already. Somebody else has to give the second approval"
        )
        raise ApprovalError(execution.execution_id, problem)
    return (*given, mine)


def _check_open(execution: PaymentExecution) -> None:
    if not execution.is_open:
        raise ApprovalError(execution.execution_id, "was rejected before. Charge again instead")


def _completed_before(execution: PaymentExecution, is_same: bool) -> RailResult:  # noqa: FBT001 - private
    if not is_same or execution.provider_ref is None:
        problem = "is completed already, on another decision"
        raise ApprovalError(execution.execution_id, problem)
    return RailResult.success(
        execution.provider_ref, execution.money, provider_response=execution.provider_response
    )


def _check_amount(execution: PaymentExecution, decision: OperatorDecision) -> None:
    if decision.received not in {None, execution.money}:
        problem = f"asked {execution.money}, received {decision.received}. Confirm all or reject it"
        raise ApprovalError(execution.execution_id, problem)
