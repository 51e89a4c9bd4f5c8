"""What SQL typed by hand cannot do."""

from collections.abc import Iterator
from itertools import product
from uuid import uuid4

import psycopg
import pytest

from railcore.lifecycle import EDGES
from railcore_sqlalchemy import schema
from tests.conftest import fresh_database
from tests.sqlalchemy.desk import Desk, Row, claim_row, record_row


@pytest.fixture(scope="module")
def shared_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """The address of one database for all: every test has a payment of its own."""
    with fresh_database(postgres_url, template=template_database) as url:
        schema.install_roles(url)
        yield url


@pytest.fixture
def desk(shared_url: str) -> Iterator[Desk]:
    made = Desk(shared_url)
    yield made
    made.close()


def refused(desk: Desk, query: str, *parameters: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        desk.sql(query, *parameters)
    return caught.value


def refused_always(desk: Desk, query: str, *parameters: object) -> psycopg.Error:
    """Return why *query* is refused, to anybody and to a session that replicates."""
    error = refused(desk, query, *parameters)
    desk.sql("set session_replication_role = replica")
    again = refused(desk, query, *parameters)
    desk.sql("set session_replication_role = origin")
    assert (again.sqlstate, again.diag.constraint_name) == (
        error.sqlstate,
        error.diag.constraint_name,
    )
    return error


def prepare(desk: Desk, to_status: str) -> Row:
    """Have one execution, in the given state."""
    row = claim_row()
    assert desk.claim(row) == "claimed"
    if to_status != "processing":
        assert desk.record(record_row(row, to_status)) == "recorded"
    return row


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize(
    "change",
    [
        "provider_ref = 'other'",
        "check_count = check_count + 1",
        "lease_owner = 'zombie'",
        "version = version + 1, status = 'pending', pending_reason = 'x', next_check_at = now()",
        "version = version + 1, status = 'completed', failure_code = null",
        "updated_at = now()",
    ],
)
def test_a_finished_execution_never_changes(desk: Desk, status: str, change: str) -> None:
    row = prepare(desk, status)
    query = f"update railcore_execution set {change} where execution_id = %s"
    assert refused_always(desk, query, row["execution_id"]).sqlstate == "RC002"


STATUSES = ("none", "processing", "pending", "completed", "failed")


@pytest.mark.parametrize(("before", "after"), [*product(STATUSES[1:], STATUSES)])
def test_only_the_edges_of_the_core_can_be_walked(desk: Desk, before: str, after: str) -> None:
    row = prepare(desk, before)
    version = desk.execution(row)["version"]
    desk.sql("set session_replication_role = replica")  # no foreign key asks for the event
    change = """
        update railcore_execution set status = %s, version = version + 1,
          pending_reason = %s, failure_code = %s,
          next_check_at = case when %s then now() end
        where execution_id = %s
    """
    parameters = (
        after,
        "x" if after == "pending" else None,
        "declined" if after == "failed" else None,
        after in {"processing", "pending"},
        row["execution_id"],
    )
    if (before, after) in EDGES:
        desk.sql(change, *parameters)
        assert desk.execution(row)["version"] == version + 1
    else:
        assert refused(desk, change, *parameters).sqlstate == "RC002"


@pytest.mark.parametrize("status", [it for it in STATUSES if ("none", it) not in EDGES])
def test_an_execution_starts_as_processing(desk: Desk, status: str) -> None:
    error = refused_always(
        desk,
        """
        insert into railcore_execution (
          tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key,
          fingerprint, provider_key, rail, provider, account, mode, created_at, status, version,
          lease_token, send_count, next_check_at, check_count, updated_at, request)
        values ('acme', gen_random_uuid(), 'p', 'charge', 1, 'SAR', 'k', sha256('x'), 'k', 'r', 'p',
          'a', 'live', now(), %s, 1, 0, 0, now(), 0, now(), '{}')
        """,
        status,
    )
    assert error.sqlstate == "RC002"


@pytest.mark.parametrize(
    "change",
    [
        "amount_minor = 1",
        "amount_minor = amount_minor",
        "currency = 'USD'",
        "idempotency_key = 'other'",
        "fingerprint = sha256('other')",
        "payment_id = 'other'",
        "operation = 'refund'",
        "provider_key = 'other'",
        "account = 'other'",
        "request = '{}'",
        "tenant_id = 'other'",
        "execution_id = gen_random_uuid()",
        "created_at = now()",
        "lease_token = 0",
        "send_count = 0, first_sent_at = null",
    ],
)
def test_what_was_asked_never_changes(desk: Desk, change: str) -> None:
    row = prepare(desk, "processing")
    query = f"update railcore_execution set {change} where execution_id = %s"
    assert refused_always(desk, query, row["execution_id"]).sqlstate == "RC001"


@pytest.mark.parametrize(
    "change",
    [
        "status = 'completed', next_check_at = null",
        "pending_reason = 'manual_review'",
        "cause_code = 'provider_timeout'",
        "settled_minor = 1",
        "version = version + 1",
        "version = version + 2, status = 'completed', next_check_at = null",
        "version = version - 1, status = 'completed', next_check_at = null",
    ],
)
def test_a_change_of_state_needs_the_next_version(desk: Desk, change: str) -> None:
    row = prepare(desk, "processing")
    query = f"update railcore_execution set {change} where execution_id = %s"
    assert refused_always(desk, query, row["execution_id"]).sqlstate == "RC002"


@pytest.mark.parametrize(
    "change", ["lease_token = 0", "send_count = 0, first_sent_at = null", "refused_count = 2"]
)
def test_no_change_of_state_takes_a_token_back(desk: Desk, change: str) -> None:
    row = prepare(desk, "processing")
    query = (
        "update railcore_execution set version = 2, status = 'completed', next_check_at = null,"
        f" {change} where execution_id = %s"
    )
    assert refused_always(desk, query, row["execution_id"]).sqlstate == "RC001"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("status = 'pending', version = 2", "pending_says_why"),
        ("status = 'failed', version = 2, next_check_at = null", "failed_says_why"),
        ("status = 'completed', version = 2", "never_forgotten"),
        ("next_check_at = null", "never_forgotten"),
        ("first_sent_at = null", "sends_are_dated"),
    ],
)
def test_an_open_execution_says_why_and_when(desk: Desk, change: str, rule: str) -> None:
    row = prepare(desk, "processing")
    query = f"update railcore_execution set {change} where execution_id = %s"
    error = refused_always(desk, query, row["execution_id"])
    assert (error.sqlstate, error.diag.constraint_name) == ("23514", rule)


@pytest.mark.parametrize(
    "change",
    [
        "update railcore_event set payload = '{}'",
        "update railcore_event set seq = seq",
        "delete from railcore_event",
        "truncate railcore_event cascade",
        (
            "insert into railcore_event select * from railcore_event "
            "on conflict (tenant_id, aggregateid, seq) do update set payload = '{}'"
        ),
    ],
)
def test_the_journal_is_append_only(desk: Desk, change: str) -> None:
    prepare(desk, "completed")
    assert refused_always(desk, change).sqlstate == "RC004"


@pytest.mark.parametrize(
    "table", ["railcore_execution", "railcore_payment", "railcore_discrepancy"]
)
@pytest.mark.parametrize("change", ["delete from {}", "truncate {} cascade"])
def test_nothing_is_deleted(desk: Desk, table: str, change: str) -> None:
    row = prepare(desk, "failed")
    late = {**row, "discrepancy_id": uuid4(), "kind": "late_success", "detail": "{}"}
    late["disputed_minor"] = 100
    assert desk.run("discrepancy", late)[0]["verdict"] == "recorded"
    assert refused_always(desk, change.format(table)).sqlstate == "RC005"


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ("seq = seq + 2", "RC003"),
        ("seq = seq", "RC003"),
        ("seq = seq - 1", "RC003"),
        ("charging = 0", "RC003"),
        ("seq = seq + 1, due_minor = 1000", "RC003"),
        ("seq = seq + 1, currency = 'USD'", "RC003"),
        ("seq = seq + 1, payment_id = 'other'", "RC003"),
        ("seq = seq + 1, refunding = 101", "23514"),
        ("seq = seq + 1, capturing = 1", "23514"),
        ("seq = seq + 1, charging = 1", "23514"),
        ("seq = seq + 1, refunded = -1", "23514"),
    ],
)
def test_a_head_moves_by_one_and_within_its_limits(desk: Desk, change: str, sqlstate: str) -> None:
    row = prepare(desk, "completed")
    query = f"update railcore_payment set {change} where payment_id = %s"
    assert refused_always(desk, query, row["payment_id"]).sqlstate == sqlstate


def test_a_state_without_its_event_is_refused(desk: Desk) -> None:
    row = prepare(desk, "processing")
    error = refused(
        desk,
        "update railcore_execution set status = 'completed', version = 2, next_check_at = null "
        "where execution_id = %s",
        row["execution_id"],
    )
    assert error.diag.constraint_name == "state_has_event"


def test_the_event_of_another_state_does_not_do(desk: Desk) -> None:
    row = prepare(desk, "processing")
    error = refused(
        desk,
        """
        with e as (
          insert into railcore_event
          select tenant_id, aggregateid, 2, gen_random_uuid(), 'payment', 'x', execution_id, 2,
            'processing', 'failed', payment_rail, payment_provider, idempotency_key, now(), '{}'
          from railcore_event where execution_id = %(id)s)
        update railcore_execution set status = 'completed', version = 2, next_check_at = null
        where execution_id = %(id)s
        """.replace("%(id)s", f"'{row['execution_id']}'"),
    )
    assert error.diag.constraint_name == "state_has_event"


def test_a_step_of_a_payment_without_its_event_is_refused(desk: Desk) -> None:
    row = prepare(desk, "completed")
    query = "update railcore_payment set seq = seq + 1 where payment_id = %s"
    assert refused(desk, query, row["payment_id"]).diag.constraint_name == "head_has_event"


def test_an_execution_without_a_payment_never_changes_state(desk: Desk) -> None:
    row = prepare(desk, "processing")
    orphan = {**row, "execution_id": uuid4(), "payment_id": "nobody"}
    desk.sql(
        """
        with it as (
          insert into railcore_execution select * from json_populate_record(
            (select x from railcore_execution x where execution_id = %s),
            json_build_object('payment_id', 'nobody', 'idempotency_key', %s::text,
              'execution_id', %s::uuid))
          returning *)
        insert into railcore_event
        select tenant_id, payment_id, 1, gen_random_uuid(), 'payment', 'x', execution_id, 1,
          'none', 'processing', rail, provider, idempotency_key, now(), '{}' from it
        """,
        row["execution_id"],
        str(orphan["execution_id"]),
        orphan["execution_id"],
    )
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        desk.record(record_row(orphan, "completed"))
    assert caught.value.diag.constraint_name == "state_has_event"


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"amount_minor": 0}, "amount_is_positive"),
        ({"amount_minor": -5}, "amount_is_positive"),
        ({"idempotency_key": ""}, "key_is_printable"),
        ({"idempotency_key": "a b"}, "key_is_printable"),
        ({"idempotency_key": "é"}, "key_is_printable"),
        ({"idempotency_key": "k" * 256}, "key_is_printable"),
        ({"fingerprint": b"short"}, "fingerprint_is_sha256"),
        ({"operation": "authorize", "amount_minor": 10, "due_minor": 9}, "due_limit"),
    ],
)
def test_a_claim_that_cannot_be_is_refused_by_name(desk: Desk, given: Row, rule: str) -> None:
    row = claim_row(**given)
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        desk.claim(row)
    assert caught.value.diag.constraint_name == rule
    assert desk.events(row) == []


@pytest.mark.parametrize(
    ("role", "query"),
    [
        ("app", "delete from railcore_execution"),
        ("app", "delete from railcore_outbox"),
        ("app", "update railcore_event set payload = '{}'"),
        ("app", "update railcore_bucket set owner = 'me'"),
        ("app", "truncate railcore_outbox"),
        ("app", "update railcore_edge set to_status = 'completed'"),
        ("relay", "select * from railcore_execution"),
        ("relay", "insert into railcore_event select * from railcore_event"),
        ("relay", "update railcore_outbox set seq = 1"),
        ("relay", "delete from railcore_event"),
        ("reader", "update railcore_execution set check_count = 0"),
        (
            "reader",
            "insert into railcore_reference select 'a', 'b', 'c', 'd', gen_random_uuid(), now()",
        ),
    ],
)
def test_a_role_does_only_its_work(desk: Desk, role: str, query: str) -> None:
    desk.sql(f"set role railcore_{role}")
    assert isinstance(refused(desk, query), psycopg.errors.InsufficientPrivilege)


def test_the_app_role_claims_and_records(desk: Desk) -> None:
    desk.sql("set role railcore_app")
    row = desk.done()
    refund = claim_row("refund", payment_id=row["payment_id"])
    assert desk.claim_many([refund]) == ["claimed"]
    assert desk.record_many([record_row(refund, "failed")]) == ["recorded"]
    late = {**refund, "discrepancy_id": uuid4(), "kind": "late_success", "detail": "{}"}
    late["disputed_minor"] = 100
    assert desk.run("discrepancy", late)[0]["verdict"] == "recorded"


def test_a_member_of_a_role_gets_its_settings(desk: Desk, shared_url: str) -> None:
    login = f"railcore_login_{uuid4().hex}"
    desk.sql(f"create role {login} login in role railcore_app")
    try:
        schema.install_roles(shared_url)
        [row] = desk.sql(
            "select setconfig from pg_db_role_setting join pg_database d on d.oid = setdatabase "
            "where datname = current_database() and setrole = %s::regrole",
            login,
        )
        assert "lock_timeout=500ms" in row["setconfig"]
        assert "idle_in_transaction_session_timeout=5s" in row["setconfig"]
    finally:
        desk.sql(f"drop role {login}")
