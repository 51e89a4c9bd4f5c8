"""HyperPay's client on Postgres: charges over HTTP and encrypted webhooks through a mount."""

from collections.abc import Iterator

import attrs
import pytest
import sqlalchemy

from railcore.context import PaymentContext
from railcore.driven import DrivenRail
from railcore.engine import PaymentEngine
from railcore.enums import ExecutionStatus, PaymentRail
from railcore.execution import PaymentExecution
from railcore.intake import Webhooks
from railcore.observability import Observed, WebhookObserved
from railcore.ports import Rail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore.webhooks import WebhookAccount, WebhookSettings, WebhookTrust
from railcore_adapters.credentials import FixedWebhookAccounts
from railcore_adapters.hyperpay import HyperPayWebhooks
from railcore_adapters.mounts import WebhookWsgi
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.hyperpay import DEFAULT_KEY
from railcore_adapters.sandbox.webhooks import How
from railcore_adapters.transport_httpx import BearerAuthorizer, HttpxTransport
from railcore_sqlalchemy.inbox import SqlWebhookInbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.adapters.hyperpay.test_hyperpay_sandbox import CONFIG, KEYS, gateway, sums, wanted
from tests.adapters.test_webhooks_end_to_end import serving, until


@attrs.define
class Shop:
    """A host: engine, mount and the sandbox that calls it."""

    sandbox: Sandbox
    engine: PaymentEngine
    verdicts: list[str]

    def now(self, execution: PaymentExecution) -> PaymentExecution:
        return self.engine.get("acme", execution.execution_id)


@pytest.fixture(params=list(WebhookTrust))
def shop(request: pytest.FixtureRequest, database_url: str) -> Iterator[Shop]:
    database = sqlalchemy.create_engine(database_url, pool_size=10)
    verdicts: list[str] = []

    class Notes:
        def observe(self, observed: Observed, /) -> None:
            if isinstance(observed, WebhookObserved):
                verdicts.append(observed.verdict)

    main = WebhookAccount(account="main", secrets=(Secret("a0" * 32), Secret(DEFAULT_KEY)))
    with Sandbox() as sandbox, HttpxTransport.open(authorizer=BearerAuthorizer(KEYS)) as http:
        rails = PaymentRailRegistry[Rail]()
        rails.register(PaymentRail.CARD_PSP, "hyperpay", DrivenRail(gateway(sandbox), http.send))
        engine = PaymentEngine(
            rails=rails,
            routes=ConfigDrivenRouteResolver.from_mapping(CONFIG, offered=rails.offered),
            store=SqlExecutionStore(database),
            observer=Notes(),
            webhooks=Webhooks(
                providers={"hyperpay": HyperPayWebhooks(request.param, takes_test_mode=True)},
                accounts=FixedWebhookAccounts({"hyperpay": [main]}),
                inbox=SqlWebhookInbox(database),
                settings=WebhookSettings(first_retry_s=0.05, lease_s=0.5),
            ),
        )
        with serving(WebhookWsgi(engine)) as url:
            sandbox.hyperpay.webhooks.url = f"{url}/api/v1/billing/webhook/hyperpay/main"
            yield Shop(sandbox, engine, verdicts)
    database.dispose()


def settled(shop: Shop, context: PaymentContext) -> PaymentExecution:
    """Charge what stays pending, let the provider settle it, and wait for the news."""
    pending = shop.engine.execute(context)
    assert pending.status is ExecutionStatus.PENDING
    shop.sandbox.hyperpay.charges.settle(shop.sandbox.ledger.requests[-1].reference)
    assert shop.sandbox.hyperpay.webhooks.settle()
    until(lambda: not shop.now(pending).is_open)
    return shop.now(pending)


@pytest.mark.parametrize("how", ["on_time", "late", "twice", "reversed", "forged", "other_body"])
def test_a_charge_is_settled_by_its_webhook(shop: Shop, how: How) -> None:
    shop.sandbox.hyperpay.webhooks.how = how

    execution = settled(shop, wanted("k1", "tokpending"))

    assert (execution.status, execution.settled_minor) == (ExecutionStatus.COMPLETED, 1250)
    assert sums(shop.sandbox) == {"charge": 1250}
    if how == "forged":
        assert "refused" in shop.verdicts
    if how == "twice":
        until(lambda: "duplicate" in shop.verdicts)


def test_wh3_news_may_come_before_our_own_answer(shop: Shop) -> None:
    shop.sandbox.hyperpay.webhooks.how = "early"
    executed = shop.engine.execute(wanted("k1"))
    assert executed.status is ExecutionStatus.COMPLETED
    assert sums(shop.sandbox) == {"charge": 1250}


def test_a_lost_answer_is_heard_of(shop: Shop) -> None:
    executed = shop.engine.execute(wanted("k1", "tokloseanswer"))
    until(lambda: not shop.now(executed).is_open)
    assert shop.now(executed).status is ExecutionStatus.COMPLETED
    assert sums(shop.sandbox) == {"charge": 1250}


def test_a_payer_on_the_widget_is_heard_of(shop: Shop) -> None:
    opened = shop.engine.execute(wanted("k1", None))
    checkout_id = str(opened.provider_ref)

    shop.sandbox.hyperpay.pay(checkout_id, "tok_pending")
    shop.sandbox.hyperpay.charges.decline(shop.sandbox.ledger.requests[-1].reference)
    shop.sandbox.hyperpay.pay(checkout_id, "tok_declined")
    assert shop.sandbox.hyperpay.webhooks.settle()
    still = shop.now(opened)
    shop.sandbox.hyperpay.pay(checkout_id)
    until(lambda: not shop.now(opened).is_open)

    assert still.is_open
    assert shop.now(opened).status is ExecutionStatus.COMPLETED
    assert sums(shop.sandbox) == {"charge": 1250}
