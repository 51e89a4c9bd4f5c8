"""IR: the same request twice, at once, much later, or in somebody's way."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore.clock import Deadline
from railcore.engine import PaymentEngine
from railcore.enums import ExecutionStatus, PaymentRail
from railcore.errors import IdempotencyConflict, InProgressError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.money import JPY, KWD, SAR, Money
from railcore.ports import Rail
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import conninfo
from tests.core.hosts import ROUTES, FakeRail
from tests.core.made import context

RACERS = 40
COMPLETED, PROCESSING = ExecutionStatus.COMPLETED, ExecutionStatus.PROCESSING
TIMEOUTS = "-c lock_timeout=400ms -c idle_in_transaction_session_timeout=5s"
LONGEST_WAIT_S = 0.5


@attrs.define
class SlowRail(FakeRail):
    """Answers when it may."""

    may_answer: threading.Event = attrs.field(factory=threading.Event)
    is_asked: threading.Event = attrs.field(factory=threading.Event)

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        self.is_asked.set()
        assert self.may_answer.wait(20)
        return super().execute(execution, send_by=send_by)


@attrs.frozen
class Shop:
    """An engine over PostgreSQL, its rail, and the database by hand."""

    engine: PaymentEngine
    rail: SlowRail
    hand: psycopg.Connection[Any]
    url: str

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        cursor = self.hand.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    database = sqlalchemy.create_engine(
        database_url, pool_size=10, max_overflow=0, connect_args={"options": TIMEOUTS}
    )
    rail = SlowRail()
    rail.may_answer.set()
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", rail)
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    engine = PaymentEngine(rails=rails, routes=routes, store=SqlExecutionStore(database))
    with psycopg.connect(conninfo(database_url), autocommit=True, prepare_threshold=None) as hand:
        yield Shop(engine, rail, hand, database_url)
    database.dispose()


def test_ir1_of_forty_threads_with_one_key_one_executes(shop: Shop) -> None:
    barrier = threading.Barrier(RACERS)

    def race(_: int) -> PaymentExecution:
        barrier.wait()
        return shop.engine.execute(context())

    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(race, range(RACERS)))

    assert len({one.execution_id for one in answers}) == 1
    assert len(shop.rail.sent) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"money": Money(1251, SAR)},
        {"money": Money(1250, KWD)},
        {"money": Money(1250, JPY)},
        {"instrument_token": "tok_other"},
        {"payer_token": "payer-2"},
        {"payment_id": "inv-2"},
        {"payment_option_key": "card.visa"},
    ],
    ids=str,
)
def test_ir2_a_known_key_with_another_body_is_a_conflict(
    shop: Shop, changed: dict[str, Any]
) -> None:
    first = shop.engine.execute(context())

    with pytest.raises(IdempotencyConflict) as conflict:
        shop.engine.execute(context(**changed))

    assert conflict.value.execution_id == first.execution_id
    assert len(shop.rail.sent) == 1
    assert shop.engine.execute(context()) == first
    assert shop.sql("select count(*) from railcore_execution") == [(1,)]


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}),
        ({"name": "café"}, {"name": "cafe\u0301"}),
        ({"note": "1"}, {"note": "1.0"}),
    ],
    ids=["key order", "unicode forms", "1 and 1.0"],
)
def test_ir2_what_moves_no_money_is_no_other_body(
    shop: Shop, first: dict[str, str], again: dict[str, str]
) -> None:
    known = shop.engine.execute(context(metadata=first))

    assert shop.engine.execute(context(metadata=again)) == known
    assert len(shop.rail.sent) == 1


@pytest.mark.parametrize("amount", [1.0, "1", True, 1e3])
def test_ir2_an_amount_has_one_form_only(amount: Any) -> None:
    with pytest.raises(InvalidValueError):
        Money(amount, SAR)


def test_ir2_the_same_key_of_two_tenants_is_two_requests(shop: Shop) -> None:
    ours = shop.engine.execute(context())
    theirs = shop.engine.execute(context(tenant_id="other", money=Money(7, SAR)))

    assert ours.execution_id != theirs.execution_id
    assert ours.provider_key != theirs.provider_key
    assert [one.status for one in (ours, theirs)] == [COMPLETED, COMPLETED]
    assert shop.engine.execute(context()) == ours


def test_ir3_asked_again_while_it_is_under_way_it_is_told_at_once(shop: Shop) -> None:
    shop.rail.may_answer.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(shop.engine.execute, context())
        assert shop.rail.is_asked.wait(20)

        started_s = time.monotonic()
        again = shop.engine.execute(context())
        took_s = time.monotonic() - started_s
        shop.rail.may_answer.set()

    assert again.status is PROCESSING
    assert again.next_check_at is not None  # when to come back at the latest
    assert took_s < LONGEST_WAIT_S
    assert first.result().execution_id == again.execution_id
    assert len(shop.rail.sent) == 1


@pytest.mark.usefixtures("own_sessions")
def test_ir4_a_key_that_a_transaction_holds_is_in_progress_until_the_server_ends_it(
    shop: Shop,
) -> None:
    idle = f"{TIMEOUTS} -c idle_in_transaction_session_timeout=1500ms"
    orphan = sqlalchemy.create_engine(shop.url, connect_args={"options": idle})
    connection = orphan.connect()
    connection.begin()
    shop.engine.enqueue(context(), connection=connection)  # and then nothing more is heard of it

    started_s = time.monotonic()
    with pytest.raises(InProgressError) as busy:
        shop.engine.execute(context())
    waited_s = time.monotonic() - started_s
    assert waited_s < LONGEST_WAIT_S + 0.1
    assert busy.value.retry_after.total_seconds() > 0
    assert shop.rail.sent == []

    while True:
        try:
            after = shop.engine.execute(context())
            break
        except InProgressError:
            assert time.monotonic() - started_s < 10

    assert after.status is COMPLETED
    assert len(shop.rail.sent) == 1
    connection.invalidate()
    connection.close()
    orphan.dispose()


def test_ir5_a_key_of_years_ago_has_the_same_answer(shop: Shop) -> None:
    first = shop.engine.execute(context())
    shop.sql("alter table railcore_execution disable trigger user")
    shop.sql(
        "update railcore_execution set created_at = created_at - interval '9 years',"
        " updated_at = updated_at - interval '9 years',"
        " first_sent_at = first_sent_at - interval '9 years',"
        " last_sent_at = last_sent_at - interval '9 years'"
    )
    shop.sql("alter table railcore_execution enable trigger user")

    again = shop.engine.execute(context())

    assert (again.execution_id, again.status) == (first.execution_id, COMPLETED)
    assert again.provider_key == first.provider_key
    assert len(shop.rail.sent) == 1
    with pytest.raises(IdempotencyConflict):
        shop.engine.execute(context(money=Money(1, SAR)))


BREAK = """
create sequence broken;
create function breaks() returns trigger language plpgsql as $$
begin
  if nextval('broken') <= {times} then
    raise exception 'made for this test' using errcode = '{state}';
  end if;
  return new;
end $$;
create trigger breaks before insert on railcore_outbox for each row execute function breaks();
"""


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_ir6_a_claim_that_meets_a_deadlock_is_made_again(shop: Shop, state: str) -> None:
    shop.sql(BREAK.format(times=2, state=state))

    after = shop.engine.execute(context())

    assert after.status is COMPLETED
    assert len(shop.rail.sent) == 1
    assert [event.seq for event in shop.engine.events("acme", "inv-1")] == [1, 2]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_ir6_a_claim_that_meets_deadlocks_without_end_leaves_nothing(
    shop: Shop, state: str
) -> None:
    shop.sql(BREAK.format(times=1000, state=state))

    with pytest.raises(InProgressError):
        shop.engine.execute(context())

    assert shop.rail.sent == []
    for table in ("execution", "payment", "event", "outbox"):
        assert shop.sql(f"select count(*) from railcore_{table}") == [(0,)]
    assert shop.sql("select last_value from broken") == [(3,)]


def test_ir6_an_outcome_that_meets_a_deadlock_is_recorded_all_the_same(shop: Shop) -> None:
    shop.rail.answer = lambda execution: (
        shop.sql(BREAK.format(times=2, state="40P01")),
        RailResult.success("ch_1", execution.money),
    )[1]

    after = shop.engine.execute(context())

    assert after.status is COMPLETED
    assert len(shop.rail.sent) == 1
