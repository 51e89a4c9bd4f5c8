"""Looking: one read-only transaction, a statement for each question, and what was found."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, cast

import attrs
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from railcore.errors import MisconfiguredError
from railcore.health import Finding, Place
from railcore_sqlalchemy.doctor import catalogue, problems, questions
from railcore_sqlalchemy.doctor.catalogue import Fact, Found
from railcore_sqlalchemy.doctor.problems import Row
from railcore_sqlalchemy.doctor.questions import Question, Scope, ask
from railcore_sqlalchemy.doctor.symptoms import SYMPTOMS
from railcore_sqlalchemy.driver import AnyConnection
from railcore_sqlalchemy.sessions import check_driver, check_transaction
from railcore_sqlalchemy.tables import metadata

ROLES: Final = ("railcore_app", "railcore_relay", "railcore_reader")
_TIMEOUTS: Final = ("lock_timeout", "idle_in_transaction_session_timeout")
_SETTINGS: Final = (
    "lock_timeout = '2s'",
    "enable_seqscan = on",
    "plan_cache_mode = auto",
    "jit = off",
    "max_parallel_workers_per_gather = 0",
    "work_mem = '64MB'",
    "row_security = off",  # what hides rows is an error then, and not an empty answer
)
_UNSEEN: Final = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)
_ONE_SNAPSHOT: Final = "set transaction isolation level repeatable read, read only"
_HAS_VERSIONS: Final = "select to_regclass('railcore_alembic_version') is not null as yes"


@attrs.frozen(kw_only=True)
class Bounds:
    """
    From when on waiting is a finding, in seconds.

    Attributes:
        overdue_s: What workers, relays and the wallet do by themselves.
        review_s: What people have to look at.
        ahead_s: How far off the next look at an open execution, or the end of a lease, may be.
        idle_s: For how long a session may do nothing in a transaction.
    """

    overdue_s: float = 900.0
    review_s: float = 259_200.0
    ahead_s: float = 604_800.0
    idle_s: float = 60.0


@attrs.frozen
class Unseen:
    """Something that could not be looked at, and why."""

    what: str
    why: str


@attrs.frozen(kw_only=True)
class Report:
    """
    What was found.

    Attributes:
        findings: What is wrong; empty when all is well.
        unseen: What could not be looked at.
        looked_at: Each question that was answered.
    """

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]
    looked_at: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether everything was looked at and nothing is wrong."""
        return not self.findings and not self.unseen


_DEFAULT_BOUNDS: Final = Bounds()


def diagnose(
    connection: Connection,
    *,
    bounds: Bounds = _DEFAULT_BOUNDS,
    tenant_id: str | None = None,
    since: datetime | None = None,
    limit: int = 20,
    timeout_s: float = 60.0,
    with_roles: bool = True,
    with_relay: bool = True,
    connections: int | None = None,
) -> Report:
    """
    Return what is wrong with the database of *connection*, which must not be in a transaction.

    Args:
        connection: Of a role that may read railcore's tables, such as ``railcore_reader``.
        bounds: From when on waiting is a finding.
        tenant_id: Look at the rows of this tenant alone.
        since: Look only at payments that had news since; at the whole wallet and the whole inbox.
        limit: How many places of one finding are named. All are counted.
        timeout_s: How long one statement may take; one that takes longer is not looked at.
        with_roles: Whether railcore's roles are in use.
        with_relay: Whether a relay empties the outbox.
        connections: How many connections all processes together may hold; None does not ask.

    Raises:
        MisconfiguredError: The connection is in a transaction, or commits by itself.
        DBAPIError: The connection broke.
    """
    check_driver(connection.engine)
    check_transaction(cast("AnyConnection", connection.connection.driver_connection))
    if connection.in_transaction():
        problem = "it is in a transaction, whose snapshot may be old"
        raise MisconfiguredError("connection", problem, "Give a fresh one, or commit first")
    look = Look(
        connection,
        Scope(tenant_id=tenant_id, since=since, limit=limit),
        bounds=bounds,
        timeout_s=timeout_s,
        with_roles=with_roles,
        with_relay=with_relay,
        connections=connections,
    )
    with connection.begin() as transaction:
        connection.exec_driver_sql(_ONE_SNAPSHOT)
        report = look.look()
        transaction.rollback()
    return report


@attrs.define(kw_only=True)
class Look:
    """One look at one database, within the transaction of *connection*, as it goes on."""

    connection: Connection = attrs.field(kw_only=False)
    scope: Scope = attrs.field(kw_only=False)
    bounds: Bounds
    timeout_s: float
    with_roles: bool
    with_relay: bool
    connections: int | None
    findings: list[Finding] = attrs.field(factory=list)
    unseen: list[Unseen] = attrs.field(factory=list)
    looked_at: list[str] = attrs.field(factory=list)

    def look(self) -> Report:
        """Look at everything, what needs no rows first."""
        self.server()
        if self.with_roles:
            self.roles()
        self.bound()
        if self.schema():
            self.rows()
            if self.with_roles:
                self.rights()
        return Report(
            findings=tuple(_merged(self.findings)),
            unseen=tuple(self.unseen),
            looked_at=tuple(self.looked_at),
        )

    def bound(self) -> None:
        """Bound waits and plan for large answers, once it is known what sessions begin with."""
        timeout_ms = max(1, round(self.timeout_s * 1000))
        for setting in (f"statement_timeout = {timeout_ms}", *_SETTINGS):
            self.connection.exec_driver_sql(f"set local {setting}")

    def server(self) -> None:
        """Look at the server, and at what is open on it."""
        for row in self._ask(ask("server")):
            self._note(problems.of_server(row, self.connections))
        self._note(
            found for row in self._ask(ask("overrides")) for found in problems.of_override(row)
        )
        self._ask_rows(ask("transactions"))

    def roles(self) -> None:
        """Look at railcore's roles, and at who logs in as one of them."""
        rows = self._ask(ask("roles"), {"roles": list(ROLES), "names": list(_TIMEOUTS)})
        if "roles" in self.looked_at:
            self._note(problems.of_roles(rows, ROLES))

    def schema(self) -> bool:
        """Look at the catalogue; tell whether all columns are there, so that rows can be read."""
        asked = {"tables": list(metadata.tables), "functions": list(catalogue.functions())}
        facts = [Fact.of_row(**row) for row in self._ask(ask("catalogue"), asked)]
        found = list(catalogue.compare(facts)) if "catalogue" in self.looked_at else []
        self._note(found)
        if any(code == "column_missing" for code, _, _ in found):
            self.unseen.append(Unseen("rows and rights", "columns are missing"))
            return False
        if any(row["yes"] for row in self._run(Question("has_versions", _HAS_VERSIONS), {})):
            versions = [row["version_num"] for row in self._ask(ask("versions"))]
            self._note(problems.of_versions(versions))
        for row in self._ask(ask("constants")):
            self._note(problems.of_constants(row))
        return True

    def rows(self) -> None:
        """Look at the rows."""
        for name in questions.FILES:
            self._ask_rows(ask(name))
        for question in questions.of_constraints():
            self._ask_rows(question)

    def rights(self) -> None:
        """Look at what the roles may do."""
        asked = {"tables": list(metadata.tables), "roles": list(ROLES)}
        rows = self._ask(ask("rights"), asked)
        if "rights" in self.looked_at:
            self._note(problems.of_rights(rows))

    def _ask_rows(self, question: Question) -> None:
        bounds = attrs.asdict(self.bounds)
        given = {**self.scope.parameters(), **{name: bounds[name] for name in question.needs}}
        narrowed = attrs.evolve(question, text=self.scope.narrowed(question.text))
        rows = self._run(narrowed, given)
        for code, those in groupby(rows, key=lambda row: str(row["code"])):
            if code != "event_overdue" or self.with_relay:
                self.findings.append(_finding(code, list(those)))

    def _ask(self, question: Question, given: Mapping[str, object] | None = None) -> Sequence[Row]:
        return self._run(question, given or {})

    def _run(self, question: Question, given: Mapping[str, object]) -> Sequence[Row]:
        savepoint = self.connection.begin_nested()
        try:
            answer = self.connection.exec_driver_sql(question.text, dict(given))
            rows = [dict(row) for row in answer.mappings()]
        except DBAPIError as error:
            if not isinstance(error.orig, _UNSEEN):
                raise
            savepoint.rollback()
            self.unseen.append(Unseen(question.name, str(error.orig).splitlines()[0]))
            return []
        savepoint.commit()
        self.looked_at.append(question.name)
        return rows

    def _note(self, found: Iterable[Found]) -> None:
        self.findings.extend(Finding.each(SYMPTOMS, found, self.scope.limit))


def _merged(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield one finding for each code, in the order of the table of codes."""
    for code, symptom in SYMPTOMS.items():
        if those := [one for one in findings if one.code == code]:
            places = tuple(place for one in those for place in one.places)
            count = sum(one.count for one in those)
            yield Finding(symptom=symptom, places=places, count=count)


def _finding(code: str, rows: Sequence[Row]) -> Finding:
    places = tuple(
        Place(subject=row["subject"], found=row["found"] or "", tenant_id=row["tenant_id"])
        for row in rows
    )
    return Finding(symptom=SYMPTOMS[code], places=places, count=rows[0]["total"])
