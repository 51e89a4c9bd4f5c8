"""What SQL typed by hand cannot do to what people look at, nor the roles beyond their duties."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs
import psycopg
import pytest
import sqlalchemy

from railcore import (
    ConfigDrivenRouteResolver,
    Money,
    OperatorDecision,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentRailRegistry,
)
from railcore.enums import Operation, PaymentRail
from railcore.errors import AlreadyResolvedError, InDoubtError, NoRemedyError, StoreError
from railcore.events import draft_discrepancy, draft_orphan
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind, Fact, FactSource, decide
from railcore.money import SAR
from railcore.ports import Rail
from railcore.protocol import ResolveVerdict
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, Remedy, adopting_id, refunding_id
from railcore.testing.contracts.execution_store import (
    REFUSED,
    TENANT,
    asked,
    claim,
    following,
    record,
    success_of,
    the,
)
from railcore.testing.contracts.review import (
    ORPHAN,
    adoption_of,
    failed_with_news,
    resolving_of,
)
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.core.hosts import ROUTES, FakeRail, succeed
from tests.sqlalchemy.bystander import another, await_who_waits
from tests.sqlalchemy.desk import Desk, Row, claim_row, record_row


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
    [
        "tenant_id",
        "discrepancy_id",
        "execution_id",
        "payment_id",
        "seq",
        "kind",
        "detail",
        "disputed_minor",
    ],
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


# What may have come is in doubt -----------------------------------------------------------------


@pytest.mark.usefixtures("noted")
def test_a_charge_typed_by_hand_finds_no_room_either(desk: Desk) -> None:
    query = "update railcore_payment set seq = seq + 1, charging = charging + 1"

    error = refused_always(desk, query)

    assert (error.sqlstate, error.diag.constraint_name) == ("23514", "in_doubt_limit")


@pytest.mark.usefixtures("noted")
def test_what_is_in_doubt_is_never_below_nothing(desk: Desk) -> None:
    query = "update railcore_payment set seq = seq + 1, disputed = disputed - 101"

    assert refused_always(desk, query).diag.constraint_name == "sums_not_negative"


def test_a_payment_does_not_begin_in_doubt_beyond_its_debt(desk: Desk) -> None:
    query = """insert into railcore_payment
        (tenant_id, payment_id, seq, currency, due_minor, charging, disputed)
      values ('acme', 'p', 1, 'SAR', 100, 60, 41)"""

    assert refused_always(desk, query).diag.constraint_name == "in_doubt_limit"


def test_a_payment_in_doubt_takes_all_other_news(desk: Desk) -> None:
    """Neither a record nor another discrepancy is refused, whatever the sums have come to."""
    first = claim_row(due_minor=200)
    assert desk.claim(first) == "claimed"
    failed = desk.done(payment_id=first["payment_id"], to_status="failed")
    for _ in range(3):
        desk.late(failed)
    assert desk.record(record_row(first, "completed")) == "recorded"

    head = desk.head(first)
    assert (head["captured"], head["disputed"], head["due_minor"]) == (100, 300, 200)
    assert claimed_as(desk, claim_row(payment_id=first["payment_id"])) == "in_doubt"
    assert claimed_as(desk, claim_row(payment_id=first["payment_id"], amount_minor=101)) == "live"


def claimed_as(desk: Desk, row: Row) -> str:
    """The verdict of both forms, which is the same."""
    (many,) = desk.claim_many([row])
    assert desk.claim(row) == many
    return many


def test_many_claims_are_judged_each_by_its_own_payment(desk: Desk) -> None:
    failed = [desk.done(to_status="failed", amount_minor=40, due_minor=100) for _ in range(3)]
    for one in failed[:2]:
        desk.late(one)
    minors = [61, 60, 61]
    rows = [
        claim_row(payment_id=one["payment_id"], amount_minor=minor)
        for one, minor in zip(failed, minors, strict=True)
    ]

    assert desk.claim_many([*rows, claim_row()]) == ["in_doubt", "claimed", "claimed", "claimed"]


def test_what_was_captured_twice_goes_on_account_past_the_authorizations_own_limit(
    store: SqlExecutionStore,
) -> None:
    """A guard refuses the first place, which ends the transaction; the second one is tried."""
    due = Money(200, SAR)
    held = completed(store, asked("a1", operation=Operation.AUTHORIZE, due=due))
    completed(store, asked("a2", operation=Operation.AUTHORIZE, due=due))  # the payment has room
    capture = completed(store, following("c1", Operation.CAPTURE, held))
    twice = attrs.evolve(success_of(capture), provider_ref="ch_2")
    found = the(decide(capture, Fact(result=twice, source=FactSource.LOOKUP)).discrepancy)
    store.note(capture, found, draft_discrepancy(capture, found))
    rail = FakeRail()
    engine = engine_over(store, rail)

    decision = OperatorDecision(actor="alice", evidence="statement-7")
    engine.resolve(TENANT, found.discrepancy_id, Remedy.REFUND, decision)

    adopted = the(store.get(TENANT, adopting_id(found.discrepancy_id)))
    assert (adopted.operation, adopted.provider_ref) == (Operation.CHARGE, "ch_2")
    assert adopted.payment_id == f"unapplied-{found.discrepancy_id.hex}"
    assert the(store.get(TENANT, refunding_id(found.discrepancy_id))).parent_ref == "ch_2"
    assert the(store.payment(TENANT, "invoice-1")).captured_minor == 100


@pytest.mark.parametrize("is_late", [False, True])
def test_a_capture_that_a_charge_is_booked_as_is_not_adopted(
    store: SqlExecutionStore, *, is_late: bool
) -> None:
    held = completed(store, asked("a1", operation=Operation.AUTHORIZE))
    wanted = following("c1", Operation.CAPTURE, held)
    capture = record(store, claim(store, wanted), REFUSED) if is_late else completed(store, wanted)
    other = completed(store, asked("k9", payment_id="invoice-9"))
    twice = attrs.evolve(success_of(capture), provider_ref=other.provider_ref)
    found = the(decide(capture, Fact(result=twice, source=FactSource.LOOKUP)).discrepancy)
    store.note(capture, found, draft_discrepancy(capture, found))

    decision = OperatorDecision(actor="alice", evidence="statement-7")
    with pytest.raises(NoRemedyError, match="booked already"):
        engine_over(store, FakeRail()).resolve(
            TENANT, found.discrepancy_id, Remedy.REFUND, decision
        )


def test_a_refund_that_is_refused_is_listed_and_tried_again(store: SqlExecutionStore) -> None:
    noted = failed_with_news(store)
    rail = FakeRail(answer=lambda _: RailResult.failed(PaymentFailureCode.DECLINED))
    engine = engine_over(store, rail)
    decision = OperatorDecision(actor="alice", evidence="statement-7")
    engine.resolve(TENANT, noted.discrepancy_id, Remedy.REFUND, decision)

    (listed,) = engine.review(TENANT).discrepancies
    assert listed.execution_id == refunding_id(noted.discrepancy_id)
    assert listed.discrepancy.kind is DiscrepancyKind.REFUND_FAILED
    rail.answer = succeed
    engine.resolve(TENANT, listed.discrepancy_id, Remedy.REFUND, decision)

    assert not engine.review(TENANT).discrepancies
    payment = the(store.payment(TENANT, "invoice-1"))
    assert (payment.captured_minor, payment.refunded_minor) == (100, 100)
    assert payment.disputed_minor == 0


def test_of_a_refund_tried_again_by_two_people_one_is_claimed(store: SqlExecutionStore) -> None:
    noted = failed_with_news(store)
    rail = FakeRail(answer=lambda _: RailResult.failed(PaymentFailureCode.DECLINED))
    engine = engine_over(store, rail)
    decision = OperatorDecision(actor="alice", evidence="statement-7")
    engine.resolve(TENANT, noted.discrepancy_id, Remedy.REFUND, decision)
    (listed,) = engine.review(TENANT).discrepancies
    rail.answer = succeed

    def again(actor: str) -> str:
        by = OperatorDecision(actor=actor, evidence="statement-8")
        try:
            engine.resolve(TENANT, listed.discrepancy_id, Remedy.REFUND, by)
        except AlreadyResolvedError:
            return "too late"
        return "first"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(again, ["bob", "carol"])) == ["first", "too late"]
    assert the(store.payment(TENANT, "invoice-1")).refunded_minor == 100


def test_a_second_charge_names_the_discrepancy_that_is_in_its_way(
    store: SqlExecutionStore,
) -> None:
    noted = failed_with_news(store)
    rail = FakeRail()
    engine = engine_over(store, rail)

    with pytest.raises(InDoubtError) as caught:
        engine.execute(asked("k2"))
    (refusal,) = engine.enqueue_many([asked("k2")])

    assert caught.value.discrepancy_ids == (noted.discrepancy_id,)
    assert caught.value.execution_ids == (noted.execution_id,)
    assert isinstance(refusal, InDoubtError)
    assert not rail.sent


def completed(store: SqlExecutionStore, context: PaymentContext) -> PaymentExecution:
    claimed = claim(store, context)
    result = attrs.evolve(success_of(claimed), provider_ref=f"ref_{context.idempotency_key}")
    return record(store, claimed, result)


def engine_over(store: SqlExecutionStore, rail: FakeRail) -> PaymentEngine:
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", rail)
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    return PaymentEngine(rails=rails, routes=routes, store=store)
