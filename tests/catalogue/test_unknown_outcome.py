"""UO: the provider charged or did not, and nobody said so. Its ledger is the judge."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import ExecutionStatus, Idempotency, Lookup, PaymentRail, PendingReason
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.http import Exchange, HttpRequest, HttpResponse
from railcore.ports import AsyncRail, Rail
from railcore.rails.card_psp import CardPspRail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, RouteCapabilities
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from railcore_adapters.credentials import FixedCredentials
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.stub import StubGateway
from railcore_adapters.transport_httpx import AsyncHttpxTransport, BearerAuthorizer, HttpxTransport
from tests.core.hosts import ROUTES, run
from tests.core.made import TIMING, FakeClock, context

COMPLETED, FAILED, PENDING = (
    ExecutionStatus.COMPLETED,
    ExecutionStatus.FAILED,
    ExecutionStatus.PENDING,
)
QUICK = attrs.evolve(TIMING, answer_timeout_s=0.5)
SILENCE_PROVES_AFTER_S = 5 + 120 + 60
AFTER_THE_LEASE_S = 61


@attrs.frozen
class PlainGateway:
    """The same provider without idempotency: a second request would charge a second time."""

    inner: StubGateway
    lookup: Lookup = Lookup.BY_REFERENCE

    @property
    def capabilities(self) -> RouteCapabilities:
        return attrs.evolve(
            self.inner.capabilities,
            idempotency=Idempotency.NONE,
            lookup=self.lookup,
            lookup_is_authoritative=self.lookup is not Lookup.NONE,
        )

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        flow = self.inner.start(execution)
        request = next(flow)
        headers = {name: one for name, one in request.headers.items() if name != "Idempotency-Key"}
        response = yield attrs.evolve(request, headers=headers)
        try:
            flow.send(response)
        except StopIteration as ended:
            result: RailResult = ended.value
            return result
        raise AssertionError("one request")

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        return self.look_up(execution)

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        if self.lookup is Lookup.NONE:
            return _unknown()
        return self.inner.look_up(execution)


def _unknown() -> Exchange[RailResult]:
    yield from ()
    return RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


@attrs.define
class Shop:
    """An engine of either colour over one sandbox, with a clock that stands still."""

    sandbox: Sandbox
    engine: PaymentEngine | AsyncPaymentEngine
    store: InMemoryExecutionStore
    clock: FakeClock

    def charge(self, fault: str = "visa") -> PaymentExecution:
        return run(self.engine.execute(context(instrument_token=f"tok_{fault}")))

    def look(
        self, execution: PaymentExecution, after_s: float = AFTER_THE_LEASE_S
    ) -> PaymentExecution:
        self.clock.advance(after_s)
        return run(self.engine.refresh(execution.tenant_id, execution.execution_id))

    @property
    def charged(self) -> int:
        return len(self.sandbox.ledger.charges)

    @property
    def asked(self) -> int:
        return len(self.sandbox.ledger.requests)

    def discrepancies(self) -> Sequence[object]:
        return self.store.list_discrepancies(None, 10)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(amount_faults=False, drip_interval_s=0.05) as made:
        yield made


Make = Callable[..., Shop]


@pytest.fixture(params=["sync", "async"])
def shops(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Make]:
    """Makes shops over a provider with or without idempotency and lookups."""
    keys = FixedCredentials({("stub", "main"): Secret(sandbox.accounts["main"])})
    clock = FakeClock()
    store = InMemoryExecutionStore(clock)
    with HttpxTransport.open(authorizer=BearerAuthorizer(keys)) as transport:

        def make(*, plain: bool = False, lookup: Lookup = Lookup.BY_REFERENCE) -> Shop:
            gateway: Any = StubGateway(sandbox.url, QUICK)
            rail = CardPspRail(PlainGateway(gateway, lookup) if plain else gateway)
            engine: PaymentEngine | AsyncPaymentEngine
            if request.param == "sync":
                rails = PaymentRailRegistry[Rail]()
                rails.register(PaymentRail.CARD_PSP, "stub", DrivenRail(rail, transport.send))
                engine = PaymentEngine(
                    rails=rails,
                    routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
                    store=store,
                    clock=clock,
                    chance=lambda: 1.0,
                )
            else:

                async def send(asked: HttpRequest, send_by: Any) -> HttpResponse:
                    authorizer = BearerAuthorizer(keys)
                    async with AsyncHttpxTransport.open(authorizer=authorizer) as transport:
                        return await transport.send(asked, send_by)

                others = PaymentRailRegistry[AsyncRail]()
                others.register(PaymentRail.CARD_PSP, "stub", AsyncDrivenRail(rail, send))
                engine = AsyncPaymentEngine(
                    rails=others,
                    routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=others.offered),
                    store=AsyncInMemoryExecutionStore(clock, shared=store),
                    clock=clock,
                    chance=lambda: 1.0,
                )
            return Shop(sandbox, engine, store, clock)

        yield make


def test_uo1_a_request_lost_on_its_way_is_sent_again_under_its_key(shops: Make) -> None:
    shop = shops()

    doubt = shop.charge("drop")
    assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    after = shop.look(doubt)

    assert (after.status, shop.charged, shop.asked) == (COMPLETED, 1, 2)


def test_uo1_without_idempotency_a_lost_request_fails_once_silence_proves_it(shops: Make) -> None:
    shop = shops(plain=True)

    doubt = shop.charge("drop")
    waiting = shop.look(doubt, SILENCE_PROVES_AFTER_S - 1)
    assert (waiting.status, waiting.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    after = shop.look(doubt, 2)

    assert (after.status, after.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)
    assert (shop.charged, shop.asked) == (0, 1)


@pytest.mark.parametrize("plain", [False, True])
def test_uo2_charged_and_the_answer_lost_is_found(shops: Make, plain: bool) -> None:
    shop = shops(plain=plain)

    doubt = shop.charge("lose_answer")
    assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    after = shop.look(doubt)

    assert (after.status, shop.charged, shop.asked) == (COMPLETED, 1, 1)


@pytest.mark.parametrize("plain", [False, True])
def test_uo3_charged_then_500_is_unknown(shops: Make, plain: bool) -> None:
    shop = shops(plain=plain)

    doubt = shop.charge("500_after")

    assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert doubt.failure is None
    assert (shop.look(doubt).status, shop.charged, shop.asked) == (COMPLETED, 1, 1)


def test_uo4_without_idempotency_a_lookup_that_lags_neither_fails_nor_resends(shops: Make) -> None:
    shop = shops(plain=True)
    shop.sandbox.read_lag_s = 3600

    doubt = shop.charge("lose_answer")
    for after_s in (AFTER_THE_LEASE_S, AFTER_THE_LEASE_S, 62):  # up to a second before the proof
        waiting = shop.look(doubt, after_s)
        assert (waiting.status, waiting.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert shop.asked == 1
    shop.sandbox.read_lag_s = 0

    assert (shop.look(doubt).status, shop.charged) == (COMPLETED, 1)


def test_uo4_where_a_lookup_lags_a_resend_carries_the_key(shops: Make) -> None:
    shop = shops()
    shop.sandbox.read_lag_s = 3600

    after = shop.look(shop.charge("lose_answer"))

    assert (after.status, shop.charged, shop.asked) == (COMPLETED, 1, 2)


def test_uo6_past_the_key_window_nothing_is_sent_again(shops: Make) -> None:
    shop = shops()
    doubt = shop.charge("drop")

    after = shop.look(doubt, 600)

    assert (after.status, after.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)
    assert (shop.charged, shop.asked) == (0, 1)


def test_uo7_without_idempotency_or_lookup_it_is_never_sent_again_nor_forgotten(
    shops: Make,
) -> None:
    shop = shops(plain=True, lookup=Lookup.NONE)
    doubt = shop.charge("lose_answer")

    for _ in range(30):
        doubt = shop.look(doubt, 86_400)
        assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
        assert doubt.next_check_at is not None
        assert (doubt.next_check_at - shop.clock.now()).total_seconds() <= 86_400

    assert (shop.charged, shop.asked) == (1, 1)


@pytest.mark.parametrize("fault", ["garbage", "truncated", "slow_drip"])
def test_uo8_an_answer_that_cannot_be_read_is_unknown_in_time(shops: Make, fault: str) -> None:
    shop = shops()
    started_s = time.monotonic()

    doubt = shop.charge(fault)

    assert time.monotonic() - started_s < 3
    assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert (shop.look(doubt).status, shop.charged, shop.asked) == (COMPLETED, 1, 1)


@pytest.mark.parametrize("fault", ["wrong_amount", "wrong_currency"])
def test_uo8_another_amount_or_currency_is_doubt_with_a_discrepancy(
    shops: Make, fault: str
) -> None:
    shop = shops()

    doubt = shop.charge(fault)

    assert (doubt.status, doubt.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert len(shop.discrepancies()) == 1
    assert (shop.charged, shop.asked) == (1, 1)


def test_uo8_another_charges_answer_is_unknown(shops: Make) -> None:
    shop = shops()
    other = {
        "id": "ch_other",
        "object": "charge",
        "status": "succeeded",
        "amount_minor": 1250,
        "currency": "SAR",
        "reference": "of-somebody-else",
    }

    flow = StubGateway("http://stub.invalid", QUICK).start(shop.charge("drop"))
    next(flow)

    with pytest.raises(StopIteration) as ended:
        flow.send(HttpResponse(status=201, body=json.dumps(other).encode()))

    result: RailResult = ended.value.value
    assert result.pending_reason is PendingReason.OUTCOME_UNKNOWN


def test_uo9_a_duplicate_transaction_is_looked_up(shops: Make) -> None:
    shop = shops()
    doubt = shop.charge("drop")
    shop.sandbox.fail_next(1, "duplicate")

    told = shop.look(doubt)
    assert (told.status, told.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    after = shop.look(doubt)

    assert (after.status, shop.charged, shop.asked) == (COMPLETED, 1, 2)
