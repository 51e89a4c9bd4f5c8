"""A named person confirms on evidence, or two."""

import re
from typing import Any

import pytest

from railcore.enums import ExecutionStatus, PaymentRail, PendingReason
from railcore.errors import ApprovalError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind, Fact, FactSource, decide
from railcore.money import SAR, Money
from railcore.ports import FlowRail, OperatorDecided, OperatorDecision
from railcore.rails.manual import ManualSettlementRail
from railcore.results import RailResult
from railcore.testing.conversation import Conversation
from tests.core.executions import after, an_execution

ONE = ManualSettlementRail()
TWO = ManualSettlementRail(approvals_required=2)


def cash(**changed: Any) -> PaymentExecution:
    return an_execution(PaymentRail.MANUAL_SETTLEMENT, provider="manual", **changed)


def asked(execution: PaymentExecution) -> RailResult:
    flows: FlowRail[object, object] = ONE
    return Conversation(flows.execute(execution)).result


def waiting() -> PaymentExecution:
    return after(cash(), asked(cash()))


def said_by(
    actor: str, evidence: str = "till-7", received: Money | None = None
) -> OperatorDecision:
    return OperatorDecision(actor=actor, evidence=evidence, received=received)


def test_a_person_has_to_look_under_a_readable_reference() -> None:
    result = asked(cash())

    assert result.pending_reason is PendingReason.MANUAL_REVIEW
    assert re.fullmatch(r"MS(-[B-DF-HJKMNP-TV-Z]{4}){4}", result.provider_ref or "")


def test_the_reference_is_the_same_however_often_it_is_asked() -> None:
    flows: FlowRail[object, object] = ONE

    assert Conversation(flows.check_status(cash())).result == asked(cash())
    assert Conversation(flows.advance(cash())).result == asked(cash())
    assert asked(cash(idempotency_key="key-2")) != asked(cash())


def test_an_operator_may_decide() -> None:
    assert isinstance(ONE, OperatorDecided)


def test_one_confirmation_is_enough_by_default() -> None:
    result = ONE.confirm(waiting(), said_by("ada"))

    assert (result.provider_ref, result.reported) == ("till-7", Money(1250, SAR))
    assert result.provider_response == {"approvals": [{"actor": "ada", "evidence": "till-7"}]}


def test_the_first_of_two_keeps_waiting() -> None:
    result = TWO.confirm(waiting(), said_by("ada"))

    assert result.pending_reason is PendingReason.MANUAL_REVIEW
    assert result.progress == 1
    assert result.provider_response == {"approvals": [{"actor": "ada", "evidence": "till-7"}]}


def test_a_second_person_completes_it() -> None:
    execution = after(waiting(), TWO.confirm(waiting(), said_by("ada")))
    execution = after(execution, TWO.confirm(execution, said_by("grace", "till-8")))

    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.provider_ref == "till-8"


@pytest.mark.parametrize("again", ["ada", "ADA"])
def test_the_same_person_twice_is_refused(again: str) -> None:
    execution = after(waiting(), TWO.confirm(waiting(), said_by("ada")))

    with pytest.raises(ApprovalError, match="has confirmed already"):
        TWO.confirm(execution, said_by(again, "till-8"))


def test_a_status_check_does_not_undo_an_approval() -> None:
    execution = after(waiting(), TWO.confirm(waiting(), said_by("ada")))

    assert after(execution, asked(execution)) == execution


def test_the_amount_asked_may_be_named() -> None:
    result = ONE.confirm(waiting(), said_by("ada", received=Money(1250, SAR)))

    assert result.reported == Money(1250, SAR)


def test_another_amount_is_refused() -> None:
    with pytest.raises(ApprovalError, match=re.escape("asked 12.50 SAR, received 12.00 SAR")):
        ONE.confirm(waiting(), said_by("ada", received=Money(1200, SAR)))


def test_the_same_decision_again_is_no_news() -> None:
    execution = after(waiting(), ONE.confirm(waiting(), said_by("ada")))

    again = ONE.confirm(execution, said_by("ada"))
    decision = decide(execution, Fact(result=again, source=FactSource.OPERATOR))

    assert (decision.change, decision.discrepancy) == (None, None)


def test_another_decision_on_a_completed_execution_is_refused() -> None:
    execution = after(waiting(), ONE.confirm(waiting(), said_by("ada")))

    with pytest.raises(ApprovalError, match="completed already"):
        ONE.confirm(execution, said_by("grace"))


def test_a_rejection_is_a_definite_failure() -> None:
    result = ONE.reject(waiting(), said_by("ada"))

    assert result.failure is PaymentFailureCode.CANCELLED
    assert result.provider_response == {"rejected_by": "ada", "evidence": "till-7"}


def test_a_second_person_may_reject_what_the_first_confirmed() -> None:
    execution = after(waiting(), TWO.confirm(waiting(), said_by("ada")))

    assert (
        after(execution, TWO.reject(execution, said_by("grace"))).status is ExecutionStatus.FAILED
    )


def test_what_is_completed_cannot_be_rejected() -> None:
    execution = after(waiting(), ONE.confirm(waiting(), said_by("ada")))

    with pytest.raises(ApprovalError, match="Refund it"):
        ONE.reject(execution, said_by("grace"))


def test_money_seen_after_a_rejection_is_a_discrepancy() -> None:
    rejected = after(waiting(), ONE.reject(waiting(), said_by("ada")))

    late = ONE.confirm(rejected, said_by("grace"))
    decision = decide(rejected, Fact(result=late, source=FactSource.OPERATOR))

    assert decision.discrepancy is not None
    assert decision.discrepancy.kind is DiscrepancyKind.SUCCESS_AFTER_FAILURE


def test_one_approval_of_two_after_a_rejection_is_refused_and_not_lost() -> None:
    rejected = after(waiting(), TWO.reject(waiting(), said_by("ada")))

    with pytest.raises(ApprovalError, match="was rejected"):
        TWO.confirm(rejected, said_by("grace"))


@pytest.mark.parametrize("approvals", [0, 3, "2"])
def test_it_takes_one_or_two_people(approvals: int) -> None:
    with pytest.raises(InvalidValueError):
        ManualSettlementRail(approvals_required=approvals)


def test_refunds_over_the_counter_are_offered() -> None:
    assert ONE.capabilities.supports_refund
