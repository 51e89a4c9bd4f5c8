"""``railcore run``: a user's own file and configuration, on a user's own database."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import attrs
import httpx
from rich.console import Console

from railcore.ports import Observer
from railcore_adapters.cli.accounting import Moved
from railcore_adapters.cli.billing_file import BillingFile, read_billing_file
from railcore_adapters.cli.books import Books
from railcore_adapters.cli.carry_out import RepeatCounter, Run
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.cli.summary import Summary
from railcore_adapters.cli.wiring import Wishes, open_host
from railcore_adapters.credentials import EnvironmentCredentials
from railcore_adapters.embedded import open_database


@attrs.frozen(kw_only=True)
class RunFile:
    """
    What to run and where.

    Attributes:
        file: The billing file.
        routes: The configuration.
        database_url: With the schema installed.
        stub_url: The sandbox, for cards and open banking.
        lease_s: For how long an execution is this process's alone.
        settle_s: For how long what is in doubt is looked at; None waits out a lease.
        at_once: How many payments are in flight.
        console: Where progress is shown.
        observer: Is told of every call and outcome.
    """

    file: Path
    routes: Path
    database_url: str
    stub_url: str | None
    lease_s: float
    settle_s: float | None
    at_once: int
    console: Console
    observer: Observer | None = None

    def carry_out(self) -> Summary:
        """Run it, and return what it came to."""
        file = read_billing_file(self.file)
        with open_database(self.database_url) as database:
            return asyncio.run(self._carry_out(file, database.url))

    async def _carry_out(self, file: BillingFile, url: str) -> Summary:
        repeats = RepeatCounter(self.observer)
        wishes = Wishes(
            database_url=url,
            configuration=read_configuration(self.routes),
            credentials=EnvironmentCredentials(),
            stub_url=self.stub_url,
            lease_s=self.lease_s,
            at_once=self.at_once,
            observer=repeats,
        )
        async with open_host(wishes) as host:
            run = Run(
                host=host,
                repeats=repeats,
                console=self.console,
                at_once=self.at_once,
                patience_s=self.lease_s + 15.0 if self.settle_s is None else self.settle_s,
            )
            return await run.carry_out(file, movements=self._movements)

    async def _movements(self, books: Books) -> Sequence[Moved] | None:
        """Return what is ours in the sandbox's ledger; None where there is none."""
        if self.stub_url is None:
            return None
        ours = {one.provider_key for one in books.executions}
        moved = await _ledger(self.stub_url)
        if moved is None:
            return None
        return [one for one in moved if one.reference in ours]


@attrs.frozen(kw_only=True)
class _Movement:
    id: str
    reference: str
    amount_minor: int
    currency: str


async def _ledger(url: str) -> list[_Movement] | None:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
            answer = await client.get(f"{url}/ledger")
            ledger = answer.raise_for_status().json()
            rows = [*ledger["charges"], *ledger["movements"]]
        names = [field.name for field in attrs.fields(_Movement)]
        return [_Movement(**{name: row[name] for name in names}) for row in rows]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
