"""The sandbox's webhooks over real HTTP, through a mount, into an engine on Postgres."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import attrs
import pytest
import sqlalchemy

from railcore.context import PaymentContext
from railcore.driven import DrivenRail
from railcore.engine import PaymentEngine
from railcore.enums import ExecutionStatus, PaymentRail
from railcore.execution import PaymentExecution
from railcore.intake import Webhooks
from railcore.money import USD, Money
from railcore.observability import Observed, WebhookObserved
from railcore.ports import Rail
from railcore.rails.card_psp import CardPspRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore.webhooks import WebhookAccount, WebhookSettings, WebhookTrust
from railcore_adapters.credentials import FixedWebhookAccounts
from railcore_adapters.mounts import WebhookWsgi
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.webhooks import DEFAULT_SECRET, How
from railcore_adapters.stub import StubBank, StubGateway, StubWebhooks
from railcore_adapters.transport_httpx import BearerAuthorizer, HttpxTransport
from railcore_sqlalchemy.inbox import SqlWebhookInbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.adapters.test_stub_sandbox import Keys

STUB = {"provider": "stub", "account": "main", "mode": "sandbox"}
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", **STUB},
        "bank": {"rail": "open_banking_pis", **STUB},
    },
    "defaults": {"bank": "bank"},
    "default_route": "cards",
}


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@attrs.define
class Shop:
    """A host: engine, mount and the sandbox that calls it."""

    sandbox: Sandbox
    engine: PaymentEngine
    database: sqlalchemy.Engine
    told: list[WebhookObserved]

    def charge(self, key: str, instrument: str = "tok_visa") -> PaymentExecution:
        return self.engine.execute(asked(key, instrument_token=instrument))

    def verdicts(self, event_id: str | None = None) -> list[str]:
        return [one.verdict for one in self.told if event_id in {None, one.event_id}]

    def rows(self) -> list[Any]:
        query = "select state, attempts from railcore_inbox order by received_at"
        with self.database.connect() as connection:
            return [tuple(one) for one in connection.execute(sqlalchemy.text(query))]


def asked(key: str, **changes: Any) -> PaymentContext:
    wanted: dict[str, Any] = {
        "tenant_id": "acme",
        "payment_id": f"inv-{key}",
        "idempotency_key": key,
        "money": Money(1200, USD),
        "payment_option_key": "card",
    }
    return PaymentContext(**{**wanted, **changes})


@pytest.fixture
def stub() -> StubWebhooks:
    return StubWebhooks()


@pytest.fixture
def shop(database_url: str, stub: StubWebhooks) -> Iterator[Shop]:
    database = sqlalchemy.create_engine(database_url, pool_size=10)
    told: list[WebhookObserved] = []

    class Notes:
        def observe(self, observed: Observed, /) -> None:
            if isinstance(observed, WebhookObserved):
                told.append(observed)

    main = WebhookAccount(account="main", secrets=(Secret(DEFAULT_SECRET),))
    with Sandbox() as sandbox, HttpxTransport.open(authorizer=BearerAuthorizer(Keys(sandbox))) as t:
        rails = PaymentRailRegistry[Rail]()
        card = CardPspRail(StubGateway(sandbox.url))
        bank = OpenBankingPaymentRail(StubBank(sandbox.url))
        rails.register(PaymentRail.CARD_PSP, "stub", DrivenRail(card, t.send))
        rails.register(PaymentRail.OPEN_BANKING_PIS, "stub", DrivenRail(bank, t.send))
        engine = PaymentEngine(
            rails=rails,
            routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
            store=SqlExecutionStore(database),
            observer=Notes(),
            webhooks=Webhooks(
                providers={"stub": stub},
                accounts=FixedWebhookAccounts({"stub": [main]}),
                inbox=SqlWebhookInbox(database),
                settings=WebhookSettings(first_retry_s=0.05, lease_s=0.5),
            ),
        )
        with serving(WebhookWsgi(engine)) as url:
            sandbox.webhooks.url = f"{url}/api/v1/billing/webhook/stub/main"
            yield Shop(sandbox, engine, database, told)
    database.dispose()


class serving:  # noqa: N801 - used as a function is
    """Serve a WSGI application on loopback."""

    def __init__(self, application: Any) -> None:
        self.server: WSGIServer = make_server("127.0.0.1", 0, application, handler_class=Quiet)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def until(is_so: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["on_time", "late", "twice", "reversed", "forged", "other_body"])
def test_a_charge_is_settled_by_its_webhook(shop: Shop, how: How) -> None:
    shop.sandbox.webhooks.how = how
    pending = shop.charge("k1", "tok_pending")
    assert pending.status is ExecutionStatus.PENDING

    shop.sandbox.psp.settle(pending.provider_key)
    assert shop.sandbox.webhooks.settle()
    until(lambda: not shop.engine.get("acme", pending.execution_id).is_open)

    settled = shop.engine.get("acme", pending.execution_id)
    assert settled.status is ExecutionStatus.COMPLETED
    assert settled.settled_minor == 1200
    until(lambda: shop.rows() == [("applied", 1)])  # noted after the change is stored
    assert len(shop.engine.events("acme", "inv-k1")) == 3
    seen = {"forged": ["refused"], "other_body": ["conflict"], "twice": ["duplicate"]}
    assert set(seen.get(how, [])) <= set(shop.verdicts())


def test_wh3_news_may_come_before_our_own_answer(shop: Shop) -> None:
    shop.sandbox.webhooks.how = "early"

    executed = shop.charge("k1")

    assert executed.status is ExecutionStatus.COMPLETED
    until(lambda: shop.verdicts() == ["accepted", "applied"])
    assert len(shop.engine.events("acme", "inv-k1")) == 2


def test_a_lost_answer_is_heard_of_without_a_look(shop: Shop) -> None:
    executed = shop.charge("k1", "tok_lose_answer")

    until(lambda: not shop.engine.get("acme", executed.execution_id).is_open)
    assert shop.sandbox.ledger.lookups == ()
    assert len(shop.sandbox.ledger.charges) == 1


def test_the_news_of_a_payment_turned_round_ends_the_same(shop: Shop) -> None:
    shop.sandbox.webhooks.how = "reversed"
    wanted = asked("k1", return_url="https://shop.example/back", payment_option_key="bank")
    ordered = shop.engine.execute(wanted)

    shop.sandbox.bank.approve(ordered.provider_key)
    shop.sandbox.bank.settle(ordered.provider_key)
    until(lambda: shop.rows() == [("applied", 1), ("applied", 1)])

    first, second = shop.sandbox.webhooks.sent
    assert first.event_id != second.event_id
    settled = shop.engine.get("acme", ordered.execution_id)
    assert settled.status is ExecutionStatus.COMPLETED
    assert len(shop.engine.events("acme", "inv-k1")) == 3  # the older news came too late to count


def test_a_delivery_that_we_could_not_keep_is_sent_again(shop: Shop) -> None:
    with shop.database.begin() as connection:
        connection.execute(sqlalchemy.text("alter table railcore_inbox rename to gone"))
    pending = shop.charge("k1", "tok_pending")
    shop.sandbox.psp.settle(pending.provider_key)
    until(lambda: len(shop.sandbox.webhooks.sent) > 1)
    assert {one.status for one in shop.sandbox.webhooks.sent} == {500}

    with shop.database.begin() as connection:
        connection.execute(sqlalchemy.text("alter table gone rename to railcore_inbox"))
    until(lambda: not shop.engine.get("acme", pending.execution_id).is_open)
    assert shop.sandbox.webhooks.sent[-1].status == 200


@pytest.mark.parametrize("stub", [StubWebhooks(trust=WebhookTrust.REFETCH)])
def test_a_sandbox_that_is_not_believed_is_asked(shop: Shop, stub: StubWebhooks) -> None:
    pending = shop.charge("k1", "tok_pending")
    shop.sandbox.psp.settle(pending.provider_key)

    until(lambda: not shop.engine.get("acme", pending.execution_id).is_open)
    assert shop.sandbox.ledger.lookups


def test_the_control_configures_webhooks(shop: Shop) -> None:
    import httpx

    url = f"{shop.sandbox.url}/control/webhooks"
    assert httpx.post(url, json={"how": "never"}).json()["how"] == "never"
    assert httpx.post(url, json={"how": "nonsense"}).status_code == 400
    assert httpx.post(url, json={"sent": []}).status_code == 400
    shop.charge("k1")
    assert shop.sandbox.webhooks.sent == []
