"""Hosts around one database and one address of the provider, in both colours, with scaled times."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from railcore.context import PaymentContext
from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import PaymentRail, RouteMode
from railcore.events import JournalEvent
from railcore.intake import Webhooks
from railcore.kernel import EngineSettings
from railcore.ports import AsyncRail, Rail
from railcore.rails.wallet import WalletRail
from railcore.registry import PaymentRailRegistry
from railcore.relay import AsyncRelay, RelaySettings
from railcore.routing import PaymentRoute, Resolution, RouteCapabilities
from railcore.webhooks import WebhookAccount, WebhookSettings
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    HttpxTransport,
    TransportLimits,
)
from railcore_sqlalchemy.inbox import AsyncSqlWebhookInbox
from railcore_sqlalchemy.outbox import AsyncSqlOutbox
from railcore_sqlalchemy.schema import HOT_SETTINGS
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository, SqlWalletRepository
from tests.faults.wire.providers import TIMING, Behaviour, Provider

LEASE_S: Final = 2.0
"""Outlasts the send deadline and an answer together, as a lease has to."""

HOUSE: Final = "house"

_SESSION: Final = {
    "lock_timeout": "300ms",
    "statement_timeout": "3s",
    "synchronous_commit": "off",
    **HOT_SETTINGS,
}

PATIENT: Final = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
"""For whoever nothing befalls: on a busy machine even they pause within a transaction."""

OPTIONS: Final = f"{PATIENT} -c idle_in_transaction_session_timeout=1s"
"""For whoever is broken: what a dead caller holds is let go."""

LIMITS: Final = TransportLimits(total_s=2.0, connect_s=0.5)
TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used: making one for each of thousands of clients is what takes time."""

Deliver = Callable[[JournalEvent], Awaitable[None]]


def settings(owner: str) -> EngineSettings:
    """Return what an engine here runs with."""
    return EngineSettings(
        owner=owner, lease_s=LEASE_S, first_check_s=0.1, last_check_s=0.5, send_within_s=60.0
    )


def relay_settings(owner: str) -> RelaySettings:
    """Return what a relay here runs with."""
    return RelaySettings(
        owner=owner, lease_s=1.0, first_retry_s=0.05, last_retry_s=0.2, batch=256, at_once=8
    )


@attrs.frozen
class Routes:
    """Cards go to the provider under test, each tenant to an account of its own."""

    provider: Provider
    capabilities: RouteCapabilities
    wallet: RouteCapabilities

    def resolve(self, context: PaymentContext, /) -> Resolution:
        is_wallet = context.payment_option_key == "wallet"
        route = PaymentRoute(
            name="wallet" if is_wallet else "cards",
            rail=PaymentRail.WALLET if is_wallet else self.provider.rail,
            provider="wallet" if is_wallet else self.provider.name,
            account=HOUSE if is_wallet else context.tenant_id,
            mode=RouteMode.SANDBOX,
            capabilities=self.wallet if is_wallet else self.capabilities,
        )
        return Resolution(route, ("the only one",))


@attrs.frozen
class Accounts:
    """Knows the webhook secrets of the provider under test."""

    provider: Provider

    def accounts(self, provider: str, account: str | None, /) -> Sequence[WebhookAccount]:
        if account is None:
            return []
        secret = self.provider.webhook_secret(account)
        return [WebhookAccount(account=account, secrets=(secret,), tenant_id=account)]


@attrs.frozen(kw_only=True)
class Wishes:
    """What a host speaks to, and in whose name."""

    provider: Provider
    behaviour: Behaviour
    base_url: str
    owner: str
    deliver: Deliver


@attrs.frozen(kw_only=True)
class Host:
    """An asynchronous host, wired."""

    engine: AsyncPaymentEngine
    database: AsyncEngine
    wallet: AsyncSqlWalletRepository
    relay: AsyncRelay


@attrs.frozen
class Sink:
    """Hands events to whoever judges."""

    take: Deliver

    async def deliver(self, event: JournalEvent, /) -> None:
        await self.take(event)


@asynccontextmanager
async def opened(database: AsyncEngine, wishes: Wishes) -> AsyncIterator[Host]:
    """Yield a host on *database*, which stays open."""
    authorizer = BearerAuthorizer(wishes.provider)
    transport = AsyncHttpxTransport.open(limits=LIMITS, authorizer=authorizer, ssl_context=TLS)
    try:
        yield _host(transport, database, wishes)
    finally:
        await transport.aclose()


def _host(transport: AsyncHttpxTransport, database: AsyncEngine, wishes: Wishes) -> Host:
    provider, owner = wishes.provider, wishes.owner

    async def answer(ask: Any, send_by: Any) -> Any:
        return await transport.send(provider.edited(ask), send_by)

    wallet = AsyncSqlWalletRepository(database)
    rails = PaymentRailRegistry[AsyncRail]()
    cards = provider.client(wishes.base_url, wishes.behaviour)
    wallets = _wallet_rail()
    rails.register(provider.rail, provider.name, AsyncDrivenRail(cards, answer))
    rails.register(PaymentRail.WALLET, "wallet", AsyncDrivenRail(wallets, wallet.answer))
    engine = AsyncPaymentEngine(
        rails=rails,
        routes=Routes(provider, cards.capabilities, wallets.capabilities),
        store=AsyncSqlExecutionStore(database),
        settings=settings(owner),
        webhooks=Webhooks(
            providers={provider.name: provider.webhooks(wishes.behaviour)},
            accounts=Accounts(provider),
            inbox=AsyncSqlWebhookInbox(database),
            settings=WebhookSettings(first_retry_s=0.1, last_retry_s=0.4, lease_s=1.0),
        ),
    )
    outbox, sink = AsyncSqlOutbox(database), Sink(wishes.deliver)
    relay = AsyncRelay(outbox, sink, relay_settings(owner), gather=asyncio.gather)
    return Host(engine=engine, database=database, wallet=wallet, relay=relay)


@attrs.frozen
class SyncHost:
    """A synchronous host: what only executes."""

    engine: PaymentEngine
    transport: HttpxTransport


def sync_host(database: sqlalchemy.Engine, wishes: Wishes) -> SyncHost:
    """Return a synchronous host on *database*; its transport is to be closed."""
    provider = wishes.provider
    authorizer = BearerAuthorizer(provider)
    transport = HttpxTransport.open(limits=LIMITS, authorizer=authorizer, ssl_context=TLS)
    rails = PaymentRailRegistry[Rail]()
    cards = provider.client(wishes.base_url, wishes.behaviour)
    wallets = _wallet_rail()

    def answer(ask: Any, send_by: Any) -> Any:
        return transport.send(provider.edited(ask), send_by)

    wallet = SqlWalletRepository(database)
    rails.register(provider.rail, provider.name, DrivenRail(cards, answer))
    rails.register(PaymentRail.WALLET, "wallet", DrivenRail(wallets, wallet.answer))
    engine = PaymentEngine(
        rails=rails,
        routes=Routes(provider, cards.capabilities, wallets.capabilities),
        store=SqlExecutionStore(database),
        settings=settings(wishes.owner),
    )
    return SyncHost(engine, transport)


def async_database(url: str, connections: int = 1, options: str = OPTIONS) -> AsyncEngine:
    """Return an engine, which connects when it is first used."""
    return create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        connect_args={"options": options, "connect_timeout": 5},
    )


def sync_database(url: str) -> sqlalchemy.Engine:
    """The same, synchronous."""
    return sqlalchemy.create_engine(
        url,
        pool_size=1,
        max_overflow=1,
        pool_timeout=5,
        connect_args={"options": OPTIONS, "connect_timeout": 5},
    )


def _wallet_rail() -> WalletRail:
    return WalletRail(timing=attrs.evolve(TIMING, latest_arrival_s=0.4, read_lag_s=0.0))
