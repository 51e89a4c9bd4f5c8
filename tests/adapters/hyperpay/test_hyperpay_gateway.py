"""HyperPay's flows: what is sent, and what answers of any kind mean for the money."""

import json
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.enums import ExecutionStatus, Operation, PendingReason, RouteMode
from railcore.errors import InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.http import HttpResponse
from railcore.kernel import tells
from railcore.lifecycle import NO_NEWS, Fact, FactSource, decide
from railcore.money import JPY, SAR, Currency, Money
from railcore.results import NextActionKind, RailResult, ResultStatus
from railcore_adapters.hyperpay import LIVE_URL, TEST_URL, HyperPayAccount, HyperPayGateway
from railcore_adapters.hyperpay.wire import OUR_KEY, reference_of, sent_amount
from tests.adapters.hyperpay.answers import (
    CHECKOUT,
    GATEWAY,
    answer,
    asked,
    form_of,
    found,
    nothing,
    payment,
    played,
    query_of,
)

Code = PaymentFailureCode
KWD = Currency.of("KWD")
OPENED_AT = "2026-08-30 11:00:00+0000"
EXPIRES = datetime(2026, 8, 30, 11, 30, tzinfo=UTC)
LATER = "2026-08-30 11:35:00+0000"


def opened(**state: Any) -> PaymentExecution:
    """A charge whose payer has a checkout to pay on."""
    known = {"provider_ref": CHECKOUT, "expires_at": EXPIRES, **state}
    return asked(token=None, **known)


def test_a_stored_card_is_charged_from_server_to_server() -> None:
    execution = asked()

    result, (request,) = played(GATEWAY.start(execution), answer(payment(execution)))

    assert (request.method, request.moves_money) == ("POST", True)
    assert request.url.endswith("/v1/registrations/8ac7a4registration/payments")
    assert form_of(request) == {
        "entityId": "entityOfCards",
        "amount": "12.50",
        "currency": "SAR",
        "paymentType": "DB",
        "merchantTransactionId": reference_of(execution.provider_key),
        f"customParameters[{OUR_KEY}]": execution.provider_key,
        "shopperResultUrl": "https://shop.example/back",
    }
    assert request.credentials_of == ("acme", "hyperpay", "main")
    assert (result.provider_ref, result.reported) == ("8ac7a4payment", Money(1250, SAR))


def test_a_charge_without_the_payer_says_so() -> None:
    execution = asked()
    agreed = attrs.evolve(execution.context, merchant_initiated=True, return_url=None)
    execution = attrs.evolve(execution, context=agreed)

    _, (request,) = played(GATEWAY.start(execution), answer(payment(execution)))

    form = form_of(request)
    assert form["standingInstruction.source"] == "MIT"
    assert form["standingInstruction.mode"] == "REPEATED"
    assert "shopperResultUrl" not in form


def test_without_a_stored_card_the_payer_gets_a_widget() -> None:
    execution = asked(token=None, account="mada")
    body = {
        "result": {"code": "000.200.100", "description": "in words"},
        "timestamp": OPENED_AT,
        "id": CHECKOUT,
        "integrity": "sha384-abc",
    }

    result, (request,) = played(GATEWAY.start(execution), answer(body))

    assert request.url.endswith("/v1/checkouts")
    assert form_of(request)["entityId"] == "entityOfMada"
    assert form_of(request)["integrity"] == "true"
    action = result.next_action
    assert action is not None
    assert action.kind is NextActionKind.WIDGET
    assert action.url == f"https://eu-test.oppwa.com/v1/paymentWidgets.js?checkoutId={CHECKOUT}"
    assert action.fields == {
        "action": "https://shop.example/back",
        "brands": "MADA",
        "integrity": "sha384-abc",
    }
    assert (result.provider_ref, result.expires_at) == (CHECKOUT, EXPIRES)
    assert result.pending_reason is PendingReason.CUSTOMER_ACTION


@pytest.mark.parametrize("checkout_id", ["", "../payments", 7, None, "0123"])
def test_a_checkout_without_a_proper_id_is_unknown(checkout_id: object) -> None:
    body = {"result": {"code": "000.200.100"}, "id": checkout_id}
    result, _ = played(GATEWAY.start(asked(token=None)), answer(body))
    assert result.cause is Code.INVALID_RESPONSE


def test_a_checkout_that_is_refused_has_failed() -> None:
    body = {"result": {"code": "200.300.405"}}
    in_doubt, _ = played(GATEWAY.start(asked(token=None)), answer(body, 400))
    refused, _ = played(
        GATEWAY.start(asked(token=None)), answer({"result": {"code": "600.200.500"}}, 400)
    )
    assert in_doubt.cause is Code.INVALID_RESPONSE
    assert refused.failure is Code.CONFIGURATION_ERROR


@pytest.mark.parametrize(
    ("operation", "kind"),
    [(Operation.CAPTURE, "CP"), (Operation.VOID, "RV"), (Operation.REFUND, "RF")],
)
def test_a_follow_up_acts_on_the_payment(operation: Operation, kind: str) -> None:
    execution = asked(operation)
    body = payment(execution, referencedId="8ac7a4parent")

    result, (request,) = played(GATEWAY.start(execution), answer(body))

    assert request.url.endswith("/v1/payments/8ac7a4parent")
    assert form_of(request)["paymentType"] == kind
    assert result.status is ResultStatus.SUCCESS


def test_a_void_that_names_no_amount_has_given_back_all_of_it() -> None:
    execution = asked(Operation.VOID)
    body = payment(execution, amount=None, currency=None)
    result, _ = played(GATEWAY.start(execution), answer(body))
    assert result.reported == execution.money


@pytest.mark.parametrize(
    ("execution", "failure"),
    [
        (asked(account="elsewhere"), Code.CONFIGURATION_ERROR),
        (asked(Operation.AUTHORIZE, account="mada"), Code.UNSUPPORTED_OPERATION),
        (asked(token="no-registration"), Code.INSTRUMENT_INVALID),
        (asked(Operation.REFUND, parent_ref="../other"), Code.INSTRUMENT_INVALID),
        (asked(money=Money(1234, KWD)), Code.UNSUPPORTED_OPERATION),
    ],
)
def test_what_cannot_be_asked_is_not_sent(
    execution: PaymentExecution, failure: PaymentFailureCode
) -> None:
    result, requests = played(GATEWAY.start(execution))
    assert (result.failure, requests) == (failure, [])


def test_mada_can_be_switched_on_for_more() -> None:
    more = HyperPayAccount(
        entity_id="entityOfMada", brands=("MADA",), operations=frozenset(Operation)
    )
    gateway = HyperPayGateway(accounts={"mada": more})
    execution = asked(Operation.AUTHORIZE, account="mada")
    result, _ = played(gateway.start(execution), answer(payment(execution)))
    assert result.status is ResultStatus.SUCCESS


@pytest.mark.parametrize(
    ("money", "decimals", "sent"),
    [
        (Money(9_200, SAR), 2, "92.00"),
        (Money(92, JPY), 2, "92.00"),
        (Money(92, JPY), 0, "92"),
        (Money(1_230, KWD), 2, "1.23"),
        (Money(1_234, KWD), 3, "1.234"),
    ],
)
def test_amounts_have_the_decimals_of_the_entity(money: Money, decimals: int, sent: str) -> None:
    assert sent_amount(money, decimals) == sent


def test_nothing_is_rounded() -> None:
    with pytest.raises(InvalidValueError, match="at most 2 decimal places"):
        sent_amount(Money(1_234, KWD), 2)
    assert not GATEWAY.capabilities.can_express(Money(1_234, KWD))


@pytest.mark.parametrize(
    "changed",
    [
        {"merchantTransactionId": "ANOTHERORDER"},
        {"merchantTransactionId": None},
        {"paymentType": "PA"},
        {"paymentType": None},
        {"amount": None},
        {"amount": 12.5},
        {"amount": "12.505"},
        {"amount": "1e3"},
        {"currency": "XXX"},
        {"currency": None},
        {"id": None},
        {"id": "two words"},
        {"authentication": {"entityId": "another"}},
    ],
)
def test_a_success_that_is_not_wholly_ours_is_unknown(changed: dict[str, Any]) -> None:
    execution = asked()
    result, _ = played(GATEWAY.start(execution), answer(payment(execution, **changed)))
    assert result.cause is Code.INVALID_RESPONSE


def test_another_amount_is_reported_as_it_is() -> None:
    execution = asked()
    body = payment(execution, "000.000.001", amount="10")
    result, _ = played(GATEWAY.start(execution), answer(body))
    assert result.reported == Money(1000, SAR)


def test_a_success_in_test_mode_counts_in_the_sandbox_alone() -> None:
    for mode, url, failure in (
        (RouteMode.SANDBOX, TEST_URL, None),
        (RouteMode.LIVE, LIVE_URL, Code.CONFIGURATION_ERROR),
    ):
        execution = asked(mode=mode)
        gateway = attrs.evolve(GATEWAY, base_url=url)
        result, _ = played(gateway.start(execution), answer(payment(execution, "000.100.110")))
        assert result.failure is failure


@pytest.mark.parametrize(
    ("mode", "url"),
    [
        (RouteMode.LIVE, TEST_URL),
        (RouteMode.LIVE, "https://test.oppwa.com"),
        (RouteMode.SANDBOX, LIVE_URL),
        (RouteMode.SANDBOX, "https://oppwa.com"),
    ],
)
def test_what_is_for_play_never_meets_the_live_host_nor_the_other_way_round(
    mode: RouteMode, url: str
) -> None:
    result, requests = played(attrs.evolve(GATEWAY, base_url=url).start(asked(mode=mode)))
    assert (result.failure, requests) == (Code.CONFIGURATION_ERROR, [])


def test_test_mode_is_asked_for_in_the_sandbox_alone() -> None:
    account = HyperPayAccount(entity_id="entity", test_mode="EXTERNAL")
    for mode, said in ((RouteMode.SANDBOX, "EXTERNAL"), (RouteMode.LIVE, None)):
        execution = asked(mode=mode)
        gateway = HyperPayGateway(accounts={"main": account}, base_url="https://own.example")
        _, (request,) = played(gateway.start(execution), answer(payment(execution)))
        assert form_of(request).get("testMode") == said


def test_a_decline_is_a_failure_whatever_the_status() -> None:
    execution = asked()
    body = payment(execution, "800.100.155", amount=None, merchantTransactionId=None)
    for status in (200, 400):
        result, _ = played(GATEWAY.start(execution), answer(body, status))
        assert result.failure is Code.INSUFFICIENT_FUNDS
        assert result.provider_ref == "8ac7a4payment"


@pytest.mark.parametrize("code", ["900.100.300", "999.999.999", "800.110.100", "200.300.404", "x"])
def test_doubt_is_never_a_failure(code: str) -> None:
    execution = asked()
    result, _ = played(GATEWAY.start(execution), answer(payment(execution, code), 400))
    assert result.pending_reason is PendingReason.OUTCOME_UNKNOWN


def test_a_throttled_lookup_speaks_of_itself_and_holds_back_no_other_payment() -> None:
    body = {"id": "8ac9a4other", "result": {"code": "800.120.100"}}
    for flow in (GATEWAY.look_up(asked()), GATEWAY.advance(opened())):
        result, _ = played(flow, answer(body, 429))
        assert (result.failure, result.retry_after_s) == (Code.RATE_LIMITED, None)
        assert not tells(result)
    told, _ = played(GATEWAY.look_up(asked()), answer(body, 429, retry_after="7"))
    assert told.retry_after_s == 7.0


def test_a_throttled_charge_is_in_doubt() -> None:
    body = {"id": "8ac9a4other", "result": {"code": "800.120.100"}}
    result, _ = played(GATEWAY.start(asked()), answer(body, 429))
    assert result.cause is Code.INVALID_RESPONSE


def test_parameters_that_are_refused_are_a_mistake_of_ours() -> None:
    wrong = {"name": "entityID", "value": "x", "message": "not allowed"}
    body = {"result": {"code": "200.300.404", "parameterErrors": [wrong]}}
    for execution in (asked(), asked(token=None), asked(Operation.REFUND)):
        result, _ = played(GATEWAY.start(execution), answer(body, 400))
        assert result.failure is Code.CONFIGURATION_ERROR


def test_what_acts_on_nothing_has_failed_and_a_charge_that_is_not_found_is_in_doubt() -> None:
    refund, _ = played(GATEWAY.start(asked(Operation.REFUND)), answer(nothing(), 400))
    charge, _ = played(GATEWAY.start(asked()), answer(nothing(), 400))
    assert refund.failure is Code.DECLINED
    assert charge.cause is Code.INVALID_RESPONSE


def test_a_redirect_is_the_payers_to_follow() -> None:
    execution = asked()
    form = {"url": "https://bank.example/3ds", "parameters": [{"name": "PaReq", "value": "x"}]}
    plain = {"url": "https://bank.example/3ds", "parameters": []}
    kinds = []
    for redirect in (form, plain, None):
        body = payment(execution, "000.200.000", redirect=redirect)
        result, _ = played(GATEWAY.start(execution), answer(body))
        kinds.append((result.pending_reason, result.next_action and result.next_action.kind))
    assert kinds == [
        (PendingReason.CUSTOMER_ACTION, NextActionKind.FORM),
        (PendingReason.CUSTOMER_ACTION, NextActionKind.REDIRECT),
        (PendingReason.PROVIDER_PROCESSING, None),
    ]


@pytest.mark.parametrize("url", ["http://bank.example", "javascript:alert(1)", 7])
def test_a_redirect_to_a_strange_place_is_not_followed(url: object) -> None:
    execution = asked()
    body = payment(execution, "000.200.000", redirect={"url": url})
    result, _ = played(GATEWAY.start(execution), answer(body))
    assert result.cause is Code.INVALID_RESPONSE


def test_a_lost_answer_is_looked_up_by_our_reference() -> None:
    execution = asked()
    result, (request,) = played(GATEWAY.look_up(execution), answer(found(payment(execution))))

    assert (request.method, request.moves_money) == ("GET", False)
    assert query_of(request) == {
        "entityId": "entityOfCards",
        "merchantTransactionId": reference_of(execution.provider_key),
    }
    assert result.status is ResultStatus.SUCCESS


def test_what_is_found_of_other_types_and_orders_is_not_it() -> None:
    refund, execution = asked(Operation.REFUND), asked()
    strangers = [payment(refund), payment(execution, merchantTransactionId="ANOTHERORDER"), 7]
    result, _ = played(GATEWAY.look_up(execution), answer(found(*strangers)))
    assert result.cause is Code.INVALID_RESPONSE
    assert not result.is_absent


@pytest.mark.parametrize("code", ["900.100.300", "800.900.300", "000.200.000"])
def test_an_empty_list_beside_an_error_proves_nothing(code: str) -> None:
    body = {"result": {"code": code}, "payments": []}
    result, _ = played(GATEWAY.look_up(asked()), answer(body))
    assert result.cause is Code.INVALID_RESPONSE
    assert not result.is_absent


def test_nothing_found_is_absent() -> None:
    for body in (nothing(), found()):
        result, _ = played(GATEWAY.look_up(asked()), answer(body, 400))
        assert result.is_absent


@pytest.mark.parametrize("code", ["800.900.300", "700.400.700", "200.100.101", "600.200.500"])
def test_an_error_of_the_query_is_none_of_the_payment(code: str) -> None:
    result, _ = played(GATEWAY.look_up(asked()), answer({"result": {"code": code}}, 403))
    assert (result.failure, result.is_absent) == (None, False)


@pytest.mark.parametrize("code", ["100.390.112", "600.200.500", "800.900.300"])
def test_a_payment_that_is_found_failed_for_whatever_reason(code: str) -> None:
    """Not as an outage of the lookup, which would be asked again for ever."""
    execution = asked()
    result, _ = played(GATEWAY.look_up(execution), answer(found(payment(execution, code))))
    assert result.failure is Code.DECLINED
    assert result.provider_response["code"] == code


def test_a_success_counts_before_a_decline_and_a_second_one_is_told() -> None:
    execution = asked()
    declined = payment(execution, "800.100.153", id="first")
    paid, again = payment(execution, id="second"), payment(execution, id="third", amount="1.00")

    one, _ = played(GATEWAY.look_up(execution), answer(found(declined, paid)))
    two, _ = played(GATEWAY.look_up(execution), answer(found(again, paid, declined)))

    assert (one.provider_ref, one.also) == ("second", ())
    assert (two.provider_ref, [it.provider_ref for it in two.also]) == ("second", ["third"])


def test_a_payer_who_is_back_is_looked_up_at_the_checkout() -> None:
    execution = opened()
    result, (request,) = played(GATEWAY.advance(execution), answer(payment(execution)))
    assert f"/v1/checkouts/{CHECKOUT}/payment?" in request.url
    assert (result.status, result.provider_ref) == (ResultStatus.SUCCESS, "8ac7a4payment")


def test_another_orders_checkout_pays_nothing() -> None:
    body = payment(opened(), merchantTransactionId="ANOTHERORDER")
    result, _ = played(GATEWAY.advance(opened()), answer(body))
    assert result.cause is Code.INVALID_RESPONSE


def test_a_payer_back_from_the_bank_is_looked_up_by_reference() -> None:
    execution = asked(provider_ref="8ac7a4payment")
    result, (request,) = played(GATEWAY.advance(execution), answer(found(payment(execution))))
    assert "/v1/query?" in request.url
    assert result.status is ResultStatus.SUCCESS


def test_a_session_that_is_over_proves_nothing() -> None:
    body = {"result": {"code": "200.300.404"}}
    result, _ = played(GATEWAY.advance(opened()), answer(body, 404))
    assert result.pending_reason is PendingReason.OUTCOME_UNKNOWN


@pytest.mark.parametrize(
    ("at", "failure"), [("2026-08-30 11:29:59+0000", None), (LATER, Code.INSTRUMENT_INVALID)]
)
def test_a_declined_card_ends_a_checkout_only_when_its_time_is_over(
    at: str, failure: PaymentFailureCode | None
) -> None:
    declined = payment(opened(), "800.100.153", timestamp=at)
    looked_up, _ = played(GATEWAY.look_up(opened()), answer(found(declined, at=at)))
    returned, _ = played(GATEWAY.advance(opened()), answer(declined, 400))
    assert looked_up.failure is returned.failure is failure


@pytest.mark.parametrize(("at", "failure"), [(OPENED_AT, None), (LATER, Code.CANCELLED)])
def test_a_checkout_that_nobody_paid_is_cancelled_when_its_time_is_over(
    at: str, failure: PaymentFailureCode | None
) -> None:
    result, _ = played(GATEWAY.look_up(opened()), answer(nothing(at), 400))
    assert result.failure is failure


def test_an_open_checkout_is_what_is_known_already() -> None:
    """Neither doubt, which would count against a provider that is well, nor news."""
    execution = opened(
        status=ExecutionStatus.PENDING, pending_reason=PendingReason.CUSTOMER_ACTION, version=2
    )
    declined = payment(execution, "800.100.153")
    for body in (nothing(OPENED_AT), found(declined, at=OPENED_AT)):
        result, _ = played(GATEWAY.look_up(execution), answer(body))
        assert result.pending_reason is PendingReason.CUSTOMER_ACTION
        assert decide(execution, Fact(result=result, source=FactSource.LOOKUP)) == NO_NEWS


def test_the_time_of_an_answer_is_in_its_head() -> None:
    timeless = {"result": {"code": "700.400.580"}}
    for date, failure in (
        ("Sun, 30 Aug 2026 11:34:59 GMT", None),
        ("Sun, 30 Aug 2026 11:35:00 GMT", Code.CANCELLED),
    ):
        result, _ = played(GATEWAY.look_up(opened()), answer(timeless, 400, date=date))
        assert result.failure is failure


def test_a_checkout_without_a_timestamp_ends_by_the_date_of_its_answer() -> None:
    body = {"result": {"code": "000.200.100"}, "id": CHECKOUT}
    date = "Sun, 30 Aug 2026 11:00:00 GMT"
    result, _ = played(GATEWAY.start(asked(token=None)), answer(body, date=date))
    assert result.expires_at == EXPIRES


def test_without_a_clock_of_the_providers_a_checkout_stays_open() -> None:
    timeless = {"result": {"code": "700.400.580"}}
    for execution in (opened(), opened(expires_at=None)):
        result, _ = played(GATEWAY.look_up(execution), answer(timeless, 400, date="yesterday"))
        assert result.pending_reason is PendingReason.CUSTOMER_ACTION


def test_an_account_that_is_gone_is_looked_up_by_nobody() -> None:
    gateway = attrs.evolve(GATEWAY, accounts={})
    for flow in (gateway.look_up(asked()), gateway.advance(opened())):
        result, requests = played(flow)
        assert (result.cause, requests) == (Code.INTERNAL_ERROR, [])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["SAR", "12.50", "DB", "000.000.000", "000.200.100", CHECKOUT, "7" * 16])
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = ("id", "paymentType", "amount", "currency", "merchantTransactionId", "result", "redirect")


@st.composite
def responses(draw: st.DrawFn) -> HttpResponse:
    """Answers of any status, from bytes of any kind to almost what is right."""
    status, kind = draw(st.integers(100, 599)), draw(st.integers(0, 3))
    if kind == 0:
        return HttpResponse(status=status, body=draw(st.binary(max_size=200)))
    if kind == 1:
        return answer(draw(VALUES), status)
    body = payment(draw(st.sampled_from([asked(), opened()])))
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=3)):
        body[name] = draw(VALUES)
    return answer(found(body) if kind == 3 else body, status)


@given(responses(), st.sampled_from(["start", "advance", "look_up"]), st.booleans())
def test_any_answer_gives_a_result_and_no_success_without_proof(
    response: HttpResponse, step: str, has_checkout: bool
) -> None:
    execution = opened() if has_checkout else asked()
    result, _ = played(getattr(GATEWAY, step)(execution), response)

    assert isinstance(result, RailResult)
    if result.status is ResultStatus.SUCCESS:
        text = response.body.decode()
        assert reference_of(execution.provider_key) in text
        item = json.loads(text)
        one = item["payments"][0] if "payments" in item else item
        assert one["paymentType"] == "DB"
        assert result.reported is not None
        assert f"{result.reported.to_major():f}" == f"{Money.of(one['amount'], SAR).to_major():f}"
