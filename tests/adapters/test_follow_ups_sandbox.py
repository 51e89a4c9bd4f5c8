"""Captures, voids and refunds over real sockets: the provider's ledger says what ours says."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import httpx
import pytest

from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason
from railcore.errors import InDoubtError, LimitExceededError
from railcore.execution import PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, Money
from railcore.ports import AsyncRail, Rail
from railcore.rails.card_psp import CardPspRail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.stub import SANDBOX_TIMING, StubGateway
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    HttpxTransport,
)
from tests.adapters.sandbox_caller import API_KEY, Caller
from tests.core.hosts import ROUTES

AUTHORIZE, CAPTURE = Operation.AUTHORIZE, Operation.CAPTURE
CHARGE, REFUND, VOID = Operation.CHARGE, Operation.REFUND, Operation.VOID
COMPLETED, PENDING = ExecutionStatus.COMPLETED, ExecutionStatus.PENDING
KINDS = {AUTHORIZE: "authorization", CAPTURE: "capture", VOID: "void", REFUND: "refund"}
TIMING = attrs.evolve(SANDBOX_TIMING, answer_timeout_s=0.5)


@attrs.frozen
class Key:
    """The key of the sandbox's only account."""

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        return Secret(API_KEY)


@attrs.frozen
class Shop:
    """An engine of either colour over one sandbox, and what it keeps."""

    sandbox: Sandbox
    store: InMemoryExecutionStore
    execute: Callable[[PaymentContext], PaymentExecution]
    refresh: Callable[[PaymentExecution], PaymentExecution]

    def does(
        self,
        operation: Operation,
        minor: int,
        key: str,
        of: PaymentExecution | None = None,
        due: int | None = None,
    ) -> PaymentExecution:
        return self.execute(
            PaymentContext(
                tenant_id="acme",
                payment_id="inv-1",
                idempotency_key=key,
                money=Money(minor, SAR),
                due=None if due is None else Money(due, SAR),
                payment_option_key="card",
                operation=operation,
                instrument_token=None if of else "tok_visa",
                parent_execution_id=of.execution_id if of else None,
            )
        )

    @property
    def sums(self) -> PaymentView:
        payment = self.store.payment("acme", "inv-1")
        assert payment is not None
        return payment

    def truth(self, kind: str) -> int:
        """What really took place at the provider, in minor units."""
        return sum(one.amount_minor for one in self.sandbox.ledger.movements if one.kind == kind)

    def check_books(self) -> None:
        charged = sum(one.amount_minor for one in self.sandbox.ledger.charges)
        assert self.sums.captured_minor == charged + self.truth("capture")
        assert self.sums.authorized_minor == charged + self.truth("authorization")
        assert self.sums.voided_minor == self.truth("void")
        assert self.sums.refunded_minor == self.truth("refund")
        assert not self.sandbox.ledger.double_charges()
        assert not self.sandbox.ledger.double_movements()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(amount_faults=False, delay_s=0.1, drip_interval_s=0.05) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def shop(request: pytest.FixtureRequest, sandbox: Sandbox) -> Shop:
    flows = CardPspRail(StubGateway(sandbox.url, TIMING))
    authorizer = BearerAuthorizer(Key())
    store = InMemoryExecutionStore(SystemClock())

    def sync(call: Callable[[Any], Any]) -> Any:
        with HttpxTransport.open(authorizer=authorizer) as transport:
            rails = PaymentRailRegistry[Rail]()
            rails.register(PaymentRail.CARD_PSP, "stub", DrivenRail(flows, transport.send))
            routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
            return call(PaymentEngine(rails=rails, routes=routes, store=store))

    async def asynchronous(call: Callable[[Any], Any]) -> Any:
        async with AsyncHttpxTransport.open(authorizer=authorizer) as transport:
            rails = PaymentRailRegistry[AsyncRail]()
            rails.register(PaymentRail.CARD_PSP, "stub", AsyncDrivenRail(flows, transport.send))
            routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
            shared = AsyncInMemoryExecutionStore(SystemClock(), shared=store)
            return await call(AsyncPaymentEngine(rails=rails, routes=routes, store=shared))

    def run(call: Callable[[Any], Any]) -> Any:
        return sync(call) if request.param == "sync" else asyncio.run(asynchronous(call))

    return Shop(
        sandbox,
        store,
        lambda context: run(lambda engine: engine.execute(context)),
        lambda one: run(lambda engine: engine.refresh(one.tenant_id, one.execution_id)),
    )


def test_an_authorization_is_captured_in_parts_and_the_rest_is_let_go(shop: Shop) -> None:
    held = shop.does(AUTHORIZE, 1000, "a1")
    parts = [shop.does(CAPTURE, minor, f"c{minor}", held) for minor in (300, 400)]
    let_go = shop.does(VOID, 300, "v1", held)
    back = [shop.does(REFUND, minor, f"r{minor}", parts[1]) for minor in (100, 250)]

    assert {one.status for one in (held, *parts, let_go, *back)} == {COMPLETED}
    made = [(one.kind, one.of) for one in shop.sandbox.ledger.movements]
    assert made[1] == ("capture", held.provider_ref)
    assert made[-1] == ("refund", parts[1].provider_ref)
    shop.check_books()
    with pytest.raises(LimitExceededError, match="50 minor units available"):
        shop.does(REFUND, 51, "r9", parts[1])


def test_forty_and_sixty_are_given_back(shop: Shop) -> None:
    paid = shop.does(CHARGE, 100, "k1")
    for minor in (40, 60):
        assert shop.does(REFUND, minor, f"r{minor}", paid).status is COMPLETED

    assert shop.sums.refundable_minor == 0
    shop.check_books()


AFTER = ["lose_answer", "500_after", "garbage", "truncated", "slow_drip", "duplicate"]


@pytest.mark.parametrize("fault", AFTER)
@pytest.mark.parametrize("operation", [AUTHORIZE, CAPTURE, VOID, REFUND])
def test_a_lost_answer_is_read_back(shop: Shop, operation: Operation, fault: str) -> None:
    of = None
    if operation is not AUTHORIZE:
        of = shop.does(CHARGE if operation is REFUND else AUTHORIZE, 1000, "k1")
    shop.sandbox.fail_next(1, fault)
    lost = shop.does(operation, 1000, "f1", of)

    assert lost.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert shop.refresh(lost).status is COMPLETED
    assert shop.truth(KINDS[operation]) == 1000
    shop.check_books()


@pytest.mark.parametrize("operation", [AUTHORIZE, CAPTURE, VOID, REFUND])
def test_what_never_arrived_is_sent_again_under_its_key(shop: Shop, operation: Operation) -> None:
    of = None
    if operation is not AUTHORIZE:
        of = shop.does(CHARGE if operation is REFUND else AUTHORIZE, 1000, "k1")
    shop.sandbox.fail_next(1, "drop")
    lost = shop.does(operation, 1000, "f1", of)

    assert lost.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert shop.refresh(lost).status is COMPLETED
    seen = [one for one in shop.sandbox.ledger.requests if one.kind == KINDS[operation]]
    assert {one.idempotency_key for one in seen} == {lost.provider_key}
    assert len(seen) == 2
    shop.check_books()


def test_a_second_full_refund_is_refused_until_the_first_is_known(shop: Shop) -> None:
    paid = shop.does(CHARGE, 100, "k1")
    shop.sandbox.fail_next(1, "lose_answer")
    first = shop.does(REFUND, 100, "r1", paid)
    shop.sandbox.fail_next(1, "503", when="lookup")
    with pytest.raises(InDoubtError, match=str(first.execution_id)):
        shop.does(REFUND, 100, "r2", paid)

    with pytest.raises(LimitExceededError, match="0 minor units available"):
        shop.does(REFUND, 100, "r2", paid)
    assert shop.truth("refund") == 100
    shop.check_books()


def test_a_refund_that_the_provider_declines_moves_nothing(shop: Shop) -> None:
    paid = shop.does(CHARGE, 100, "k1")
    shop.sandbox.fail_next(1, "declined")
    refused = shop.does(REFUND, 100, "r1", paid)

    assert refused.failure is PaymentFailureCode.DECLINED
    assert shop.does(REFUND, 100, "r2", paid).status is COMPLETED
    shop.check_books()


def test_a_refund_under_way_is_settled_later(shop: Shop) -> None:
    paid = shop.does(CHARGE, 100, "k1")
    shop.sandbox.fail_next(1, "pending")
    first = shop.does(REFUND, 100, "r1", paid)
    assert (first.status, shop.truth("refund")) == (PENDING, 0)

    shop.sandbox.psp.settle(first.provider_key)
    assert shop.refresh(first).status is COMPLETED
    shop.check_books()


# The sandbox itself -------------------------------------------------------------------------------


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    with Caller(sandbox) as made:
        yield made


def order(
    caller: Caller, kinds: str, minor: int, reference: str, of: str | None = None, **more: Any
) -> httpx.Response:
    fields = {"of": of} if of else {"instrument": "tok_visa"}
    body = {"amount_minor": minor, "currency": "SAR", "reference": reference, **fields, **more}
    return caller.http.post(f"/psp/v1/{kinds}", json=body, headers={"Idempotency-Key": reference})


def code(answer: httpx.Response) -> object:
    assert answer.status_code == 422
    return answer.json()["error"]["code"]


def test_the_psp_gives_no_more_than_it_holds(caller: Caller) -> None:
    held = order(caller, "authorizations", 100, "a1").json()["id"]
    assert code(order(caller, "captures", 101, "c0", held)) == "amount_too_large"
    captured = order(caller, "captures", 60, "c1", held).json()["id"]
    assert code(order(caller, "voids", 41, "v0", held)) == "amount_too_large"
    assert code(order(caller, "refunds", 61, "r0", held)) == "amount_too_large"
    assert order(caller, "refunds", 40, "r1", held).status_code == 201
    assert code(order(caller, "refunds", 21, "r2", captured)) == "amount_too_large"
    assert order(caller, "voids", 40, "v1", held).status_code == 201
    assert code(order(caller, "captures", 1, "c2", held)) == "amount_too_large"


def test_the_psp_takes_no_odd_parents(caller: Caller) -> None:
    charged = caller.charge("ch").json()["id"]
    declined = order(caller, "authorizations", 9, "a", instrument="tok_declined").json()["id"]
    assert code(order(caller, "captures", 1, "c0", charged)) == "not_possible"
    assert code(order(caller, "captures", 1, "c1", declined)) == "not_possible"
    assert code(order(caller, "refunds", 1, "r0", "ch_nobody")) == "no_such_parent"
    assert code(order(caller, "refunds", 1, "r1", charged, currency="USD")) == "currency_differs"


def test_the_psp_replays_by_key_and_finds_by_kind(sandbox: Sandbox, caller: Caller) -> None:
    charged = caller.charge("same").json()["id"]
    answers = [order(caller, "refunds", 1250, "same-2", charged) for _ in range(3)]

    assert len({one.json()["id"] for one in answers}) == 1
    assert Counter(one.kind for one in sandbox.ledger.movements) == {"refund": 1}
    assert caller.lookup("same-2", "psp/v1/refunds") == [answers[0].json()]
    assert caller.lookup("same-2", "psp/v1/charges") == []
    assert order(caller, "authorizations", 5, "same-2").status_code == 409
    assert caller.http.get("/ledger").json()["movements"][0]["of"] == charged
