"""The books in PostgreSQL: under races, by hand, inside a host's transaction and when it breaks."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest
import sqlalchemy
from psycopg import errors
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import Deadline
from railcore.driven import AsyncDrivenRail
from railcore.errors import InProgressError, MisconfiguredError, StoreError
from railcore.money import SAR, Money
from railcore.rails.wallet import WalletRail
from railcore.testing.contracts.wallet import Books, posting, race, releasing
from railcore.wallet import (
    TransferVerdict,
    WalletAccount,
    WalletTransfer,
    expiry_of,
)
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository, SqlWalletRepository
from tests.conftest import conninfo, fresh_database
from tests.core.executions import an_execution, on_account

TENANT = "acme"
REPLAY = """
with moves as (
  select tenant_id, debit_account as account_id, currency, kind, transfer_id, amount_minor,
    true as debit
  from railcore_wallet_transfer
  union all
  select tenant_id, credit_account, currency, kind, transfer_id, amount_minor, false
  from railcore_wallet_transfer)
select a.account_id, credits_posted, debits_posted, debits_pending,
  coalesce(sum(amount_minor) filter (where not debit and m.kind in ('single', 'post')), 0)::bigint,
  coalesce(sum(amount_minor) filter (where debit and m.kind in ('single', 'post')), 0)::bigint,
  coalesce(sum(amount_minor) filter (where debit and m.kind = 'pending' and not exists (
    select from railcore_wallet_transfer r where r.pending_id = m.transfer_id)), 0)::bigint
from railcore_wallet_account a
left join moves m using (tenant_id, account_id, currency)
where a.kind = 'customer' group by 1, 2, 3, 4
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(database_url, pool_size=12)
    yield engine
    engine.dispose()


@pytest.fixture
def wallet(engine: sqlalchemy.Engine) -> SqlWalletRepository:
    return SqlWalletRepository(engine)


@pytest.fixture
def books(wallet: SqlWalletRepository) -> Books:
    books = Books(wallet, TENANT).open(SAR)
    books.top_up(Money(10_000, SAR))
    return books


@pytest.fixture
def hand(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """SQL typed by hand, by the owner of everything."""
    with psycopg.connect(conninfo(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def still_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """One database for all that is refused, and so changes nothing."""
    with fresh_database(postgres_url, template=template_database) as url:
        engine = sqlalchemy.create_engine(url)
        books = Books(SqlWalletRepository(engine), TENANT).open(SAR)
        books.top_up(Money(10_000, SAR))
        books.hold(Money(100, SAR), reference=uuid4())
        schema.install_roles(engine)
        engine.dispose()
        yield url


@pytest.fixture
def still(still_url: str) -> Iterator[psycopg.Connection[Any]]:
    """SQL typed by hand, on books that nobody may change that way."""
    with psycopg.connect(conninfo(still_url), autocommit=True) as connection:
        yield connection


def the_hold(still: psycopg.Connection[Any]) -> UUID:
    row = still.execute("select transfer_id from railcore_wallet_hold").fetchone()
    assert row
    return UUID(str(row[0]))


def open_customers(books: Books, *names: str) -> None:
    for name in names:
        account = WalletAccount(tenant_id=TENANT, account_id=name, currency=SAR)
        assert books.repository.open_account(account)
        books.top_up(Money(1, SAR))
        transfer = attrs.evolve(
            books.single(Money(1_000, SAR)), debit_account=books.house, credit_account=name
        )
        assert books.verdict(transfer) is TransferVerdict.APPLIED


def between(books: Books, debit: str, credit: str, minor: int) -> WalletTransfer:
    return attrs.evolve(books.single(Money(minor, SAR)), debit_account=debit, credit_account=credit)


def assert_the_books_balance(hand: psycopg.Connection[Any]) -> None:
    for account_id, *sums in hand.execute(REPLAY):
        kept, replayed = sums[:3], sums[3:]
        assert kept == replayed, account_id
        assert kept[0] - kept[1] - kept[2] >= 0, account_id
    doubly = hand.execute(
        "select pending_id from railcore_wallet_transfer where pending_id is not null"
        " group by 1 having count(*) > 1"
    ).fetchall()
    assert not doubly


def deadlocks(hand: psycopg.Connection[Any]) -> int:
    row = hand.execute(
        "select deadlocks from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row
    return int(row[0])


def test_wa2_opposite_transfers_neither_overspend_nor_deadlock(
    books: Books, hand: psycopg.Connection[Any]
) -> None:
    names = ("ann", "bob", "cem")
    open_customers(books, *names)

    def work(seed: int) -> Counter[TransferVerdict]:
        chance, verdicts = random.Random(seed), Counter[TransferVerdict]()
        for _ in range(60):
            debit, credit = chance.sample(names, 2)
            verdicts[books.verdict(between(books, debit, credit, chance.randint(1, 600)))] += 1
        return verdicts

    with ThreadPoolExecutor(8) as pool:
        verdicts = sum(pool.map(work, range(8)), Counter[TransferVerdict]())

    assert set(verdicts) == {TransferVerdict.APPLIED, TransferVerdict.INSUFFICIENT_FUNDS}
    assert sum(verdicts.values()) == 480
    assert_the_books_balance(hand)
    balances = [books.repository.balance(TENANT, name, SAR) for name in names]
    assert sum(found.posted for found in balances if found) == 3_000
    assert deadlocks(hand) == 0


def test_wa1_one_resolution_of_a_hold_wins_among_posts_releases_and_expiry(
    books: Books, hand: psycopg.Connection[Any]
) -> None:
    for _ in range(12):
        hold = books.hold(Money(100, SAR), hold_s=0.001)
        lasting = books.hold(Money(100, SAR))
        posts = [posting(lasting), posting(lasting, 1), releasing(lasting), expiry_of(lasting)]

        verdicts = race(
            *[partial(books.verdict, one) for one in posts],
            partial(books.verdict, releasing(hold)),
            partial(books.repository.expire_holds, 10),
        )

        assert verdicts[:4].count(TransferVerdict.APPLIED) == 1
        assert verdicts[:4].count(TransferVerdict.HOLD_RESOLVED) == 3
        books.repository.expire_holds(10)
        assert books.repository.find(TENANT, hold.transfer_id).resolution is not None

    assert_the_books_balance(hand)
    assert books.of_customer()[1] == 0


def test_what_is_asked_twice_at_once_is_never_called_a_lack_of_funds(books: Books) -> None:
    for _ in range(10):
        everything = books.single(Money(books.of_customer()[0], SAR))

        verdicts = race(*[partial(books.verdict, everything)] * 6)

        assert sorted(verdicts) == [TransferVerdict.APPLIED, *[TransferVerdict.KNOWN] * 5]
        books.top_up(Money(500, SAR))


INSERT = """
insert into railcore_wallet_transfer (
  tenant_id, transfer_id, debit_account, credit_account, currency, amount_minor, kind, pending_id,
  hold_s, made_at)
values ('acme', gen_random_uuid(), %(debit)s, %(credit)s, %(currency)s, %(amount)s, %(kind)s,
  %(pending)s, %(hold_s)s, now())
"""
RICH = """
insert into railcore_wallet_account (
  tenant_id, account_id, currency, kind, opened_at, credits_posted)
values ('acme', 'rich', 'SAR', 'customer', now(), 1)
"""
UPSERT = """
insert into railcore_wallet_transfer
select tenant_id, transfer_id, debit_account, credit_account, currency, 1, kind, pending_id, hold_s,
  made_at
from railcore_wallet_transfer where kind = 'single'
on conflict (tenant_id, transfer_id) do update set amount_minor = 1
"""
ROW: dict[str, Any] = {
    "debit": "customer",
    "credit": "house",
    "currency": "SAR",
    "amount": 1,
    "kind": "single",
    "pending": None,
    "hold_s": None,
}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"amount": 0}, errors.CheckViolation),
        ({"amount": -1}, errors.CheckViolation),
        ({"amount": 2**63}, errors.NumericValueOutOfRange),
        ({"currency": "USD"}, errors.ForeignKeyViolation),
        ({"credit": "nobody"}, errors.ForeignKeyViolation),
        ({"credit": "customer"}, errors.CheckViolation),
        ({"kind": "gift"}, errors.CheckViolation),
        ({"kind": "pending"}, errors.CheckViolation),
        ({"hold_s": 5.0}, errors.CheckViolation),
        ({"kind": "post"}, errors.CheckViolation),
    ],
)
def test_wa4_a_transfer_that_cannot_exist_is_refused_by_hand(
    still: psycopg.Connection[Any], changed: dict[str, Any], error: type[psycopg.Error]
) -> None:
    with pytest.raises(error):
        still.execute(INSERT, {**ROW, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 101},
        {"kind": "void", "amount": 99},
        {"debit": "house", "credit": "customer"},
        {"pending": UUID(int=5)},
    ],
)
def test_a_resolution_that_does_not_fit_its_hold_is_refused_by_hand(
    still: psycopg.Connection[Any], changed: dict[str, Any]
) -> None:
    row = {**ROW, "kind": "post", "amount": 100, "pending": the_hold(still), **changed}

    with pytest.raises(psycopg.Error) as refused:
        still.execute(INSERT, row)

    assert refused.value.sqlstate == "RC006"


def test_a_second_resolution_is_refused_by_hand(
    books: Books, hand: psycopg.Connection[Any]
) -> None:
    hold = books.hold(Money(100, SAR))
    books.verdict(posting(hold))

    with pytest.raises(errors.UniqueViolation) as refused:
        hand.execute(INSERT, {**ROW, "kind": "void", "amount": 100, "pending": hold.transfer_id})

    assert refused.value.diag.constraint_name == "railcore_wallet_transfer_resolution"


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("update railcore_wallet_transfer set amount_minor = 1", "RC006"),
        ("update railcore_wallet_transfer set made_at = now()", "RC006"),
        ("delete from railcore_wallet_transfer", "RC006"),
        ("truncate railcore_wallet_transfer cascade", "RC006"),
        ("update railcore_wallet_reference set reference = gen_random_uuid()", "RC006"),
        ("delete from railcore_wallet_reference", "RC006"),
        ("truncate railcore_wallet_reference", "RC006"),
        ("update railcore_wallet_hold set expires_at = now()", "RC006"),
        ("delete from railcore_wallet_hold", "RC005"),
        ("truncate railcore_wallet_hold", "RC005"),
        ("update railcore_wallet_account set kind = 'house'", "RC007"),
        ("update railcore_wallet_account set currency = 'USD'", "RC007"),
        ("delete from railcore_wallet_account", "RC005"),
        ("truncate railcore_wallet_account cascade", "RC005"),
        (RICH, "RC007"),
        (UPSERT, "RC006"),
    ],
)
def test_books_are_not_edited_by_hand(
    still: psycopg.Connection[Any], role: str, statement: str, sqlstate: str
) -> None:
    still.execute(f"set session_replication_role = {role}")

    with pytest.raises(psycopg.Error) as refused:
        still.execute(statement)

    assert refused.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("sums", "constraint"),
    [
        ("debits_posted = debits_posted + 10001", "wallet_available"),
        ("debits_pending = debits_pending + 10001", "wallet_available"),
        ("debits_pending = -1", "wallet_sums_not_negative"),
    ],
)
def test_a_customer_cannot_be_overdrawn_by_hand(
    still: psycopg.Connection[Any], sums: str, constraint: str
) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        still.execute(f"update railcore_wallet_account set {sums} where kind = 'customer'")

    assert refused.value.diag.constraint_name == constraint


def test_a_house_account_keeps_no_balance(still: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.CheckViolation, match="wallet_kind"):
        still.execute("update railcore_wallet_account set credits_posted = 1 where kind = 'house'")


def test_a_house_account_is_never_locked(
    books: Books, engine: sqlalchemy.Engine, wallet: SqlWalletRepository
) -> None:
    open_customers(books, "ann")
    with engine.begin() as connection:
        verdict = wallet.within(connection).transfer(books.single(Money(1, SAR))).verdict
        assert verdict is TransferVerdict.APPLIED

        # Another customer pays into the same house account while the first has not committed.
        assert books.verdict(between(books, "ann", books.house, 1)) is TransferVerdict.APPLIED


def test_a_host_that_rolls_back_moved_nothing(
    books: Books, engine: sqlalchemy.Engine, wallet: SqlWalletRepository
) -> None:
    transfer = books.single(Money(100, SAR))
    with engine.connect() as connection:
        joined = wallet.within(connection)
        assert joined.transfer(transfer).verdict is TransferVerdict.APPLIED
        assert joined.transfer(transfer).verdict is TransferVerdict.KNOWN
        connection.rollback()

    assert wallet.find(TENANT, transfer.transfer_id).transfer is None
    assert books.of_customer() == (10_000, 0)


def test_a_host_that_commits_moved_once(
    books: Books, engine: sqlalchemy.Engine, wallet: SqlWalletRepository
) -> None:
    transfer = books.single(Money(100, SAR))
    with engine.begin() as connection:
        wallet.within(connection).transfer(transfer)

    assert books.verdict(transfer) is TransferVerdict.KNOWN
    assert books.of_customer() == (9_900, 0)


async def test_an_async_host_commits_or_rolls_back_as_well(books: Books, database_url: str) -> None:
    engine = create_async_engine(database_url)
    wallet = AsyncSqlWalletRepository(engine)
    kept, dropped = books.single(Money(100, SAR)), books.single(Money(200, SAR))
    async with engine.begin() as connection:
        await wallet.within(connection).transfer(kept)
    async with engine.connect() as connection:
        await wallet.within(connection).transfer(dropped)
        await connection.rollback()
    await engine.dispose()

    assert books.of_customer() == (9_900, 0)
    assert books.verdict(dropped) is TransferVerdict.APPLIED


def test_a_host_without_a_transaction_cannot_be_joined(
    engine: sqlalchemy.Engine, wallet: SqlWalletRepository
) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        joined = wallet.within(connection)

        with pytest.raises(MisconfiguredError):
            joined.balance(TENANT, "customer", SAR)


class Blocked:
    """A transfer that waits for an account that a host's transaction holds."""

    def __init__(self, books: Books, hand: psycopg.Connection[Any]) -> None:
        self.books, self.hand = books, hand
        self.transfer = books.single(Money(100, SAR))
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.books.repository.transfer(self.transfer)
        except StoreError as error:
            self.error = error

    def waiting(self) -> int:
        """The process of the statement that waits for a lock."""
        for _ in range(1000):
            row = self.hand.execute(
                "select pid from pg_stat_activity where wait_event_type = 'Lock'"
                " and datname = current_database() and query like '%railcore_wallet_transfer%'"
            ).fetchone()
            if row:
                return int(row[0])
            threading.Event().wait(0.01)
        pytest.fail("the transfer does not wait for the account")


@pytest.mark.usefixtures("own_sessions")
def test_a_connection_lost_in_a_transfer_leaves_a_doubt_that_asking_again_ends(
    books: Books, engine: sqlalchemy.Engine, hand: psycopg.Connection[Any]
) -> None:
    blocked = Blocked(books, hand)
    with engine.connect() as connection:
        connection.exec_driver_sql("select from railcore_wallet_account for update")
        blocked.thread.start()
        hand.execute("select pg_terminate_backend(%s)", [blocked.waiting()])
        blocked.thread.join()
        connection.rollback()

    assert isinstance(blocked.error, StoreError)
    assert blocked.error.may_have_committed
    assert books.verdict(blocked.transfer) is TransferVerdict.APPLIED


def test_an_account_that_is_held_for_long_is_in_progress(
    books: Books, engine: sqlalchemy.Engine, database_url: str
) -> None:
    impatient = sqlalchemy.create_engine(
        database_url, connect_args={"options": "-c lock_timeout=50ms"}
    )
    transfer = books.single(Money(100, SAR))
    with engine.connect() as connection:
        connection.exec_driver_sql("select from railcore_wallet_account for update")

        with pytest.raises(InProgressError):
            SqlWalletRepository(impatient).transfer(transfer)

    impatient.dispose()
    assert books.repository.find(TENANT, transfer.transfer_id).transfer is None


def test_a_database_that_is_away_is_no_doubt() -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    with pytest.raises(StoreError) as away:
        SqlWalletRepository(engine).expire_holds(1)

    assert not away.value.may_have_committed


def test_a_wallet_is_kept_in_postgres_through_psycopg() -> None:
    with pytest.raises(MisconfiguredError):
        SqlWalletRepository(sqlalchemy.create_engine("sqlite://"))


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("railcore_app", "delete from railcore_wallet_transfer"),
        ("railcore_app", "update railcore_wallet_transfer set amount_minor = 1"),
        ("railcore_app", "update railcore_wallet_account set kind = 'house'"),
        ("railcore_app", "update railcore_wallet_hold set expires_at = now()"),
        ("railcore_reader", "update railcore_wallet_account set credits_posted = 1"),
        ("railcore_relay", "select from railcore_wallet_transfer"),
    ],
)
def test_a_role_may_not_do_more_than_its_work(
    still: psycopg.Connection[Any], role: str, statement: str
) -> None:
    still.execute(f"set role {role}")

    with pytest.raises(errors.InsufficientPrivilege):
        still.execute(statement)


def test_the_role_of_the_app_is_enough_for_a_wallet(books: Books, database_url: str) -> None:
    engine = sqlalchemy.create_engine(database_url)
    schema.install_roles(engine)

    @sqlalchemy.event.listens_for(engine, "connect")
    def become_the_app(connection: Any, _: object) -> None:
        connection.execute("set role railcore_app")
        connection.commit()

    engine.dispose()
    own = Books(SqlWalletRepository(engine)).open(SAR)
    own.top_up(Money(100, SAR))
    hold = own.hold(Money(60, SAR), reference=uuid4())

    assert own.verdict(posting(hold)) is TransferVerdict.APPLIED
    assert own.verdict(releasing(own.hold(Money(40, SAR)))) is TransferVerdict.APPLIED
    assert own.of_customer() == (40, 0)
    assert own.of_house() == (-40, 0)
    engine.dispose()


async def test_the_rail_charges_over_the_books(books: Books, database_url: str) -> None:
    engine = create_async_engine(database_url)
    rail = AsyncDrivenRail(WalletRail(), AsyncSqlWalletRepository(engine).answer)
    execution = on_account(an_execution(payer_token=books.customer), books.house)

    first = await rail.execute(execution, send_by=_in_time())
    again = await rail.execute(execution, send_by=_in_time())

    assert first.reported == execution.money
    assert again == first
    assert await rail.check_status(execution) == first
    assert books.of_customer() == (10_000 - execution.money.amount_minor, 0)
    await engine.dispose()


def test_statements_borrow_a_connection_as_they_found_it(
    books: Books, engine: sqlalchemy.Engine, wallet: SqlWalletRepository
) -> None:
    wallet.transfer(books.single(Money(1, SAR)))

    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        assert not driver.autocommit


def _in_time() -> Deadline:
    return Deadline(1.0, lambda: 0.0)
