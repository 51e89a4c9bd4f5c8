import itertools
from typing import Any
from uuid import UUID

import attrs
import pytest

from railcore.enums import ExecutionStatus, PendingReason
from railcore.errors import IllegalTransitionError, InvalidValueError
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import (
    ABSENT,
    EDGES,
    NO_NEWS,
    TRANSITIONS,
    Change,
    DiscrepancyKind,
    Fact,
    FactSource,
    check_edge,
    decide,
    evolve,
    fold,
)
from railcore.money import JPY, SAR, USD, Money
from railcore.results import RailResult
from tests.core.made import (
    ASKED,
    ID,
    NOW,
    QUOTE,
    REDIRECT,
    context,
    execution,
    failed,
    pending,
    success,
    unknown,
)

PROCESSING, PENDING = ExecutionStatus.PROCESSING, ExecutionStatus.PENDING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
STATUSES = [ABSENT, *ExecutionStatus]
LADDER = [
    unknown(),
    pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT),
    pending(PendingReason.AWAITING_FUNDS, next_action=QUOTE),
    pending(PendingReason.AWAITING_FUNDS, next_action=QUOTE, progress=500),
    pending(PendingReason.PROVIDER_PROCESSING),
    pending(PendingReason.MANUAL_REVIEW),
    pending(PendingReason.MANUAL_REVIEW, progress=1),
    pending(PendingReason.CUSTOMER_ACTION, phase=1, next_action=REDIRECT),
]


def test_the_edges_are_these_seven() -> None:
    assert {
        ("none", "processing"),
        ("processing", "pending"),
        ("processing", "completed"),
        ("processing", "failed"),
        ("pending", "pending"),
        ("pending", "completed"),
        ("pending", "failed"),
    } == EDGES


def test_every_status_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(STATUSES)


def test_terminal_is_what_has_no_way_out() -> None:
    assert {one for one in ExecutionStatus if one.is_terminal} == {
        one for one in ExecutionStatus if not TRANSITIONS[one]
    }


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.product(STATUSES, ExecutionStatus)), ids=str
)
def test_only_an_edge_may_be_walked(before: str, after: ExecutionStatus) -> None:
    if (before, after) in EDGES:
        check_edge(before, after)
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {before} to {after}"):
            check_edge(before, after)


@pytest.mark.parametrize("status", [COMPLETED, FAILED])
@pytest.mark.parametrize("after", ExecutionStatus, ids=lambda status: f"to {status}")
def test_a_terminal_execution_never_evolves(
    status: ExecutionStatus, after: ExecutionStatus
) -> None:
    failure = PaymentFailureCode.DECLINED if status is FAILED else None
    done = execution(status=status, failure=failure, next_check_at=None)

    with pytest.raises(IllegalTransitionError):
        evolve(done, Change(status=after))


def test_a_change_is_one_version() -> None:
    after, _ = fold(execution(), (success(),))

    assert after.version == execution().version + 1


def test_a_success_completes() -> None:
    after, found = fold(execution(), (success(),))

    assert (after.status, after.provider_ref, after.settled_minor, found) == (
        COMPLETED,
        "ch_1",
        1250,
        frozenset(),
    )


def test_what_is_finished_is_due_no_more() -> None:
    for news in (success(), failed()):
        after, _ = fold(execution(), (news,))
        assert after.next_check_at is None


def test_a_failure_keeps_its_code() -> None:
    after, _ = fold(execution(), (failed(PaymentFailureCode.INSUFFICIENT_FUNDS, ref="ch_1"),))

    assert (after.status, after.failure, after.provider_ref) == (
        FAILED,
        PaymentFailureCode.INSUFFICIENT_FUNDS,
        "ch_1",
    )


@pytest.mark.parametrize("number", range(len(LADDER)))
def test_the_same_news_twice_is_a_no_op(number: int) -> None:
    once, _ = fold(execution(), (LADDER[number],))

    assert decide(once, LADDER[number]) == NO_NEWS


@pytest.mark.parametrize("news", [success(), failed(), failed(ref="ch_1")])
def test_the_same_definite_news_twice_is_a_no_op(news: Fact) -> None:
    once, _ = fold(execution(), (news,))

    assert decide(once, news) == NO_NEWS


@pytest.mark.parametrize(
    "number", [(high, low) for high in range(len(LADDER)) for low in range(high)]
)
def test_weaker_news_never_moves_a_state_back(number: tuple[int, int]) -> None:
    stronger, weaker = (LADDER[at] for at in number)
    before, _ = fold(execution(), (stronger,))

    assert decide(before, weaker) == NO_NEWS


@pytest.mark.parametrize(
    "number", [(high, low) for high in range(len(LADDER)) for low in range(high)]
)
def test_stronger_news_moves_a_state_on(number: tuple[int, int]) -> None:
    stronger, weaker = (LADDER[at] for at in number)
    before, _ = fold(execution(), (weaker,))
    after, _ = fold(before, (stronger,))

    assert after.pending_reason is stronger.result.pending_reason
    assert after.progress == stronger.result.progress


@pytest.mark.parametrize("done", [success(), failed()])
@pytest.mark.parametrize("number", range(len(LADDER)))
def test_pending_news_never_opens_what_is_finished(done: Fact, number: int) -> None:
    before, _ = fold(execution(), (done,))

    assert decide(before, LADDER[number]) == NO_NEWS


def test_a_later_expiry_outranks_an_earlier_one() -> None:
    early = pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT, expires_at=NOW)
    late = pending(
        PendingReason.CUSTOMER_ACTION, next_action=REDIRECT, expires_at=NOW.replace(year=2030)
    )
    for order in ((early, late), (late, early)):
        after, _ = fold(execution(), order)
        assert after.expires_at == NOW.replace(year=2030)


def test_partial_receipts_stay_pending() -> None:
    some = pending(PendingReason.AWAITING_FUNDS, reported=Money(500, SAR), progress=500)
    after, _ = fold(execution(), (some,))

    assert (after.status, after.settled_minor) == (PENDING, 500)


def test_a_larger_receipt_counts_although_its_news_is_weaker() -> None:
    review = pending(PendingReason.MANUAL_REVIEW, reported=Money(300, SAR))
    some = pending(PendingReason.AWAITING_FUNDS, reported=Money(500, SAR))
    after, _ = fold(execution(), (review, some))

    assert (after.pending_reason, after.settled_minor) == (PendingReason.MANUAL_REVIEW, 500)


def test_the_reference_of_weaker_news_is_learned() -> None:
    after, _ = fold(execution(), (pending(PendingReason.PROVIDER_PROCESSING), unknown("ch_1")))

    assert (after.pending_reason, after.provider_ref) == (
        PendingReason.PROVIDER_PROCESSING,
        "ch_1",
    )


def test_a_later_steps_reference_replaces_an_earlier_ones() -> None:
    order = pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT, provider_ref="z_order")
    capture = pending(PendingReason.PROVIDER_PROCESSING, phase=1, provider_ref="a_capture")
    for facts in ((order, capture), (capture, order)):
        after, _ = fold(execution(), facts)
        assert after.provider_ref == "a_capture"


def kinds(*facts: Fact) -> list[DiscrepancyKind]:
    _, found = fold(execution(), facts)
    return sorted(one.kind for one in found)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (failed(), success(), DiscrepancyKind.SUCCESS_AFTER_FAILURE),
        (success("ch_1"), success("ch_2"), DiscrepancyKind.SECOND_REFERENCE),
        (failed(), failed(PaymentFailureCode.CANCELLED), DiscrepancyKind.FAILURE_DIFFERS),
        (success(), success(reported=Money(1249, SAR)), DiscrepancyKind.AMOUNT_DIFFERS),
        (success(), success(reported=Money(1250, USD)), DiscrepancyKind.CURRENCY_DIFFERS),
        (failed(), success(reported=Money(1249, SAR)), DiscrepancyKind.AMOUNT_DIFFERS),
    ],
)
def test_contradictions_are_the_same_whichever_came_first(
    one: Fact, other: Fact, kind: DiscrepancyKind
) -> None:
    _, forward = fold(execution(), (one, other))
    _, backward = fold(execution(), (other, one))

    assert forward == backward
    assert [found.kind for found in forward] == [kind]


def test_only_differing_failures_need_no_review() -> None:
    assert {kind for kind in DiscrepancyKind if not kind.needs_review} == {
        DiscrepancyKind.FAILURE_DIFFERS
    }


@pytest.mark.parametrize("reported", [Money(1249, SAR), Money(1251, SAR), Money(1250, USD)])
def test_another_amount_than_asked_completes_nothing(reported: Money) -> None:
    after, found = fold(execution(), (success(reported=reported),))

    assert (after.status, after.pending_reason, after.cause, after.settled_minor) == (
        PENDING,
        PendingReason.OUTCOME_UNKNOWN,
        PaymentFailureCode.INVALID_RESPONSE,
        None,
    )
    assert len(found) == 1


@pytest.mark.parametrize("reported", [Money(500, JPY), Money(1250, USD)])
def test_a_receipt_in_another_currency_is_not_counted(reported: Money) -> None:
    some = pending(PendingReason.AWAITING_FUNDS, reported=reported)

    after, found = fold(execution(), (some,))

    assert after.settled_minor is None
    assert [one.kind for one in found] == [DiscrepancyKind.CURRENCY_DIFFERS]


def test_a_receipt_after_a_failure_is_never_dropped() -> None:
    some = pending(PendingReason.AWAITING_FUNDS, reported=Money(500, SAR))
    closed = failed(PaymentFailureCode.CANCELLED)

    assert kinds(closed, some) == [DiscrepancyKind.SUCCESS_AFTER_FAILURE]
    assert fold(execution(), (closed, some))[1] == fold(execution(), (some, closed))[1]


def test_receipts_of_any_size_after_a_failure_are_one_discrepancy() -> None:
    receipts = tuple(
        pending(PendingReason.AWAITING_FUNDS, reported=Money(amount, SAR), progress=amount)
        for amount in (300, 500, 700)
    )
    found = {
        fold(execution(), order)[1]
        for order in itertools.permutations((failed(PaymentFailureCode.CANCELLED), *receipts))
    }

    assert len(found) == 1
    assert len(next(iter(found))) == 1


def test_nothing_received_before_a_failure_is_no_discrepancy() -> None:
    assert kinds(pending(PendingReason.AWAITING_FUNDS, reported=Money(0, SAR)), failed()) == []


def test_the_same_contradiction_has_the_same_id() -> None:
    _, one = fold(execution(), (failed(), success()))
    _, other = fold(execution(version=7), (success(), failed()))

    assert {found.discrepancy_id for found in one} == {found.discrepancy_id for found in other}


@pytest.mark.parametrize(
    "changes",
    [{"execution_id": UUID(int=ID.int + 1)}, {"context": context(tenant_id="other")}],
)
def test_contradictions_of_others_have_other_ids(changes: dict[str, Any]) -> None:
    _, one = fold(execution(), (failed(), success()))
    _, other = fold(execution(**changes), (failed(), success()))

    assert {found.discrepancy_id for found in one} != {found.discrepancy_id for found in other}


def test_different_contradictions_have_different_ids() -> None:
    _, found = fold(execution(), (success("a"), success("b"), success("c"), failed()))

    assert len({one.discrepancy_id for one in found}) == len(found) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"result": None, "source": FactSource.CALL},
        {"result": RailResult.success("ch_1", ASKED), "source": "call"},
        {"result": RailResult.success("ch_1", ASKED), "source": FactSource.CALL, "phase": -1},
        {"result": RailResult.success("ch_1", ASKED), "source": FactSource.CALL, "phase": True},
        {"result": RailResult.success("ch_1", ASKED), "source": FactSource.CALL, "phase": 2**15},
        {"result": RailResult.success("ch_1", ASKED), "source": FactSource.CALL, "actor": "a b"},
        {"result": RailResult.success("ch_1", ASKED), "source": FactSource.CALL, "is_fenced": 1},
    ],
)
def test_a_fact_is_what_it_says(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        Fact(**values)


DOUBT = {"pending_reason": PendingReason.OUTCOME_UNKNOWN}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "processing"},
        {"status": None},
        {"status": PENDING},
        {"status": PROCESSING, "pending_reason": PendingReason.MANUAL_REVIEW},
        {"status": PENDING, "pending_reason": "outcome_unknown"},
        {"status": FAILED},
        {"status": FAILED, "failure": PaymentFailureCode.PROVIDER_TIMEOUT},
        {"status": FAILED, "failure": PaymentFailureCode.INVALID_RESPONSE},
        {"status": FAILED, "failure": "declined"},
        {"status": COMPLETED, "failure": PaymentFailureCode.DECLINED},
        {"status": PENDING, **DOUBT, "cause": PaymentFailureCode.DECLINED},
        {
            "status": PENDING,
            "pending_reason": PendingReason.MANUAL_REVIEW,
            "cause": PaymentFailureCode.PROVIDER_TIMEOUT,
        },
        {"status": COMPLETED, "cause": PaymentFailureCode.PROVIDER_TIMEOUT},
    ],
    ids=str,
)
def test_an_execution_that_contradicts_itself_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        execution(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"execution_id": str(ID)},
        {"context": {}},
        {"rail": "card_psp"},
        {"mode": "live"},
        {"version": 0},
        {"version": True},
        {"send_count": -1},
        {"check_count": 1.0},
        {"settled_minor": 12.5},
        {"provider_ref": "a\x00b"},
        {"lease": None},
        {"next_check_at": NOW.replace(tzinfo=None)},
        {"expires_at": "tomorrow"},
        {"provider": ""},
        {"account": "a b"},
    ],
    ids=str,
)
def test_an_execution_is_what_it_says(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        execution(**changes)


@pytest.mark.parametrize("code", [PaymentFailureCode.PROVIDER_TIMEOUT, None])
def test_no_change_fails_an_execution_on_a_guess(code: PaymentFailureCode | None) -> None:
    with pytest.raises(InvalidValueError):
        evolve(execution(), Change(status=FAILED, failure=code))


def test_an_execution_in_doubt_knows_it() -> None:
    assert execution().is_in_doubt
    assert execution(status=PENDING, **DOUBT).is_in_doubt
    assert not execution(status=COMPLETED, next_check_at=None).is_in_doubt


def test_a_fact_changes_no_identity() -> None:
    before = execution()
    after, _ = fold(before, (LADDER[1], success()))

    for name in ("execution_id", "context", "rail", "provider", "account", "mode", "lease"):
        assert getattr(after, name) == getattr(before, name)


def test_every_field_of_a_change_reaches_the_execution() -> None:
    names = {one.name for one in attrs.fields(Change)}

    assert names <= {one.name for one in attrs.fields(type(execution()))}
