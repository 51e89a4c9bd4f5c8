"""
A private PostgreSQL for demonstrations and tests, with nothing installed by hand.

::

    with EmbeddedPostgres(durable=False) as server:
        engine = sqlalchemy.create_engine(server.url)

The server lives exactly as long as the process that asked for it, however that process ends:
:mod:`railcore_adapters.embedded.cluster` says how.
"""

from railcore_adapters.embedded.binaries import ServerBinaries, find_server, server_in
from railcore_adapters.embedded.cluster import EmbeddedPostgres
from railcore_adapters.embedded.database import Database, open_database
from railcore_adapters.embedded.errors import (
    EmbeddedPostgresError,
    NotRunningError,
    ServerNotFoundError,
    ServerStartError,
    UnsupportedPlatformError,
)

__all__ = [
    "Database",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "NotRunningError",
    "ServerBinaries",
    "ServerNotFoundError",
    "ServerStartError",
    "UnsupportedPlatformError",
    "find_server",
    "open_database",
    "server_in",
]
