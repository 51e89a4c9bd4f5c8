"""The doctor names exactly what is wrong, and finds nothing where nothing is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.errors import MisconfiguredError
from railcore.health import Finding
from railcore_sqlalchemy import migrations, schema
from railcore_sqlalchemy.doctor import SYMPTOMS, Bounds, Report, diagnose, problems
from railcore_sqlalchemy.doctor import catalogue as recorded
from railcore_sqlalchemy.doctor.looking import Look
from railcore_sqlalchemy.doctor.questions import Scope
from tests.conftest import fresh_database, name_in
from tests.sqlalchemy import busy
from tests.sqlalchemy.record_catalogue import FILE, catalogue

# The server of the tests does not sync to disk, and the doctor says so.
OF_THE_TESTS = frozenset({"commit_not_durable"})
LONG_AGO = "now() - interval '30 days'"


@pytest.fixture(scope="module")
def busy_database(postgres_url: str, template_database: str) -> Iterator[str]:
    """The name of a database with all kinds of payments in it, from which others are copied."""
    with fresh_database(postgres_url, template=template_database) as url:
        schema.install_roles(url)
        busy.fill(url)
        yield name_in(url)


def switched_off(table: str, *statements: str) -> tuple[str, ...]:
    """Return *statements* with every trigger of *table* off, those of foreign keys as well."""
    guards = [name for of, name in schema.guards() if of == table]
    return (
        f"alter table {table} disable trigger all",
        *statements,
        f"alter table {table} enable trigger all",
        *(f"alter table {table} enable always trigger {name}" for name in guards),
    )


@attrs.frozen
class Patient:
    """A database, what is done to it, and what the doctor says."""

    url: str
    engine: sqlalchemy.Engine

    def do(self, *statements: str) -> None:
        """Run *statements* in one transaction."""
        with self.engine.begin() as connection:
            for one in statements:
                connection.exec_driver_sql(one)

    def change(self, table: str, *statements: str) -> None:
        """Run *statements* with every trigger of *table* off."""
        self.do(*switched_off(table, *statements))

    def look(self, **given: Any) -> Report:
        with self.engine.connect() as connection:
            return diagnose(connection, **given)

    def findings(self, **given: Any) -> Mapping[str, Finding]:
        """Return what is found by code, and that everything was looked at."""
        report = self.look(**given)
        assert report.unseen == ()
        return {one.code: one for one in report.findings if one.code not in OF_THE_TESTS}

    def finding(self, code: str, **given: Any) -> Finding:
        """Return the one finding that there is, which has *code*."""
        found = self.findings(**given)
        assert set(found) == {code}, found
        return found[code]

    def one(self, query: str) -> Any:
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar_one()


@attrs.frozen
class Visitor:
    """The same for a database that many tests share: what is done to it is rolled back."""

    engine: sqlalchemy.Engine

    def findings_after(self, *statements: str) -> Mapping[str, Finding]:
        """Return what is found by code once *statements* were run, in their transaction."""
        with self.engine.connect() as connection:
            for one in statements:
                connection.exec_driver_sql(one)
            look = Look(
                connection,
                Scope(tenant_id=None, since=None, limit=20),
                bounds=Bounds(),
                timeout_s=60.0,
                with_roles=True,
                with_relay=True,
                connections=None,
            )
            report = look.look()
        assert report.unseen == ()
        return {one.code: one for one in report.findings if one.code not in OF_THE_TESTS}


@pytest.fixture(scope="module")
def visitor(postgres_url: str, busy_database: str) -> Iterator[Visitor]:
    with fresh_database(postgres_url, template=busy_database) as url:
        schema.install_roles(url)
        yield Visitor(sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool))


@pytest.fixture
def patient(postgres_url: str, busy_database: str) -> Iterator[Patient]:
    with fresh_database(postgres_url, template=busy_database) as url:
        schema.install_roles(url)  # a copy has not the settings of the roles
        yield Patient(url, sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool))


def test_a_busy_database_in_which_nothing_is_wrong_has_no_finding(patient: Patient) -> None:
    assert not patient.findings()


@pytest.mark.parametrize(
    "scope", [{"tenant_id": "acme"}, {"since": datetime(2020, 1, 1, tzinfo=UTC)}]
)
def test_a_part_of_it_has_none_either(patient: Patient, scope: Mapping[str, Any]) -> None:
    assert not patient.findings(**scope)


# The catalogue


def test_what_was_recorded_is_what_the_schema_makes(patient: Patient) -> None:
    assert FILE.read_text() == catalogue(patient.url), (
        "Record it anew: python tests/sqlalchemy/record_catalogue.py"
    )


CATALOGUE_DEFECTS = {
    "a dropped CHECK": (
        "alter table railcore_execution drop constraint never_forgotten",
        "constraint_missing",
        "never_forgotten",
    ),
    "a CHECK that says something else": (
        (
            "alter table railcore_wallet_account drop constraint wallet_available,"
            " add constraint wallet_available check (credits_posted - debits_posted >= 0)"
        ),
        "constraint_differs",
        "wallet_available",
    ),
    "a dropped foreign key": (
        "alter table railcore_execution drop constraint state_has_event",
        "constraint_missing",
        "state_has_event",
    ),
    "a foreign key that was never validated": (
        (
            "alter table railcore_payment drop constraint head_has_event,"
            " add constraint head_has_event foreign key (tenant_id, payment_id, seq)"
            " references railcore_event (tenant_id, aggregateid, seq) not valid"
        ),
        "constraint_differs",
        "head_has_event",
    ),
    "a deferred foreign key": (
        (
            "alter table railcore_payment drop constraint head_has_event,"
            " add constraint head_has_event foreign key (tenant_id, payment_id, seq)"
            " references railcore_event (tenant_id, aggregateid, seq) deferrable initially deferred"
        ),
        "constraint_differs",
        "head_has_event",
    ),
    "a foreign key that nobody asks": (
        "alter table railcore_reference disable trigger all",
        "foreign_key_disabled",
        "reference_has_execution",
    ),
    "a dropped index": ("drop index railcore_execution_due", "index_missing", "execution_due"),
    "an index on something else": (
        (
            "drop index railcore_execution_due;"
            " create index railcore_execution_due on railcore_execution (created_at)"
        ),
        "index_differs",
        "railcore_execution_due",
    ),
    "an index that is not valid": (
        (
            "update pg_index set indisvalid = false"
            " where indexrelid = 'railcore_execution_due'::regclass"
        ),
        "index_differs",
        "railcore_execution_due",
    ),
    "a disabled trigger": (
        "alter table railcore_event disable trigger event_change",
        "trigger_disabled",
        "event_change",
    ),
    "a trigger that replicas pass": (
        "alter table railcore_event enable trigger event_change",
        "trigger_disabled",
        "event_change",
    ),
    "a dropped trigger": (
        "drop trigger payment_guard on railcore_payment",
        "trigger_missing",
        "payment_guard",
    ),
    "a trigger that watches less": (
        (
            "drop trigger event_change on railcore_event;"
            " create trigger event_change before update on railcore_event for each row"
            " execute function railcore_refuse('RC004', 'the journal is append-only');"
            " alter table railcore_event enable always trigger event_change"
        ),
        "trigger_differs",
        "event_change",
    ),
    "a trigger of somebody": (
        (
            "create function swallow() returns trigger language plpgsql"
            " as 'begin return null; end';"
            " create trigger swallow before insert on railcore_outbox for each row"
            " execute function swallow()"
        ),
        "trigger_unknown",
        "swallow",
    ),
    "a rule of somebody": (
        "create rule swallow as on insert to railcore_reference do instead nothing",
        "trigger_unknown",
        "swallow",
    ),
    "a function with another body": (
        (
            "create or replace function railcore_payment_guard() returns trigger"
            " language plpgsql as 'begin return new; end'"
        ),
        "function_differs",
        "railcore_payment_guard",
    ),
    "a function that is not there": (
        "alter function railcore_violates(text, text) rename to other",
        "function_missing",
        "railcore_violates",
    ),
    "a column that depends on the system's collation": (
        'alter table railcore_outbox alter column aggregateid type text collate "default"',
        "column_differs",
        "aggregateid",
    ),
    "a column that may be null": (
        "alter table railcore_execution alter column provider_key drop not null",
        "column_differs",
        "provider_key",
    ),
    "a table that a crash empties": (
        "alter table railcore_bucket set unlogged",
        "table_unlogged",
        "railcore_bucket",
    ),
    "rows that are hidden": (
        "alter table railcore_bucket enable row level security",
        "row_security_on",
        "railcore_bucket",
    ),
    "an edge of somebody": (
        "insert into railcore_edge values ('failed', 'completed')",
        "edges_differ",
        "failed completed",
    ),
    "a bucket that is not there": (
        "delete from railcore_bucket where bucket = 7",
        "buckets_missing",
        "railcore_bucket",
    ),
    "a revision of another release": (
        (
            "create table railcore_alembic_version (version_num text);"
            " insert into railcore_alembic_version values ('railcore_9999')"
        ),
        "migration_unknown",
        "railcore_9999",
    ),
    "a right too many": (
        "grant delete on railcore_execution to railcore_app",
        "right_too_many",
        "railcore_app",
    ),
    "a right on a column too many": (
        "grant update (payload) on railcore_event to railcore_relay",
        "right_too_many",
        "railcore_relay",
    ),
    "a right that is not there": (
        "revoke insert on railcore_outbox from railcore_app",
        "right_missing",
        "railcore_app",
    ),
}


@pytest.mark.parametrize("defect", CATALOGUE_DEFECTS)
def test_it_finds_in_the_catalogue(visitor: Visitor, defect: str) -> None:
    statement, code, subject = CATALOGUE_DEFECTS[defect]

    found = visitor.findings_after(statement)

    assert set(found) == {code}, found
    assert found[code].count == 1
    assert subject in found[code].places[0].subject


def test_a_schema_that_is_not_there_is_told_and_the_rows_are_not_looked_at(
    empty_database_url: str,
) -> None:
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        report = diagnose(connection, with_roles=False)

    codes = {one.code for one in report.findings} - OF_THE_TESTS
    assert "column_missing" in codes
    assert all(code.endswith("_missing") for code in codes)
    assert [one.what for one in report.unseen] == ["rows and rights"]


def test_a_column_that_is_not_there_is_told_alone(patient: Patient) -> None:
    patient.do("alter table railcore_outbox drop column last_error")

    report = patient.look()

    assert {one.code for one in report.findings} - OF_THE_TESTS == {"column_missing"}


def test_a_migrated_schema_is_as_good_as_an_installed_one(empty_database_url: str) -> None:
    migrations.upgrade(empty_database_url)
    schema.install_roles(empty_database_url)
    engine = sqlalchemy.create_engine(empty_database_url, poolclass=sqlalchemy.NullPool)

    assert not Patient(empty_database_url, engine).findings()


def test_definitions_are_compared_without_brackets_and_casts() -> None:
    one = recorded.Fact.of_row("constraint", "t", "c", "CHECK ((a = ANY (ARRAY['x'::text])))")
    other = recorded.Fact.of_row("constraint", "t", "c", "CHECK (a = ANY (ARRAY['x']))")
    third = recorded.Fact.of_row("constraint", "t", "c", "CHECK (a = ANY (ARRAY['y']))")

    assert one == other
    assert other != third


# Roles and settings


@contextmanager
def done(patient: Patient, statement: str, undo: str) -> Iterator[None]:
    """Do what outlives the database, for the time being."""
    patient.do(statement)
    try:
        yield
    finally:
        patient.do(undo)


def test_it_finds_a_role_that_is_missing(patient: Patient) -> None:
    rename = "alter role {} rename to {}"
    name, other = "railcore_reader", "railcore_elsewhere"
    with done(patient, rename.format(name, other), rename.format(other, name)):
        found = patient.findings()

    assert found["role_missing"].places[0].subject == "role railcore_reader"
    assert set(found) == {"role_missing", "right_missing"}
    assert all("railcore_reader" in one.subject for one in found["right_missing"].places)


@pytest.mark.parametrize("power", ["createrole", "bypassrls"])
def test_it_finds_a_role_that_may_too_much(patient: Patient, power: str) -> None:
    with done(patient, f"alter role railcore_app {power}", f"alter role railcore_app no{power}"):
        finding = patient.finding("role_too_mighty")

    assert finding.places[0].found == power


def test_it_finds_a_login_without_bounds_that_may_too_much(patient: Patient) -> None:
    patient.do("create role careless login in role railcore_app")
    patient.do("grant delete on railcore_event to careless")
    try:
        found = patient.findings()
    finally:
        patient.do("drop owned by careless", "drop role careless")

    assert {code: {place.found for place in one.places} for code, one in found.items()} == {
        "right_too_many": {"delete on railcore_event"},
        "role_without_timeout": {
            "idle_in_transaction_session_timeout is not set",
            "lock_timeout is not set",
        },
    }


def test_a_login_in_two_groups_may_what_both_may(patient: Patient) -> None:
    patient.do("create role twofold login in role railcore_app, railcore_relay")
    try:
        schema.install_roles(patient.url)
        found = patient.findings()
    finally:
        patient.do("drop owned by twofold", "drop role twofold")

    assert not found


@pytest.mark.parametrize("name", ["lock_timeout", "idle_in_transaction_session_timeout"])
def test_it_finds_a_role_whose_sessions_wait_without_bounds(patient: Patient, name: str) -> None:
    database = name_in(patient.url)
    patient.do(f"alter role railcore_app in database {database} reset {name}")

    finding = patient.finding("role_without_timeout")

    assert (finding.count, finding.places[0].found) == (1, f"{name} is not set")


def test_a_zero_bounds_nothing(patient: Patient) -> None:
    patient.do(f"alter role railcore_app in database {name_in(patient.url)} set lock_timeout = '0'")

    assert patient.finding("role_without_timeout").count == 1


def test_roles_are_left_out_if_wished(patient: Patient) -> None:
    patient.do("revoke insert on railcore_outbox from railcore_app")

    assert not patient.findings(with_roles=False)


def test_it_finds_that_commits_are_not_durable(patient: Patient) -> None:
    patient.do(f"alter database {name_in(patient.url)} set synchronous_commit = off")

    (finding,) = [one for one in patient.look().findings if one.code == "commit_not_durable"]

    assert "role everybody" in {one.subject for one in finding.places}


def test_it_finds_that_foreign_keys_are_not_asked(patient: Patient) -> None:
    patient.do(f"alter database {name_in(patient.url)} set session_replication_role = replica")

    assert patient.finding("replication_role").count == 2


def test_it_finds_too_many_connections(patient: Patient) -> None:
    assert patient.finding("connections_too_many", connections=100_000).count == 1
    assert not patient.findings(connections=1)


def test_it_finds_a_transaction_that_was_left_open(patient: Patient) -> None:
    with patient.engine.connect() as forgotten:
        forgotten.exec_driver_sql("select 1")
        finding = patient.finding("transaction_forgotten", bounds=Bounds(idle_s=0))

    assert "idle in transaction" in finding.places[0].found


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 130_012}, "server_too_old"),
        ({"is_standby": True}, "standby"),
        ({"fsync": "off"}, "commit_not_durable"),
        ({"synchronous_commit": "off"}, "commit_not_durable"),
        ({"session_replication_role": "replica"}, "replication_role"),
    ],
)
def test_it_finds_a_server_that_is_not_fit(change: Mapping[str, Any], code: str) -> None:
    fit = {
        "version": 140_001,
        "is_standby": False,
        "role": "me",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "session_replication_role": "origin",
        "connections": 97,
    }

    assert not list(problems.of_server(fit, 97))
    assert [found[0] for found in problems.of_server({**fit, **change}, None)] == [code]


# The rows

EXECUTION, EVENT, PAYMENT = "railcore_execution", "railcore_event", "railcore_payment"
OUTBOX, INBOX = "railcore_outbox", "railcore_inbox"
_OF_PLAIN = "where execution_id = (select execution_id from railcore_execution"
_OF_PLAIN += " where payment_id = 'plain')"

ROW_DEFECTS = {
    "a head without its event": (
        PAYMENT,
        "update railcore_payment set seq = 3 where payment_id = 'plain'",
        "head_without_event",
        "payment plain",
    ),
    "a head that stayed behind": (
        PAYMENT,
        "update railcore_payment set seq = 1 where payment_id = 'plain'",
        "head_behind",
        "payment plain",
    ),
    "a journal with a hole": (
        EVENT,
        "update railcore_event set seq = 9 where aggregateid = 'plain' and seq = 2;"
        + ";".join(
            switched_off(PAYMENT, "update railcore_payment set seq = 9 where payment_id = 'plain'")
        )
        + "; delete from railcore_outbox where aggregateid = 'plain'",
        "seq_missing",
        "payment plain",
    ),
    "events without a head": (
        EVENT,
        (
            "insert into railcore_event select tenant_id, 'nobody', 1, gen_random_uuid(),"
            " aggregatetype, type, execution_id, null, from_status, to_status,"
            " payment_rail, payment_provider, idempotency_key, occurred_at, payload"
            " from railcore_event where aggregateid = 'plain' and seq = 1"
        ),
        "event_without_head",
        "payment nobody",
    ),
    "a state without its event": (
        EVENT,
        "update railcore_event set version = null where aggregateid = 'plain' and seq = 2",
        "state_without_event",
        "execution ",
    ),
    "an event that was edited": (
        EVENT,
        "update railcore_event set to_status = 'failed' where aggregateid = 'plain' and seq = 2",
        "state_disagrees",
        "execution ",
    ),
    "the amount in an event that was edited": (
        EVENT,
        (
            "update railcore_event set payload = (payload::jsonb || '{\"amount_minor\": 1}')::json"
            " where aggregateid = 'plain' and seq = 2"
        ),
        "state_disagrees",
        "execution ",
    ),
    "a reason that was edited": (
        EXECUTION,
        (
            "update railcore_execution set failure_code = 'insufficient_funds'"
            " where payment_id = 'declined'"
        ),
        "state_disagrees",
        "execution ",
    ),
    "a version that is not the number of events": (
        EVENT,
        "update railcore_event set version = 7 where aggregateid = 'plain' and seq = 1",
        "version_disagrees",
        "execution ",
    ),
    "a change that no event counts": (
        EVENT,
        "update railcore_event set version = null where aggregateid = 'plain' and seq = 1",
        "version_disagrees",
        "execution ",
    ),
    "a change that does not follow": (
        EVENT,
        "update railcore_event set from_status = 'pending' where aggregateid = 'plain' and seq = 2",
        "chain_broken",
        "execution ",
    ),
    "a change that is no transition": (
        EVENT,
        "update railcore_event set from_status = 'failed' where aggregateid = 'plain' and seq = 1",
        "chain_broken",
        "execution ",
    ),
    "an event of nobody": (
        EVENT,
        (
            "insert into railcore_event select tenant_id, aggregateid, 3, gen_random_uuid(),"
            " aggregatetype, type, gen_random_uuid(), 1, 'none', 'processing', payment_rail,"
            " payment_provider, 'other', occurred_at, payload from railcore_event"
            " where aggregateid = 'plain' and seq = 1;"
            " update railcore_payment set seq = 3 where payment_id = 'plain';"
            " delete from railcore_outbox where aggregateid = 'plain'"
        ),
        "event_without_execution",
        "event 3 of payment plain",
    ),
    "an execution in another currency": (
        PAYMENT,
        "update railcore_payment set currency = 'USD' where payment_id = 'plain'",
        "currency_differs",
        "payment plain",
    ),
    "sums that do not follow": (
        PAYMENT,
        "update railcore_payment set captured = 900 where payment_id = 'plain'",
        "sums_disagree",
        "payment plain",
    ),
    "sums of a payment without executions": (
        PAYMENT,
        (
            "update railcore_payment set authorized = 900"
            " where payment_id = (select payment_id from railcore_discrepancy"
            " where kind = 'orphan_charge')"
        ),
        "sums_disagree",
        "payment orphan",
    ),
    "more than is due": (
        PAYMENT,
        "update railcore_payment set due_minor = 999 where payment_id = 'plain'",
        "limit_exceeded",
        "payment plain",
    ),
    "a dispute that nobody counts": (
        PAYMENT,
        "update railcore_payment set disputed = 1 where payment_id = 'plain'",
        "dispute_disagrees",
        "payment plain",
    ),
    "a key that is no key": (
        EXECUTION,
        "update railcore_execution set fingerprint = 'short' where payment_id = 'plain'",
        "row_unlawful",
        "execution ",
    ),
    "a date of sending without a send": (
        EXECUTION,
        "update railcore_execution set send_count = 0 where payment_id = 'plain'",
        "row_unlawful",
        "execution ",
    ),
    "an overdue execution": (
        EXECUTION,
        (
            f"update railcore_execution set next_check_at = {LONG_AGO}, lease_until = null"
            " where payment_id = 'lost'"
        ),
        "execution_overdue",
        "execution ",
    ),
    "an execution that is looked at in a year": (
        EXECUTION,
        (
            "update railcore_execution set next_check_at = now() + interval '1 year'"
            " where payment_id = 'lost'"
        ),
        "check_far_off",
        "execution ",
    ),
    "a lease for a year": (
        EXECUTION,
        (
            "update railcore_execution set lease_owner = 'me',"
            " lease_until = now() + interval '1 year'"
            " where payment_id = 'lost'"
        ),
        "lease_endless",
        "execution ",
    ),
    "an event that is gone from the outbox": (
        OUTBOX,
        "delete from railcore_outbox where aggregateid = 'parts' and seq = 4",
        "outbox_gap",
        "payment parts",
    ),
    "an event to be delivered that is not there": (
        OUTBOX,
        (
            "insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)"
            " values (3, 'acme', 'nobody', 1, now())"
        ),
        "outbox_without_event",
        "payment nobody",
    ),
    "a parked event": (
        OUTBOX,
        (
            "update railcore_outbox set parked_at = now(), last_error = 'refused'"
            " where aggregateid = 'parts' and seq = 2"
        ),
        "event_parked",
        "payment parts",
    ),
    "events that wait too long": (
        OUTBOX,
        f"update railcore_outbox set enqueued_at = {LONG_AGO} where aggregateid = 'parts'",
        "event_overdue",
        "payment parts",
    ),
    "a discrepancy that waits too long": (
        "railcore_discrepancy",
        f"update railcore_discrepancy set opened_at = {LONG_AGO} where kind = 'orphan_charge'",
        "discrepancy_waiting",
        "discrepancy ",
    ),
    "a discrepancy without its event": (
        "railcore_discrepancy",
        "update railcore_discrepancy set seq = 99 where kind = 'orphan_charge'",
        "reference_broken",
        "railcore_discrepancy ",
    ),
    "a parked webhook": (
        INBOX,
        (
            "update railcore_inbox set state = 'parked', next_attempt_at = null,"
            " problem = 'unreadable'"
            " where event_id = 'evt_2'"
        ),
        "webhook_parked",
        "event evt_2 of psp/main",
    ),
    "an overdue webhook": (
        INBOX,
        f"update railcore_inbox set next_attempt_at = {LONG_AGO} where event_id = 'evt_2'",
        "webhook_overdue",
        "event evt_2 of psp/main",
    ),
    "a wallet imbalance": (
        "railcore_wallet_account",
        (
            "update railcore_wallet_account set credits_posted = credits_posted + 1"
            " where account_id = 'ada'"
        ),
        "wallet_imbalance",
        "account ada in SAR",
    ),
    "a hold that ended by nothing": (
        "railcore_wallet_hold",
        "update railcore_wallet_hold set resolved_at = now() where resolved_at is null",
        "hold_disagrees",
        "hold ",
    ),
    "a hold that is over and still reserves": (
        "railcore_wallet_hold",
        f"update railcore_wallet_hold set expires_at = {LONG_AGO} where resolved_at is null",
        "hold_overdue",
        "hold ",
    ),
    "a payment from a wallet that moved nothing": (
        "railcore_wallet_reference",
        (
            "delete from railcore_wallet_reference where reference ="
            " (select execution_id from railcore_execution where payment_id = 'spent')"
        ),
        "wallet_payment_disagrees",
        "execution ",
    ),
}


@pytest.mark.parametrize("defect", ROW_DEFECTS)
def test_db6_it_finds_in_the_rows(visitor: Visitor, defect: str) -> None:
    table, statement, code, subject = ROW_DEFECTS[defect]

    found = visitor.findings_after(*switched_off(table, statement))

    assert set(found) == {code}, found
    assert found[code].count == 1
    assert found[code].places[0].subject.startswith(subject)
    assert found[code].places[0].found


def without(constraint: str, table: str) -> str:
    return f"alter table {table} drop constraint {constraint}"


WHERE_A_CONSTRAINT_IS_GONE = {
    "an execution that nobody will look at": (
        EXECUTION,
        (
            without("never_forgotten", EXECUTION),
            "update railcore_execution set next_check_at = null where payment_id = 'lost'",
        ),
        {"constraint_missing", "execution_forgotten"},
    ),
    "a key that is used twice": (
        EXECUTION,
        (
            without("railcore_execution_key", EXECUTION),
            "update railcore_execution set idempotency_key = 'plain/1' where payment_id = 'lost'",
        ),
        {"constraint_missing", "index_missing", "key_twice", "state_disagrees"},
    ),
    "an account that is overdrawn": (
        "railcore_wallet_account",
        (
            without("wallet_available", "railcore_wallet_account"),
            "update railcore_wallet_account set credits_posted = 0 where account_id = 'ada'",
        ),
        {"constraint_missing", "check_broken", "wallet_imbalance"},
    ),
    "executions without a payment": (
        PAYMENT,
        ("delete from railcore_payment where payment_id = 'plain'",),
        {"event_without_head", "execution_without_payment"},
    ),
    "a refund of nothing": (
        EXECUTION,
        (
            (
                "update railcore_execution set parent_execution_id = gen_random_uuid()"
                " where payment_id = 'returned' and operation = 'refund'"
            ),
        ),
        {"parent_missing"},
    ),
    "refunds above what was captured": (
        EXECUTION,
        (
            (
                "update railcore_execution set amount_minor = 1001"
                " where payment_id = 'returned' and operation = 'refund'"
            ),
        ),
        {"limit_exceeded", "state_disagrees", "sums_disagree"},
    ),
}


@pytest.mark.parametrize("defect", WHERE_A_CONSTRAINT_IS_GONE)
def test_what_is_wrong_in_several_ways_is_told_in_each(visitor: Visitor, defect: str) -> None:
    table, statements, codes = WHERE_A_CONSTRAINT_IS_GONE[defect]

    assert set(visitor.findings_after(*switched_off(table, *statements))) == codes


def test_what_an_owner_edits_everywhere_alike_is_not_seen(visitor: Visitor) -> None:
    """There is no chain of hashes: the residual window that the documentation tells of."""
    edit = "update railcore_event set payment_provider = 'other' where aggregateid = 'plain'"
    same = "update railcore_execution set provider = 'other' where payment_id = 'plain'"

    assert set(visitor.findings_after(*switched_off(EVENT, edit))) == {"state_disagrees"}
    assert not visitor.findings_after(*switched_off(EVENT, edit), *switched_off(EXECUTION, same))


def test_the_most_serious_are_found_by_the_function_that_hosts_call(patient: Patient) -> None:
    patient.do("alter table railcore_event disable trigger event_change")
    patient.change(PAYMENT, "update railcore_payment set seq = 3 where payment_id = 'plain'")

    assert set(patient.findings()) == {"trigger_disabled", "head_without_event"}


def test_every_code_of_the_rows_is_found_by_a_test() -> None:
    from railcore_sqlalchemy.doctor.symptoms import DATA

    found = {code for _, _, code, _ in ROW_DEFECTS.values()}
    found |= {code for _, _, codes in WHERE_A_CONSTRAINT_IS_GONE.values() for code in codes}
    assert set(DATA) <= found


# How it looks


def test_it_names_so_many_and_counts_all(patient: Patient) -> None:
    patient.change(PAYMENT, "update railcore_payment set seq = seq + 5")

    finding = patient.finding("head_without_event", limit=2)

    assert len(finding.places) == 2
    assert finding.count == patient.one("select count(*) from railcore_payment")
    assert finding.places[0].tenant_id == "acme"


def test_another_tenant_is_not_looked_at(patient: Patient) -> None:
    patient.change(PAYMENT, "update railcore_payment set seq = 3 where payment_id = 'plain'")

    assert not patient.findings(tenant_id="other")
    assert set(patient.findings(tenant_id="acme")) == {"head_without_event"}


def test_what_had_no_news_since_is_not_looked_at(patient: Patient) -> None:
    patient.change(PAYMENT, "update railcore_payment set seq = 3 where payment_id = 'plain'")
    now = datetime.now(UTC)

    assert not patient.findings(since=now + timedelta(hours=1))
    assert set(patient.findings(since=now - timedelta(hours=1))) == {"head_without_event"}


def test_a_relay_is_not_missed_where_none_is_meant_to_run(patient: Patient) -> None:
    patient.do(f"update railcore_outbox set enqueued_at = {LONG_AGO}")

    assert set(patient.findings()) == {"event_overdue"}
    assert not patient.findings(with_relay=False)


def test_it_takes_one_transaction_that_writes_nothing(patient: Patient) -> None:
    asked = list[str]()

    def remember(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    sqlalchemy.event.listen(patient.engine, "before_cursor_execute", remember)
    before = patient.one("select count(*) from pg_stat_activity where datname = current_database()")
    patient.look()

    assert asked[1] == "set transaction isolation level repeatable read, read only"
    with patient.engine.connect() as connection:
        diagnose(connection)
        assert not connection.in_transaction()
        assert connection.exec_driver_sql("show statement_timeout").scalar_one() == "0"
    assert before == 1


def test_a_reader_is_enough(patient: Patient) -> None:
    engine = sqlalchemy.create_engine(
        patient.url,
        poolclass=sqlalchemy.NullPool,
        connect_args={"options": "-c role=railcore_reader"},
    )
    assert not Patient(patient.url, engine).findings()

    patient.change(PAYMENT, "update railcore_payment set seq = 3 where payment_id = 'plain'")
    assert set(Patient(patient.url, engine).findings()) == {"head_without_event"}


def test_what_a_role_may_not_read_is_told(patient: Patient) -> None:
    engine = sqlalchemy.create_engine(
        patient.url,
        poolclass=sqlalchemy.NullPool,
        connect_args={"options": "-c role=railcore_relay"},
    )
    report = Patient(patient.url, engine).look()

    assert {one.code for one in report.findings} <= OF_THE_TESTS
    assert not report.is_healthy
    unseen = {one.what: one.why for one in report.unseen}
    assert unseen["states"] == "permission denied for table railcore_execution"
    assert "journal" in unseen


def test_a_question_that_takes_too_long_is_told(patient: Patient) -> None:
    with patient.engine.connect() as other:
        other.exec_driver_sql("lock table railcore_wallet_account in access exclusive mode")
        report = patient.look(timeout_s=0.2)

    unseen = {one.what: one.why for one in report.unseen}
    assert unseen["wallet"] == "canceling statement due to statement timeout"
    assert "journal" in report.looked_at
    assert {one.code for one in report.findings} <= OF_THE_TESTS


def test_a_connection_in_a_transaction_is_refused(patient: Patient) -> None:
    with patient.engine.connect() as connection:
        connection.exec_driver_sql("select 1")
        with pytest.raises(MisconfiguredError, match="in a transaction"):
            diagnose(connection)
    with (
        patient.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(MisconfiguredError, match="autocommit"),
    ):
        diagnose(connection)


def test_a_broken_connection_is_no_finding(patient: Patient) -> None:
    def cut(connection: Any, _: object, statement: str, *__: object) -> None:
        if "lag(e.to_status)" in statement:
            connection.connection.driver_connection.close()

    sqlalchemy.event.listen(patient.engine, "before_cursor_execute", cut)
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        patient.look()


async def test_it_looks_from_an_event_loop(patient: Patient) -> None:
    patient.do("drop index railcore_execution_due")
    engine = create_async_engine(patient.url)
    async with engine.connect() as connection:
        report = await connection.run_sync(diagnose)
    await engine.dispose()

    assert "index_missing" in {one.code for one in report.findings}


def test_what_may_be_a_card_number_is_masked(patient: Patient) -> None:
    patient.change(
        OUTBOX,
        "update railcore_outbox set parked_at = now(), last_error = 'card 4111111111111111'"
        " where aggregateid = 'parts' and seq = 2",
    )

    assert "411111******1111" in patient.finding("event_parked").places[0].found


def test_every_symptom_says_what_it_means_and_what_to_do() -> None:
    for code, symptom in SYMPTOMS.items():
        assert symptom.code == code
        assert symptom.meaning.endswith(".")
        assert symptom.remedy.endswith(".")
