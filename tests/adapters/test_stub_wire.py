"""What the stub asks of the sandbox, and what it makes of any answer at all."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from railcore.enums import ExecutionStatus, PendingReason
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.http import HttpRequest, HttpResponse
from railcore.money import SAR, USD, Money
from railcore.ports import CardGateway, FlowRail, OpenBankingClient
from railcore.rails.card_psp import CardPspRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
from railcore.testing.conversation import Conversation
from railcore_adapters.stub import SANDBOX_TIMING, StubBank, StubGateway
from railcore_adapters.stub.codes import DECLINES
from tests.core.executions import after, an_execution

GATEWAY: CardGateway = StubGateway("http://psp.example")
BANK: OpenBankingClient = StubBank("http://bank.example")
CARD: FlowRail[HttpRequest, HttpResponse] = CardPspRail(GATEWAY)
OPEN_BANKING: FlowRail[HttpRequest, HttpResponse] = OpenBankingPaymentRail(BANK)
EXECUTION = an_execution()
KEY = EXECUTION.provider_key
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "status": "succeeded",
    "decline_code": None,
    "amount_minor": 1250,
    "currency": "SAR",
    "reference": KEY,
    "account": "main",
    "livemode": False,
    "created_at": "2026-01-02T03:04:05.000006Z",
}
PAYMENT = {
    "id": "pay_1",
    "status": "awaiting_authorization",
    "authorize_url": "http://bank.example/bank/authorize/pay_1",
    "expires_at": "2026-01-02T03:19:05.000006Z",
    "amount_minor": 1250,
    "currency": "SAR",
    "reference": KEY,
}
Talk = Conversation[HttpRequest, HttpResponse, RailResult]
PROCESSING = PendingReason.PROVIDER_PROCESSING
UNREADABLE = RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)


def says(status: int, body: object) -> HttpResponse:
    return HttpResponse(status=status, body=json.dumps(body).encode())


def refuses(status: int, code: str) -> HttpResponse:
    return says(status, {"error": {"code": code, "message": "no"}})


def charged(answer: HttpResponse, execution: PaymentExecution = EXECUTION) -> RailResult:
    talk: Talk = Conversation(CARD.execute(execution))
    talk.answer(answer)
    return talk.result


def looked_up(answer: HttpResponse) -> RailResult:
    talk: Talk = Conversation(CARD.check_status(EXECUTION))
    talk.answer(answer)
    return talk.result


def ordered(answer: HttpResponse) -> RailResult:
    talk: Talk = Conversation(OPEN_BANKING.execute(EXECUTION))
    talk.answer(answer)
    return talk.result


def test_a_charge_is_asked_for_under_the_derived_key() -> None:
    asked = Conversation(CARD.execute(EXECUTION)).asks

    assert (asked.method, asked.url) == ("POST", "http://psp.example/psp/v1/charges")
    assert asked.headers["Idempotency-Key"] == KEY
    assert json.loads(asked.body) == {
        "amount_minor": 1250,
        "currency": "SAR",
        "instrument": "tok_visa",
        "reference": KEY,
    }
    assert asked.moves_money
    assert asked.credentials_of == ("acme", "stub", "main")
    assert asked.timeout_s == SANDBOX_TIMING.answer_timeout_s


def test_a_resend_is_the_same_to_the_byte() -> None:
    first, second = (Conversation(CARD.execute(an_execution())).asks for _ in range(2))

    assert first == second


def test_a_lookup_only_reads() -> None:
    asked = Conversation(CARD.check_status(EXECUTION)).asks

    assert (asked.method, asked.moves_money) == ("GET", False)
    assert asked.url == f"http://psp.example/psp/v1/charges?reference={KEY}"


def test_without_an_instrument_nothing_is_sent() -> None:
    talk: Talk = Conversation(CARD.execute(an_execution(instrument_token=None)))

    assert talk.result == RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID)


def test_going_on_is_a_lookup() -> None:
    lookups = [Conversation(rail.check_status(EXECUTION)).asks for rail in (CARD, OPEN_BANKING)]

    assert [Conversation(rail.advance(EXECUTION)).asks for rail in (CARD, OPEN_BANKING)] == lookups


def test_a_charge_of_ours_is_a_success() -> None:
    result = charged(says(201, CHARGE))

    assert (result.provider_ref, result.reported) == ("ch_1", Money(1250, SAR))


def test_only_listed_fields_of_an_answer_are_kept() -> None:
    result = charged(says(201, {**CHARGE, "card": "4111111111111111", "note": ["x"]}))

    assert result.provider_response == {
        "id": "ch_1",
        "status": "succeeded",
        "account": "main",
        "created_at": "2026-01-02T03:04:05.000006Z",
        "livemode": False,
    }


@pytest.mark.parametrize("bad", ["\x00", "\ud800", ["x"], 7])
def test_a_field_that_cannot_be_stored_is_left_out(bad: object) -> None:
    assert "account" not in charged(says(201, {**CHARGE, "account": bad})).provider_response


@pytest.mark.parametrize(
    ("changed", "reported"),
    [({"amount_minor": 1251}, Money(1251, SAR)), ({"currency": "USD"}, Money(1250, USD))],
)
def test_a_success_of_another_amount_is_passed_on_as_reported(
    changed: dict[str, Any], reported: Money
) -> None:
    result = charged(says(201, {**CHARGE, **changed}))

    assert result.reported == reported
    assert after(EXECUTION, result).status is ExecutionStatus.PENDING


@pytest.mark.parametrize(
    "changed",
    [
        {"reference": "another"},
        {"reference": None},
        {"id": None},
        {"id": ""},
        {"id": "a b"},
        {"status": "splendid"},
        {"status": None},
        {"amount_minor": "1250"},
        {"amount_minor": 12.5},
        {"amount_minor": True},
        {"amount_minor": 2**70},
        {"currency": "XXX"},
        {"currency": None},
        {"currency": "sar"},
    ],
)
def test_a_charge_that_is_not_clearly_ours_is_unknown(changed: dict[str, Any]) -> None:
    assert charged(says(201, {**CHARGE, **changed})) == UNREADABLE


@pytest.mark.parametrize("code", [*DECLINES, "a_new_one", None])
def test_a_decline_is_a_failure_of_our_own_vocabulary(code: str | None) -> None:
    result = charged(says(402, {**CHARGE, "status": "declined", "decline_code": code}))

    assert result.failure is DECLINES.get(str(code), PaymentFailureCode.DECLINED)
    assert result.provider_ref == "ch_1"


def test_a_decline_of_another_charge_is_unknown() -> None:
    answer = says(402, {**CHARGE, "status": "declined", "reference": "another"})

    assert charged(answer) == UNREADABLE


def test_a_charge_under_a_status_that_contradicts_it_is_unknown() -> None:
    assert charged(says(402, CHARGE)) == UNREADABLE


def test_a_pending_charge_is_with_the_provider() -> None:
    result = charged(says(201, {**CHARGE, "status": "pending"}))

    assert result.pending_reason is PendingReason.PROVIDER_PROCESSING
    assert result.provider_ref == "ch_1"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "invalid_request", PaymentFailureCode.CONFIGURATION_ERROR),
        (400, "currency_not_supported", PaymentFailureCode.UNSUPPORTED_OPERATION),
        (401, "invalid_api_key", PaymentFailureCode.INVALID_CREDENTIALS),
        (429, "rate_limited", PaymentFailureCode.RATE_LIMITED),
        (503, "unavailable", PaymentFailureCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_a_refusal_that_did_nothing_is_a_failure(
    status: int, code: str, expected: PaymentFailureCode
) -> None:
    assert charged(refuses(status, code)).failure is expected
    assert ordered(refuses(status, code)).failure is expected


@pytest.mark.parametrize(
    "answer",
    [
        refuses(409, "duplicate_transaction"),
        refuses(409, "idempotency_key_reuse"),
        refuses(409, "in_progress"),
        refuses(500, "internal"),
        refuses(503, "anything else"),
        refuses(404, "not_found"),
        HttpResponse(status=503),
        HttpResponse(status=201),
        HttpResponse(status=200, body=b"<html>"),
        HttpResponse(status=200, body=b"\xff\xfe"),
        HttpResponse(status=200, body=b"[" * 100_000),
        HttpResponse(status=200, body=b'{"amount_minor": ' + b"9" * 5000 + b"}"),
        HttpResponse(status=302, headers={"location": "/"}),
        says(201, [CHARGE]),
        says(201, "succeeded"),
    ],
)
def test_everything_else_is_unknown(answer: HttpResponse) -> None:
    assert charged(answer) == UNREADABLE
    assert ordered(answer) == UNREADABLE


def test_a_lookup_finds_the_charge() -> None:
    assert looked_up(says(200, {"data": [CHARGE]})) == charged(says(201, CHARGE))


def test_a_lookup_that_finds_nothing_says_so() -> None:
    assert looked_up(says(200, {"data": []})) == RailResult.absent()


def test_among_several_charges_the_one_that_took_money_counts() -> None:
    declined = {**CHARGE, "id": "ch_2", "status": "declined"}

    result = looked_up(says(200, {"data": [declined, CHARGE, declined]}))

    assert result.provider_ref == "ch_1"


def test_a_second_charge_under_one_reference_is_told_beside_the_first() -> None:
    result = looked_up(says(200, {"data": [{**CHARGE, "id": "ch_2"}, CHARGE]}))

    assert result.provider_ref == "ch_1"
    assert [one.provider_ref for one in result.also] == ["ch_2"]


def test_of_two_charges_the_one_that_was_asked_counts() -> None:
    wrong = {**CHARGE, "id": "ch_0", "amount_minor": 99}

    result = looked_up(says(200, {"data": [wrong, CHARGE]}))

    assert result.provider_ref == "ch_1"
    assert [one.provider_ref for one in result.also] == ["ch_0"]


def test_of_two_charges_the_known_one_counts() -> None:
    known = after(EXECUTION, RailResult.pending(PROCESSING, provider_ref="ch_2"))
    talk = Talk(CARD.check_status(known))

    talk.answer(says(200, {"data": [CHARGE, {**CHARGE, "id": "ch_2"}]}))

    assert talk.result.provider_ref == "ch_2"
    assert [one.provider_ref for one in talk.result.also] == ["ch_1"]


def test_the_same_charge_twice_is_one() -> None:
    result = looked_up(says(200, {"data": [CHARGE, CHARGE]}))

    assert (result.provider_ref, result.also) == ("ch_1", ())


def test_a_decline_does_not_count_while_another_charge_may_stand() -> None:
    declined = {**CHARGE, "id": "ch_2", "status": "declined"}

    result = looked_up(says(200, {"data": [declined, {**CHARGE, "status": "splendid"}]}))

    assert result == UNREADABLE


@pytest.mark.parametrize(
    "answer",
    [
        refuses(401, "invalid_api_key"),
        refuses(429, "rate_limited"),
        refuses(503, "unavailable"),
        HttpResponse(status=404),
        says(200, {}),
        says(200, {"data": None}),
        says(200, {"data": ["x"]}),
        says(200, {"data": [{**CHARGE, "reference": "another"}]}),
    ],
)
def test_a_lookup_without_an_answer_proves_nothing(answer: HttpResponse) -> None:
    assert looked_up(answer) == UNREADABLE


def test_a_payment_is_ordered_with_the_way_back() -> None:
    asked = Conversation(OPEN_BANKING.execute(EXECUTION)).asks

    assert asked.url == "http://bank.example/bank/v1/payments"
    assert json.loads(asked.body)["return_url"] == "https://shop.example/back"
    assert asked.moves_money


def test_without_a_way_back_nothing_is_sent() -> None:
    talk: Talk = Conversation(OPEN_BANKING.execute(an_execution(return_url=None)))

    assert talk.result == RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)


def test_a_payment_to_be_authorized_sends_the_payer_to_the_bank() -> None:
    result = ordered(says(201, PAYMENT))

    assert result.pending_reason is PendingReason.CUSTOMER_ACTION
    assert result.next_action == NextAction(
        kind=NextActionKind.REDIRECT, url="http://bank.example/bank/authorize/pay_1"
    )
    assert result.expires_at == datetime(2026, 1, 2, 3, 19, 5, 6, UTC)


@pytest.mark.parametrize("expires_at", [None, "soon", "2026-01-02T03:19:05"])
def test_an_expiry_that_cannot_be_read_is_left_out(expires_at: str | None) -> None:
    assert ordered(says(201, {**PAYMENT, "expires_at": expires_at})).expires_at is None


@pytest.mark.parametrize("url", [None, "javascript:alert(1)", "http://a b/", 7])
def test_a_payer_is_not_sent_just_anywhere(url: object) -> None:
    assert ordered(says(201, {**PAYMENT, "authorize_url": url})) == UNREADABLE


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("accepted", PendingReason.PROVIDER_PROCESSING),
        ("settled", Money(1250, SAR)),
        ("rejected", PaymentFailureCode.CANCELLED),
        ("expired", PaymentFailureCode.CANCELLED),
    ],
)
def test_a_payment_goes_on_to_its_end(status: str, expected: object) -> None:
    result = ordered(says(200, {**PAYMENT, "status": status}))

    assert expected in {result.pending_reason, result.reported, result.failure}
    assert result.provider_ref == "pay_1"


def test_both_declare_what_the_kernel_may_rely_on() -> None:
    for capabilities in (GATEWAY.capabilities, BANK.capabilities):
        assert capabilities.lookup_is_authoritative
        assert capabilities.timing.silence_proves_after_s < 1


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


NEAR = {
    "id": st.sampled_from(["ch_1", ""]) | anything,
    "status": st.sampled_from(["pending", "declined", "accepted", "expired"]) | anything,
    "reference": st.sampled_from([KEY, "another"]) | anything,
    "amount_minor": st.sampled_from([1250, 1251]) | anything,
    "currency": st.sampled_from(["SAR", "USD"]) | anything,
    "authorize_url": anything,
    "expires_at": anything,
    "account": anything,
}


@st.composite
def items(draw: st.DrawFn) -> dict[str, Any]:
    """Charges and payments that are right but for a field or two."""
    item: dict[str, Any] = {**CHARGE, **PAYMENT}
    item["status"] = draw(st.sampled_from(["succeeded", "settled", "awaiting_authorization"]))
    for name in draw(st.sets(st.sampled_from(sorted(NEAR)), max_size=2)):
        item[name] = draw(NEAR[name])
    return item


errors = st.fixed_dictionaries({"error": st.fixed_dictionaries({"code": anything}) | anything})
lists = st.fixed_dictionaries({"data": st.lists(items() | anything, max_size=3) | anything})
bodies = st.binary() | (items() | errors | lists | anything).map(
    lambda body: json.dumps(body).encode()
)
answers = st.builds(
    lambda status, headers, body: HttpResponse(status=status, headers=headers, body=body),
    st.sampled_from([200, 201, 402])
    | st.sampled_from([400, 401, 429, 503])
    | st.integers(100, 999),
    st.dictionaries(st.text(), st.text(), max_size=3),
    bodies,
)


def ours(body: object) -> list[dict[str, Any]]:
    """The objects of an answer that carry our reference."""
    if not isinstance(body, dict):
        return []
    data = body.get("data")
    found = [body, *(data if isinstance(data, list) else [])]
    return [one for one in found if isinstance(one, dict) and one.get("reference") == KEY]


@given(answers, st.sampled_from([CARD, OPEN_BANKING]), st.sampled_from(["execute", "check_status"]))
def test_any_answer_gives_a_result_and_never_a_false_success(
    answer: HttpResponse, rail: FlowRail[HttpRequest, HttpResponse], step: str
) -> None:
    talk: Talk = Conversation(getattr(rail, step)(EXECUTION))
    talk.answer(answer)
    result = talk.result

    json.dumps(result.provider_response)
    event(result.status)
    if result.status is ResultStatus.SUCCESS:
        reported = [
            (one.get("amount_minor"), one.get("currency")) for one in ours(json.loads(answer.body))
        ]
        assert result.reported is not None
        assert (result.reported.amount_minor, result.reported.currency.code) in reported
    if after(EXECUTION, result).status is ExecutionStatus.COMPLETED:
        assert result.reported == EXECUTION.money
