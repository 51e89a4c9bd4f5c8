"""
The composition root of the command line, and an example of how a host wires railcore.

A host owns its database engine and its HTTP client. It puts a store and a wallet on the one and a
transport on the other, registers the rails that it has, reads its routes, and makes one engine of
it all, which it then shares everywhere.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import attrs
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from railcore.driven import AsyncDrivenRail
from railcore.engine import AsyncPaymentEngine
from railcore.enums import PaymentRail, RouteMode
from railcore.errors import MisconfiguredError
from railcore.intake import Webhooks
from railcore.kernel import EngineSettings
from railcore.ports import (
    AsyncRail,
    AsyncTransport,
    AsyncWalletRepository,
    AsyncWebhookInbox,
    CredentialSource,
    Observer,
    WebhookAccounts,
)
from railcore.rails.bank_transfer import BankTransferRail
from railcore.rails.card_psp import CardPspRail
from railcore.rails.manual import ManualSettlementRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.rails.wallet import WalletRail
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver, TimingBounds
from railcore_adapters.cli.configuration import Configuration
from railcore_adapters.credentials import MatchingCredentials
from railcore_adapters.stub import SANDBOX_TIMING, StubBank, StubGateway, StubWebhooks
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    TransportLimits,
)
from railcore_sqlalchemy.inbox import AsyncSqlWebhookInbox
from railcore_sqlalchemy.outbox import AsyncSqlOutbox
from railcore_sqlalchemy.schema import HOT_SETTINGS
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository

SESSION: Final[Mapping[str, str]] = {
    "lock_timeout": "500ms",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "5s",
    **HOT_SETTINGS,
}
"""What the database sessions run with, as those of the role railcore_app do by themselves."""


@attrs.frozen(kw_only=True)
class Wishes:
    """
    What a host is to be like.

    Attributes:
        database_url: Begins with ``postgresql+psycopg://``.
        configuration: Routes and what the rails need to know.
        credentials: Knows the API keys.
        stub_url: Where the sandbox is; None leaves cards and open banking out.
        lease_s: For how long an execution is this process's alone. Calls are cut to fit inside.
        first_check_s: When an open execution is looked at again first.
        recovery_since: When the database came back from a copy or a failover.
        webhooks: Makes what is needed to hear providers' own news, over the host's database.
        at_once: How many payments are in flight.
        owner: Names this process in leases.
        role: The database role to take on; None stays with the one that logs in.
        relay_role: The same for the outbox, which needs nothing else.
        observer: Is told of every call and outcome.
    """

    database_url: str = attrs.field(repr=False)
    configuration: Configuration
    credentials: CredentialSource
    stub_url: str | None = None
    lease_s: float = 60.0
    at_once: int = 64
    first_check_s: float = 15.0
    recovery_since: datetime | None = None
    webhooks: Callable[[AsyncEngine], Webhooks[AsyncWebhookInbox]] | None = None
    owner: str = "railcore-run"
    role: str | None = None
    relay_role: str | None = None
    observer: Observer | None = None


@attrs.frozen(kw_only=True)
class Host:
    """A host, wired: its engine for payments, its wallet, its outbox, and the database."""

    payments: AsyncPaymentEngine
    wallet: AsyncWalletRepository
    database: AsyncEngine
    outbox: AsyncSqlOutbox
    webhooks: Webhooks[AsyncWebhookInbox] | None = None


@asynccontextmanager
async def open_host(wishes: Wishes) -> AsyncIterator[Host]:
    """
    Yield a host, and close what it opened.

    Raises:
        MisconfiguredError: Routes, leases or the database are not fit for payments; says why.
        StoreError: The database cannot be reached.
    """
    database = _database(wishes.database_url, wishes.role, connections=8)
    queue = _database(wishes.database_url, wishes.relay_role, connections=2)
    limits = TransportLimits(most_connections=wishes.at_once, most_idle=wishes.at_once)
    credentials = MatchingCredentials(wishes.credentials, modes_of(wishes.configuration))
    authorizer = BearerAuthorizer(credentials)
    try:
        async with AsyncHttpxTransport.open(limits=limits, authorizer=authorizer) as transport:
            store = AsyncSqlExecutionStore(database)
            await store.verify()
            wallet = AsyncSqlWalletRepository(database)
            check_credentials(wishes.configuration, credentials)
            rails = make_rails(wishes, transport, wallet)
            routes = ConfigDrivenRouteResolver.from_mapping(
                wishes.configuration.routes, offered=rails.offered
            )
            webhooks = None if wishes.webhooks is None else wishes.webhooks(database)
            payments = AsyncPaymentEngine(
                rails=rails,
                routes=routes,
                store=store,
                settings=EngineSettings(
                    owner=wishes.owner,
                    lease_s=wishes.lease_s,
                    first_check_s=wishes.first_check_s,
                    recovery_since=wishes.recovery_since,
                ),
                observer=wishes.observer,
                webhooks=webhooks,
            )
            yield Host(
                payments=payments,
                wallet=wallet,
                database=database,
                outbox=AsyncSqlOutbox(queue),
                webhooks=webhooks,
            )
    finally:
        await queue.dispose()
        await database.dispose()


def stub_webhooks(accounts: WebhookAccounts, database: AsyncEngine) -> Webhooks[AsyncWebhookInbox]:
    """Return what is needed to hear the sandbox's own news, kept in *database*."""
    inbox = AsyncSqlWebhookInbox(database)
    return Webhooks(providers={"stub": StubWebhooks()}, accounts=accounts, inbox=inbox)


def accounts_of(configuration: Configuration, provider: str) -> set[tuple[str, str]]:
    """Return the accounts of *provider* that routes lead to, each with the provider's name."""
    routes = configuration.routes.get("routes", {})
    entries = routes.values() if isinstance(routes, Mapping) else ()
    return {
        (provider, str(entry.get("account")))
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("provider") == provider
    }


def make_rails(
    wishes: Wishes, transport: AsyncTransport, wallet: AsyncWalletRepository
) -> PaymentRailRegistry[AsyncRail]:
    """Return all five rails; without a sandbox, the three that need none."""
    rails: PaymentRailRegistry[AsyncRail] = PaymentRailRegistry()
    wallet_rail = WalletRail(timing=_cut(WalletRail().capabilities.timing, wishes.lease_s))
    rails.register(PaymentRail.WALLET, "wallet", AsyncDrivenRail(wallet_rail, wallet.answer))
    transfers = BankTransferRail(wishes.configuration.bank_accounts)
    rails.register(PaymentRail.BANK_TRANSFER, "bank", AsyncDrivenRail(transfers, _never_asked))
    for provider, approvals in wishes.configuration.approvals.items():
        manual = AsyncDrivenRail(ManualSettlementRail(approvals), _never_asked)
        rails.register(PaymentRail.MANUAL_SETTLEMENT, provider, manual)
    if wishes.stub_url is not None:
        timing = _cut(_STUB_TIMING, wishes.lease_s)
        cards = CardPspRail(StubGateway(wishes.stub_url, timing))
        bank = OpenBankingPaymentRail(StubBank(wishes.stub_url, timing))
        rails.register(PaymentRail.CARD_PSP, "stub", AsyncDrivenRail(cards, transport.send))
        rails.register(PaymentRail.OPEN_BANKING_PIS, "stub", AsyncDrivenRail(bank, transport.send))
    return rails


def modes_of(configuration: Configuration) -> Mapping[tuple[str, str], RouteMode]:
    """
    Return what the accounts that routes lead to are for, by (provider, account).

    Raises:
        MisconfiguredError: An account is for play on one route and for real money on another.
    """
    routes = configuration.routes.get("routes", {})
    modes = dict[tuple[str, str], RouteMode]()
    for name, entry in routes.items() if isinstance(routes, Mapping) else ():
        if not isinstance(entry, Mapping) or entry.get("mode") not in tuple(RouteMode):
            continue  # whoever reads the routes says so
        account, mode = (str(entry.get("provider")), str(entry.get("account"))), entry["mode"]
        if modes.setdefault(account, RouteMode(mode)) != mode:
            problem = f"{'/'.join(account)} is {modes[account]} on one route and {mode} on this one"
            raise MisconfiguredError(f"routes.{name}.mode", problem, "Give each its own account")
    return modes


def check_credentials(configuration: Configuration, credentials: CredentialSource) -> None:
    """
    Check that there is a fit credential for every account of the sandbox, before anything is sent.

    Raises:
        MisconfiguredError: There is none, or it is for the other mode; the account is named.
    """
    for provider, account in sorted(accounts_of(configuration, "stub")):
        credentials.secret("any", provider, account)


_STUB_TIMING: Final = attrs.evolve(SANDBOX_TIMING, send_deadline_s=5.0, answer_timeout_s=4.0)
"""The sandbox's bounds, with patience for a busy machine."""


def _cut(timing: TimingBounds, lease_s: float) -> TimingBounds:
    """Return *timing* with calls short enough that a lease of *lease_s* outlasts them."""
    return attrs.evolve(
        timing,
        send_deadline_s=min(timing.send_deadline_s, lease_s / 3),
        answer_timeout_s=min(timing.answer_timeout_s, lease_s / 2),
    )


def _database(url: str, role: str | None, *, connections: int) -> AsyncEngine:
    """Return an engine, which connects when it is first used."""
    return create_async_engine(url, pool_size=connections, connect_args={"options": _options(role)})


def _options(role: str | None) -> str:
    settings = dict(SESSION) if role is None else {"role": role, **SESSION}
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


async def _never_asked(ask: object, _: object) -> object:
    raise AssertionError(f"a rail that asks nobody has asked for {type(ask).__name__}")
