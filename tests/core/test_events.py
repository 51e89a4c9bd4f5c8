from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.enums import ExecutionStatus, PendingReason
from railcore.events import (
    BUCKETS,
    EventType,
    bucket_of,
    draft_discrepancy,
    draft_event,
    event_id,
)
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import Fact, FactSource, fold
from railcore.results import RailResult
from tests.core.made import ASKED, ID, context, execution, failed, success, unknown

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)


def test_an_events_id_never_changes_from_release_to_release() -> None:
    assert event_id("acme", ID, 1) == UUID("dc7b9180-5616-5691-840d-51588c30a622")


def test_a_payments_queue_never_changes_from_release_to_release() -> None:
    assert bucket_of("acme", "inv-1") == 15


def test_a_discrepancys_id_never_changes_from_release_to_release() -> None:
    _, found = fold(execution(), (failed(), success()))

    assert [one.discrepancy_id for one in found] == [UUID("599e9d32-e29e-5375-aebb-a7a40936fc9e")]


def test_the_same_change_has_the_same_event() -> None:
    assert draft_event(execution()) == draft_event(execution())


@given(st.lists(st.tuples(words, st.uuids(), st.integers(1, 9)), unique=True, max_size=20))
def test_different_changes_have_different_events(
    changes: list[tuple[str, UUID, int]],
) -> None:
    assert len({event_id(*change) for change in changes}) == len(changes)


@given(words, words)
def test_a_queue_is_one_of_sixty_four(tenant: str, payment: str) -> None:
    assert 0 <= bucket_of(tenant, payment) < BUCKETS == 64


def test_payments_are_spread_over_all_queues() -> None:
    found = Counter(bucket_of("acme", f"inv-{number}") for number in range(6400))

    assert len(found) == 64
    assert max(found.values()) < 200


@pytest.mark.parametrize(
    ("fact", "kind"),
    [
        (success(), EventType.COMPLETED),
        (failed(), EventType.FAILED),
        (unknown(), EventType.PENDING),
    ],
)
def test_an_event_is_named_for_what_happened(fact: Fact, kind: EventType) -> None:
    after, _ = fold(execution(), (fact,))

    assert draft_event(after, fact).type is kind
    assert draft_event(after, fact).payload["status"] == after.status.value


def test_an_execution_starts_with_its_route_told() -> None:
    event = draft_event(execution(), trace=("default route: taken, cards",))

    assert event.type is EventType.STARTED
    assert event.payload["route"] == ["default route: taken, cards"]


def test_an_event_says_why() -> None:
    after, _ = fold(execution(), (unknown(),))
    payload = draft_event(after).payload

    assert (payload["pending_reason"], payload["cause_code"]) == (
        PendingReason.OUTCOME_UNKNOWN,
        PaymentFailureCode.PROVIDER_TIMEOUT,
    )


def test_an_event_says_who_said_so() -> None:
    fact = Fact(
        result=RailResult.success("slip-7", ASKED),
        source=FactSource.OPERATOR,
        actor="alice",
        evidence="slip-7",
    )
    after, _ = fold(execution(), (fact,))
    payload = draft_event(after, fact).payload

    assert (payload["source"], payload["actor"], payload["evidence"]) == (
        "operator",
        "alice",
        "slip-7",
    )


def test_an_event_holds_neither_tokens_nor_metadata() -> None:
    asked = context(
        payer_token="payer_1",
        instrument_token="tok_1",
        metadata={"name": "Aisha"},
        return_url="https://shop.example/back",
    )
    text = repr(draft_event(execution(context=asked)))

    assert not any(one in text for one in ("payer_1", "tok_1", "Aisha", "shop.example"))


def test_a_discrepancy_is_told_with_both_sides() -> None:
    after, found = fold(execution(), (failed(), success()))
    event = draft_discrepancy(after, next(iter(found)))

    assert event.type is EventType.DISCREPANCY
    assert event.payload["sides"] == ["failed declined", "success ch_1"]
    assert event.payload["needs_review"] is True
    assert after.status is ExecutionStatus.FAILED
