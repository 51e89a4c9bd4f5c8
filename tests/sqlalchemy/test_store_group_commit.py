"""What is in flight shares statements, and nobody pays for a neighbour."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation
from railcore.errors import InvalidValueError, StoreError
from railcore.money import SAR, Money
from railcore.protocol import Claim, ClaimOutcome, ClaimVerdict
from railcore.testing.contracts.execution_store import (
    REFUSED,
    TENANT,
    asked,
    claim,
    claim_of,
    complete,
    following,
    recording_of,
    success_of,
)
from railcore_sqlalchemy import group_commit, queries
from railcore_sqlalchemy.driver import AsyncDriver, Query
from railcore_sqlalchemy.group_commit import GroupCommit
from railcore_sqlalchemy.queries import Request
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.sqlalchemy.bystander import another, terminate_who_waits

TIMEOUTS = {"options": "-c lock_timeout=400ms -c idle_in_transaction_session_timeout=5s"}
HOLD = "select from railcore_payment where payment_id = 'invoice-1' for update"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine with a single connection, which is enough for any number of callers."""
    engine = create_async_engine(
        database_url, connect_args=TIMEOUTS, pool_size=1, max_overflow=0, pool_timeout=5
    )
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> AsyncSqlExecutionStore:
    return AsyncSqlExecutionStore(engine)


@pytest.fixture
def sync_store(database_url: str) -> Iterator[SqlExecutionStore]:
    engine = sqlalchemy.create_engine(database_url, connect_args=TIMEOUTS)
    yield SqlExecutionStore(engine)
    engine.dispose()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that are sent, as they are sent."""
    sent: list[str] = []
    ask = AsyncDriver.ask

    async def counting(driver: AsyncDriver, query: Query) -> Sequence[Any]:
        sent.append(query.template.name)
        return await ask(driver, query)

    monkeypatch.setattr(AsyncDriver, "ask", counting)
    return sent


def apart(count: int) -> list[PaymentContext]:
    """Charges of as many payments."""
    return [asked(f"k{n}", payment_id=f"invoice-{n}") for n in range(count)]


def broken(context: PaymentContext) -> Claim:
    """A claim that PostgreSQL refuses as a whole: its bucket is no smallint."""
    good = claim_of(context)
    return attrs.evolve(good, event=attrs.evolve(good.event, bucket=70_000))


def verdicts(outcomes: Sequence[object]) -> list[ClaimVerdict | None]:
    return [one.verdict if isinstance(one, ClaimOutcome) else None for one in outcomes]


async def test_sixty_four_claims_share_a_statement(
    store: AsyncSqlExecutionStore, statements: list[str]
) -> None:
    outcomes = await asyncio.gather(*[store.claim(claim_of(one)) for one in apart(64)])

    assert statements == ["claim_many"]
    assert set(verdicts(outcomes)) == {ClaimVerdict.CLAIMED}


async def test_sixty_four_records_share_a_statement(
    store: AsyncSqlExecutionStore, statements: list[str]
) -> None:
    claimed = await asyncio.gather(*[store.claim(claim_of(one)) for one in apart(64)])
    executions = [one.execution for one in claimed if one.execution]
    statements.clear()

    recorded = await asyncio.gather(
        *[store.record(recording_of(one, success_of(one))) for one in executions]
    )

    assert statements == ["record_many"]
    assert {one.status for one in recorded if one} == {ExecutionStatus.COMPLETED}
    assert [await store.get(TENANT, one.execution_id) for one in executions] == recorded


async def test_a_lone_caller_takes_the_single_form(
    store: AsyncSqlExecutionStore, statements: list[str]
) -> None:
    await store.claim(claim_of(asked("k1")))

    assert statements == ["claim"]


async def test_one_connection_serves_any_number_of_callers(store: AsyncSqlExecutionStore) -> None:
    async def pay(context: PaymentContext) -> ExecutionStatus:
        claimed = (await store.claim(claim_of(context))).execution
        assert claimed is not None
        recorded = await store.record(recording_of(claimed, success_of(claimed)))
        assert recorded is not None
        return recorded.status

    paid = await asyncio.gather(*[pay(one) for one in apart(300)])

    assert set(paid) == {ExecutionStatus.COMPLETED}


async def test_charges_of_one_payment_take_turns(store: AsyncSqlExecutionStore) -> None:
    due = Money(20, SAR)
    claims = [claim_of(asked(f"k{n}", 1, due=due)) for n in range(21)]

    outcomes = await asyncio.gather(*[store.claim(one) for one in claims])

    assert verdicts(outcomes) == [*[ClaimVerdict.CLAIMED] * 20, ClaimVerdict.LIVE]
    assert [event.seq for event in await store.events(TENANT, "invoice-1")] == [*range(1, 21)]


async def test_one_key_in_one_batch_is_claimed_once(store: AsyncSqlExecutionStore) -> None:
    claims = [claim_of(asked("k1", payment_id=f"invoice-{n % 3}")) for n in range(12)]

    outcomes = await asyncio.gather(*[store.claim(one) for one in claims])

    found = verdicts(outcomes)
    assert found.count(ClaimVerdict.CLAIMED) == 1
    assert found.count(ClaimVerdict.DUPLICATE) == 11
    assert len({one.execution.payment_id for one in outcomes if one.execution}) == 1


async def test_one_bad_row_fails_alone(store: AsyncSqlExecutionStore) -> None:
    claims = [claim_of(one) for one in apart(9)]
    claims[4] = broken(apart(9)[4])

    outcomes = await asyncio.gather(*[store.claim(one) for one in claims], return_exceptions=True)

    assert verdicts(outcomes) == [None if n == 4 else ClaimVerdict.CLAIMED for n in range(9)]
    error = outcomes[4]
    assert isinstance(error, StoreError)
    assert not error.may_have_committed
    assert await store.find(TENANT, "k4") is None


async def test_a_member_that_is_no_json_stays_with_its_caller(
    store: AsyncSqlExecutionStore, statements: list[str]
) -> None:
    wrong = claim_of(asked("k1"))
    wrong = attrs.evolve(wrong, event=attrs.evolve(wrong.event, payload={"rate": float("nan")}))

    outcomes = await asyncio.gather(
        store.claim(wrong), store.claim(claim_of(asked("k2"))), return_exceptions=True
    )

    assert isinstance(outcomes[0], InvalidValueError)
    assert verdicts(outcomes[1:]) == [ClaimVerdict.CLAIMED]
    assert statements == ["claim"]


async def test_a_caller_cancelled_before_the_statement_is_not_written(
    store: AsyncSqlExecutionStore,
) -> None:
    callers = [asyncio.create_task(store.claim(claim_of(one))) for one in apart(10)]
    await asyncio.sleep(0)  # all wait, nothing is sent yet
    callers[3].cancel()

    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert verdicts(outcomes) == [None if n == 3 else ClaimVerdict.CLAIMED for n in range(10)]
    assert await store.find(TENANT, "k3") is None


async def test_a_caller_cancelled_during_the_statement_takes_nobody_along(
    store: AsyncSqlExecutionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, ask = asyncio.Event(), AsyncDriver.ask

    async def slowly(driver: AsyncDriver, query: Query) -> Sequence[Any]:
        under_way.set()
        await asyncio.sleep(0.02)
        return await ask(driver, query)

    monkeypatch.setattr(AsyncDriver, "ask", slowly)
    callers = [asyncio.create_task(store.claim(claim_of(one))) for one in apart(10)]
    await under_way.wait()
    callers[3].cancel()

    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert verdicts(outcomes) == [None if n == 3 else ClaimVerdict.CLAIMED for n in range(10)]
    assert await store.find(TENANT, "k3") is not None  # stored, leased, and looked at later


@pytest.mark.usefixtures("own_sessions")
async def test_a_lost_connection_leaves_every_caller_in_doubt(
    store: AsyncSqlExecutionStore, database_url: str
) -> None:
    claims = [claim_of(one) for one in apart(5)]

    with another(database_url, "lock table railcore_execution in exclusive mode"):
        callers = [asyncio.create_task(store.claim(one)) for one in claims]
        await asyncio.to_thread(terminate_who_waits, database_url)
        outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert [getattr(one, "may_have_committed", None) for one in outcomes] == [True] * 5
    again = await asyncio.gather(*[store.claim(one) for one in claims])
    assert set(verdicts(again)) <= {ClaimVerdict.CLAIMED, ClaimVerdict.DUPLICATE}


async def test_nobody_waits_for_a_payment_that_somebody_holds(
    store: AsyncSqlExecutionStore, sync_store: SqlExecutionStore, database_url: str
) -> None:
    parent = complete(sync_store, claim(sync_store, asked("k1")))
    refund = claim_of(following("r1", Operation.REFUND, parent, 40))
    others = [claim_of(asked(f"n{n}", payment_id=f"other-{n}")) for n in range(5)]

    with another(database_url, HOLD) as holder:
        held = asyncio.create_task(store.claim(refund))
        outcomes = await asyncio.gather(*[store.claim(one) for one in others])
        assert not held.done()
        holder.rollback()
        assert (await held).verdict is ClaimVerdict.CLAIMED

    assert set(verdicts(outcomes)) == {ClaimVerdict.CLAIMED}


async def test_without_a_connection_every_caller_hears_of_it(database_url: str) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    store = AsyncSqlExecutionStore(engine)

    async with engine.connect():
        outcomes = await asyncio.gather(
            *[store.claim(claim_of(one)) for one in apart(5)], return_exceptions=True
        )

    assert [getattr(one, "may_have_committed", None) for one in outcomes] == [False] * 5
    assert (await store.claim(claim_of(asked("k1")))).verdict is ClaimVerdict.CLAIMED
    await engine.dispose()


async def test_a_defect_leaves_nobody_waiting_for_ever(
    store: AsyncSqlExecutionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(group_commit, "share", defective)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    callers = [asyncio.create_task(store.claim(claim_of(one))) for one in apart(3)]
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    monkeypatch.undo()

    assert [getattr(one, "may_have_committed", None) for one in outcomes] == [True] * 3
    assert (await store.claim(claim_of(asked("k1")))).verdict is ClaimVerdict.CLAIMED


class NoDatabase:
    """Claims what it is asked to; the first session never opens."""

    opened = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        self.opened += 1
        if self.opened == 1:
            await asyncio.Event().wait()

        async def ask(query: Query) -> Sequence[Any]:
            assert query.template.name == "claim"
            return [{"verdict": "claimed", "seq": 1, "at": datetime.now(UTC)}]

        yield ask


def test_a_store_outlives_an_event_loop() -> None:
    group = GroupCommit(queries.CLAIMS, NoDatabase(), size=64, writers=1)

    async def left_behind() -> None:
        callers = [asyncio.create_task(group.submit(request(one))) for one in apart(4)]
        await asyncio.wait(callers, timeout=0.01)

    async def claimed() -> ClaimOutcome:
        return await asyncio.wait_for(group.submit(request(asked("k9"))), 5)

    def request(context: PaymentContext) -> Request[Claim]:
        return queries.claim_request(claim_of(context))

    asyncio.run(left_behind())
    assert asyncio.run(claimed()).verdict is ClaimVerdict.CLAIMED


# Lists ------------------------------------------------------------------------------------------


def test_a_list_of_claims_keeps_its_order(sync_store: SqlExecutionStore) -> None:
    first = claim(sync_store, asked("known", payment_id="known"))
    contexts = [*apart(3), asked("known", payment_id="known"), asked("other", payment_id="known")]
    claims = [claim_of(one) for one in contexts]
    claims[1] = broken(contexts[1])

    outcomes = sync_store.claim_many(claims)

    assert verdicts(outcomes) == [
        ClaimVerdict.CLAIMED,
        None,
        ClaimVerdict.CLAIMED,
        ClaimVerdict.DUPLICATE,
        ClaimVerdict.LIVE,
    ]
    assert isinstance(outcomes[1], StoreError)
    assert outcomes[3] == ClaimOutcome(ClaimVerdict.DUPLICATE, first)


def test_a_list_of_records_keeps_its_order(sync_store: SqlExecutionStore) -> None:
    claimed = [claim(sync_store, one) for one in apart(4)]
    complete(sync_store, claimed[1])
    recordings = [recording_of(one, success_of(one)) for one in claimed]
    recordings.append(recording_of(claimed[0], REFUSED))

    recorded = sync_store.record_many(recordings)

    assert [getattr(one, "status", None) for one in recorded] == [
        ExecutionStatus.COMPLETED,
        None,
        ExecutionStatus.COMPLETED,
        ExecutionStatus.COMPLETED,
        None,
    ]
    assert recorded[2] == sync_store.get(TENANT, claimed[2].execution_id)


def test_nothing_is_claimed_for_an_empty_list(sync_store: SqlExecutionStore) -> None:
    assert sync_store.claim_many([]) == []
    assert sync_store.record_many([]) == []


async def test_both_colours_claim_lists(store: AsyncSqlExecutionStore) -> None:
    outcomes = await store.claim_many([claim_of(one) for one in apart(100)])

    assert set(verdicts(outcomes)) == {ClaimVerdict.CLAIMED}
    assert len(await store.open_executions(200)) == 100
