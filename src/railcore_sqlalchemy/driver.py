"""
The edge to psycopg: one statement in, rows or a typed error out.

Errors are translated here and nowhere else. A statement that PostgreSQL refused has changed
nothing; a connection that broke while a writing statement was under way may have committed it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncRawCursor, RawCursor
from psycopg.rows import dict_row

from railcore.errors import StoreError
from railcore_sqlalchemy.rows import Row
from railcore_sqlalchemy.statements import statement

__all__ = ["AsyncDriver", "Driver", "Query", "StatementFailed", "Template", "template"]

_FATAL: Final = frozenset({"FATAL", "PANIC"})


@attrs.frozen(kw_only=True)
class Template:
    """
    A statement in the driver's spelling, encoded once.

    Attributes:
        name: The file in ``sql/``.
        text: With ``$1``, ``$2`` for the parameters.
        names: The parameters in the order of their numbers.
        writes: Whether it changes anything, so that a lost connection leaves a doubt.
        prepared: Whether to prepare it. What selects ``*`` is better not: a migration would break
            it.
    """

    name: str
    text: bytes
    names: tuple[str, ...]
    writes: bool
    prepared: bool

    def __call__(self, parameters: Mapping[str, str | None]) -> "Query":
        """Return the statement with its parameters taken by name."""
        return Query(self, [parameters[name] for name in self.names])


@attrs.frozen
class Query:
    """One statement with its parameters: texts, which the statement casts."""

    template: Template
    parameters: Sequence[str | None]


def template(name: str, *, writes: bool = False, prepared: bool = False) -> Template:
    """Return the statement in ``sql/<name>.sql``, ready to be filled."""
    read = statement(name)
    return Template(
        name=name,
        text=read.numbered.encode(),
        names=read.names,
        writes=writes,
        prepared=prepared,
    )


@attrs.define(eq=False, slots=False)
class StatementFailed(StoreError):
    """PostgreSQL refused a statement; nothing of it was committed."""

    sqlstate: str = ""
    constraint: str = ""

    def __str__(self) -> str:
        return f"{self.problem} (SQLSTATE {self.sqlstate or 'none'}; nothing was committed)"


@attrs.frozen
class Driver:
    """
    Answers queries on one psycopg connection.

    Attributes:
        connection: Idle and in autocommit mode, or inside a host's transaction.
        prepare: Whether prepared statements may be used; PgBouncer before 1.21 cannot.
        commits: Whether each statement commits by itself; inside a host's transaction nothing does.
    """

    connection: psycopg.Connection[Any]
    prepare: bool
    commits: bool

    def ask(self, query: Query) -> Sequence[Row]:
        """Return the rows of *query*; raise StoreError, StatementFailed where it was refused."""
        template, prepare = query.template, self.prepare and query.template.prepared
        check_open(self.connection, query)
        cursor = RawCursor(self.connection, row_factory=dict_row)
        try:
            cursor.execute(template.text, query.parameters, prepare=prepare)
            return cursor.fetchall()
        except psycopg.Error as error:
            in_doubt = template.writes and self.commits
            raise translated(error, query, self.connection, in_doubt=in_doubt) from error


@attrs.frozen
class AsyncDriver:
    """The same, asynchronous."""

    connection: psycopg.AsyncConnection[Any]
    prepare: bool
    commits: bool

    async def ask(self, query: Query) -> Sequence[Row]:
        """Return the rows of *query*; raise StoreError, StatementFailed where it was refused."""
        template, prepare = query.template, self.prepare and query.template.prepared
        check_open(self.connection, query)
        cursor = AsyncRawCursor(self.connection, row_factory=dict_row)
        try:
            await cursor.execute(template.text, query.parameters, prepare=prepare)
            return await cursor.fetchall()
        except psycopg.Error as error:
            in_doubt = template.writes and self.commits
            raise translated(error, query, self.connection, in_doubt=in_doubt) from error


AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def check_open(connection: AnyConnection, query: Query) -> None:
    """Raise a StoreError without doubt when *query* cannot even be sent."""
    if connection.closed:
        problem = f"{query.template.name}: the connection was lost before"
        raise StoreError(problem, may_have_committed=False)


def translated(
    error: psycopg.Error, query: Query, connection: AnyConnection, *, in_doubt: bool
) -> StoreError:
    """Return what *error* means; the primary message alone is repeated, for it holds no values."""
    told = error.diag.message_primary or type(error).__name__
    problem = f"{query.template.name}: {told}"
    if is_lost(error, connection):
        return StoreError(problem, may_have_committed=in_doubt)
    return StatementFailed(
        problem,
        may_have_committed=False,
        sqlstate=error.sqlstate or "",
        constraint=error.diag.constraint_name or "",
    )


def is_lost(error: psycopg.Error, connection: AnyConnection) -> bool:
    """Return whether *error* ended the connection, so that nobody knows what was committed."""
    if connection.closed or error.diag.severity_nonlocalized in _FATAL:
        return True
    return error.sqlstate is None and isinstance(error, psycopg.OperationalError)
