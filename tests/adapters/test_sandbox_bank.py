"""The fake bank: the customer decides, the bank settles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from railcore_adapters.sandbox import Sandbox
from tests.adapters.sandbox_caller import Caller

PAYMENTS = "bank/v1/payments"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    with Caller(sandbox) as caller:
        yield caller


def decide(payment: dict[str, Any], decision: str) -> httpx.Response:
    return httpx.post(payment["authorize_url"], data={"decision": decision})


def test_a_payment_has_the_documented_shape(sandbox: Sandbox, caller: Caller) -> None:
    answer = caller.pay()
    payment = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"pay_[0-9a-f]{24}", payment["id"])
    assert payment.pop("created_at") < payment.pop("expires_at")
    assert payment == {
        "id": payment["id"],
        "object": "payment",
        "status": "awaiting_authorization",
        "authorize_url": f"{sandbox.url}/bank/authorize/{payment['id']}",
        "amount_minor": 1250,
        "currency": "SAR",
        "reference": "r-1",
        "account": "main",
        "livemode": False,
    }


def test_a_payment_is_found_by_id_as_by_reference(caller: Caller) -> None:
    made = caller.pay().json()
    assert caller.http.get(f"/{PAYMENTS}/{made['id']}").json() == made
    assert caller.lookup(service=PAYMENTS) == [made]


def test_a_payment_moves_money_when_it_settles(sandbox: Sandbox, caller: Caller) -> None:
    made = caller.pay(key="k-1").json()
    assert sandbox.bank.approve("r-1")["status"] == "accepted"
    assert not sandbox.ledger.by_reference()
    assert sandbox.bank.settle(made["id"])["status"] == "settled"
    (charge,) = sandbox.ledger.charges
    assert (charge.id, charge.service, charge.reference) == (made["id"], "bank", "r-1")
    assert (charge.idempotency_key, charge.amount_minor) == ("k-1", 1250)
    assert caller.lookup(service=PAYMENTS)[0]["status"] == "settled"


def test_a_payment_can_settle_when_it_is_approved(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.settle_at_once = True
    caller.pay()
    assert sandbox.bank.approve("r-1")["status"] == "settled"
    assert len(sandbox.ledger.charges) == 1


@pytest.mark.parametrize("steps", [["settle"], ["approve", "approve"], ["reject", "approve"]])
def test_a_step_out_of_turn_is_refused(sandbox: Sandbox, caller: Caller, steps: list[str]) -> None:
    caller.pay()
    *before, last = steps
    for step in before:
        getattr(sandbox.bank, step)("r-1")
    with pytest.raises(ValueError, match="cannot become"):
        getattr(sandbox.bank, last)("r-1")
    assert sandbox.ledger.charges == ()


def test_an_accepted_payment_can_still_be_rejected_by_the_bank(
    sandbox: Sandbox, caller: Caller
) -> None:
    caller.pay()
    sandbox.bank.approve("r-1")
    assert sandbox.bank.reject("r-1")["status"] == "rejected"


def test_a_payment_expires_unless_approved_in_time(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.payment_expires_after_s = 0
    caller.pay()
    assert caller.lookup(service=PAYMENTS)[0]["status"] == "expired"
    with pytest.raises(ValueError, match="expired cannot become accepted"):
        sandbox.bank.approve("r-1")


def test_a_payment_can_be_made_to_expire(sandbox: Sandbox, caller: Caller) -> None:
    caller.pay()
    assert sandbox.bank.expire("r-1")["status"] == "expired"


def test_an_approved_payment_does_not_expire(sandbox: Sandbox, caller: Caller) -> None:
    caller.pay()
    sandbox.bank.approve("r-1")
    with pytest.raises(ValueError, match="accepted cannot become expired"):
        sandbox.bank.expire("r-1")


def test_the_customer_sees_two_buttons(caller: Caller) -> None:
    page = httpx.get(caller.pay("r-<b>&").json()["authorize_url"])
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.text.count("<button ") == 2
    assert "r-&lt;b&gt;&amp;" in page.text


@pytest.mark.parametrize(("decision", "status"), [("approve", "accepted"), ("reject", "rejected")])
def test_the_customer_decides_on_the_page(caller: Caller, decision: str, status: str) -> None:
    payment = caller.pay().json()
    answer = decide(payment, decision)
    assert answer.status_code == 303
    assert answer.headers["Location"] == "https://shop.example/back"
    assert caller.lookup(service=PAYMENTS)[0]["status"] == status


def test_the_customer_decides_once(caller: Caller) -> None:
    payment = caller.pay().json()
    decide(payment, "reject")
    again = decide(payment, "approve")
    assert again.status_code == 409
    assert "<button" not in again.text
    assert caller.lookup(service=PAYMENTS)[0]["status"] == "rejected"


def test_a_decision_that_is_none_is_refused(caller: Caller) -> None:
    assert decide(caller.pay().json(), "perhaps").status_code == 400
    assert caller.lookup(service=PAYMENTS)[0]["status"] == "awaiting_authorization"


def test_a_page_of_no_payment_is_404(sandbox: Sandbox) -> None:
    assert httpx.get(f"{sandbox.url}/bank/authorize/pay_none").status_code == 404


def test_a_payment_is_replayed_by_its_key(caller: Caller) -> None:
    first, second = caller.pay(key="k-1"), caller.pay(key="k-1")
    assert second.json() == first.json()
    assert second.headers["Idempotent-Replay"] == "true"
    assert len(caller.lookup(service=PAYMENTS)) == 1


def test_the_keys_of_bank_and_psp_are_apart(caller: Caller) -> None:
    assert (caller.pay(key="k-1").status_code, caller.charge(key="k-1").status_code) == (201, 201)


@pytest.mark.parametrize(
    "url", ["", "ftp://shop.example", "https://", "https://a\r\nX: y", "https://[", "javascript:1"]
)
def test_a_return_url_must_be_a_web_address(caller: Caller, url: str) -> None:
    assert caller.pay(return_url=url).status_code == 400
