"""What SQL typed by hand cannot do to what people look at, nor the roles beyond their duties."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore.errors import StoreError
from railcore.events import draft_orphan
from railcore.protocol import ResolveVerdict
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, Remedy, adopting_id
from railcore.testing.contracts.execution_store import TENANT, asked, claim, record, the
from railcore.testing.contracts.review import (
    ORPHAN,
    adoption_of,
    failed_with_news,
    resolving_of,
)
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.sqlalchemy.bystander import another, await_who_waits
from tests.sqlalchemy.desk import Desk


@pytest.fixture
def store(database_url: str) -> Iterator[SqlExecutionStore]:
    engine = sqlalchemy.create_engine(database_url)
    yield SqlExecutionStore(engine)
    engine.dispose()


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    made = Desk(database_url)
    yield made
    made.close()


@pytest.fixture
def noted(store: SqlExecutionStore) -> NotedDiscrepancy:
    return failed_with_news(store)


def refused_always(desk: Desk, query: str) -> psycopg.Error:
    """Return why *query* is refused, to anybody and to a session that replicates."""
    with pytest.raises(psycopg.Error) as caught:
        desk.sql(query)
    desk.sql("set session_replication_role = replica")
    with pytest.raises(psycopg.Error) as again:
        desk.sql(query)
    desk.sql("set session_replication_role = origin")
    assert again.value.sqlstate == caught.value.sqlstate
    return caught.value


@pytest.mark.parametrize(
    "change",
    [
        "resolution = 'adopt'",
        "resolved_by = 'mallory'",
        "evidence = 'another'",
        "resolved_at = now()",
        (
            "resolved_at = null, resolved_by = null, evidence = null, resolution = null, "
            "resolved_seq = null"
        ),
        "resolving_execution_id = execution_id",
        "resolved_seq = 1",
    ],
)
def test_a_resolved_discrepancy_never_changes(
    desk: Desk, store: SqlExecutionStore, noted: NotedDiscrepancy, change: str
) -> None:
    store.resolve(resolving_of(noted))

    assert refused_always(desk, f"update railcore_discrepancy set {change}").sqlstate == "RC002"


@pytest.mark.parametrize(
    "column",
    ["tenant_id", "discrepancy_id", "execution_id", "payment_id", "seq", "kind", "detail"],
)
@pytest.mark.usefixtures("noted")
def test_what_was_found_never_changes(desk: Desk, column: str) -> None:
    query = f"update railcore_discrepancy set {column} = {column}"

    assert refused_always(desk, query).sqlstate == "RC001"


@pytest.mark.parametrize("query", ["delete from railcore_discrepancy"])
@pytest.mark.usefixtures("noted")
def test_discrepancies_are_kept(desk: Desk, query: str) -> None:
    assert refused_always(desk, query).sqlstate == "RC005"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("resolution = 'accepted'", "resolved_says_how"),
        (
            "resolved_at = now(), resolved_by = 'x', resolution = 'accepted', resolved_seq = 1",
            "resolved_says_how",
        ),
        (
            (
                "resolved_at = now(), resolved_by = 'x', evidence = 'y', resolution = 'adopt', "
                "resolved_seq = 1"
            ),
            "remedy_has_execution",
        ),
        (
            (
                "resolved_at = now(), resolved_by = 'x', evidence = 'y', resolution = 'accepted', "
                "resolved_seq = 1, resolving_execution_id = execution_id"
            ),
            "remedy_has_execution",
        ),
        (
            (
                "resolved_at = now(), resolved_by = 'x', evidence = 'y', resolution = 'forget', "
                "resolved_seq = 1, resolving_execution_id = execution_id"
            ),
            "remedy_is_known",
        ),
        (
            (
                "resolved_at = now(), resolved_by = 'x', evidence = 'y', resolution = 'accepted', "
                "resolved_seq = 99"
            ),
            "resolution_has_event",
        ),
        (
            (
                "resolved_at = now(), resolved_by = 'x', evidence = 'y', resolution = 'adopt', "
                "resolved_seq = 1, resolving_execution_id = gen_random_uuid()"
            ),
            "resolution_has_execution",
        ),
    ],
)
@pytest.mark.usefixtures("noted")
def test_a_resolution_says_who_and_how_and_has_its_event(
    desk: Desk, change: str, rule: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        desk.sql(f"update railcore_discrepancy set {change}")

    assert caught.value.diag.constraint_name == rule


@pytest.mark.parametrize(
    ("kind", "execution_id"), [("orphan_charge", "execution_id"), ("amount_differs", "null")]
)
@pytest.mark.usefixtures("noted")
def test_an_orphan_and_nothing_else_has_no_execution(
    desk: Desk, kind: str, execution_id: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        desk.sql(
            f"""insert into railcore_discrepancy
              (tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail, opened_at)
            select tenant_id, gen_random_uuid(), {execution_id}, payment_id, seq, '{kind}', detail,
              opened_at from railcore_discrepancy"""
        )

    assert caught.value.diag.constraint_name == "orphan_has_no_execution"


@pytest.mark.usefixtures("noted")
def test_a_discrepancy_starts_unresolved(desk: Desk) -> None:
    query = """insert into railcore_discrepancy
        (tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail, opened_at,
         resolved_at, resolved_by, evidence, resolution, resolved_seq)
      select tenant_id, gen_random_uuid(), execution_id, payment_id, seq, kind, detail, opened_at,
        now(), 'x', 'y', 'accepted', seq from railcore_discrepancy"""

    assert refused_always(desk, query).sqlstate == "RC002"


@pytest.mark.usefixtures("own_sessions")
def test_the_role_of_the_app_may_resolve_and_no_more(
    database_url: str, desk: Desk, noted: NotedDiscrepancy
) -> None:
    schema.install_roles(database_url)
    options = {"options": "-c role=railcore_app"}
    engine = sqlalchemy.create_engine(database_url, connect_args=options)
    store = SqlExecutionStore(engine)
    places = (adoption_of(noted, refunded=True),)

    outcome = store.resolve(resolving_of(noted, Remedy.REFUND, adoptions=places))
    store.note_orphan(ORPHAN, draft_orphan(ORPHAN))

    assert outcome.verdict is ResolveVerdict.RESOLVED
    assert len(store.list_discrepancies(None, 10, open_only=False)) == 2
    engine.dispose()
    desk.sql("set role railcore_app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        desk.sql("update railcore_discrepancy set kind = kind")


@pytest.mark.parametrize("role", ["railcore_relay", "railcore_reader"])
@pytest.mark.usefixtures("noted")
def test_no_other_role_resolves(database_url: str, desk: Desk, role: str) -> None:
    schema.install_roles(database_url)
    desk.sql(f"set role {role}")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        desk.sql("update railcore_discrepancy set resolution = 'accepted'")


def test_a_payment_that_is_held_elsewhere_leaves_everything_as_it_was(
    database_url: str, store: SqlExecutionStore, desk: Desk, noted: NotedDiscrepancy
) -> None:
    schema.install_roles(database_url)
    engine = sqlalchemy.create_engine(
        database_url, connect_args={"options": "-c lock_timeout=50ms"}
    )
    impatient = SqlExecutionStore(engine)
    places = (adoption_of(noted),)
    resolving = resolving_of(noted, Remedy.ADOPT, adoptions=places)
    desk.sql("begin")
    desk.sql("select from railcore_payment for no key update")

    with pytest.raises(StoreError) as caught:
        impatient.resolve(resolving)

    desk.sql("rollback")
    assert not caught.value.may_have_committed
    assert store.get(TENANT, adopting_id(noted.discrepancy_id)) is None
    assert impatient.resolve(resolving).verdict is ResolveVerdict.RESOLVED
    engine.dispose()


def test_a_resolution_that_is_cut_off_leaves_everything_as_it_was(
    database_url: str, store: SqlExecutionStore, noted: NotedDiscrepancy
) -> None:
    """The connection is lost before the commit; the pool has a sound one for the next try."""
    engine = sqlalchemy.create_engine(database_url)
    cut = SqlExecutionStore(engine)
    killer = Desk(database_url)
    killer.sql(
        """create function cut_off() returns trigger language plpgsql as $$ begin
          perform pg_terminate_backend(pg_backend_pid()); return new; end $$"""
    )
    killer.sql(
        "create trigger zz_cut before update on railcore_discrepancy "
        "for each row execute function cut_off()"
    )
    resolving = resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted),))

    with pytest.raises(StoreError):
        cut.resolve(resolving)

    killer.sql("drop trigger zz_cut on railcore_discrepancy")
    killer.close()
    assert store.get(TENANT, adopting_id(noted.discrepancy_id)) is None
    assert cut.resolve(resolving).verdict is ResolveVerdict.RESOLVED
    assert the(store.get(TENANT, adopting_id(noted.discrepancy_id))).version == 2
    engine.dispose()


def test_a_hosts_transaction_takes_no_resolution(
    database_url: str, store: SqlExecutionStore, noted: NotedDiscrepancy
) -> None:
    engine = sqlalchemy.create_engine(database_url)
    with engine.begin() as connection:
        inside = store.within(connection)
        claimed = claim(store, asked("k9", payment_id="invoice-9"))
        assert inside.get(TENANT, claimed.execution_id) == claimed
        with pytest.raises(ValueError, match="a resolution has to be committed"):
            inside.resolve(resolving_of(noted))
    engine.dispose()


@pytest.mark.usefixtures("own_sessions")
def test_of_many_resolutions_that_adopt_one_charge_one_books_it(store: SqlExecutionStore) -> None:
    orphans = [attrs.evolve(ORPHAN, provider_ref=f"told_as_{number}") for number in range(4)]
    for orphan in orphans:
        store.note_orphan(orphan, draft_orphan(orphan))
    resolvings = [
        resolving_of(one, Remedy.ADOPT, adoptions=(adoption_of(one, one.payment_id),))
        for one in store.list_discrepancies(TENANT, 10)
    ]

    with ThreadPoolExecutor(len(resolvings)) as pool:
        verdicts = Counter(one.verdict for one in pool.map(store.resolve, resolvings))

    assert verdicts == {ResolveVerdict.RESOLVED: 1, ResolveVerdict.BOOKED: 3}


def test_what_an_execution_has_completed_with_is_not_adopted(store: SqlExecutionStore) -> None:
    store.note_orphan(ORPHAN, draft_orphan(ORPHAN))
    (noted,) = store.list_discrepancies(TENANT, 10)
    adoption = adoption_of(noted, noted.payment_id)
    first = claim(store, asked("k1"))
    record(store, first, RailResult.success("ch_1", first.money))

    outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=(adoption,)))

    assert outcome.verdict is ResolveVerdict.BOOKED


@pytest.mark.usefixtures("own_sessions")
def test_a_charge_that_somebody_is_just_booking_is_waited_for(
    database_url: str, store: SqlExecutionStore
) -> None:
    store.note_orphan(ORPHAN, draft_orphan(ORPHAN))
    (noted,) = store.list_discrepancies(TENANT, 10)
    resolving = resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted, noted.payment_id),))
    other = claim(store, asked("k1"))
    adopted = resolving.adoptions[0].recording.after
    row = (TENANT, adopted.provider, adopted.account, adopted.provider_ref, other.execution_id)

    with another(database_url, "select 1") as rival, ThreadPoolExecutor(1) as pool:
        rival.execute("insert into railcore_reference values (%s, %s, %s, %s, %s, now())", row)
        begun = pool.submit(store.resolve, resolving)
        await_who_waits(database_url)
        rival.commit()
        assert begun.result().verdict is ResolveVerdict.BOOKED
    assert store.get(TENANT, adopted.execution_id) is None
