"""The limits of captures, voids and refunds, also against SQL that is typed by hand."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore import (
    AsyncPaymentEngine,
    ConfigDrivenRouteResolver,
    ExecutionStatus,
    InDoubtError,
    InProgressError,
    LimitExceededError,
    Money,
    Operation,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentRail,
    PaymentRailRegistry,
)
from railcore.money import SAR
from railcore.ports import AsyncRail, Rail
from railcore_sqlalchemy.statements import VERDICT_OF_CONSTRAINT, statement
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.conftest import conninfo, fresh_database
from tests.core.hosts import ROUTES, AsyncFakeRail, FakeRail
from tests.sqlalchemy.bystander import await_who_waits
from tests.sqlalchemy.desk import Desk, Row, claim_row, late_row, record_row

REFUSED = (LimitExceededError, InDoubtError, InProgressError)

BY_HAND = """
with x as (
  insert into railcore_execution (
    tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key,
    fingerprint, provider_key, rail, provider, account, mode, parent_execution_id, created_at,
    status, version, lease_token, send_count, next_check_at, check_count, updated_at, request)
  values ('acme', %(id)s::uuid, %(payment)s, %(operation)s, %(minor)s, %(currency)s, %(id)s::text,
    sha256('x'),
    %(id)s::text, 'card_psp', 'stub', 'main', 'sandbox', %(parent)s::uuid, now(), 'processing', 1,
    0, 0, now(),
    0, now(), '{}')
  returning *
), p as (
  update railcore_payment head set seq = seq + 1,
    refunding = refunding + case when x.operation = 'refund' then x.amount_minor else 0 end,
    capturing = capturing + case when x.operation = 'capture' then x.amount_minor else 0 end,
    voiding = voiding + case when x.operation = 'void' then x.amount_minor else 0 end
  from x where head.tenant_id = 'acme' and head.payment_id = x.payment_id
  returning head.seq
)
insert into railcore_event (
  tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status,
  to_status, payment_rail, payment_provider, idempotency_key, occurred_at, payload)
select 'acme', x.payment_id, p.seq, gen_random_uuid(), 'payment', 'x', x.execution_id, 1, 'none',
  'processing', x.rail, x.provider, x.idempotency_key, now(), '{}' from x, p
"""


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


def typed(
    connection: psycopg.Connection[Any], operation: str, minor: int, parent: Row, **changes: object
) -> Row:
    """Type a follow-up by hand, with its event and the payment's sums."""
    row: Row = {
        "id": str(uuid4()),
        "payment": parent["payment_id"],
        "operation": operation,
        "minor": minor,
        "currency": "SAR",
        "parent": parent["execution_id"],
        **changes,
    }
    connection.execute(BY_HAND, row)
    return {**parent, "execution_id": row["id"], "operation": operation, "amount_minor": minor}


def refusal(desk: Desk, *asked: Any, **changes: Any) -> str | None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        typed(desk.connection, *asked, **changes)
    return caught.value.diag.constraint_name


def settled(desk: Desk, row: Row, to_status: str = "completed") -> Row:
    assert desk.record(record_row(row, to_status, token=0)) == "recorded"
    return row


def following(operation: str, parent: Row, **given: object) -> Row:
    """The parameters that claim a follow-up of *parent* in the library's own way."""
    asked = {"payment_id": parent["payment_id"], "parent_execution_id": parent["execution_id"]}
    return claim_row(operation, **asked, amount_minor=1, **given)


def claimed(desk: Desk, row: Row, *, many: bool = False) -> str:
    """The verdict of a claim, or what the constraint that refused it stands for."""
    try:
        return desk.claim_many([row])[0] if many else desk.claim(row)
    except psycopg.errors.CheckViolation as error:
        return VERDICT_OF_CONSTRAINT[str(error.diag.constraint_name)]


def two_holds(desk: Desk) -> tuple[Row, Row]:
    """Two authorizations of 100 each on one payment."""
    first = desk.done("authorize", due_minor=200)
    return first, desk.done("authorize", payment_id=first["payment_id"])


@pytest.mark.parametrize("operation", ["capture", "void"])
def test_no_authorization_gives_more_than_it_holds(desk: Desk, operation: str) -> None:
    first, second = two_holds(desk)
    settled(desk, typed(desk.connection, "capture", 60, first))

    assert refusal(desk, operation, 41, first) == "parent_limit"
    typed(desk.connection, operation, 40, first)
    assert refusal(desk, operation, 1, first) == "parent_limit"
    typed(desk.connection, operation, 100, second)


def test_what_failed_does_not_count(desk: Desk) -> None:
    first, _ = two_holds(desk)
    settled(desk, typed(desk.connection, "capture", 100, first), "failed")

    typed(desk.connection, "capture", 100, first)


def test_nothing_gives_back_what_another_collected(desk: Desk) -> None:
    first, second = two_holds(desk)
    own = settled(desk, typed(desk.connection, "capture", 30, first))
    more = settled(desk, typed(desk.connection, "capture", 40, first))
    settled(desk, typed(desk.connection, "capture", 100, second))

    assert refusal(desk, "refund", 31, own) == "parent_limit"
    assert refusal(desk, "refund", 71, first) == "parent_limit"
    typed(desk.connection, "refund", 50, first)
    assert refusal(desk, "refund", 21, more) == "parent_limit"
    typed(desk.connection, "refund", 20, own)
    assert refusal(desk, "refund", 1, more) == "parent_limit"


def test_a_charge_gives_back_its_own_money(desk: Desk) -> None:
    first = desk.done(amount_minor=40, due_minor=100)
    desk.done(amount_minor=60, payment_id=first["payment_id"])

    assert refusal(desk, "refund", 41, first) == "parent_limit"
    typed(desk.connection, "refund", 40, first)


def test_a_charge_gives_back_its_own_money_once(desk: Desk) -> None:
    first = desk.done(amount_minor=40, due_minor=100)
    desk.done(amount_minor=60, payment_id=first["payment_id"])
    typed(desk.connection, "refund", 40, first)  # nobody knows yet what became of it

    assert refusal(desk, "refund", 1, first) == "parent_limit"


def test_a_parent_is_completed_of_the_payment_in_its_currency(desk: Desk) -> None:
    charged, held = desk.done(), desk.done("authorize")
    open_one = claim_row()
    assert desk.claim(open_one) == "claimed"
    refund = typed(desk.connection, "refund", 1, charged)

    for operation, parent in (
        ("capture", charged),
        ("void", charged),
        ("refund", open_one),
        ("refund", refund),
        ("refund", {**charged, "payment_id": held["payment_id"]}),
        ("refund", {**charged, "execution_id": uuid4()}),
    ):
        assert refusal(desk, operation, 1, parent) == "parent_allows_it"
    assert refusal(desk, "refund", 1, charged, currency="USD") == "parent_allows_it"


@pytest.mark.parametrize("operation", ["capture", "void"])
@pytest.mark.parametrize("failed", ["capture", "void", "refund"])
def test_a_failed_follow_up_that_may_have_run_holds_back_the_next(
    desk: Desk, failed: str, operation: str
) -> None:
    first, second = two_holds(desk)
    if failed == "refund":
        settled(desk, typed(desk.connection, "capture", 10, first))
    done = settled(desk, typed(desk.connection, failed, 10, first), "failed")
    desk.late(done)

    for parent in (first, second):
        assert refusal(desk, operation, 1, parent) == "follow_up_in_doubt"
    for many in (False, True):
        assert claimed(desk, following(operation, second), many=many) == "in_doubt"


@pytest.mark.parametrize(
    "kind", ["second_reference", "amount_differs", "currency_differs", "success_after_failure"]
)
def test_every_kind_of_news_about_money_holds_back(desk: Desk, kind: str) -> None:
    charged = desk.done()
    desk.late(settled(desk, typed(desk.connection, "refund", 10, charged), "failed"), kind)

    assert refusal(desk, "refund", 1, charged) == "follow_up_in_doubt"


@pytest.mark.parametrize("kind", ["failure_differs", "refund_failed"])
def test_news_of_no_money_holds_nothing_back(desk: Desk, kind: str) -> None:
    charged = desk.done()
    desk.late(settled(desk, typed(desk.connection, "refund", 10, charged), "failed"), kind)

    typed(desk.connection, "refund", 1, charged)


@pytest.mark.parametrize("status", ["completed", "processing"])
def test_news_about_what_has_not_failed_holds_nothing_back(desk: Desk, status: str) -> None:
    charged = desk.done()
    refund = typed(desk.connection, "refund", 10, charged)
    if status == "completed":
        settled(desk, refund)
    desk.late(refund, "amount_differs")

    typed(desk.connection, "refund", 1, charged)


def test_news_about_a_failed_charge_holds_no_refund_back(desk: Desk) -> None:
    charged = desk.done(due_minor=200)
    desk.late(desk.done(to_status="failed", payment_id=charged["payment_id"]))

    typed(desk.connection, "refund", 1, charged)


def test_another_payments_news_holds_nothing_back(desk: Desk) -> None:
    charged, other = desk.done(), desk.done()
    desk.late(settled(desk, typed(desk.connection, "refund", 10, other), "failed"))

    typed(desk.connection, "refund", 1, charged)


@pytest.mark.parametrize("key", ["railcore.adopt.{}", "railcore.refund.{}"])
def test_only_what_resolves_an_open_discrepancy_of_the_payment_passes(desk: Desk, key: str) -> None:
    charged, other = desk.done(), desk.done()
    noted, elsewhere = (
        desk.late(settled(desk, typed(desk.connection, "refund", 10, one), "failed"))
        for one in (charged, other)
    )

    for name in (uuid4(), elsewhere["discrepancy_id"], f"{noted['discrepancy_id']}.2"):
        asked = following("refund", charged, idempotency_key=key.format(name))
        assert claimed(desk, asked) == "in_doubt"
    asked = following("refund", charged, idempotency_key=key.format(noted["discrepancy_id"]))
    assert claimed(desk, asked) == "claimed"


def test_what_is_resolved_lets_nothing_more_pass(desk: Desk) -> None:
    charged = desk.done()
    failed = settled(desk, typed(desk.connection, "refund", 10, charged), "failed")
    over = desk.late(failed)
    ended = {"actor": "alice", "evidence": "slip", "resolution": "accepted", "settled_minor": 0}
    nothing = {"resolving_execution_id": None, "event_id": uuid4()}
    assert desk.run("resolve", {**over, **ended, **nothing})[0]["verdict"] == "resolved"
    assert claimed(desk, following("refund", charged)) == "claimed"
    desk.late(failed)

    key = f"railcore.refund.{over['discrepancy_id']}"
    assert claimed(desk, following("refund", charged, idempotency_key=key)) == "in_doubt"


def test_news_that_a_follow_up_waited_for_holds_it_back(desk: Desk, shared_url: str) -> None:
    charged = desk.done()
    failed = settled(desk, typed(desk.connection, "refund", 10, charged), "failed")
    ready, late = statement("discrepancy"), late_row(failed)
    with (
        psycopg.connect(conninfo(shared_url)) as telling,
        psycopg.connect(conninfo(shared_url)) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        telling.execute(ready.named.encode(), {it: late[it] for it in ready.names})
        waiting = thread.submit(typed, other, "refund", 60, charged)
        await_who_waits(shared_url)
        telling.commit()
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            waiting.result()
        other.rollback()
    assert caught.value.diag.constraint_name == "follow_up_in_doubt"


def test_of_sixty_and_sixty_typed_at_once_one_is_refused(desk: Desk, shared_url: str) -> None:
    for _ in range(10):
        parent = desk.done()
        with (
            psycopg.connect(conninfo(shared_url)) as one,
            psycopg.connect(conninfo(shared_url)) as other,
            ThreadPoolExecutor(1) as thread,
        ):
            typed(one, "refund", 60, parent)  # not committed yet
            waiting = thread.submit(typed, other, "refund", 60, parent)
            one.commit()
            with pytest.raises(psycopg.errors.CheckViolation):
                waiting.result()
            other.rollback()
        assert desk.head(parent)["refunding"] == 60


def test_sixty_and_sixty_of_one_charge_of_two_wait_for_each_other(
    desk: Desk, shared_url: str
) -> None:
    parent = desk.done(due_minor=200)
    desk.done(payment_id=parent["payment_id"])  # so that the payment as a whole has room
    with (
        psycopg.connect(conninfo(shared_url)) as one,
        psycopg.connect(conninfo(shared_url)) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        typed(one, "refund", 60, parent)  # not committed yet
        waiting = thread.submit(typed, other, "refund", 60, parent)
        await_who_waits(shared_url)
        one.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="parent_limit"):
            waiting.result()
        other.rollback()
    assert desk.head(parent)["refunding"] == 60


# The engine ---------------------------------------------------------------------------------------


def context(number: int, key: str, minor: int, parent: PaymentExecution | None) -> PaymentContext:
    return PaymentContext(
        tenant_id="acme",
        payment_id=f"race-{number}",
        idempotency_key=f"race-{number}/{key}",
        money=Money(minor, SAR),
        payment_option_key="card",
        operation=Operation.REFUND if parent else Operation.CHARGE,
        parent_execution_id=parent.execution_id if parent else None,
    )


def test_of_sixty_and_sixty_by_threads_one_is_refused(database_url: str) -> None:
    database = sqlalchemy.create_engine(database_url)
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail())
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    engine = PaymentEngine(rails=rails, routes=routes, store=SqlExecutionStore(database))
    for number in range(10):
        parent = engine.execute(context(number, "c", 100, None))
        start = threading.Barrier(2)

        def race(key: str, n: int = number, of: Any = parent, at: Any = start) -> object:
            at.wait()
            return attempt(lambda: engine.execute(context(n, key, 60, of)).status)

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(race, "ab"))
        assert sorted(map(str, answers)) == ["completed", "refused"]
        payment = engine.payment("acme", f"race-{number}")
        assert payment is not None
        assert (payment.refunded_minor, payment.refunding_minor) == (60, 0)
    database.dispose()


async def test_of_sixty_and_sixty_by_tasks_one_is_refused(database_url: str) -> None:
    database = create_async_engine(database_url)
    rails = PaymentRailRegistry[AsyncRail]()
    rails.register(PaymentRail.CARD_PSP, "stub", AsyncFakeRail(FakeRail()))
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    engine = AsyncPaymentEngine(rails=rails, routes=routes, store=AsyncSqlExecutionStore(database))
    for number in range(10):
        parent = await engine.execute(context(number, "c", 100, None))
        answers = await asyncio.gather(
            *(engine.execute(context(number, key, 60, parent)) for key in "ab"),
            return_exceptions=True,
        )
        done = [one for one in answers if isinstance(one, PaymentExecution)]
        assert [one.status for one in done] == [ExecutionStatus.COMPLETED]
        assert [type(one) in REFUSED for one in answers].count(True) == 1
    await database.dispose()


def attempt(call: Callable[[], ExecutionStatus]) -> str:
    try:
        return str(call())
    except REFUSED:
        return "refused"
