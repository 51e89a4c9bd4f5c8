"""A database with a bit of everything in it, written by the engine itself; nothing is wrong."""

import sqlalchemy

from railcore import (
    ConfigDrivenRouteResolver,
    Deadline,
    Money,
    Orphan,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentRail,
    PaymentRailRegistry,
    RailResult,
    RouteCapabilities,
)
from railcore.driven import DrivenRail
from railcore.enums import Idempotency, Operation, RouteMode
from railcore.failures import PaymentFailureCode
from railcore.money import SAR
from railcore.ports import Rail
from railcore.rails.wallet import WalletRail
from railcore.relay import Relay
from railcore.testing.contracts.review import failed_with_news
from railcore.testing.outbox import InMemorySink
from railcore.wallet import WalletAccount, WalletAccountKind, WalletTransfer, transfer_id
from railcore_sqlalchemy.outbox import SqlOutbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from railcore_sqlalchemy.wallet import SqlWalletRepository

TENANT = "acme"
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "psp", "account": "main", "mode": "live"},
        "wallets": {"rail": "wallet", "provider": "wallet", "account": "house", "mode": "live"},
    },
    "defaults": {"card": "cards", "wallet": "wallets"},
}
_DELIVERIES = """
insert into railcore_inbox (tenant_id, provider, account, event_id, body_sha256, received_at, state,
  attempts, next_attempt_at)
values ('acme', 'psp', 'main', 'evt_1', sha256('1'), now(), 'applied', 1, null),
  ('', 'psp', 'main', 'evt_2', sha256('2'), now(), 'received', 1, now() + interval '1 minute')
"""


class TokenRail:
    """Does what the instrument token says."""

    capabilities = RouteCapabilities(
        operations=frozenset(Operation),
        idempotency=Idempotency.KEY,
        partial_capture=True,
        multiple_capture=True,
        partial_refund=True,
        multiple_refund=True,
    )

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        match execution.context.instrument_token:
            case "tok_declined":
                return RailResult.failed(PaymentFailureCode.DECLINED)
            case "tok_lost":
                return RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
            case _:
                return RailResult.success(f"ch_{execution.idempotency_key}", execution.money)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return self.execute(execution, send_by=send_by)

    def check_status(self, _: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


def fill(url: str) -> None:
    """Write payments of all kinds into the database at *url*, which has the schema."""
    database = sqlalchemy.create_engine(url)
    try:
        _pay(database)
    finally:
        database.dispose()


def _pay(database: sqlalchemy.Engine) -> None:
    wallet = SqlWalletRepository(database)
    store = SqlExecutionStore(database)
    engine = _engine(store, wallet)
    engine.execute(asked("plain"))
    engine.execute(asked("declined", instrument_token="tok_declined"))
    engine.execute(asked("lost", instrument_token="tok_lost"))
    engine.enqueue(asked("enqueued"))
    _follow_up(engine)
    failed_with_news(store)
    orphan = Orphan(
        tenant_id=TENANT,
        rail=PaymentRail.CARD_PSP,
        provider="psp",
        account="main",
        mode=RouteMode.LIVE,
        provider_ref="ch_9071",
        money=Money(4200, SAR),
    )
    engine.note_orphan(orphan)
    _fill_wallet(wallet)
    engine.execute(asked("spent", payment_option_key="wallet", payer_token="ada"))
    hold = {"payment_option_key": "wallet", "payer_token": "ada", "operation": Operation.AUTHORIZE}
    engine.execute(asked("held", **hold))
    captured = engine.execute(asked("taken", **hold))
    engine.execute(following(captured, Operation.CAPTURE, 400))
    relay = Relay(SqlOutbox(database), InMemorySink())
    for _ in range(3):  # a part of the buckets: the rest waits
        assert relay.run_once()
    with database.begin() as connection:
        connection.exec_driver_sql(_DELIVERIES)


def _engine(store: SqlExecutionStore, wallet: SqlWalletRepository) -> PaymentEngine:
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "psp", TokenRail())
    rails.register(PaymentRail.WALLET, "wallet", DrivenRail(WalletRail(), wallet.answer))
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    return PaymentEngine(rails=rails, routes=routes, store=store)


def _follow_up(engine: PaymentEngine) -> None:
    authorized = engine.execute(asked("parts", operation=Operation.AUTHORIZE))
    capture = engine.execute(following(authorized, Operation.CAPTURE, 600))
    engine.execute(following(authorized, Operation.VOID, 400))
    engine.execute(following(capture, Operation.REFUND, 200))
    charged = engine.execute(asked("returned"))
    engine.execute(following(charged, Operation.REFUND, 1000))


def _fill_wallet(wallet: SqlWalletRepository) -> None:
    house = WalletAccountKind.HOUSE
    wallet.open_account(WalletAccount(tenant_id=TENANT, account_id="ada", currency=SAR))
    wallet.open_account(
        WalletAccount(tenant_id=TENANT, account_id="house", currency=SAR, kind=house)
    )
    top_up = WalletTransfer(
        transfer_id=transfer_id("receipt-2041", "top-up"),
        tenant_id=TENANT,
        debit_account="house",
        credit_account="ada",
        amount=Money(5000, SAR),
    )
    assert wallet.transfer(top_up).verdict == "applied"


def asked(payment: str, **given: object) -> PaymentContext:
    """Return what is asked for *payment*, 10.00 SAR."""
    plain: dict[str, object] = {
        "tenant_id": TENANT,
        "payment_id": payment,
        "idempotency_key": f"{payment}/1",
        "money": Money(1000, SAR),
        "payment_option_key": "card",
        "instrument_token": "tok_visa",
    }
    return PaymentContext(**{**plain, **given})  # type: ignore[arg-type]  # each is what it is


def following(parent: PaymentExecution, operation: Operation, minor: int) -> PaymentContext:
    """Return what is asked of *parent*."""
    return asked(
        parent.payment_id,
        idempotency_key=f"{parent.payment_id}/{operation}/{minor}",
        operation=operation,
        parent_execution_id=parent.execution_id,
        money=Money(minor, SAR),
        payment_option_key=parent.context.payment_option_key,
    )
