"""
The engine for people at a desk, who look and decide: one that sends only where it has to.

What nobody is asked for needs neither a provider's address nor its credentials; what the rails can
do is known without them.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.engine import AsyncPaymentEngine
from railcore.errors import InvalidValueError, MisconfiguredError
from railcore.money import Currency, Money
from railcore.ports import CredentialSource
from railcore.redaction import Secret
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.cli.wiring import Wishes, open_host
from railcore_adapters.credentials import EnvironmentCredentials
from railcore_adapters.embedded import open_database

Answer = TypeVar("Answer")
_NOWHERE: Final = "http://stub.invalid"


@attrs.frozen
class _Nobody:
    """Gives a credential that opens nothing, to an engine that asks nobody."""

    def secret(self, _tenant_id: str, _provider: str, _account: str, /) -> Secret:
        """Return it."""
        return Secret("nobody is asked")


@attrs.frozen(kw_only=True)
class Desk:
    """
    Where a person works.

    Attributes:
        routes: The configuration.
        database_url: With the schema installed.
        stub_url: The sandbox, where something may be sent.
        is_sending: Whether something may be sent, so that credentials are needed.
    """

    routes: Path
    database_url: str = attrs.field(repr=False)
    stub_url: str | None = None
    is_sending: bool = False

    async def work(
        self, task: Callable[[AsyncPaymentEngine, AsyncEngine], Awaitable[Answer]]
    ) -> Answer:
        """Return what *task* makes of the engine and its database."""
        credentials: CredentialSource = EnvironmentCredentials() if self.is_sending else _Nobody()
        with open_database(self.database_url) as database:
            wishes = Wishes(
                database_url=database.url,
                configuration=read_configuration(self.routes),
                credentials=credentials,
                stub_url=self.stub_url if self.is_sending else _NOWHERE,
                owner="railcore-desk",
            )
            async with open_host(wishes) as host:
                return await task(host.payments, host.database)


async def tenant_of(
    database: AsyncEngine, table: sqlalchemy.Table, column: str, wanted: UUID
) -> str:
    """
    Return whose row *wanted* is: an id is one tenant's, unless somebody made it the same.

    Raises:
        MisconfiguredError: Nobody's, or several tenants'.
    """
    query: sqlalchemy.Select[Any] = sqlalchemy.select(table.c.tenant_id).where(
        table.c[column] == wanted
    )
    async with database.connect() as connection:
        found = sorted(await connection.scalars(query))
    if len(found) != 1:
        problem = f"{len(found)} tenants have {wanted}" if found else f"nobody has {wanted}"
        raise MisconfiguredError("ID", problem, "Name the tenant" if found else "Check the id")
    return str(found[0])


def money_of(text: str | None) -> Money | None:
    """
    Return an amount and its currency as a person writes them, "12.50 SAR"; None for None.

    Raises:
        InvalidValueError: It is written otherwise, or has too many decimals.
    """
    if text is None:
        return None
    try:
        amount, code = text.split()
        return Money.of(amount, Currency.of(code))
    except ValueError as error:
        raise InvalidValueError("--received", 'an amount such as "12.50 SAR"', text[:40]) from error
