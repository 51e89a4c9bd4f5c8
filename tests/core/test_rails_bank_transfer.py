"""A transfer is awaited under a reference, and receipts add up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.enums import ExecutionStatus, PaymentRail, PendingReason
from railcore.errors import ApprovalError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind, Fact, FactSource, decide
from railcore.money import SAR, USD, Money
from railcore.ports import FlowRail, OperatorDecided, OperatorDecision
from railcore.rails.bank_transfer import (
    BankAccount,
    BankTransferRail,
    creditor_reference,
    is_creditor_reference,
)
from railcore.redaction import holds_card_number
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.testing.conversation import Conversation
from tests.core.executions import after, an_execution, on_account

ACCOUNT = BankAccount(
    beneficiary="Acme Trading LLC", iban="SA03 8000 0000 6080 1016 7519", bic="RJHISARI"
)
RAIL = BankTransferRail({"main": ACCOUNT})


def a_transfer(**changed: Any) -> PaymentExecution:
    return an_execution(PaymentRail.BANK_TRANSFER, provider="iso20022", **changed)


def asked(rail: BankTransferRail, execution: PaymentExecution) -> RailResult:
    flows: FlowRail[object, object] = rail
    return Conversation(flows.execute(execution)).result


def awaiting() -> PaymentExecution:
    return after(a_transfer(), asked(RAIL, a_transfer()))


def receipt(
    minor: int | None = None, evidence: str = "stmt-7/1", **changed: Any
) -> OperatorDecision:
    received = None if minor is None else Money(minor, SAR)
    return OperatorDecision(
        **{"actor": "ada", "evidence": evidence, "received": received, **changed}
    )


def shown(result: RailResult) -> NextAction:
    assert result.next_action is not None
    return result.next_action


def test_the_payer_is_told_where_to_send_what_under_which_reference() -> None:
    result = asked(RAIL, a_transfer())

    assert result.pending_reason is PendingReason.AWAITING_FUNDS
    assert shown(result).kind is NextActionKind.QUOTE_REFERENCE
    assert shown(result).fields == {
        "beneficiary": "Acme Trading LLC",
        "iban": "SA0380000000608010167519",
        "bic": "RJHISARI",
        "amount": "12.50",
        "currency": "SAR",
    }
    assert is_creditor_reference(shown(result).reference or "")


def test_the_reference_is_the_same_however_often_it_is_asked() -> None:
    assert asked(RAIL, a_transfer()) == asked(RAIL, a_transfer())


def test_another_payment_has_another_reference() -> None:
    other = asked(RAIL, a_transfer(idempotency_key="key-2"))

    assert shown(asked(RAIL, a_transfer())).reference != shown(other).reference


def test_a_status_check_after_a_crash_finds_the_same_instructions() -> None:
    flow: FlowRail[object, object] = RAIL

    assert Conversation(flow.check_status(a_transfer())).result == asked(RAIL, a_transfer())
    assert Conversation(flow.advance(a_transfer())).result == asked(RAIL, a_transfer())


def test_a_status_check_does_not_undo_a_partial_receipt() -> None:
    partly = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))

    assert after(partly, asked(RAIL, partly)) == partly


def test_the_reference_maker_can_be_replaced() -> None:
    rail = BankTransferRail({"main": ACCOUNT}, lambda execution: execution.payment_id)

    assert shown(asked(rail, a_transfer())).reference == "invoice-1"


@pytest.mark.parametrize("reference", ["", "two words", "4111111111111111"])
def test_a_reference_that_cannot_be_shown_is_a_configuration_error(reference: str) -> None:
    rail = BankTransferRail({"main": ACCOUNT}, lambda _: reference)

    expected = RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)
    assert asked(rail, a_transfer()) == expected


def test_an_account_without_a_bank_account_is_a_configuration_error() -> None:
    expected = RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)

    assert asked(RAIL, on_account(a_transfer(), "other")) == expected


def test_an_operator_may_decide() -> None:
    assert isinstance(RAIL, OperatorDecided)


def test_the_full_receipt_is_a_success() -> None:
    result = RAIL.confirm(awaiting(), receipt())

    assert result.reported == Money(1250, SAR)
    assert result.provider_ref == "stmt-7/1"
    assert after(awaiting(), result).status is ExecutionStatus.COMPLETED


def test_a_part_keeps_waiting_for_the_rest() -> None:
    result = RAIL.confirm(awaiting(), receipt(500))

    assert result.pending_reason is PendingReason.AWAITING_FUNDS
    assert (result.reported, result.progress) == (Money(500, SAR), 500)
    assert result.next_action == awaiting().next_action


def test_parts_add_up_to_a_success() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))
    execution = after(execution, RAIL.confirm(execution, receipt(750, "stmt-8/3")))

    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.settled_minor == 1250
    assert execution.provider_ref == "stmt-8/3"


def test_the_same_receipt_counts_once() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))

    assert after(execution, RAIL.confirm(execution, receipt(500))) == execution


@pytest.mark.parametrize("evidence", ["stmt-7/1", "stmt-8/3"])
def test_a_receipt_repeated_after_the_end_is_no_news(evidence: str) -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))
    execution = after(execution, RAIL.confirm(execution, receipt(750, "stmt-8/3")))
    again = RAIL.confirm(execution, receipt(500 if evidence == "stmt-7/1" else 750, evidence))

    decision = decide(execution, Fact(result=again, source=FactSource.OPERATOR))

    assert (decision.change, decision.discrepancy) == (None, None)


def test_the_same_evidence_for_another_amount_is_refused() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))

    with pytest.raises(ApprovalError, match="another amount"):
        RAIL.confirm(execution, receipt(600))


@pytest.mark.parametrize("minor", [1251, 0, -1])
def test_a_receipt_that_does_not_fit_is_refused(minor: int) -> None:
    with pytest.raises(ApprovalError):
        RAIL.confirm(awaiting(), receipt(minor))


def test_another_currency_is_refused() -> None:
    with pytest.raises(ApprovalError, match="USD"):
        RAIL.confirm(awaiting(), receipt(received=Money(1250, USD)))


def test_more_than_is_missing_is_refused() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))

    with pytest.raises(ApprovalError, match=r"17\.50 SAR would be received of 12\.50 SAR"):
        RAIL.confirm(execution, receipt(None, "stmt-8/3"))


def test_receipts_without_end_are_refused() -> None:
    execution = awaiting()
    for number in range(16):
        execution = after(execution, RAIL.confirm(execution, receipt(1, f"stmt-{number}")))

    with pytest.raises(ApprovalError, match="16 receipts"):
        RAIL.confirm(execution, receipt(1, "stmt-16"))


def test_a_receipt_before_the_instructions_were_recorded_keeps_them() -> None:
    result = RAIL.confirm(a_transfer(), receipt(500))

    assert result.next_action == awaiting().next_action


def test_a_rejection_ends_the_waiting() -> None:
    result = RAIL.reject(awaiting(), receipt())

    assert result.failure is PaymentFailureCode.CANCELLED
    assert result.provider_response == {"rejected_by": "ada", "evidence": "stmt-7/1"}


def test_what_was_received_in_part_cannot_be_rejected() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt(500)))

    with pytest.raises(ApprovalError, match="money was received"):
        RAIL.reject(execution, receipt())


def test_what_is_completed_cannot_be_rejected() -> None:
    execution = after(awaiting(), RAIL.confirm(awaiting(), receipt()))

    with pytest.raises(ApprovalError, match="money was received"):
        RAIL.reject(execution, receipt())


def test_money_that_comes_after_a_rejection_is_a_discrepancy() -> None:
    rejected = after(awaiting(), RAIL.reject(awaiting(), receipt()))

    late = RAIL.confirm(rejected, receipt())
    decision = decide(rejected, Fact(result=late, source=FactSource.OPERATOR))

    assert decision.discrepancy is not None
    assert decision.discrepancy.kind is DiscrepancyKind.SUCCESS_AFTER_FAILURE


def test_a_part_that_comes_after_a_rejection_is_refused_and_not_lost() -> None:
    rejected = after(awaiting(), RAIL.reject(awaiting(), receipt()))

    with pytest.raises(ApprovalError, match="is failed"):
        RAIL.confirm(rejected, receipt(500))


@pytest.mark.parametrize(
    "account",
    [
        {"beneficiary": "Acme"},
        {"beneficiary": "Acme", "iban": "SA0480000000608010167519"},
        {"beneficiary": "Acme", "iban": "anything"},
        {"beneficiary": "", "account_number": "12345"},
        {"beneficiary": "two\nlines", "account_number": "12345"},
        {"beneficiary": None, "account_number": "12345"},
        {"beneficiary": "Acme", "account_number": "12345", "bic": "SHORT"},
    ],
)
def test_a_bank_account_that_cannot_exist_is_refused(account: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        BankAccount(**account)


def test_a_wrong_iban_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidValueError) as caught:
        BankAccount(beneficiary="Acme", iban="SA0480000000608010167519")

    assert "608010167519" not in str(caught.value)


# ISO 11649. The first is the standard's own example; the others are in use by banks.
@pytest.mark.parametrize("reference", ["RF18539007547034", "RF18 5390 0754 7034", "rf712348231"])
def test_known_creditor_references_are_right(reference: str) -> None:
    assert is_creditor_reference(reference)


@pytest.mark.parametrize(
    "reference",
    ["RF19539007547034", "RF18", "FR18539007547034", "RF18539007547034539007547034", "", "RF00A"],
)
def test_others_are_not(reference: str) -> None:
    assert not is_creditor_reference(reference)


@given(st.from_regex("[A-Za-z0-9]{1,21}", fullmatch=True))
def test_every_made_reference_is_right_and_carries_its_text(text: str) -> None:
    reference = creditor_reference(text)

    assert is_creditor_reference(reference)
    assert reference[4:] == text.upper()
    assert len(reference) <= 25


# A letter counts as two digits, so that 2 and M, which counts as 22, may change places unnoticed.
@given(st.from_regex("[0-9]{4,21}|[A-Z]{4,21}", fullmatch=True), st.data())
def test_two_neighbours_swapped_are_noticed(text: str, data: st.DataObject) -> None:
    reference = creditor_reference(text)
    at = data.draw(st.integers(4, len(reference) - 2))
    swapped = reference[:at] + reference[at + 1] + reference[at] + reference[at + 2 :]

    assert is_creditor_reference(swapped) is (swapped == reference)


@pytest.mark.parametrize("text", ["", "A" * 22, "Ä", "a-b", "\uff11"])
def test_what_cannot_be_carried_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        creditor_reference(text)


@given(st.text("abcdefghij", min_size=1, max_size=20))
def test_a_reference_is_never_taken_for_a_card_number(key: str) -> None:
    reference = shown(asked(RAIL, a_transfer(idempotency_key=key))).reference or ""

    assert not holds_card_number(reference)
    assert len(reference) == 25
