"""
Every order of the same news ends in the same state.

The sets of facts below are folded in *every* order, 5,040 for seven facts, duplicates included.
Where the definite facts of a set agree (same outcome, code, reference and phase), the final row and
the discrepancies are identical in every order. Where they contradict each other, rows never change
once they are terminal, so the claim that came first holds the row; these may then differ between
orders, and nothing else may:

- status, failure code, provider reference and settled amount of the row (whichever claim came
  first),
- which pairs of claims are told as discrepancies (each against the row that stood).

What is the same in every order is the set of definite claims that are known: the row's own and
those on either side of a discrepancy.
"""

import itertools
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from railcore.enums import ExecutionStatus, PendingReason
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import Discrepancy, DiscrepancyKind, Fact, fold
from railcore.money import SAR, USD, Money
from railcore.results import ResultStatus
from tests.core.made import (
    ASKED,
    NOW,
    QUOTE,
    REDIRECT,
    execution,
    failed,
    pending,
    success,
    unknown,
)

UNKNOWN = unknown()
UNKNOWN_REF = unknown("ch_1")
ACTION = pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT, expires_at=NOW)
ACTION_REF = pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT, provider_ref="pay_1")
FUNDS = pending(PendingReason.AWAITING_FUNDS, next_action=QUOTE, provider_ref="RF18539007547034")
SOME = pending(PendingReason.AWAITING_FUNDS, progress=300, reported=Money(300, SAR))
MORE = pending(PendingReason.AWAITING_FUNDS, progress=900, reported=Money(900, SAR))
FOREIGN = pending(PendingReason.AWAITING_FUNDS, progress=5, reported=Money(5, USD))
PROVIDER = pending(PendingReason.PROVIDER_PROCESSING)
PROVIDER_REF = pending(PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1")
PROVIDER_REF_2 = pending(PendingReason.PROVIDER_PROCESSING, provider_ref="ch_2")
REVIEW = pending(PendingReason.MANUAL_REVIEW)
REVIEWED = pending(PendingReason.MANUAL_REVIEW, progress=1)
NEXT_STEP = pending(PendingReason.CUSTOMER_ACTION, phase=1, next_action=REDIRECT)
NEXT_STEP_REF = pending(PendingReason.PROVIDER_PROCESSING, phase=1, provider_ref="ap_2")
SUCCESS = success("ch_1")
SECOND = success("ch_2")
THIRD = success("ch_3")
WRONG_AMOUNT = success("ch_1", Money(1249, SAR))
WRONG_CURRENCY = success("ch_1", Money(1250, USD))
DECLINED = failed(PaymentFailureCode.DECLINED)
DECLINED_REF = failed(PaymentFailureCode.DECLINED, ref="ch_1")
CANCELLED = failed(PaymentFailureCode.CANCELLED)

AGREEING = {
    "doubt": [UNKNOWN, UNKNOWN, UNKNOWN_REF, UNKNOWN_REF],
    "every reason": [UNKNOWN, ACTION, FUNDS, PROVIDER, REVIEW, UNKNOWN_REF, ACTION_REF],
    "two references while pending": [PROVIDER_REF, PROVIDER_REF_2, UNKNOWN, REVIEW, ACTION_REF],
    "receipts": [FUNDS, SOME, MORE, SOME, UNKNOWN, FOREIGN, MORE],
    "approvals": [REVIEW, REVIEWED, REVIEW, UNKNOWN, REVIEWED, PROVIDER_REF],
    "two steps": [UNKNOWN_REF, ACTION, NEXT_STEP, PROVIDER, NEXT_STEP_REF, NEXT_STEP, REVIEW],
    "success": [UNKNOWN, ACTION, PROVIDER_REF, SUCCESS, SUCCESS, REVIEW, UNKNOWN_REF],
    "success after receipts": [FUNDS, SOME, MORE, SUCCESS, SUCCESS, UNKNOWN, FOREIGN],
    "success after a longer way": [UNKNOWN, NEXT_STEP, SUCCESS, ACTION_REF, REVIEWED, SUCCESS],
    "success and wrong amounts": [
        SUCCESS,
        WRONG_AMOUNT,
        WRONG_CURRENCY,
        WRONG_AMOUNT,
        UNKNOWN,
        PROVIDER_REF_2,
        SUCCESS,
    ],
    "wrong amounts alone": [
        WRONG_AMOUNT,
        WRONG_CURRENCY,
        UNKNOWN,
        ACTION,
        FUNDS,
        WRONG_AMOUNT,
        NEXT_STEP,
    ],
    "failure": [UNKNOWN, ACTION_REF, DECLINED, DECLINED, PROVIDER_REF, REVIEW, UNKNOWN_REF],
    "failure with a reference": [UNKNOWN, DECLINED_REF, PROVIDER_REF_2, DECLINED_REF, ACTION_REF],
    "failure after receipts": [FUNDS, SOME, MORE, CANCELLED, CANCELLED, SOME, UNKNOWN],
    "failure and a wrong amount": [DECLINED, WRONG_AMOUNT, UNKNOWN, WRONG_CURRENCY, DECLINED, SOME],
}
CONTRADICTING = {
    "success and failure": [SUCCESS, DECLINED, UNKNOWN, ACTION, SUCCESS, DECLINED, PROVIDER_REF],
    "two references": [SUCCESS, SECOND, UNKNOWN, PROVIDER_REF_2, SECOND, REVIEW, SUCCESS],
    "three references": [SUCCESS, SECOND, THIRD, UNKNOWN, SECOND, ACTION_REF],
    "two failures": [DECLINED, CANCELLED, UNKNOWN, PROVIDER, CANCELLED, FUNDS],
    "everything": [SUCCESS, SECOND, DECLINED, CANCELLED, WRONG_AMOUNT, UNKNOWN, SOME],
    "a receipt between": [SUCCESS, DECLINED, MORE, SOME, UNKNOWN, WRONG_CURRENCY],
}
COMPARED = (
    "status",
    "pending_reason",
    "failure",
    "cause",
    "provider_ref",
    "settled_minor",
    "next_action",
    "expires_at",
    "phase",
    "progress",
    "next_check_at",
)


def row(after: PaymentExecution) -> tuple[object, ...]:
    return tuple(getattr(after, name) for name in COMPARED)


def orders(facts: Iterable[Fact]) -> Iterable[tuple[Fact, ...]]:
    return itertools.permutations(facts)


def claims(after: PaymentExecution, found: frozenset[Discrepancy]) -> frozenset[str]:
    """Every definite claim that row and discrepancies name, however they name it."""
    known = {claim for one in found for claim in sides_of(one)}
    if after.status is ExecutionStatus.COMPLETED:
        known.add(f"success {after.provider_ref}")
    if after.status is ExecutionStatus.FAILED:
        known.add(f"failed {after.failure}")
    return frozenset(known)


def sides_of(one: Discrepancy) -> Iterable[str]:
    prefix = {
        DiscrepancyKind.SECOND_REFERENCE: "success ",
        DiscrepancyKind.FAILURE_DIFFERS: "failed ",
    }.get(one.kind, "")
    return (f"{prefix}{side}" for side in one.sides if side != "received a part")


@pytest.mark.parametrize("facts", AGREEING.values(), ids=AGREEING)
def test_every_order_ends_in_the_same_row(facts: list[Fact]) -> None:
    rows = {row(fold(execution(), order)[0]) for order in orders(facts)}

    assert len(rows) == 1


@pytest.mark.parametrize("facts", AGREEING.values(), ids=AGREEING)
def test_every_order_finds_the_same_discrepancies(facts: list[Fact]) -> None:
    found = {fold(execution(), order)[1] for order in orders(facts)}

    assert len(found) == 1


@pytest.mark.parametrize("facts", CONTRADICTING.values(), ids=CONTRADICTING)
def test_every_order_of_contradictions_knows_the_same_claims(facts: list[Fact]) -> None:
    known = {claims(*fold(execution(), order)) for order in orders(facts)}

    assert len(known) == 1


@pytest.mark.parametrize("facts", CONTRADICTING.values(), ids=CONTRADICTING)
def test_the_first_definite_claim_holds_the_row(facts: list[Fact]) -> None:
    for order in orders(facts):
        after, _ = fold(execution(), order)
        first = next(one.result for one in order if is_definite(one))
        assert (after.failure, after.status is ExecutionStatus.COMPLETED) == (
            first.failure,
            first.status is ResultStatus.SUCCESS,
        )
        assert after.provider_ref == first.provider_ref


@pytest.mark.parametrize(
    "facts", [*AGREEING.values(), *CONTRADICTING.values()], ids=[*AGREEING, *CONTRADICTING]
)
def test_duplicates_change_nothing(facts: list[Fact]) -> None:
    after, found = fold(execution(), tuple(facts))

    assert fold(execution(), tuple(one for fact in facts for one in (fact, fact))) == (after, found)


def is_definite(fact: Fact) -> bool:
    result = fact.result
    if result.status is ResultStatus.SUCCESS:
        return result.reported == ASKED
    return result.status is ResultStatus.FAILED


POOL = [one for facts in (*AGREEING.values(), *CONTRADICTING.values()) for one in facts]
references = st.sampled_from([None, "a", "b", "c"])
amounts = st.sampled_from([None, Money(0, SAR), Money(400, SAR), ASKED, Money(7, USD)])
actions = st.sampled_from([None, REDIRECT, QUOTE])
REASONS = sorted(set(PendingReason) - {PendingReason.OUTCOME_UNKNOWN})


@st.composite
def waiting(draw: st.DrawFn) -> Fact:
    return pending(
        draw(st.sampled_from(REASONS)),
        phase=draw(st.integers(0, 2)),
        provider_ref=draw(references),
        reported=draw(amounts),
        next_action=draw(actions),
        expires_at=draw(st.sampled_from([None, NOW, NOW.replace(year=2030)])),
        progress=draw(st.integers(0, 3)),
    )


doubts = st.builds(unknown, references)
wrong = st.builds(
    success,
    st.sampled_from(["a", "b"]),
    st.sampled_from([Money(1249, SAR), Money(1250, USD), Money(1, SAR)]),
)
open_facts = st.lists(st.one_of(waiting(), doubts, wrong), max_size=8)
definite = st.sampled_from([SUCCESS, DECLINED, DECLINED_REF, CANCELLED])
anything = st.one_of(waiting(), doubts, wrong, st.sampled_from(POOL))


@settings(max_examples=300)
@given(open_facts, st.none() | definite, st.data())
def test_any_facts_that_agree_fold_the_same_in_any_order(
    facts: list[Fact], last: Fact | None, data: st.DataObject
) -> None:
    facts = [*facts, *([] if last is None else [last, last])]
    after, found = fold(execution(), tuple(facts))
    shuffled, found_too = fold(execution(), tuple(data.draw(st.permutations(facts))))

    assert row(shuffled) == row(after)
    assert found_too == found


@settings(max_examples=300)
@given(st.lists(anything, max_size=10), st.data())
def test_any_facts_know_the_same_claims_in_any_order(
    facts: list[Fact], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(facts))

    assert claims(*fold(execution(), tuple(facts))) == claims(*fold(execution(), tuple(order)))


@settings(max_examples=300)
@given(st.lists(anything, max_size=10), st.data())
def test_repeating_any_facts_changes_nothing(facts: list[Fact], data: st.DataObject) -> None:
    after, found = fold(execution(), tuple(facts))
    repeated = data.draw(st.lists(st.sampled_from(facts), max_size=10)) if facts else []

    again, found_again = fold(after, tuple(repeated))

    assert again == after
    assert found_again <= found


@settings(max_examples=300)
@given(st.lists(anything, max_size=10))
def test_a_terminal_row_never_changes(facts: list[Fact]) -> None:
    after = execution()
    for fact in facts:
        before = after
        after, _ = fold(before, (fact,))
        assert not before.status.is_terminal or after == before


@settings(max_examples=300)
@given(st.lists(anything, max_size=10))
def test_a_version_is_a_change(facts: list[Fact]) -> None:
    after = execution()
    for fact in facts:
        before = after
        after, _ = fold(before, (fact,))
        assert after.version - before.version == int(
            attrs.evolve(after, version=1) != attrs.evolve(before, version=1)
        )


@settings(max_examples=300)
@given(st.lists(anything, max_size=10))
def test_no_success_is_ever_dropped(facts: list[Fact]) -> None:
    known = claims(*fold(execution(), tuple(facts)))

    for fact in facts:
        if fact.result.status is ResultStatus.SUCCESS and is_definite(fact):
            assert f"success {fact.result.provider_ref}" in known


@settings(max_examples=300)
@given(st.lists(anything, max_size=10))
def test_only_a_definite_fact_ends_an_execution(facts: list[Fact]) -> None:
    after, _ = fold(execution(), tuple(facts))

    assert after.status.is_terminal is any(is_definite(fact) for fact in facts)
