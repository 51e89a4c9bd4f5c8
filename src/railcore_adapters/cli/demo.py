"""
``railcore demo``: a month of billing on a private database and a provider that fails on purpose.

Nothing has to be installed or started by hand. Whatever it starts ends with it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import attrs
import psycopg
import sqlalchemy
from psycopg import sql
from rich.console import Console

from railcore.errors import MisconfiguredError
from railcore.execution import PaymentExecution
from railcore.redaction import Secret
from railcore.webhooks import WebhookAccount
from railcore_adapters.cli.accounting import Moved
from railcore_adapters.cli.background import Background, EventLog, listening, working
from railcore_adapters.cli.billing_file import BillingFile, read_billing_file
from railcore_adapters.cli.books import Books
from railcore_adapters.cli.carry_out import RepeatCounter, Run
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.cli.people import People, fill_wallets, told
from railcore_adapters.cli.summary import Summary
from railcore_adapters.cli.wiring import Host, Wishes, open_host, stub_webhooks
from railcore_adapters.credentials import FixedCredentials, FixedWebhookAccounts
from railcore_adapters.embedded import open_database
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.webhooks import HOWS, SentWebhook
from railcore_sqlalchemy import schema

ROLE: Final = "railcore_app"
RELAY_ROLE: Final = "railcore_relay"
_LEASE_S: Final = 12.0
_LATE_ANSWER_S: Final = 6.0
_FIRST_CHECK_S: Final = 0.5
_QUIET_S: Final = 1.5
_LATE_NEWS_S: Final = 0.5
_CHANGE_S: Final = 0.05
_HEARD: Final = "late, twice, reversed, early, forged, or never"


@attrs.frozen(kw_only=True)
class Demo:
    """
    What the demo plays.

    Attributes:
        file: The billing file.
        routes: The configuration.
        database_url: A server on which it may create a database of its own; None finds one.
        at_once: How many payments are in flight.
        console: Where it tells what happens.
        shows_events: Whether every event is printed when it is delivered.
    """

    file: Path
    routes: Path
    database_url: str | None
    at_once: int
    console: Console
    shows_events: bool = False

    def play(self) -> Summary:
        """Play it, and return what it came to."""
        file = read_billing_file(self.file)
        with (
            _database(self.database_url) as database,
            Sandbox(delay_s=_LATE_ANSWER_S) as sandbox,
        ):
            self._say(f"Database: {database.source}.")
            self._say(f"Providers: a sandbox at {sandbox.url} that fails on purpose.")
            return asyncio.run(self._play(file, database, sandbox))

    async def _play(self, file: BillingFile, database: "_Database", sandbox: Sandbox) -> Summary:
        repeats = RepeatCounter()
        wishes = Wishes(
            database_url=database.url,
            configuration=read_configuration(self.routes),
            credentials=_keys_of(sandbox),
            stub_url=sandbox.url,
            lease_s=_LEASE_S,
            at_once=self.at_once,
            owner="railcore-demo",
            role=database.role,
            relay_role=None if database.role is None else RELAY_ROLE,
            observer=repeats,
            first_check_s=_FIRST_CHECK_S,
            webhooks=partial(stub_webhooks, _accounts_of(sandbox)),
        )
        events = EventLog(self._say if self.shows_events else _nowhere)
        async with (
            open_host(wishes) as host,
            listening(host) as address,
            working(host, events),
            _announcing(sandbox, f"{address}/stub"),
        ):
            self._say(f"Webhooks: heard at {address}, {_HEARD}.")
            filled = await fill_wallets(host.wallet, file.lines)
            self._say(f"Wallets: {filled} were opened and filled.")
            run = self._run(host, repeats, events)
            people = People(host.payments, sandbox)

            async def let_people_act(executions: Sequence[PaymentExecution]) -> None:
                await people.act(executions)
                for deed in told(people.deeds):
                    self._say(f"  {deed}")

            async def ledger(_: Books) -> Sequence[Moved]:
                return [*sandbox.ledger.charges, *sandbox.ledger.movements]

            summary = await run.carry_out(file, movements=ledger, people=let_people_act)
            self._tell_webhooks(sandbox.webhooks.sent)
            self._tell_events(events)
            return summary

    def _run(self, host: Host, repeats: RepeatCounter, events: EventLog) -> Run:
        return Run(
            host=host,
            repeats=repeats,
            console=self.console,
            at_once=self.at_once,
            patience_s=2 * _LEASE_S,
            leaves_no_doubt=True,
            background=Background(
                host=host, events=events, patience_s=4 * _LEASE_S, quiet_s=_QUIET_S
            ),
        )

    def _tell_webhooks(self, sent: Sequence[SentWebhook]) -> None:
        lies = [one for one in sent if not one.is_true]
        refused = sum(not 200 <= one.status < 300 for one in lies)
        told = f"{len(sent) - len(lies):,} true ones sent, {refused:,} of {len(lies):,} false ones"
        self._say(f"Webhooks: {told} refused.")

    def _tell_events(self, events: EventLog) -> None:
        told = ", ".join(
            f"{count:,} {name.rpartition('.')[2]}" for name, count in events.types.most_common()
        )
        self._say(f"Events delivered: {told}; {events.repeats:,} came again.")

    def _say(self, text: str) -> None:
        self.console.print(text, style="dim")


@asynccontextmanager
async def _announcing(sandbox: Sandbox, url: str) -> AsyncIterator[None]:
    """Let the providers tell their news at *url* while inside, each moment in another way."""
    webhooks = sandbox.webhooks
    webhooks.url, webhooks.delay_s = url, _LATE_NEWS_S

    async def change() -> None:
        for webhooks.how in cycle(HOWS):
            await asyncio.sleep(_CHANGE_S)

    changing = asyncio.create_task(change())
    try:
        yield
    finally:
        changing.cancel()
        webhooks.url = ""


def _accounts_of(sandbox: Sandbox) -> FixedWebhookAccounts:
    secrets = (Secret(sandbox.webhooks.secret),)
    accounts = [WebhookAccount(account=name, secrets=secrets) for name in sandbox.accounts]
    return FixedWebhookAccounts({"stub": accounts})


def _nowhere(_: str) -> None:
    """Print nothing."""


def _keys_of(sandbox: Sandbox) -> FixedCredentials:
    accounts = sandbox.accounts.items()
    return FixedCredentials({("stub", name): Secret(key) for name, key in accounts})


@attrs.frozen(kw_only=True)
class _Database:
    """A database with nothing in it but the schema; *role* is what the demo may do there."""

    url: str = attrs.field(repr=False)
    source: str
    role: str | None


@contextmanager
def _database(configured_url: str | None) -> Iterator[_Database]:
    """Yield a fresh database. Only a private server gets roles: they would outlive the demo."""
    role = None if configured_url else ROLE
    with open_database(configured_url, durable=False) as server, _own(server.url) as url:
        with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as connection:
            schema.install(connection)
            if role is not None:
                schema.install_roles(connection)
        yield _Database(url=url, source=server.source, role=role)


@contextmanager
def _own(server_url: str) -> Iterator[str]:
    """Create a database for this demo alone, yield its address, drop it."""
    url = sqlalchemy.make_url(server_url)
    name = f"railcore_demo_{secrets.token_hex(4)}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege as error:
            problem = f"role {url.username} may not create a database for the demo"
            remedy = "Name one that may, or none at all: then a private server is started"
            raise MisconfiguredError("database-url", problem, remedy) from error
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )
