"""What the lifecycle says, word for word: names, ids and texts that are stored for ever."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import uuid5

import attrs
import pytest

from railcore.enums import ExecutionStatus, PendingReason
from railcore.errors import IllegalTransitionError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import (
    NO_NEWS,
    REASON_RANK,
    Change,
    Decision,
    Discrepancy,
    DiscrepancyKind,
    Fact,
    FactSource,
    check_edge,
    decide,
    evolve,
    fold,
    missing,
    rank_of,
    rank_of_fact,
)
from railcore.money import SAR, USD, Money
from railcore.results import NextAction, NextActionKind, RailResult
from tests.core.made import ASKED, ID, NOW, REDIRECT, execution, failed, pending, success, unknown

Kind = DiscrepancyKind
COMPLETED = execution(status=ExecutionStatus.COMPLETED, provider_ref="ch_1", settled_minor=1250)
DECLINED = execution(status=ExecutionStatus.FAILED, failure=PaymentFailureCode.DECLINED)


def told(kind: Kind, *sides: str, **more: Any) -> Discrepancy:
    """The discrepancy with these two sides, its id derived here once more."""
    name = hashlib.sha256(json.dumps(["acme", kind, sides]).encode()).hexdigest()
    return Discrepancy(
        discrepancy_id=uuid5(ID, name), execution_id=ID, kind=kind, sides=sides, **more
    )


@pytest.mark.parametrize(
    ("known", "news", "wanted"),
    [
        (
            DECLINED,
            success("ch_9"),
            told(
                Kind.SUCCESS_AFTER_FAILURE, "failed declined", "success ch_9", provider_ref="ch_9"
            ),
        ),
        (
            COMPLETED,
            failed(),
            told(
                Kind.SUCCESS_AFTER_FAILURE, "failed declined", "success ch_1", provider_ref="ch_1"
            ),
        ),
        (COMPLETED, success("ch_2"), told(Kind.SECOND_REFERENCE, "ch_1", "ch_2")),
        (
            COMPLETED,
            success("ch_1", Money(1, SAR)),
            told(
                Kind.AMOUNT_DIFFERS,
                "asked 12.50 SAR",
                "reported 0.01 SAR as ch_1",
                provider_ref="ch_1",
                reported=Money(1, SAR),
            ),
        ),
        (
            execution(),
            success("ch_1", Money(1250, USD)),
            told(
                Kind.CURRENCY_DIFFERS,
                "asked 12.50 SAR",
                "reported 12.50 USD as ch_1",
                provider_ref="ch_1",
                reported=Money(1250, USD),
            ),
        ),
        (
            execution(),
            pending(PendingReason.AWAITING_FUNDS, reported=Money(7, USD)),
            told(
                Kind.CURRENCY_DIFFERS,
                "asked 12.50 SAR",
                "reported 0.07 USD as None",
                reported=Money(7, USD),
            ),
        ),
        (
            execution(),
            pending(PendingReason.AWAITING_FUNDS, reported=Money(7, USD), provider_ref="pi_1"),
            told(
                Kind.CURRENCY_DIFFERS,
                "asked 12.50 SAR",
                "reported 0.07 USD as pi_1",
                provider_ref="pi_1",
                reported=Money(7, USD),
            ),
        ),
        (
            DECLINED,
            failed(PaymentFailureCode.CANCELLED),
            told(Kind.FAILURE_DIFFERS, "cancelled", "declined"),
        ),
        (
            DECLINED,
            pending(PendingReason.AWAITING_FUNDS, reported=Money(1, SAR)),
            told(Kind.SUCCESS_AFTER_FAILURE, "failed declined", "received a part"),
        ),
        (
            execution(
                status=ExecutionStatus.PENDING,
                pending_reason=PendingReason.AWAITING_FUNDS,
                settled_minor=1,
            ),
            failed(),
            told(Kind.SUCCESS_AFTER_FAILURE, "failed declined", "received a part"),
        ),
    ],
)
def test_a_contradiction_is_told_in_the_same_words(
    known: PaymentExecution, news: Fact, wanted: Discrepancy
) -> None:
    decision = decide(known, news)
    assert (decision.discrepancy, decision.more) == (wanted, ())
    assert decision.discrepancies == (wanted,)


def test_nothing_received_contradicts_no_failure() -> None:
    for reported in (None, Money(0, SAR)):
        news = pending(PendingReason.AWAITING_FUNDS, reported=reported)
        assert decide(DECLINED, news) == NO_NEWS
    nothing_yet = execution(
        status=ExecutionStatus.PENDING,
        pending_reason=PendingReason.AWAITING_FUNDS,
        settled_minor=0,
    )
    assert decide(nothing_yet, failed()).discrepancy is None


def test_what_a_statement_lacks_is_told_with_its_evidence() -> None:
    assert missing(COMPLETED, "statement 4111111111111111") == told(
        Kind.MISSING_AT_PROVIDER,
        "holds 12.50 SAR as ch_1",
        "missing in the provider's statement",
        provider_ref="ch_1",
        evidence="statement 411111******1111",
    )


@pytest.mark.parametrize("known", [execution(), DECLINED])
def test_a_statement_lacks_only_what_is_completed(known: PaymentExecution) -> None:
    with pytest.raises(InvalidValueError) as error:
        missing(known, "statement-1")
    assert str(error.value) == f"execution_id: wanted a completed execution, found {known.status}"


def test_a_reference_that_could_be_a_card_is_told_as_it_is_kept() -> None:
    decision = decide(COMPLETED, success("4111111111111111"))
    assert decision.discrepancy is not None
    assert not any("4111111111111111" in side for side in decision.discrepancy.sides)


def test_further_charges_are_told_once_each_after_the_first() -> None:
    more = (RailResult.success("ch_3", ASKED), RailResult.success("ch_2", ASKED))
    result = attrs.evolve(RailResult.success("ch_1", ASKED), also=(*more, more[0]))
    news = Fact(result=result, source=FactSource.LOOKUP)
    second, third = (told(Kind.SECOND_REFERENCE, "ch_1", name) for name in ("ch_2", "ch_3"))

    fresh, known = decide(execution(), news), decide(COMPLETED, news)

    assert fresh.change is not None
    assert (fresh.change.provider_ref, fresh.discrepancy) == ("ch_1", None)
    assert fresh.more == known.more == (third, second)
    assert fresh.discrepancies == (third, second)
    other = decide(evolve(execution(), fresh.change), attrs.evolve(news, result=more[0]))
    assert other.discrepancies == (third,)


def test_the_same_contradiction_is_not_told_twice_by_one_news() -> None:
    result = attrs.evolve(
        RailResult.success("ch_2", ASKED), also=(RailResult.success("ch_2", ASKED),)
    )
    decision = decide(COMPLETED, Fact(result=result, source=FactSource.LOOKUP))
    assert decision.discrepancies == (told(Kind.SECOND_REFERENCE, "ch_1", "ch_2"),)


def test_all_news_in_order_gives_all_contradictions() -> None:
    facts = (unknown("ch_1"), success("ch_1"), success("ch_2"), failed())
    end, found = fold(execution(), facts)
    assert (end.status, end.version) == (ExecutionStatus.COMPLETED, 3)
    assert {one.kind for one in found} == {Kind.SECOND_REFERENCE, Kind.SUCCESS_AFTER_FAILURE}


def test_a_pending_execution_keeps_all_that_it_was_told() -> None:
    expires = NOW + timedelta(minutes=30)
    news = pending(
        PendingReason.CUSTOMER_ACTION,
        phase=1,
        provider_ref="pi_1",
        reported=Money(5, SAR),
        next_action=REDIRECT,
        expires_at=expires,
        progress=3,
        provider_response={"code": "x"},
    )
    change = decide(execution(settled_minor=7), news).change
    assert change == Change(
        status=ExecutionStatus.PENDING,
        pending_reason=PendingReason.CUSTOMER_ACTION,
        phase=1,
        progress=3,
        provider_ref="pi_1",
        settled_minor=7,
        next_action=REDIRECT,
        expires_at=expires,
        provider_response={"code": "x"},
    )
    assert change is not None
    after = evolve(execution(settled_minor=7), change)
    assert (after.next_action, after.expires_at, after.progress) == (REDIRECT, expires, 3)
    assert (after.phase, after.settled_minor, after.provider_ref) == (1, 7, "pi_1")
    assert (after.provider_response, after.version) == ({"code": "x"}, 2)
    assert after.next_check_at == execution().next_check_at


def test_weaker_news_adds_a_reference_and_leaves_the_rest() -> None:
    expires = NOW + timedelta(minutes=30)
    known = execution(
        status=ExecutionStatus.PENDING,
        pending_reason=PendingReason.CUSTOMER_ACTION,
        next_action=REDIRECT,
        expires_at=expires,
        progress=2,
        phase=1,
        settled_minor=3,
        provider_response={"code": "x"},
    )
    news = attrs.evolve(unknown("pi_1"), phase=1)
    wanted = Change(
        status=ExecutionStatus.PENDING,
        pending_reason=PendingReason.CUSTOMER_ACTION,
        phase=1,
        progress=2,
        provider_ref="pi_1",
        settled_minor=3,
        next_action=REDIRECT,
        expires_at=expires,
        provider_response={"code": "x"},
    )
    assert decide(known, news) == Decision(wanted)
    assert decide(evolve(known, wanted), news) == NO_NEWS


def test_an_unknown_cause_outlives_weaker_news() -> None:
    doubt = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    known = evolve(execution(), decided(execution(), Fact(result=doubt, source=FactSource.CALL)))
    other = RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR, provider_ref="pi_1")
    change = decided(known, Fact(result=other, source=FactSource.CALL))
    assert (change.cause, change.provider_ref) == (PaymentFailureCode.PROVIDER_TIMEOUT, "pi_1")


def decided(known: PaymentExecution, news: Fact) -> Change:
    change = decide(known, news).change
    assert change is not None
    return change


def test_a_success_and_a_failure_keep_what_they_were_told() -> None:
    response = {"code": "x"}
    paid = Fact(
        result=RailResult.success("ch_1", ASKED, provider_response=response),
        source=FactSource.CALL,
        phase=2,
    )
    refused = Fact(
        result=RailResult.failed(
            PaymentFailureCode.DECLINED, provider_ref="ch_1", provider_response=response
        ),
        source=FactSource.CALL,
        phase=2,
    )
    common: dict[str, Any] = {"phase": 2, "provider_ref": "ch_1", "provider_response": response}
    assert decided(execution(), paid) == Change(
        status=ExecutionStatus.COMPLETED, settled_minor=1250, **common
    )
    assert decided(execution(), refused) == Change(
        status=ExecutionStatus.FAILED, failure=PaymentFailureCode.DECLINED, **common
    )
    assert evolve(execution(), decided(execution(), paid)).next_check_at is None


def test_another_amount_leaves_the_outcome_in_doubt_under_its_reference() -> None:
    decision = decide(execution(), success("ch_7", Money(1, SAR)))
    change = decision.change
    assert change is not None
    assert (change.status, change.cause) == (
        ExecutionStatus.PENDING,
        PaymentFailureCode.INVALID_RESPONSE,
    )
    assert (change.provider_ref, change.settled_minor) == ("ch_7", None)


def test_another_currency_is_not_counted_as_received() -> None:
    news = pending(PendingReason.AWAITING_FUNDS, reported=Money(7, USD), provider_ref="pi_1")
    change = decide(execution(), news).change
    assert change is not None
    assert (change.settled_minor, change.provider_ref) == (None, "pi_1")


def test_the_rank_of_news_is_that_of_the_state_it_makes() -> None:
    assert rank_of(execution()) == (-1, -1, 0, "")
    expires = NOW + timedelta(minutes=30)
    action = NextAction(
        kind=NextActionKind.FORM, url="https://bank.example/form", fields={"b": "2", "a": "1"}
    )
    news = pending(
        PendingReason.CUSTOMER_ACTION, phase=3, progress=4, next_action=action, expires_at=expires
    )
    content = json.dumps(
        [
            f"{expires.timestamp():020.6f}",
            ["form", "https://bank.example/form", None, [["a", "1"], ["b", "2"]]],
            None,
        ]
    )
    assert rank_of_fact(news) == (3, 1, 4, content)
    assert rank_of(evolve(execution(), decided(execution(), news))) == (3, 1, 4, content)
    doubt = rank_of_fact(unknown())
    assert doubt == (0, 0, 0, json.dumps(["", None, "provider_timeout"]))


def test_earlier_times_have_smaller_ranks() -> None:
    early, late = (
        pending(PendingReason.PROVIDER_PROCESSING, expires_at=NOW + timedelta(days=days))
        for days in (1, 100_000)
    )
    assert rank_of_fact(early) < rank_of_fact(late)


def test_only_what_is_pending_has_a_rank() -> None:
    with pytest.raises(AssertionError, match=r"^only pending facts are ranked$"):
        rank_of_fact(success())


def test_no_edge_leads_where_none_should() -> None:
    with pytest.raises(IllegalTransitionError) as error:
        check_edge(ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
    assert {"completed", "failed"} <= set(str(error.value).replace(",", " ").split())


def test_the_names_that_are_stored_are_these() -> None:
    assert [str(one) for one in Kind] == [
        "success_after_failure",
        "second_reference",
        "amount_differs",
        "currency_differs",
        "failure_differs",
        "orphan_charge",
        "refund_failed",
        "missing_at_provider",
    ]
    assert [str(one) for one in FactSource] == [
        "call",
        "lookup",
        "webhook",
        "operator",
        "kernel",
    ]
    assert {str(reason): rank for reason, rank in REASON_RANK.items()} == {
        "outcome_unknown": 0,
        "customer_action": 1,
        "awaiting_funds": 2,
        "provider_processing": 3,
        "manual_review": 4,
    }
    assert [one for one in Kind if one.tells_of_money] == [
        Kind.SUCCESS_AFTER_FAILURE,
        Kind.SECOND_REFERENCE,
        Kind.AMOUNT_DIFFERS,
        Kind.CURRENCY_DIFFERS,
    ]
    assert [one for one in Kind if not one.needs_review] == [Kind.FAILURE_DIFFERS]


@pytest.mark.parametrize(
    "wrong",
    [
        {"result": "success"},
        {"source": "call"},
        {"phase": -1},
        {"phase": 32_768},
        {"phase": True},
        {"actor": ""},
        {"actor": "x" * 129},
        {"evidence": "x" * 256},
        {"evidence": ""},
        {"is_fenced": 1},
    ],
)
def test_a_fact_that_says_nonsense_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        attrs.evolve(success(), **wrong)


def test_a_fact_says_as_much_as_it_may() -> None:
    fact = attrs.evolve(
        success(), phase=32_767, actor="x" * 128, evidence="x" * 255, is_fenced=True
    )
    assert (fact.phase, len(str(fact.actor)), len(str(fact.evidence))) == (32_767, 128, 255)
    plain = Fact(result=success().result, source=FactSource.CALL)
    assert (plain.phase, plain.actor, plain.evidence, plain.is_fenced) == (0, None, None, False)


def test_a_change_is_of_nothing_unless_said() -> None:
    change = Change(status=ExecutionStatus.COMPLETED)
    assert attrs.astuple(change) == (
        ExecutionStatus.COMPLETED,
        *(None,) * 3,
        0,
        0,
        *(None,) * 4,
        {},
    )
    assert hash(change) == hash(attrs.evolve(change, provider_response={"code": "x"}))
    assert (Decision().change, Decision().discrepancy, Decision().more) == (None, None, ())
    assert Decision().discrepancies == ()


def test_references_are_shown_without_what_could_be_a_card() -> None:
    change = Change(status=ExecutionStatus.COMPLETED, provider_ref="4111111111111111")
    found = told(Kind.SECOND_REFERENCE, "a", "b", provider_ref="4111111111111111")
    assert "4111111111111111" not in repr(change) + repr(found)
    assert "ch_1" in repr(attrs.evolve(change, provider_ref="ch_1"))
    assert "ch_1" in repr(attrs.evolve(found, provider_ref="ch_1"))


def test_a_discrepancys_evidence_is_a_reference() -> None:
    plain = told(Kind.SECOND_REFERENCE, "a", "b")
    assert (plain.provider_ref, plain.reported, plain.evidence) == (None, None, None)
    assert len(str(attrs.evolve(plain, evidence="x" * 255).evidence)) == 255
    for wrong in ("", "x" * 256):
        with pytest.raises(InvalidValueError):
            attrs.evolve(plain, evidence=wrong)
