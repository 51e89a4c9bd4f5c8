"""
Install, remove and check the schema.

The SQL files are the schema. The functions here run them, and so do the migrations, so that a
database is the same whichever way it came to its tables. A host that migrates with Alembic adds
`MIGRATIONS` to its ``version_locations``; everybody else calls `install`.

Tables are created in the first schema of the connection's search path.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

from railcore.lifecycle import EDGES
from railcore_sqlalchemy.statements import read
from railcore_sqlalchemy.tables import metadata

__all__ = [
    "HOT_SETTINGS",
    "MIGRATIONS",
    "Target",
    "analyze",
    "connected",
    "drop",
    "guards",
    "install",
    "install_roles",
    "run",
    "verify",
]

Target = str | URL | Engine | Connection
"""An address, an engine, or a connection in the caller's own transaction."""

CREATE: Final = ("schema", "wallet")
DROP: Final = ("wallet_drop", "drop")
ROLES: Final = ("roles", "wallet_roles")

MIGRATIONS: Final = Path(str(files("railcore_sqlalchemy").joinpath("migrations", "versions")))
"""The folder of the Alembic revisions, for a host's ``version_locations``."""

HOT_SETTINGS: Final = MappingProxyType(
    {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
)
"""
What connections that claim and record run with; ``roles.sql`` gives it to the role railcore_app.

Each statement has one good plan, through the keys. Postgres finds another while a table is small,
and keeps it prepared while the table grows.
"""


def install(target: Target) -> None:
    """
    Create the tables, the guards and their data.

    The tables are left without statistics on purpose: those of an empty table make plans that scan.
    """
    with connected(target) as connection:
        run(connection, *CREATE)


def drop(target: Target) -> None:
    """Remove everything that `install` made, and all data with it."""
    with connected(target) as connection:
        run(connection, *DROP)


def install_roles(target: Target) -> None:
    """Create the group roles, or bring their privileges and settings up to date."""
    with connected(target) as connection:
        run(connection, *ROLES)


def analyze(target: Target) -> None:
    """Gather statistics, after many rows came at once; autovacuum does it within a minute."""
    with connected(target) as connection:
        for name in metadata.tables:
            connection.exec_driver_sql(f"analyze {name}")


def run(connection: Connection, *names: str) -> None:
    """Run whole files of ``sql/``, many statements each, in the transaction of *connection*."""
    for name in names:
        connection.exec_driver_sql(read(name), execution_options={"no_parameters": True}).close()


def verify(target: Target) -> tuple[str, ...]:
    """
    Return what is wrong with the schema, a sentence for each; nothing when all is well.

    Compared are the tables and columns, the constraints and indexes by name, the guards with the
    way they are enabled, the transition table and the buckets.
    """
    with connected(target) as connection:
        missing = tuple(_missing_columns(connection))
        return missing or tuple(problem for check in _CHECKS for problem in check(connection))


def _missing_columns(connection: Connection) -> Iterator[str]:
    found = set(map(tuple, connection.execute(text(_COLUMNS))))
    for table in metadata.tables.values():
        for column in table.columns:
            if (table.name, column.name) not in found:
                yield f"Column {column} is missing: install or migrate the schema."


def _missing_constraints(connection: Connection) -> Iterator[str]:
    found = set(connection.scalars(text(_CONSTRAINTS)))
    for table in metadata.tables.values():
        wanted = {str(it.name) for it in table.constraints | table.indexes}
        for name in sorted(wanted - found):
            yield f"Constraint or index {name} of {table.name} is missing or not valid."


def _disabled_guards(connection: Connection) -> Iterator[str]:
    enabled = dict(map(tuple, connection.execute(text(_TRIGGERS))))
    for table, name in guards():
        if enabled.get(f"{table}.{name}") != "A":
            yield (
                f"Guard {name} of {table} is missing or not ENABLE ALWAYS: "
                f"alter table {table} enable always trigger {name}."
            )


def guards() -> tuple[tuple[str, str], ...]:
    """Return (table, trigger) of every guard."""
    words = [line.split() for name in CREATE for line in read(name).splitlines()]
    return tuple(
        (line[2], line[6].rstrip(";"))
        for line in words
        if line[3:6] == ["enable", "always", "trigger"]
    )


def _wrong_data(connection: Connection) -> Iterator[str]:
    if connection.scalar(text("select count(*) from railcore_bucket")) != 64:
        yield "Table railcore_bucket wants 64 rows: the relay would miss events."
    edges = connection.execute(text("select from_status, to_status from railcore_edge"))
    if frozenset((before, after) for before, after in edges) != EDGES:
        yield "Table railcore_edge differs from the transition table."


_CHECKS = (_missing_constraints, _disabled_guards, _wrong_data)

_COLUMNS = """
select relname, attname from pg_attribute join pg_class on pg_class.oid = attrelid
where attnum > 0 and not attisdropped and relkind in ('r', 'p')
  and pg_table_is_visible(pg_class.oid)
"""
_CONSTRAINTS = """
select conname from pg_constraint join pg_class on pg_class.oid = conrelid
where convalidated and pg_table_is_visible(pg_class.oid)
union select relname from pg_class join pg_index on indexrelid = pg_class.oid
where indisvalid and pg_table_is_visible(indrelid)
"""
_TRIGGERS = """
select relname || '.' || tgname, tgenabled::text
from pg_trigger join pg_class on pg_class.oid = tgrelid
where not tgisinternal and pg_table_is_visible(pg_class.oid)
"""


@contextmanager
def connected(target: Target) -> Iterator[Connection]:
    """Yield *target* as a connection; one that was given is neither committed nor closed."""
    if isinstance(target, Connection):
        yield target
        return
    engine = target if isinstance(target, Engine) else create_engine(target, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
