"""HyperPay's client against the sandbox over real sockets, in both colours, whole engines."""

import asyncio
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import Operation, PaymentRail, PendingReason
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind
from railcore.money import SAR, Money
from railcore.rails.card_psp import CardPspRail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.results import NextActionKind
from railcore.routing import ConfigDrivenRouteResolver, TimingBounds
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from railcore_adapters.credentials import FixedCredentials
from railcore_adapters.hyperpay import HyperPayAccount, HyperPayGateway
from railcore_adapters.hyperpay.wire import reference_of
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.hyperpay import entity_of
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    HttpxTransport,
)

TIMING = TimingBounds(
    send_deadline_s=2.0, latest_arrival_s=0.1, read_lag_s=0.1, answer_timeout_s=1.0
)
KEYS = FixedCredentials({("hyperpay", "main"): Secret("sk_sandbox_main")})
CONFIG = {
    "routes": {
        "cards": {
            "rail": "card_psp",
            "provider": "hyperpay",
            "account": "main",
            "mode": "sandbox",
        }
    },
    "default_route": "cards",
}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(delay_s=1.2, drip_interval_s=0.2) as sandbox:
        yield sandbox


@attrs.define
class Host:
    """An engine of a colour; every call of it is awaited where it has to be."""

    engine: Any

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.engine, name)(*args)


def gateway(sandbox: Sandbox) -> CardPspRail:
    account = HyperPayAccount(entity_id=entity_of("main"))
    return CardPspRail(
        HyperPayGateway(accounts={"main": account}, base_url=sandbox.url, timing=TIMING)
    )


@pytest.fixture(params=["sync", "async"])
def host(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Host]:
    rails: Any = PaymentRailRegistry()
    authorizer = BearerAuthorizer(KEYS)
    if request.param == "sync":
        with HttpxTransport.open(authorizer=authorizer) as http:
            rails.register(
                PaymentRail.CARD_PSP, "hyperpay", DrivenRail(gateway(sandbox), http.send)
            )
            routes = ConfigDrivenRouteResolver.from_mapping(CONFIG, offered=rails.offered)
            store = InMemoryExecutionStore(SystemClock())
            yield Host(PaymentEngine(rails=rails, routes=routes, store=store))
        return
    with asyncio.Runner() as runner:
        http_async = AsyncHttpxTransport.open(authorizer=authorizer)
        rails.register(
            PaymentRail.CARD_PSP, "hyperpay", AsyncDrivenRail(gateway(sandbox), http_async.send)
        )
        routes = ConfigDrivenRouteResolver.from_mapping(CONFIG, offered=rails.offered)
        store_async = AsyncInMemoryExecutionStore(SystemClock())
        yield Host(
            InLoop(runner, AsyncPaymentEngine(rails=rails, routes=routes, store=store_async))
        )
        runner.run(http_async.aclose())


@attrs.define
class InLoop:
    """An asynchronous engine, called from outside of its loop."""

    runner: asyncio.Runner
    engine: AsyncPaymentEngine

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.runner.run(getattr(self.engine, name)(*args))


def wanted(key: str, token: str | None = "tokvisa", **changes: Any) -> PaymentContext:
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "payment_id": "inv-1",
        "idempotency_key": key,
        "money": Money(1250, SAR),
        "payment_option_key": "card",
        "instrument_token": token,
        "return_url": "https://shop.example/back",
    }
    return PaymentContext(**{**values, **changes})


def followed(host: Host, parent: Any, operation: Operation, minor: int, key: str) -> Any:
    return host.call(
        "execute",
        wanted(
            key,
            None,
            operation=operation,
            money=Money(minor, SAR),
            parent_execution_id=parent.execution_id,
            return_url=None,
        ),
    )


def settled(host: Host, execution: Any) -> Any:
    """Look it up until it is known, as a worker would."""
    for _ in range(200):
        if not execution.is_open:
            return execution
        execution = host.call("refresh", "acme", execution.execution_id)
    raise AssertionError(f"still {execution.pending_reason}")


def sums(sandbox: Sandbox) -> dict[str, int]:
    """What the provider really did, by kind."""
    found = {"charge": sum(one.amount_minor for one in sandbox.ledger.charges)}
    for one in sandbox.ledger.movements:
        found[one.kind] = found.get(one.kind, 0) + one.amount_minor
    return {kind: minor for kind, minor in found.items() if minor}


def test_a_stored_card_is_charged_and_refunded_in_parts(host: Host, sandbox: Sandbox) -> None:
    paid = host.call("execute", wanted("charge"))
    parts = [
        followed(host, paid, Operation.REFUND, minor, f"refund-{minor}") for minor in (250, 1000)
    ]

    assert [paid.status, *(one.status for one in parts)] == ["completed"] * 3
    assert sums(sandbox) == {"charge": 1250, "refund": 1250}


def test_what_is_held_is_captured_in_parts_and_the_rest_given_back(
    host: Host, sandbox: Sandbox
) -> None:
    held = host.call("execute", wanted("hold", operation=Operation.AUTHORIZE))
    taken = followed(host, held, Operation.CAPTURE, 1000, "capture")
    back = followed(host, taken, Operation.REFUND, 400, "refund")

    assert [one.status for one in (held, taken, back)] == ["completed"] * 3
    assert sums(sandbox) == {"authorization": 1250, "capture": 1000, "refund": 400}


def test_what_is_held_is_given_back(host: Host, sandbox: Sandbox) -> None:
    held = host.call("execute", wanted("hold", operation=Operation.AUTHORIZE))
    assert followed(host, held, Operation.VOID, 1250, "void").status == "completed"
    assert sums(sandbox) == {"authorization": 1250, "void": 1250}


@pytest.mark.parametrize(
    ("token", "failure"),
    [
        ("tokdeclined", PaymentFailureCode.DECLINED),
        ("tokinsufficientfunds", PaymentFailureCode.INSUFFICIENT_FUNDS),
        ("tokexpiredcard", PaymentFailureCode.INSTRUMENT_INVALID),
        ("tokrisk", PaymentFailureCode.RISK_REJECTED),
        ("tok401", PaymentFailureCode.INVALID_CREDENTIALS),
    ],
)
def test_a_refusal_is_a_failure_and_nothing_was_charged(
    host: Host, sandbox: Sandbox, token: str, failure: PaymentFailureCode
) -> None:
    assert host.call("execute", wanted("charge", token)).failure is failure
    assert sums(sandbox) == {}


@pytest.mark.parametrize(
    "token",
    [
        "tokloseanswer",
        "tokdelay",
        "tok500after",
        "tokgarbage",
        "toktruncated",
        "tokslowdrip",
        "tokduplicate",
    ],
)
def test_what_was_charged_and_not_heard_is_looked_up(
    host: Host, sandbox: Sandbox, token: str
) -> None:
    first = host.call("execute", wanted("charge", token))
    known = settled(host, first)

    assert first.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert known.status == "completed"
    assert sums(sandbox) == {"charge": 1250}
    assert [one.reference for one in sandbox.ledger.charges] == [reference_of(known.provider_key)]


def test_another_amount_is_no_quiet_success(host: Host, sandbox: Sandbox) -> None:
    told = host.call("execute", wanted("charge", "tokwrongamount"))
    assert told.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert settled(host, told).status == "completed"
    (noted,) = host.call("review").discrepancies
    assert noted.discrepancy.kind is DiscrepancyKind.AMOUNT_DIFFERS
    assert sums(sandbox) == {"charge": 1250}


def test_a_payer_whose_bank_says_no_may_try_another_card(host: Host, sandbox: Sandbox) -> None:
    """What was pending on a checkout, and seen, is not the end of the checkout."""
    opened = host.call("execute", wanted("charge", None))
    checkout_id = opened.provider_ref
    sandbox.hyperpay.pay(checkout_id, "tok_pending")
    at_the_bank = host.call("refresh", "acme", opened.execution_id)
    sandbox.hyperpay.charges.decline(reference_of(opened.provider_key), "authentication_failed")
    declined = host.call("refresh", "acme", opened.execution_id)
    sandbox.hyperpay.pay(checkout_id)
    paid = host.call("refresh", "acme", opened.execution_id)

    assert at_the_bank.pending_reason is PendingReason.PROVIDER_PROCESSING
    assert at_the_bank.expires_at == opened.expires_at
    assert declined.is_open
    assert paid.status == "completed"
    assert sums(sandbox) == {"charge": 1250}


def test_payers_who_take_their_time_hold_back_nobody(host: Host, sandbox: Sandbox) -> None:
    opened = host.call("execute", wanted("waits", None))
    sandbox.hyperpay.pay(opened.provider_ref, "tok_declined")
    for _ in range(30):
        opened = host.call("refresh", "acme", opened.execution_id)
    other = host.call("execute", wanted("another", payment_id="inv-2"))

    assert (opened.pending_reason, opened.version) == (PendingReason.CUSTOMER_ACTION, 2)
    assert other.status == "completed"


def test_a_payer_pays_on_the_widget_on_the_second_try(host: Host, sandbox: Sandbox) -> None:
    opened = host.call("execute", wanted("charge", None))
    action, checkout_id = opened.next_action, opened.provider_ref
    assert action is not None
    assert action.kind is NextActionKind.WIDGET
    assert b"/hyperpay/pay/" in urllib.request.urlopen(action.url).read()

    sandbox.hyperpay.pay(checkout_id, "tok_declined")
    declined = host.call("refresh", "acme", opened.execution_id)
    sandbox.hyperpay.pay(checkout_id, "tok_visa")
    paid = host.call("refresh", "acme", opened.execution_id)

    assert declined.pending_reason is PendingReason.CUSTOMER_ACTION
    assert paid.status == "completed"
    assert sums(sandbox) == {"charge": 1250}


def test_a_payer_pays_on_the_page_of_the_widget_and_is_sent_back(
    host: Host, sandbox: Sandbox
) -> None:
    opened = host.call("execute", wanted("charge", None))
    checkout_id = opened.provider_ref
    back = urlencode({"back": "https://shop.example/back"})
    page = f"{sandbox.url}/hyperpay/pay/{checkout_id}?{back}"
    assert b"12.50 SAR" in urllib.request.urlopen(page).read()

    place = pressed(page, "tok_visa")

    assert place.startswith(f"https://shop.example/back?id={checkout_id}&resourcePath=")
    assert host.call("refresh", "acme", opened.execution_id).status == "completed"


@pytest.mark.parametrize(("decision", "status"), [("approve", "completed"), ("decline", "failed")])
def test_a_payer_decides_at_the_bank(
    host: Host, sandbox: Sandbox, decision: str, status: str
) -> None:
    opened = host.call("execute", wanted("charge", "tokpending"))
    action = opened.next_action
    assert action is not None
    assert action.kind is NextActionKind.REDIRECT
    assert b"Approve" in urllib.request.urlopen(action.url).read()

    place = pressed(action.url, decision)
    decided = host.call("refresh", "acme", opened.execution_id)

    assert place.startswith("https://shop.example/back?id=ch")
    assert decided.status == status
    assert sums(sandbox) == ({"charge": 1250} if status == "completed" else {})


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves the payer's browser where it is."""

    def redirect_request(self, *_: Any) -> None:
        return None


def pressed(url: str, decision: str) -> str:
    """Press a button, and return where the page sends the payer."""
    opener = urllib.request.build_opener(NoRedirect)
    with pytest.raises(urllib.error.HTTPError) as answer:
        opener.open(url, urlencode({"decision": decision}).encode())
    answer.value.close()
    return str(answer.value.headers["Location"])


def test_the_wrong_entity_is_no_payment(sandbox: Sandbox) -> None:
    wrong = HyperPayGateway(
        accounts={"main": HyperPayAccount(entity_id="another")},
        base_url=sandbox.url,
        timing=TIMING,
    )
    rails: Any = PaymentRailRegistry()
    with HttpxTransport.open(authorizer=BearerAuthorizer(KEYS)) as http:
        rails.register(PaymentRail.CARD_PSP, "hyperpay", DrivenRail(CardPspRail(wrong), http.send))
        routes = ConfigDrivenRouteResolver.from_mapping(CONFIG, offered=rails.offered)
        store = InMemoryExecutionStore(SystemClock())
        failed = PaymentEngine(rails=rails, routes=routes, store=store).execute(wanted("charge"))
    assert failed.failure is PaymentFailureCode.INVALID_CREDENTIALS
    assert sums(sandbox) == {}
