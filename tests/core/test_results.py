import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.enums import PendingReason
from railcore.errors import InvalidValueError
from railcore.failures import UNKNOWN_CAUSES, PaymentFailureCode
from railcore.money import SAR, Money
from railcore.redaction import kept_reference
from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
from tests.core.made import ASKED, NOW, REDIRECT

REASONS = sorted(set(PendingReason) - {PendingReason.OUTCOME_UNKNOWN})
PAN = "4111 1111 1111 1111"
hostile_texts = st.one_of(
    st.text(max_size=50),
    st.sampled_from(["", "\x00", "a\x00b", "\u202eabc", "\ud800", "x" * 10_000_000, "a\nb"]),
)
json_like = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.decimals(),
        st.text(max_size=20),
        st.binary(max_size=8),
        st.datetimes(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_a_success_has_a_reference_of_its_own() -> None:
    assert RailResult.success("ch_1", ASKED).provider_ref == "ch_1"


@pytest.mark.parametrize("ref", ["", None])
def test_a_success_without_a_reference_cannot_be_built(ref: Any) -> None:
    with pytest.raises(InvalidValueError, match="provider_ref"):
        RailResult.success(ref, ASKED)


@pytest.mark.parametrize("reported", [None, 12.5, 1250, "12.50", Decimal("12.5")])
def test_a_success_says_how_much_money_moved(reported: Any) -> None:
    with pytest.raises(InvalidValueError, match="reported"):
        RailResult.success("ch_1", reported)


@pytest.mark.parametrize("reason", REASONS)
def test_a_pending_result_says_who_acts_next(reason: PendingReason) -> None:
    assert RailResult.pending(reason).pending_reason is reason


def test_doubt_is_said_by_another_name() -> None:
    with pytest.raises(InvalidValueError, match=r"RailResult\.unknown"):
        RailResult.pending(PendingReason.OUTCOME_UNKNOWN)


@pytest.mark.parametrize("reason", ["outcome_unknown", "customer_action", "", None, 1])
def test_a_reason_that_is_only_text_is_refused(reason: Any) -> None:
    with pytest.raises(InvalidValueError, match="reason"):
        RailResult.pending(reason)


@pytest.mark.parametrize("cause", sorted(UNKNOWN_CAUSES))
def test_an_unknown_outcome_says_why(cause: Any) -> None:
    result = RailResult.unknown(cause)

    assert (result.pending_reason, result.cause) == (PendingReason.OUTCOME_UNKNOWN, cause)


@pytest.mark.parametrize("code", ["provider_timeout", "declined", None, 3])
def test_a_failure_that_is_only_text_is_refused(code: Any) -> None:
    with pytest.raises(InvalidValueError, match="failure"):
        RailResult.failed(code)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "success", "provider_ref": "r", "reported": ASKED},
        {"status": "pending", "pending_reason": PendingReason.MANUAL_REVIEW},
        {"status": "unheard_of"},
        {"status": None},
        {"status": ResultStatus.PENDING},
        {"status": ResultStatus.FAILED},
        {"status": ResultStatus.FAILED, "failure": PaymentFailureCode.PROVIDER_TIMEOUT},
        {"status": ResultStatus.FAILED, "failure": PaymentFailureCode.INVALID_RESPONSE},
        {
            "status": ResultStatus.FAILED,
            "failure": PaymentFailureCode.DECLINED,
            "pending_reason": PendingReason.MANUAL_REVIEW,
        },
        {
            "status": ResultStatus.FAILED,
            "failure": PaymentFailureCode.DECLINED,
            "cause": PaymentFailureCode.PROVIDER_TIMEOUT,
        },
        {
            "status": ResultStatus.SUCCESS,
            "provider_ref": "r",
            "reported": ASKED,
            "failure": PaymentFailureCode.DECLINED,
        },
        {"status": ResultStatus.SUCCESS, "provider_ref": "r", "reported": ASKED, "is_absent": True},
        {
            "status": ResultStatus.SUCCESS,
            "provider_ref": "r",
            "reported": ASKED,
            "next_action": REDIRECT,
        },
        {
            "status": ResultStatus.PENDING,
            "pending_reason": PendingReason.MANUAL_REVIEW,
            "is_absent": True,
        },
        {
            "status": ResultStatus.PENDING,
            "pending_reason": PendingReason.MANUAL_REVIEW,
            "cause": PaymentFailureCode.PROVIDER_TIMEOUT,
        },
        {
            "status": ResultStatus.PENDING,
            "pending_reason": PendingReason.OUTCOME_UNKNOWN,
            "cause": PaymentFailureCode.DECLINED,
        },
    ],
)
def test_a_result_that_contradicts_itself_cannot_be_built(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RailResult(**values)


@pytest.mark.parametrize(
    "changes",
    [
        {"progress": -1},
        {"progress": True},
        {"progress": 1.5},
        {"progress": 2**63},
        {"expires_at": datetime(2026, 3, 1, 12, tzinfo=UTC).replace(tzinfo=None)},
        {"expires_at": "tomorrow"},
        {"reported": Money(-1, SAR)},
        {"reported": 500},
        {"next_action": "https://example.com"},
        {"provider_response": "text"},
        {"provider_response": ["text"]},
    ],
)
def test_a_pending_result_refuses_what_nobody_could_store(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RailResult.pending(PendingReason.AWAITING_FUNDS, **changes)


@pytest.mark.parametrize(
    "ref", [1, b"ref", "x" * 256, "x" * 10_000_000, "a\x00b", "\ud800", "a\nb", "\u202eref", True]
)
def test_a_reference_is_one_short_printable_text(ref: Any) -> None:
    with pytest.raises(InvalidValueError, match="provider_ref"):
        RailResult.success(ref, ASKED)


@pytest.mark.parametrize("ref", ["ch_1", "RF18 5390 0754 7034", "Überweisung-7", "x" * 255])
def test_a_reference_as_banks_write_it_is_kept(ref: str) -> None:
    assert RailResult.success(ref, ASKED).provider_ref == ref


def test_a_reference_like_a_card_number_is_itself_and_shows_otherwise() -> None:
    result = RailResult.success(PAN, ASKED)

    assert result.provider_ref == PAN
    assert PAN not in repr(result)
    assert kept_reference(PAN) in repr(result)


def test_card_numbers_in_an_answer_are_masked() -> None:
    said = {"text": f"card {PAN}", PAN: [PAN, {"deep": 4111111111111111}], "amount": 1250}

    result = RailResult.success("ch_1", ASKED, provider_response=said)

    assert "1111111" not in repr(result)
    assert result.provider_response["amount"] == 1250


def test_secrets_in_an_answer_are_hidden() -> None:
    said = {"access_token": "abc", "nested": {"Authorization": "Bearer xyz"}, "id": "ch_1"}

    kept = RailResult.success("ch_1", ASKED, provider_response=said).provider_response

    assert kept == {"access_token": "***", "nested": {"Authorization": "***"}, "id": "ch_1"}


def test_a_whole_page_is_no_projection() -> None:
    with pytest.raises(InvalidValueError, match="allow-listed projection"):
        RailResult.success("ch_1", ASKED, provider_response={"body": "x" * 10_000})


@given(st.dictionaries(st.text(max_size=5), json_like, max_size=4))
def test_whatever_a_provider_said_can_be_stored_as_json(said: dict[str, Any]) -> None:
    kept = RailResult.success("ch_1", ASKED, provider_response=said).provider_response

    text = json.dumps(kept, allow_nan=False, ensure_ascii=False)

    assert "\x00" not in json.loads(text).__repr__()
    text.encode()


@pytest.mark.parametrize("said", ["a\x00b", "\ud800", {"\x00": "\udfff"}, float("nan")])
def test_what_a_database_refuses_is_replaced(said: object) -> None:
    kept = RailResult.success("ch_1", ASKED, provider_response={"said": said}).provider_response

    text = json.dumps(kept, allow_nan=False, ensure_ascii=False)

    assert "\\u0000" not in text
    text.encode()


@given(st.text(min_size=1, max_size=30))
def test_any_text_is_a_reference_or_an_invalid_value(ref: str) -> None:
    try:
        result = RailResult.success(ref, ASKED)
    except InvalidValueError:
        return
    assert result.provider_ref


def test_a_result_survives_pickling() -> None:
    result = RailResult.pending(
        PendingReason.CUSTOMER_ACTION,
        next_action=REDIRECT,
        expires_at=NOW,
        provider_response={"id": "pay_1"},
    )

    assert pickle.loads(pickle.dumps(result)) == result


def test_an_answer_is_not_changed_by_who_gave_it() -> None:
    said = {"nested": {"state": "new"}}
    result = RailResult.success("ch_1", ASKED, provider_response=said)

    said["nested"]["state"] = "changed"

    assert result.provider_response == {"nested": {"state": "new"}}


@pytest.mark.parametrize("kind", NextActionKind)
def test_an_action_has_what_its_kind_needs(kind: NextActionKind) -> None:
    with pytest.raises(InvalidValueError, match="next_action"):
        NextAction(kind=kind)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "redirect", "url": "https://x.example"},
        {"kind": NextActionKind.REDIRECT, "url": "https://x.example/a b"},
        {"kind": NextActionKind.REDIRECT, "url": "https://x.example/\x00"},
        {"kind": NextActionKind.REDIRECT, "url": "x" * 3000},
        {"kind": NextActionKind.REDIRECT, "reference": "RF18"},
        {"kind": NextActionKind.QUOTE_REFERENCE, "reference": "\ud800"},
        {"kind": NextActionKind.QUOTE_REFERENCE, "reference": "r", "fields": {"a": 1}},
        {"kind": NextActionKind.QUOTE_REFERENCE, "reference": "r", "fields": {"a": "\x00"}},
        {"kind": NextActionKind.QUOTE_REFERENCE, "reference": "r", "fields": ["a"]},
        {"kind": NextActionKind.QUOTE_REFERENCE, "reference": "r", "fields": {"a": "x" * 5000}},
    ],
)
def test_an_action_that_no_payer_could_follow_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        NextAction(**values)


@given(url=hostile_texts)
def test_any_url_is_kept_or_an_invalid_value(url: str) -> None:
    try:
        action = NextAction(kind=NextActionKind.REDIRECT, url=url)
    except InvalidValueError:
        return
    assert action.url == url
    assert url.isascii()
