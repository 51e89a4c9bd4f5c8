"""
The edge to psycopg: one statement in, rows or a typed error out.

Statements go to libpq through psycopg's own wrapper (``connection.pgconn``) and are awaited with
``connection.wait``, past cursors and their transactions: on an idle connection a statement is then
a transaction by itself, whatever mode the connection is in, and costs a third of the time.

Errors are translated here and nowhere else. A statement that PostgreSQL refused has changed
nothing; a connection that broke while a writing statement was under way may have committed it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import psycopg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.errors import (
    DuplicatePreparedStatement,
    InvalidSqlStatementName,
    error_from_result,
)
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from railcore.errors import StoreError
from railcore_sqlalchemy.rows import Row
from railcore_sqlalchemy.statements import statement

__all__ = ["AsyncDriver", "Driver", "Known", "Query", "StatementFailed", "Template", "template"]

_FATAL: Final = frozenset({"FATAL", "PANIC"})
_ADAPTERS: Final = AdaptersMap(psycopg.adapters)
"""As psycopg comes: what a host registers for its own queries does not reach ours."""

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


@attrs.frozen(kw_only=True)
class Template:
    """
    A statement in the driver's spelling, encoded once.

    Attributes:
        name: The file in ``sql/``.
        text: With ``$1``, ``$2`` for the parameters.
        label: What a prepared one is called on a connection; another text has another name.
        names: The parameters in the order of their numbers.
        writes: Whether it changes anything, so that a lost connection leaves a doubt.
        prepared: Whether to prepare it. What selects ``*`` is better not: a migration would break
            it.
    """

    name: str
    text: bytes
    label: bytes
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
    text = read.numbered.encode()
    digest = hashlib.blake2b(text, digest_size=4).hexdigest()
    return Template(
        name=name,
        text=text,
        label=f"railcore_{name}_{digest}".encode(),
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


class Known:
    """What is known of one connection while it lives: its encoding, and what is prepared."""

    def __init__(self, connection: AnyConnection) -> None:
        self.connection = connection
        self.adapters = _ADAPTERS
        self.encoding = connection.info.encoding
        self.labels = set[bytes]()
        self.transformer = Transformer(self)


@attrs.frozen
class Driver:
    """
    Answers queries on one psycopg connection, which is nobody else's meanwhile.

    Attributes:
        connection: Idle, or inside a host's transaction.
        known: What earlier queries found out about it.
        prepare: Whether prepared statements may be used; PgBouncer before 1.21 cannot.
        commits: Whether each statement commits by itself; inside a host's transaction none does.
    """

    connection: psycopg.Connection[Any]
    known: Known
    prepare: bool
    commits: bool

    def ask(self, query: Query) -> Sequence[Row]:
        """Return the rows of *query*; raise StoreError, StatementFailed where it was refused."""
        connection, in_doubt = self.connection, self.commits and query.template.writes
        check_open(connection, query)
        try:
            return connection.wait(exchange(connection, self.known, query, self.prepare))
        except psycopg.Error as error:
            raise translated(error, query, connection, in_doubt=in_doubt) from error


@attrs.frozen
class AsyncDriver:
    """The same, asynchronous."""

    connection: psycopg.AsyncConnection[Any]
    known: Known
    prepare: bool
    commits: bool

    async def ask(self, query: Query) -> Sequence[Row]:
        """Return the rows of *query*; raise StoreError, StatementFailed where it was refused."""
        connection, in_doubt = self.connection, self.commits and query.template.writes
        check_open(connection, query)
        try:
            return await connection.wait(exchange(connection, self.known, query, self.prepare))
        except psycopg.Error as error:
            raise translated(error, query, connection, in_doubt=in_doubt) from error


def exchange(
    connection: AnyConnection,
    known: Known,
    query: Query,
    prepare: bool,  # noqa: FBT001 - passed on, never written at a call
) -> PQGen[Sequence[Row]]:
    """Send *query* and read its rows, in the steps that ``connection.wait`` drives."""
    template, values = query.template, _encoded(query.parameters, known.encoding)
    pgconn = connection.pgconn
    is_alone = pgconn.transaction_status == TransactionStatus.IDLE
    if prepare and template.prepared and is_alone:  # a missing one would end a transaction
        if template.label not in known.labels:
            yield from _prepare(connection, known, template)
        pgconn.send_query_prepared(template.label, values, result_format=Format.BINARY)
        try:
            return _rows((yield from _result(connection)), known)
        except InvalidSqlStatementName:  # discarded, or a pooler gave us another server
            known.labels.discard(template.label)
    pgconn.send_query_params(template.text, values, result_format=Format.BINARY)
    return _rows((yield from _result(connection)), known)


def _prepare(connection: AnyConnection, known: Known, template: Template) -> PQGen[None]:
    connection.pgconn.send_prepare(template.label, template.text)
    with suppress(DuplicatePreparedStatement):  # a pooler gave us a server that knows it already
        yield from _result(connection)
    known.labels.add(template.label)


def _result(connection: AnyConnection) -> PQGen[PGresult]:
    results = yield from generators.execute(connection.pgconn)
    result: PGresult = results[-1]
    if result.status not in {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}:
        raise error_from_result(result)
    return result


def _rows(result: PGresult, known: Known) -> list[Row]:
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    known.transformer.set_pgresult(result)
    rows: list[Row] = known.transformer.load_rows(
        0, result.ntuples, lambda values: dict(zip(names, values, strict=True))
    )
    known.transformer.set_pgresult(None)
    return rows


def _encoded(parameters: Sequence[str | None], encoding: str) -> list[bytes | None]:
    if "\x00" in "".join(filter(None, parameters)):
        raise psycopg.DataError("PostgreSQL texts cannot contain NUL (0x00) bytes")
    return [None if value is None else value.encode(encoding) for value in parameters]


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
