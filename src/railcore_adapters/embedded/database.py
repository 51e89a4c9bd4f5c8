"""Open the database that was configured, or else a private one."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs

from railcore_adapters.embedded.cluster import NO_SETTINGS, EmbeddedPostgres

URL_VARIABLE = "RAILCORE_DATABASE_URL"


@attrs.frozen(kw_only=True)
class Database:
    """An address, and a sentence on where it comes from that shows no password."""

    url: str = attrs.field(repr=False)
    source: str


@contextmanager
def open_database(
    configured_url: str | None = None,
    *,
    settings: Mapping[str, str] = NO_SETTINGS,
    durable: bool = True,
) -> Iterator[Database]:
    """
    Yield the database to use: *configured_url*, else ``RAILCORE_DATABASE_URL``, else a private one.

    Args:
        configured_url: ``postgresql://`` and ``postgres://`` are read as psycopg's.
        settings: For a private server only.
        durable: For a private server only.
    """
    if configured_url:
        yield Database(url=_with_driver(configured_url), source="the database that was given")
    elif url := os.environ.get(URL_VARIABLE):
        yield Database(url=_with_driver(url), source=f"the database named by {URL_VARIABLE}")
    else:
        with EmbeddedPostgres(settings, durable) as server:
            yield Database(url=server.url, source=_sentence(server))


def _with_driver(url: str) -> str:
    return re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", url)


def _sentence(server: EmbeddedPostgres) -> str:
    return (
        f"a private PostgreSQL {server.version} ({server.source}: {server.bindir}), "
        "removed at the end"
    )
