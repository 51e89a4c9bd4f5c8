"""How the stores use a host's connections: briefly, cleanly, and honestly when one is lost."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import attrs
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from railcore.enums import ExecutionStatus, Operation
from railcore.errors import InProgressError, MisconfiguredError, StoreError
from railcore.protocol import ClaimVerdict
from railcore.testing.contracts.execution_store import (
    TENANT,
    asked,
    claim,
    claim_of,
    complete,
    following,
    recording_of,
    success_of,
)
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore, SqlExecutionStore
from tests.sqlalchemy.bystander import another, terminate_who_waits

TIMEOUTS = "-c lock_timeout=400ms -c idle_in_transaction_session_timeout=5s"
HOLD = "select from railcore_payment where payment_id = 'invoice-1' for update"
LOCK = "lock table railcore_execution in access exclusive mode"


def engine_of(url: str, options: str = TIMEOUTS, **settings: Any) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, connect_args={"options": options}, **settings)


@pytest.fixture
def engine(database_url: str) -> Iterator[sqlalchemy.Engine]:
    engine = engine_of(database_url, pool_size=1, max_overflow=0, pool_timeout=0.3)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sqlalchemy.Engine) -> SqlExecutionStore:
    return SqlExecutionStore(engine)


# A connection is borrowed for a statement -------------------------------------------------------


def test_every_method_gives_its_connection_back(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    claimed = claim(store, asked("k1"))
    calls: list[Callable[[], object]] = [
        lambda: store.claim(claim_of(asked("k2"))),
        lambda: store.mark_sent(claimed, 1.0),
        lambda: store.record(recording_of(claimed, success_of(claimed))),
        lambda: store.acquire(TENANT, claimed.execution_id, "me", 1.0),
        lambda: store.reschedule(claimed, 1.0),
        lambda: store.get(TENANT, claimed.execution_id),
        lambda: store.open_executions(5),
        lambda: store.events(TENANT, "invoice-1"),
    ]
    for call in calls:
        call()
        with engine.begin() as connection:  # there is one connection, and it is not in our way
            connection.exec_driver_sql("select 1")


def test_a_connection_comes_back_as_it_was(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    claim(store, asked("k1"))

    with engine.connect() as connection:
        connection.exec_driver_sql("update railcore_bucket set token = 9 where bucket = 0")
        connection.rollback()
        found = connection.exec_driver_sql("select token from railcore_bucket where bucket = 0")
        assert found.scalar() == 0


def test_an_engine_in_autocommit_mode_is_welcome(database_url: str) -> None:
    engine = engine_of(database_url, isolation_level="AUTOCOMMIT")

    store = SqlExecutionStore(engine)
    complete(store, claim(store, asked("k1")))

    assert store.payment(TENANT, "invoice-1") is not None
    engine.dispose()


def test_what_a_pool_event_sets_is_kept(database_url: str) -> None:
    engine = engine_of(database_url)

    @sqlalchemy.event.listens_for(engine, "checkout")
    def set_name(connection: Any, *_: object) -> None:
        connection.execute("set application_name = 'host'")

    store = SqlExecutionStore(engine)
    claim(store, asked("k1"))

    with engine.connect() as connection:
        assert connection.exec_driver_sql("show application_name").scalar() == "host"
    engine.dispose()


def test_the_hot_statements_are_prepared_once(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    for key in "abc":
        complete(store, claim(store, asked(key, payment_id=key)))

    assert prepared_in(engine) == ["claim", "record"]


def test_db4_nothing_is_prepared_where_it_must_not(database_url: str) -> None:
    engine = engine_of(database_url, pool_size=1, max_overflow=0)
    store = SqlExecutionStore(engine, prepare=False)

    complete(store, claim(store, asked("k1")))

    assert prepared_in(engine) == []
    engine.dispose()


def test_a_host_may_discard_what_is_prepared(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    claim(store, asked("k1"))
    with engine.begin() as connection:
        connection.exec_driver_sql("deallocate all")

    claim(store, asked("k2", payment_id="invoice-2"))


def test_db4_a_pooler_may_change_servers(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    claim(store, asked("k1"))
    borrowed = engine.raw_connection()
    borrowed.info.clear()  # another server of a pooler, which somebody else has prepared it on
    borrowed.close()

    claim(store, asked("k2", payment_id="invoice-2"))

    assert prepared_in(engine) == ["claim"]


def test_how_a_host_reads_its_rows_is_its_own(database_url: str) -> None:
    options = f"{TIMEOUTS} -c timezone=Asia/Riyadh -c datestyle=SQL,DMY -c bytea_output=escape"
    engine = engine_of(database_url, options, json_deserializer=lambda _: "the host's")
    store = SqlExecutionStore(engine)

    claimed = claim(store, asked("k1", metadata={"a": "b"}))

    assert store.find(TENANT, "k1") == claimed
    assert claimed.created_at is not None
    assert claimed.created_at.utcoffset() == timedelta(0)
    engine.dispose()


def prepared_in(engine: sqlalchemy.Engine) -> list[str]:
    with engine.begin() as connection:
        names = connection.exec_driver_sql(
            "select name from pg_prepared_statements where name like 'railcore%%' order by name"
        )
        return [name.removeprefix("railcore_").rpartition("_")[0] for name in names.scalars()]


def test_the_stored_fingerprint_is_that_of_the_context_read_back(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    context = asked("k1", payer_token="payer_1", metadata={"a": "b"}, merchant_initiated=True)
    claim(store, context)

    with engine.begin() as connection:
        columns = "select fingerprint, provider_key from railcore_execution"
        fingerprint, provider_key = connection.exec_driver_sql(columns).one()

    stored = store.find(TENANT, "k1")
    assert stored is not None
    assert fingerprint == context.fingerprint == stored.context.fingerprint
    assert provider_key == context.provider_key == stored.provider_key


def test_only_psycopg_is_spoken() -> None:
    with pytest.raises(MisconfiguredError, match="psycopg 3, not sqlite"):
        SqlExecutionStore(sqlalchemy.create_engine("sqlite://"))


# Waiting is bounded -----------------------------------------------------------------------------


def test_ir4_a_held_payment_is_in_progress_elsewhere(
    store: SqlExecutionStore, database_url: str
) -> None:
    parent = complete(store, claim(store, asked("k1")))

    with another(database_url, HOLD), pytest.raises(InProgressError, match="invoice-1"):
        store.claim(claim_of(following("r1", Operation.REFUND, parent, 40)))

    claim(store, following("r1", Operation.REFUND, parent, 40))


def test_cf2_a_pool_without_a_free_connection_leaves_no_doubt(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    with engine.connect(), pytest.raises(StoreError) as raised:
        store.claim(claim_of(asked("k1")))

    assert not raised.value.may_have_committed
    claim(store, asked("k1"))


def test_a_server_that_is_not_there_leaves_no_doubt() -> None:
    store = SqlExecutionStore(engine_of("postgresql+psycopg://nobody@127.0.0.1:1/none"))

    with pytest.raises(StoreError) as raised:
        store.claim(claim_of(asked("k1")))

    assert not raised.value.may_have_committed


# A lost connection ------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_sessions")
def test_a_claim_whose_connection_is_lost_may_have_committed(
    store: SqlExecutionStore, database_url: str
) -> None:
    parent = complete(store, claim(store, asked("k1")))
    refund = following("r1", Operation.REFUND, parent, 40)

    with another(database_url, HOLD), ThreadPoolExecutor(1) as pool:
        claiming = pool.submit(store.claim, claim_of(refund))
        terminate_who_waits(database_url)
        with pytest.raises(StoreError) as raised:
            claiming.result(10)

    assert raised.value.may_have_committed
    assert store.claim(claim_of(refund)).verdict is ClaimVerdict.CLAIMED


@pytest.mark.usefixtures("own_sessions")
def test_a_record_whose_connection_is_lost_may_have_committed(
    store: SqlExecutionStore, database_url: str
) -> None:
    claimed = claim(store, asked("k1"))

    with another(database_url, HOLD), ThreadPoolExecutor(1) as pool:
        recording = pool.submit(store.record, recording_of(claimed, success_of(claimed)))
        terminate_who_waits(database_url)
        with pytest.raises(StoreError) as raised:
            recording.result(10)

    assert raised.value.may_have_committed
    assert complete(store, claimed).status is ExecutionStatus.COMPLETED


@pytest.mark.usefixtures("own_sessions")
def test_a_lost_read_has_changed_nothing(store: SqlExecutionStore, database_url: str) -> None:
    with another(database_url, LOCK), ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.find, TENANT, "k1")
        terminate_who_waits(database_url)
        with pytest.raises(StoreError) as raised:
            reading.result(10)

    assert not raised.value.may_have_committed
    assert store.find(TENANT, "k1") is None


def test_an_error_repeats_no_value_of_a_row(store: SqlExecutionStore) -> None:
    broken = claim_of(asked("k1", instrument_token="tok_secret"))
    broken = attrs.evolve(broken, event=attrs.evolve(broken.event, bucket=70_000))

    with pytest.raises(StoreError) as raised:
        store.claim(broken)

    assert "out of range" in str(raised.value)
    assert "tok_secret" not in f"{raised.value} {raised.value.__cause__}"


# Inside a host's transaction --------------------------------------------------------------------


def test_what_is_claimed_within_is_committed_by_the_host(
    store: SqlExecutionStore, engine: sqlalchemy.Engine, database_url: str
) -> None:
    with engine.connect() as connection:
        claimed = store.within(connection).claim(claim_of(asked("k1"), is_sent=False))
        with another(database_url) as outside:
            assert outside.execute("select from railcore_execution").fetchone() is None
        connection.commit()

    assert store.find(TENANT, "k1") == claimed.execution


def test_what_is_claimed_within_goes_when_the_host_rolls_back(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    with engine.connect() as connection:
        store.within(connection).claim(claim_of(asked("k1"), is_sent=False))
        connection.rollback()

    assert store.find(TENANT, "k1") is None
    claim(store, asked("k1"))


def test_a_refusal_leaves_the_hosts_transaction_as_it_was(
    store: SqlExecutionStore, engine: sqlalchemy.Engine, database_url: str
) -> None:
    parent = complete(store, claim(store, asked("k1")))
    with engine.begin() as connection:
        within = store.within(connection)
        within.claim(claim_of(asked("k2", payment_id="invoice-2"), is_sent=False))
        with another(database_url, HOLD), pytest.raises(InProgressError):
            within.claim(claim_of(following("r1", Operation.REFUND, parent), is_sent=False))
        live = within.claim(claim_of(asked("k3"), is_sent=False))
        assert live.verdict is ClaimVerdict.LIVE
        known = within.claim(claim_of(asked("k2"), is_sent=False))
        assert known.verdict is ClaimVerdict.DUPLICATE

    assert store.find(TENANT, "k2") is not None
    assert store.find(TENANT, "r1") is None


def test_many_are_claimed_within(store: SqlExecutionStore, engine: sqlalchemy.Engine) -> None:
    claims = [claim_of(asked(key, payment_id=key), is_sent=False) for key in "abcde"]

    with engine.begin() as connection:
        outcomes = store.within(connection).claim_many(claims)
        assert all(getattr(one, "verdict", None) is ClaimVerdict.CLAIMED for one in outcomes)

    assert len(store.open_executions(10)) == 5


def test_there_is_no_transaction_to_join_in_autocommit_mode(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(MisconfiguredError, match="no transaction to join"),
    ):
        store.within(connection).find(TENANT, "k1")


def test_nothing_is_sent_from_inside_a_hosts_transaction(
    store: SqlExecutionStore, engine: sqlalchemy.Engine
) -> None:
    committed = claim(store, asked("k1"))
    with engine.begin() as connection:
        within = store.within(connection)
        for step in (
            lambda: within.claim(claim_of(asked("k2", payment_id="invoice-2"))),
            lambda: within.claim_many([claim_of(asked("k2", payment_id="invoice-2"))]),
            lambda: within.acquire(TENANT, committed.execution_id, "me", 1.0),
            lambda: within.mark_sent(committed, 1.0),
        ):
            with pytest.raises(MisconfiguredError, match="committed before anything is sent"):
                step()

    assert store.find(TENANT, "k2") is None
    assert store.get(TENANT, committed.execution_id) == committed


@pytest.fixture
def async_engine(database_url: str) -> AsyncEngine:
    return create_async_engine(
        database_url, connect_args={"options": TIMEOUTS}, pool_size=2, max_overflow=0
    )


async def test_an_async_host_commits_what_is_claimed_within(async_engine: AsyncEngine) -> None:
    store = AsyncSqlExecutionStore(async_engine)
    async with async_engine.begin() as connection:
        within = store.within(connection)
        claimed = (await within.claim(claim_of(asked("k1"), is_sent=False))).execution
        assert await store.find(TENANT, "k1") is None
        live = await within.claim(claim_of(asked("k2"), is_sent=False))
        assert live.verdict is ClaimVerdict.LIVE

    assert await store.find(TENANT, "k1") == claimed
    await async_engine.dispose()


async def test_an_async_host_takes_back_what_is_claimed_within(async_engine: AsyncEngine) -> None:
    store = AsyncSqlExecutionStore(async_engine)
    async with async_engine.connect() as connection:
        await store.within(connection).claim(claim_of(asked("k1"), is_sent=False))
        await connection.rollback()

    assert await store.find(TENANT, "k1") is None
    await async_engine.dispose()


# Before the first payment -----------------------------------------------------------------------


def test_a_fit_database_is_accepted(store: SqlExecutionStore) -> None:
    store.verify()


async def test_a_fit_database_is_accepted_by_both_colours(async_engine: AsyncEngine) -> None:
    await AsyncSqlExecutionStore(async_engine).verify()
    await async_engine.dispose()


@pytest.mark.usefixtures("own_sessions")
@pytest.mark.parametrize("setting", ["lock_timeout", "idle_in_transaction_session_timeout"])
def test_cf2_waits_without_a_bound_are_refused(database_url: str, setting: str) -> None:
    engine = engine_of(database_url, f"{TIMEOUTS} -c {setting}=0")

    with pytest.raises(MisconfiguredError, match=f"{setting} is 0"):
        SqlExecutionStore(engine).verify()
    engine.dispose()


def test_cf2_a_disabled_fence_is_named(store: SqlExecutionStore, engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("alter table railcore_event disable trigger event_change")

    with pytest.raises(MisconfiguredError, match=r"railcore_event\.event_change"):
        store.verify()


def test_missing_tables_are_refused(empty_database_url: str) -> None:
    engine = engine_of(empty_database_url)

    with pytest.raises(MisconfiguredError, match="Install or migrate the schema"):
        SqlExecutionStore(engine).verify()
    engine.dispose()
