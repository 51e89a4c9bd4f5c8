"""What claim, record and the leases answer, in the single form and in the one for many."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from railcore_sqlalchemy.statements import VERDICT_OF_CONSTRAINT, read, statement
from tests.conftest import fresh_database
from tests.sqlalchemy.desk import Desk, Row, claim_row, record_row


@pytest.fixture(scope="module")
def shared_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """The address of one database for all: every test has a payment of its own."""
    with fresh_database(postgres_url, template=template_database) as url:
        yield url


@pytest.fixture
def desk(shared_url: str) -> Iterator[Desk]:
    made = Desk(shared_url)
    yield made
    made.close()


@pytest.fixture
def fresh_desk(postgres_url: str, template_database: str) -> Iterator[Desk]:
    """A desk whose tables nobody has written to, so autovacuum has not counted their rows."""
    with fresh_database(postgres_url, template=template_database) as url:
        made = Desk(url)
        yield made
        made.close()


@pytest.fixture(params=["single", "many"])
def form(request: pytest.FixtureRequest, desk: Desk) -> "Form":
    return Form(desk, many=request.param == "many")


class Form:
    """Claims and records through one of the two forms; both answer alike."""

    def __init__(self, desk: Desk, *, many: bool) -> None:
        self.desk = desk
        self.many = many

    def claim(self, row: Row) -> str:
        return self.desk.claim_many([row])[0] if self.many else self.desk.claim(row)

    def record(self, row: Row) -> str:
        return self.desk.record_many([row])[0] if self.many else self.desk.record(row)


def test_a_claim_is_stored_with_its_event_and_to_be_delivered(form: Form) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    stored = form.desk.execution(row)
    assert {name: stored[name] for name in ("status", "version", "lease_owner", "lease_token")} == {
        "status": "processing",
        "version": 1,
        "lease_owner": "desk",
        "lease_token": 1,
    }
    assert (stored["fingerprint"], stored["send_count"]) == (row["fingerprint"], 1)
    assert stored["first_sent_at"] == stored["last_sent_at"] == stored["created_at"]
    assert stored["lease_until"] - stored["created_at"] == timedelta(seconds=30)
    assert stored["next_check_at"] - stored["created_at"] == timedelta(seconds=60)
    [event] = form.desk.events(row)
    assert (event["seq"], event["id"], event["payload"]) == (1, row["event_id"], {"told": "once"})
    assert (event["from_status"], event["to_status"], event["version"]) == ("none", "processing", 1)
    queued = form.desk.sql(
        "select bucket, seq from railcore_outbox where aggregateid = %s", row["payment_id"]
    )
    assert queued == [{"bucket": 7, "seq": 1}]


def test_enqueued_work_has_neither_lease_nor_send(form: Form) -> None:
    row = claim_row(sent=False, lease_owner=None, lease_s=None)
    assert form.claim(row) == "claimed"
    stored = form.desk.execution(row)
    assert (stored["lease_owner"], stored["lease_token"], stored["lease_until"]) == (None, 0, None)
    assert (stored["send_count"], stored["first_sent_at"]) == (0, None)


@pytest.mark.parametrize("status", ["processing", "pending", "completed", "failed"])
def test_a_stored_key_is_a_duplicate_whatever_became_of_it(form: Form, status: str) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    if status != "processing":
        assert form.record(record_row(row, status)) == "recorded"
    again = claim_row(idempotency_key=row["idempotency_key"], amount_minor=7)
    refund = claim_row("refund", idempotency_key=row["idempotency_key"])
    assert [form.claim(again), form.claim(refund)] == ["duplicate", "duplicate"]
    assert form.desk.events(again) == []


def test_another_tenant_has_keys_and_payments_of_its_own(form: Form) -> None:
    row = claim_row()
    other = {**row, "tenant_id": "other", "execution_id": uuid4()}
    assert [form.claim(row), form.claim(other)] == ["claimed", "claimed"]


@pytest.mark.parametrize("operation", ["charge", "authorize"])
def test_a_second_live_charge_of_the_debt_is_refused(form: Form, operation: str) -> None:
    row = claim_row(operation)
    assert form.claim(row) == "claimed"
    second = claim_row(payment_id=row["payment_id"])
    assert form.claim(second) == "live"
    assert form.record(record_row(row, "pending")) == "recorded"
    assert form.claim(second) == "live"


def test_after_a_definite_failure_the_debt_may_be_charged_again(form: Form) -> None:
    row = form.desk.done(to_status="failed")
    assert form.claim(claim_row(payment_id=row["payment_id"])) == "claimed"


def test_a_split_payment_is_charged_up_to_what_is_due(form: Form) -> None:
    row = claim_row(amount_minor=60, due_minor=100)
    rest = claim_row(amount_minor=40, payment_id=row["payment_id"])
    beyond = claim_row(amount_minor=1, payment_id=row["payment_id"])
    assert [form.claim(it) for it in (row, rest, beyond)] == ["claimed", "claimed", "live"]


def test_a_payment_keeps_its_currency(form: Form) -> None:
    row = form.desk.done(amount_minor=10, due_minor=100)
    for operation in ("charge", "refund"):
        other = claim_row(operation, payment_id=row["payment_id"], amount_minor=1, currency="USD")
        assert form.claim(other) == "currency"


def test_what_was_voided_is_due_again(form: Form) -> None:
    row = form.desk.done("authorize")
    again = claim_row(payment_id=row["payment_id"], amount_minor=60)
    assert form.claim(again) == "live"
    form.desk.done("void", payment_id=row["payment_id"], amount_minor=60)
    assert form.claim({**again, "amount_minor": 61}) == "live"
    assert form.claim(again) == "claimed"


@pytest.mark.parametrize("operation", ["capture", "void", "refund"])
def test_nothing_follows_a_payment_that_is_not_there(form: Form, operation: str) -> None:
    assert form.claim(claim_row(operation)) == "no_payment"


def test_a_decision_on_an_older_head_is_moved(form: Form) -> None:
    row = form.desk.done()
    refund = claim_row("refund", payment_id=row["payment_id"], amount_minor=60, head_seq=1)
    assert form.claim(refund) == "moved"
    assert form.claim({**refund, "head_seq": 2}) == "claimed"


def test_money_in_doubt_counts_against_the_refund_limit(form: Form) -> None:
    row = form.desk.done()

    def refund(amount: int) -> Row:
        return claim_row("refund", payment_id=row["payment_id"], amount_minor=amount)

    first = refund(60)
    assert form.claim(first) == "claimed"
    unknown = {"pending_reason": "outcome_unknown", "cause_code": "provider_timeout"}
    assert form.record(record_row(first, "pending", **unknown)) == "recorded"
    assert form.claim(refund(60)) == "limit"
    assert form.claim(refund(40)) == "claimed"
    failed = record_row(first, "failed", version=2, from_status="pending")
    assert form.record(failed) == "recorded"
    assert form.claim(refund(61)) == "limit"
    assert form.claim(refund(60)) == "claimed"


def test_captures_and_voids_share_what_is_authorized(form: Form) -> None:
    row = form.desk.done("authorize")

    def follow(operation: str, amount: int) -> Row:
        return claim_row(operation, payment_id=row["payment_id"], amount_minor=amount)

    capture = follow("capture", 70)
    assert form.claim(capture) == "claimed"
    assert form.claim(follow("void", 40)) == "limit"
    assert form.claim(follow("capture", 31)) == "limit"
    assert form.claim(follow("void", 30)) == "claimed"
    assert form.claim(follow("refund", 1)) == "limit"
    assert form.record(record_row(capture, "completed")) == "recorded"
    assert form.claim(follow("refund", 70)) == "claimed"
    assert form.claim(claim_row(payment_id=row["payment_id"], amount_minor=1)) == "live"


SUMS = [
    "charging",
    "authorized",
    "capturing",
    "captured",
    "voiding",
    "voided",
    "refunding",
    "refunded",
]


@pytest.mark.parametrize(
    ("operation", "claimed", "completed"),
    [
        ("charge", {"charging": 100}, {"authorized": 100, "captured": 100}),
        ("authorize", {"charging": 100}, {"authorized": 100}),
        ("capture", {"capturing": 40}, {"captured": 40}),
        ("void", {"voiding": 40}, {"voided": 40}),
        ("refund", {"refunding": 40}, {"refunded": 40}),
    ],
)
@pytest.mark.parametrize("to_status", ["completed", "failed"])
def test_each_operation_moves_its_own_sums(
    form: Form, operation: str, claimed: Row, completed: Row, to_status: str
) -> None:
    given: Row = {}
    base = dict.fromkeys(SUMS, 0)
    if operation in {"capture", "void", "refund"}:
        first = form.desk.done("charge" if operation == "refund" else "authorize")
        given = {"payment_id": first["payment_id"], "amount_minor": 40}
        base = {name: form.desk.head(first)[name] for name in SUMS}
    row = claim_row(operation, **given)
    assert form.claim(row) == "claimed"
    assert {name: form.desk.head(row)[name] for name in SUMS} == {**base, **claimed}
    assert form.record(record_row(row, to_status)) == "recorded"
    after = {**base, **completed} if to_status == "completed" else base
    assert {name: form.desk.head(row)[name] for name in SUMS} == after


def test_the_same_answer_twice_is_recorded_once(form: Form) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    answer = record_row(row, "completed")
    assert [form.record(answer), form.record(answer)] == ["recorded", "stale"]
    assert [it["to_status"] for it in form.desk.events(row)] == ["processing", "completed"]


@pytest.mark.parametrize(
    "given",
    [
        {"version": 2},
        {"from_status": "pending"},
        {"payment_id": "another"},
        {"execution_id": uuid4()},
        {"token": 9, "fenced": True},
    ],
)
def test_an_answer_to_another_state_is_stale(form: Form, given: Row) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    assert form.record(record_row(row, "completed", **given)) == "stale"
    assert form.desk.execution(row)["status"] == "processing"


def test_an_answer_to_a_follow_up_counts_for_its_version(form: Form) -> None:
    refund = claim_row("refund", payment_id=form.desk.done()["payment_id"])
    assert form.claim(refund) == "claimed"
    assert form.record(record_row(refund, "pending")) == "recorded"
    later = record_row(refund, "completed", from_status="pending")
    assert form.record({**later, "version": 1}) == "stale"
    assert form.record({**later, "version": 2}) == "recorded"


def test_the_sums_of_another_operation_are_not_moved(desk: Desk) -> None:
    row = claim_row()
    assert desk.claim(row) == "claimed"
    assert desk.record(record_row({**row, "operation": "refund"}, "completed")) == "stale"
    assert desk.head(row)["charging"] == 100


def test_the_holder_clears_its_lease_and_sets_the_schedule(form: Form) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    assert form.record(record_row(row, "pending", next_check_s=600)) == "recorded"
    stored = form.desk.execution(row)
    assert (stored["lease_owner"], stored["lease_until"], stored["lease_token"]) == (None, None, 1)
    assert stored["next_check_at"] - stored["updated_at"] == timedelta(seconds=600)


def test_news_of_others_leaves_lease_and_schedule(form: Form) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    before = form.desk.execution(row)
    assert form.record(record_row(row, "pending", token=None, next_check_s=1)) == "recorded"
    after = form.desk.execution(row)
    kept = ("lease_owner", "lease_until", "lease_token", "next_check_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    done = record_row(row, "completed", token=None, version=2, from_status="pending")
    assert form.record(done) == "recorded"
    assert form.desk.execution(row)["next_check_at"] is None


def test_an_illegal_edge_is_an_error_rather_than_a_verdict(form: Form) -> None:
    row = claim_row()
    assert form.claim(row) == "claimed"
    with pytest.raises(psycopg.Error) as caught:
        form.record(record_row(row, "processing", next_check_s=1))
    assert caught.value.sqlstate == "RC002"


def test_the_rows_of_one_claim_do_not_hurt_each_other(desk: Desk) -> None:
    stored = desk.done()
    twin = claim_row()
    rows = [
        twin,
        claim_row(idempotency_key=stored["idempotency_key"]),
        claim_row(payment_id=twin["payment_id"]),
        claim_row(idempotency_key=twin["idempotency_key"]),
        claim_row("refund"),
        claim_row("refund", payment_id=stored["payment_id"], amount_minor=101),
        claim_row(payment_id=desk.done(amount_minor=1, due_minor=5)["payment_id"], currency="USD"),
        {**twin, "tenant_id": "other"},
    ]
    assert desk.claim_many(rows) == [
        "claimed",
        "duplicate",
        "again",
        "again",
        "no_payment",
        "limit",
        "currency",
        "claimed",
    ]


def test_the_rows_of_one_record_do_not_hurt_each_other(desk: Desk) -> None:
    rows = [claim_row() for _ in range(5)]
    assert desk.claim_many(rows) == ["claimed"] * 5
    answers = [
        record_row(rows[0], "completed"),
        record_row(rows[1], "pending"),
        record_row(rows[1], "completed"),
        record_row(rows[2], "failed", version=7),
        record_row(rows[3], "completed", token=4, fenced=True),
        record_row(rows[4], "failed"),
    ]
    assert desk.record_many(answers) == [
        "recorded",
        "recorded",
        "again",
        "stale",
        "stale",
        "recorded",
    ]


def test_a_held_head_makes_one_row_busy(desk: Desk, shared_url: str) -> None:
    held, free = desk.done(), desk.done()
    open_one = claim_row("refund", payment_id=held["payment_id"], amount_minor=1)
    assert desk.claim(open_one) == "claimed"
    other = Desk(shared_url)
    with other.connection.transaction():
        other.sql(
            "select from railcore_payment where payment_id = %s for update", held["payment_id"]
        )
        refunds = [claim_row("refund", payment_id=it["payment_id"]) for it in (held, free)]
        assert desk.claim_many(refunds) == ["busy", "claimed"]
        answers = [record_row(open_one, "completed"), record_row(refunds[1], "completed")]
        assert desk.record_many(answers) == ["busy", "recorded"]
    other.close()


def test_a_lease_is_taken_once_it_is_free(desk: Desk) -> None:
    row = claim_row(lease_s=0)
    assert desk.claim(row) == "claimed"
    taken = desk.run("acquire", {**row, "lease_owner": "worker", "lease_s": 60})
    assert (taken[0]["lease_owner"], taken[0]["lease_token"]) == ("worker", 2)
    assert taken[0]["next_check_at"] >= taken[0]["lease_until"] > taken[0]["at"]
    assert desk.run("acquire", {**row, "lease_owner": "other", "lease_s": 60}) == []


def test_the_lease_of_finished_work_cannot_be_taken(desk: Desk) -> None:
    row = desk.done()
    assert desk.run("acquire", {**row, "lease_s": 60}) == []


def test_a_writer_that_lost_its_lease_marks_and_reschedules_nothing(desk: Desk) -> None:
    row = claim_row(lease_s=0)
    assert desk.claim(row) == "claimed"
    assert desk.run("acquire", {**row, "lease_owner": "worker", "lease_s": 60})
    zombie = {**row, "lease_owner": "worker", "token": 1, "lease_s": 60, "next_check_s": 5}
    assert desk.run("mark_sent", zombie) == []
    assert desk.run("reschedule", zombie) == []
    holder = {**zombie, "token": 2}
    assert desk.run("mark_sent", holder)[0]["send_count"] == 2
    assert desk.run("reschedule", holder)[0]["check_count"] == 1  # the acquisition
    stored = desk.execution(row)
    assert (stored["lease_owner"], stored["version"], len(desk.events(row))) == (None, 1, 1)
    assert desk.run("mark_sent", holder) == []


def test_contradicting_news_is_kept_once_and_moves_nothing_else(desk: Desk) -> None:
    row = desk.done(to_status="failed")
    before = desk.execution(row)
    late = {**row, "discrepancy_id": uuid4(), "kind": "late_success", "detail": '{"got": 1}'}
    late["disputed_minor"] = 100
    verdicts = [desk.run("discrepancy", late)[0]["verdict"] for _ in range(2)]
    assert verdicts == ["recorded", "duplicate"]
    assert desk.execution(row) | {"at": None} == before | {"at": None}
    event = desk.events(row)[-1]
    assert (event["seq"], event["version"], event["to_status"]) == (3, None, "failed")
    unknown = {**late, "execution_id": uuid4()}
    assert desk.run("discrepancy", unknown)[0]["verdict"] == "unknown"


def test_open_executions_come_by_their_date(database_url: str) -> None:
    desk = Desk(database_url)
    rows = [claim_row(check_after_s=s, tenant_id=t) for s, t in ((30, "a"), (10, "b"), (20, "a"))]
    assert desk.claim_many(rows) == ["claimed"] * 3
    desk.done(tenant_id="a")

    def listed(tenant_id: str | None) -> list[object]:
        found = desk.run("open_executions", {"tenant_id": tenant_id, "limit": 10})
        return [it["execution_id"] for it in found]

    assert listed(None) == [rows[n]["execution_id"] for n in (1, 2, 0)]
    assert listed("a") == [rows[n]["execution_id"] for n in (2, 0)]
    desk.close()


def test_the_executions_of_a_payment_come_as_they_were_claimed(desk: Desk) -> None:
    row = desk.done()
    refunds = [
        desk.done("refund", payment_id=row["payment_id"], amount_minor=n + 1) for n in range(3)
    ]
    found = [it["execution_id"] for it in desk.run("executions_of_payment", row)]
    assert found == [it["execution_id"] for it in (row, *refunds)]
    [stored] = desk.run("execution_by_key", row)
    assert stored["execution_id"] == row["execution_id"]


def test_every_constraint_that_is_a_verdict_exists(desk: Desk) -> None:
    named = {it["conname"] for it in desk.sql("select conname from pg_constraint")}
    raised = set(re.findall(r"(?:then|else|execution',) '(\w+)'", read("schema")))
    assert set(VERDICT_OF_CONSTRAINT) <= named | raised


def test_each_statement_is_one_statement() -> None:
    import railcore_sqlalchemy

    folder = Path(str(railcore_sqlalchemy.__file__)).parent / "sql"
    scripts = {"schema", "drop", "roles", "wallet", "wallet_drop", "wallet_roles"}
    for name in {it.stem for it in folder.glob("*.sql")} - scripts:
        assert ";" not in statement(name).text.rstrip(";"), name


HOT = (
    "claim",
    "claim_followup",
    "claim_many",
    "record",
    "record_followup",
    "record_many",
    "acquire",
    "mark_sent",
)


@pytest.mark.parametrize("name", HOT)
def test_a_fresh_table_is_read_by_its_whole_keys(fresh_desk: Desk, name: str) -> None:
    ready = statement(name)
    fresh_desk.sql("set plan_cache_mode = force_generic_plan")
    fresh_desk.sql(f"prepare it as {ready.numbered}")
    nothing = ", ".join(["null"] * len(ready.names))
    plan = [str(row["QUERY PLAN"]) for row in fresh_desk.sql(f"explain execute it({nothing})")]
    conditions = [line for line in plan if "Index Cond" in line]
    scans = [line for line in plan if "Scan" in line and " on railcore_" in line]
    assert len(scans) == len(conditions) > 0, plan
    assert all(" AND " in line for line in conditions), plan


def test_the_tenant_leads_no_key_of_a_table_that_has_two(desk: Desk) -> None:
    keys = desk.sql(
        "select indrelid::regclass::text as table_name, attname as leads from pg_index"
        " join pg_attribute on attrelid = indrelid and attnum = indkey[0]"
        " where indisunique and indrelid::regclass::text like 'railcore%'"
    )
    keyed = Counter(row["table_name"] for row in keys)
    led = {row["table_name"] for row in keys if row["leads"] == "tenant_id"}
    assert {name for name in led if keyed[name] > 1} == set()
    assert {"railcore_execution", "railcore_event", "railcore_wallet_transfer"} == {
        name for name in keyed if keyed[name] > 1
    }


def test_the_tenant_is_part_of_every_key(desk: Desk) -> None:
    query = (
        "select indrelid::regclass::text as table_name from pg_index"
        " where indisunique and indrelid::regclass::text like 'railcore%' and not exists ("
        "  select from pg_attribute where attrelid = indrelid and attname = 'tenant_id'"
        "    and attnum = any(indkey::smallint[]))"
    )
    assert {row["table_name"] for row in desk.sql(query)} == {"railcore_bucket", "railcore_edge"}
