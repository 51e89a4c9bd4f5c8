"""What people look at, and how it ends: both colours of engine, over one store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import attrs
import pytest

from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.errors import (
    AlreadyResolvedError,
    DiscrepancyNotFoundError,
    InDoubtError,
    InvalidValueError,
    LimitExceededError,
    LiveExecutionExists,
    NoRemedyError,
    RailcoreError,
    UnsupportedOperationError,
)
from railcore.events import EventType, draft_discrepancy
from railcore.execution import PaymentExecution
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind, decide
from railcore.money import SAR, USD, Money
from railcore.ports import OperatorDecision
from railcore.results import RailResult
from railcore.review import (
    NotedDiscrepancy,
    Orphan,
    Remedy,
    Review,
    adopting_id,
    adopting_key,
    refunding_id,
    refunding_key,
)
from tests.core import made
from tests.core.hosts import COLOURS, Colour, Host, raises, run, succeed
from tests.core.made import ASKED, CAPABLE, context, success

COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
ALICE = OperatorDecision(actor="alice", evidence="statement-7")
BOB = OperatorDecision(actor="bob", evidence="statement-8")
ORPHAN = Orphan(
    tenant_id="acme",
    rail=PaymentRail.CARD_PSP,
    provider="stub",
    account="main",
    mode=RouteMode.SANDBOX,
    provider_ref="ch_9",
    money=Money(700, SAR),
)


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest) -> Host:
    colour: Colour = request.param
    return Host(colour)


def resolve(
    host: Host, noted: NotedDiscrepancy, remedy: Remedy, decision: OperatorDecision = ALICE
) -> NotedDiscrepancy:
    engine: Any = host.engine
    done: NotedDiscrepancy = run(
        engine.resolve(noted.tenant_id, noted.discrepancy_id, remedy, decision)
    )
    return done


def review(host: Host) -> Review:
    engine: Any = host.engine
    found: Review = run(engine.review())
    return found


def recheck(host: Host, execution: PaymentExecution) -> PaymentExecution:
    engine: Any = host.engine
    after: PaymentExecution = run(engine.recheck(execution.tenant_id, execution.execution_id))
    return after


def only(host: Host) -> NotedDiscrepancy:
    (noted,) = review(host).discrepancies
    return noted


def tell(host: Host, execution: PaymentExecution, result: RailResult) -> NotedDiscrepancy:
    """Note what *result* contradicts, as a webhook would."""
    found = decide(execution, made.fact(result)).discrepancy
    assert found is not None
    host.store.note(execution, found, draft_discrepancy(execution, found))
    return only(host)


def late_success(host: Host) -> NotedDiscrepancy:
    """A charge that was declined, and taken all the same."""
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    failed = host.execute(context())
    host.rail.answer = succeed
    return tell(host, failed, RailResult.success("ch_late", ASKED))


def another_amount(host: Host, reported: Money) -> NotedDiscrepancy:
    host.rail.answer = lambda _: RailResult.success("ch_1", reported)
    host.execute(context())
    host.rail.answer = succeed
    return only(host)


def orphan(host: Host) -> NotedDiscrepancy:
    engine: Any = host.engine
    noted: NotedDiscrepancy = run(engine.note_orphan(ORPHAN))
    return noted


def stored(host: Host, execution_id: UUID | None) -> PaymentExecution:
    assert execution_id is not None
    found = host.store.get("acme", execution_id)
    assert found is not None
    return found


def made_of(host: Host, noted: NotedDiscrepancy) -> PaymentExecution:
    assert noted.resolved is not None
    return stored(host, noted.resolved.execution_id)


# A second charge --------------------------------------------------------------------------------


def twice(execution: PaymentExecution) -> RailResult:
    second = RailResult.success("ch_2", execution.money)
    return attrs.evolve(RailResult.success("ch_1", execution.money), also=(second,))


def test_a_second_charge_found_by_a_lookup_is_a_discrepancy(host: Host) -> None:
    host.rail.answer = raises(OSError("lost"))
    host.rail.lookup = twice
    with pytest.raises(OSError, match="lost"):
        host.execute(context())
    found = host.find(context())

    after = host.refresh_later(found)

    assert (after.status, after.provider_ref) == (COMPLETED, "ch_1")
    assert only(host).discrepancy.kind is DiscrepancyKind.SECOND_REFERENCE
    assert only(host).discrepancy.sides == ("ch_1", "ch_2")


def test_a_second_charge_for_a_completed_payment_is_the_same_discrepancy(host: Host) -> None:
    host.rail.answer = lambda one: RailResult.success("ch_1", one.money)
    host.rail.lookup = twice
    done = host.execute(context())

    assert recheck(host, done) == recheck(host, done) == done

    assert only(host).discrepancy.sides == ("ch_1", "ch_2")


def test_every_charge_too_many_is_a_discrepancy(host: Host) -> None:
    others = tuple(RailResult.success(f"ch_{n}", ASKED) for n in (2, 3))
    host.rail.answer = lambda _: attrs.evolve(RailResult.success("ch_1", ASKED), also=others)

    host.execute(context())

    sides = {one.discrepancy.sides for one in review(host).discrepancies}
    assert sides == {("ch_1", "ch_2"), ("ch_1", "ch_3")}


def test_a_second_charge_of_another_amount_says_so(host: Host) -> None:
    wrong = RailResult.success("ch_2", Money(99, SAR))
    host.rail.answer = lambda _: attrs.evolve(RailResult.success("ch_1", ASKED), also=(wrong,))

    assert host.execute(context()).status is COMPLETED
    assert only(host).discrepancy.kind is DiscrepancyKind.AMOUNT_DIFFERS


def test_a_crash_after_the_discrepancy_repeats_nothing(host: Host) -> None:
    host.rail.answer = twice
    host.store.before_record = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.execute(context())
    assert only(host).discrepancy.kind is DiscrepancyKind.SECOND_REFERENCE

    host.store.before_record = lambda: None
    host.rail.lookup = twice
    after = host.refresh_later(host.find(context()))

    assert after.status is COMPLETED
    assert len(review(host).discrepancies) == 1


def test_what_was_charged_twice_is_given_back_once(host: Host) -> None:
    host.rail.answer = twice
    host.execute(context())
    noted = only(host)
    host.rail.answer = succeed

    done = resolve(host, noted, Remedy.REFUND)

    refund = made_of(host, done)
    adopted = stored(host, adopting_id(noted.discrepancy_id))
    assert (refund.operation, refund.status) == (Operation.REFUND, COMPLETED)
    assert adopted.provider_ref == "ch_2"
    assert refund.context.parent_execution_id == adopted.execution_id
    assert refund.parent_ref == "ch_2"
    assert adopted.payment_id == f"unapplied-{noted.discrepancy_id.hex}"


def test_further_answers_are_successes() -> None:
    waiting = RailResult.pending(PendingReason.PROVIDER_PROCESSING)
    with pytest.raises(InvalidValueError, match="also"):
        attrs.evolve(RailResult.success("ch_1", ASKED), also=(waiting,))
    with pytest.raises(InvalidValueError, match="also"):
        attrs.evolve(RailResult.success("ch_1", ASKED), also=(twice(made.execution()),))
    not_a_tuple: Any = [RailResult.success("ch_1", ASKED)]
    with pytest.raises(InvalidValueError, match="also"):
        attrs.evolve(RailResult.success("ch_1", ASKED), also=not_a_tuple)


# Rechecking -------------------------------------------------------------------------------------


def test_a_finished_payment_that_is_rechecked_stays_as_it_is(host: Host) -> None:
    host.rail.lookup = succeed
    done = host.execute(context())

    assert recheck(host, done) == done
    assert recheck(host, done) == done
    assert not review(host).discrepancies


def test_a_lookup_that_finds_nothing_contradicts_nothing(host: Host) -> None:
    done = host.execute(context())

    assert recheck(host, done) == done
    assert not review(host).discrepancies


def test_a_late_success_is_found_by_rechecking(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    failed = host.execute(context())
    host.rail.lookup = succeed

    assert recheck(host, failed) == failed
    assert only(host).discrepancy.kind is DiscrepancyKind.SUCCESS_AFTER_FAILURE


def test_an_open_payment_that_is_rechecked_is_refreshed(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    doubt = host.execute(context())
    host.rail.lookup = succeed
    host.clock.advance(61)

    assert recheck(host, doubt).status is COMPLETED


# What waits -------------------------------------------------------------------------------------


def test_what_waits_for_a_person_is_listed_too(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.pending(PendingReason.MANUAL_REVIEW)
    waiting = host.execute(context())

    assert review(host).waiting == [waiting]
    assert not review(host).discrepancies


# Resolving --------------------------------------------------------------------------------------


def test_an_accepted_discrepancy_is_off_the_list(host: Host) -> None:
    noted = late_success(host)

    done = resolve(host, noted, Remedy.ACCEPTED)

    assert done.resolved is not None
    assert (done.resolved.actor, done.resolved.execution_id) == ("alice", None)
    assert not review(host).discrepancies
    *_, event = host.store.events("acme", "inv-1")
    assert event.type is EventType.RESOLVED
    assert (event.payload["actor"], event.payload["evidence"]) == ("alice", "statement-7")


def test_the_same_resolution_twice_is_one(host: Host) -> None:
    noted = late_success(host)

    assert resolve(host, noted, Remedy.ADOPT) == resolve(host, noted, Remedy.ADOPT)
    assert len(host.store.executions("acme", "inv-1")) == 2


@pytest.mark.parametrize(
    ("remedy", "decision"),
    [(Remedy.ACCEPTED, BOB), (Remedy.ADOPT, BOB), (Remedy.ADOPT, ALICE)],
)
def test_who_comes_second_is_told_who_was_first(
    host: Host, remedy: Remedy, decision: OperatorDecision
) -> None:
    noted = late_success(host)
    resolve(host, noted, Remedy.ACCEPTED)
    before = host.store.events("acme", "inv-1")

    with pytest.raises(AlreadyResolvedError, match="accepted by alice"):
        resolve(host, noted, remedy, decision)

    assert host.store.events("acme", "inv-1") == before


def test_a_race_of_ten_people_has_one_winner(host: Host) -> None:
    noted = late_success(host)
    barrier = threading.Barrier(10)

    def decide_(number: int) -> str:
        by = OperatorDecision(actor=f"person-{number}", evidence="slip")
        barrier.wait()
        remedy = Remedy.REFUND if number % 2 else Remedy.ADOPT
        try:
            resolve(host.twin(), noted, remedy, by)
        except AlreadyResolvedError:
            return "too late"
        return "first"

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(decide_, range(10)))

    assert answers.count("first") == 1
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert payment.captured_minor == 1250


def test_what_nobody_noted_is_not_found(host: Host) -> None:
    engine: Any = host.engine
    with pytest.raises(DiscrepancyNotFoundError, match="has no discrepancy"):
        run(engine.resolve("acme", UUID(int=7), Remedy.ACCEPTED, ALICE))


def test_money_that_came_late_is_adopted_by_its_debt(host: Host) -> None:
    noted = late_success(host)

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert (adopted.status, adopted.provider_ref) == (COMPLETED, "ch_late")
    assert (adopted.payment_id, adopted.money) == ("inv-1", ASKED)
    assert adopted.idempotency_key == adopting_key(noted.discrepancy_id)
    assert len(host.rail.sent) == 1
    assert not host.store.open_executions(10)


def test_an_adopted_charge_can_be_refunded(host: Host) -> None:
    adopted = made_of(host, resolve(host, late_success(host), Remedy.ADOPT))

    refund = host.execute(
        context(
            idempotency_key="refund-1",
            operation=Operation.REFUND,
            parent_execution_id=adopted.execution_id,
        )
    )

    assert refund.status is COMPLETED


def test_a_debt_that_is_paid_leaves_late_money_on_account(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    failed = host.execute(context())
    host.rail.answer = succeed
    host.execute(context(idempotency_key="key-2"))
    noted = tell(host, failed, RailResult.success("ch_late", ASKED))

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert adopted.payment_id == f"unapplied-{noted.discrepancy_id.hex}"
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert payment.captured_minor == 1250


def test_money_that_came_late_is_given_back(host: Host) -> None:
    noted = late_success(host)

    refund = made_of(host, resolve(host, noted, Remedy.REFUND))

    assert (refund.operation, refund.status) == (Operation.REFUND, COMPLETED)
    assert refund.idempotency_key == refunding_key(noted.discrepancy_id)
    assert [one.operation for one in host.rail.sent] == [Operation.CHARGE, Operation.REFUND]


def test_a_refund_that_is_asked_twice_is_sent_once(host: Host) -> None:
    noted = late_success(host)

    resolve(host, noted, Remedy.REFUND)
    resolve(host, noted, Remedy.REFUND)

    assert len(host.rail.sent) == 2


@pytest.mark.parametrize(
    "code", [PaymentFailureCode.RATE_LIMITED, PaymentFailureCode.NETWORK_ERROR], ids=str
)
def test_a_refund_that_is_refused_before_it_is_sent_is_tried_again(
    host: Host, code: DefiniteFailureCode
) -> None:
    noted = late_success(host)
    host.rail.answer = lambda _: RailResult.failed(code)
    resolve(host, noted, Remedy.REFUND)
    (refund,) = host.store.open_executions(10)
    assert refund.execution_id == refunding_id(noted.discrepancy_id)

    host.rail.answer = succeed
    assert host.refresh_later(refund).status is COMPLETED


def test_a_crash_before_the_refund_is_sent_forgets_nothing(host: Host) -> None:
    noted = late_success(host)
    host.store.before_mark = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        resolve(host, noted, Remedy.REFUND)
    (refund,) = host.store.open_executions(10)
    assert (refund.execution_id, refund.send_count) == (refunding_id(noted.discrepancy_id), 0)

    host.store.before_mark = lambda: None
    assert host.refresh_later(refund).status is COMPLETED


def test_a_lost_answer_to_the_refund_is_looked_up(host: Host) -> None:
    noted = late_success(host)
    host.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    host.rail.lookup = succeed

    refund = made_of(host, resolve(host, noted, Remedy.REFUND))
    assert refund.pending_reason is PendingReason.OUTCOME_UNKNOWN
    resolve(host, noted, Remedy.REFUND)

    assert stored(host, refund.execution_id).status is COMPLETED
    assert len(host.rail.sent) == 2


def test_a_route_without_refunds_is_named_before_anything_is_stored(host: Host) -> None:
    noted = late_success(host)
    host.rail.capabilities = attrs.evolve(CAPABLE, operations=frozenset({Operation.CHARGE}))
    host.restart()

    with pytest.raises(UnsupportedOperationError, match="refund"):
        resolve(host, noted, Remedy.REFUND)

    assert only(host) == noted


# Another amount ---------------------------------------------------------------------------------


def test_another_amount_is_adopted_and_the_doubt_ends(host: Host) -> None:
    noted = another_amount(host, Money(1000, SAR))

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert (adopted.money, adopted.provider_ref) == (Money(1000, SAR), "ch_1")
    assert adopted.payment_id == "inv-1"
    ended = host.find(context())
    assert (ended.status, ended.failure) == (FAILED, PaymentFailureCode.CANCELLED)


def test_more_than_was_due_goes_on_account(host: Host) -> None:
    noted = another_amount(host, Money(5000, SAR))

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert adopted.payment_id == f"unapplied-{noted.discrepancy_id.hex}"


def test_another_currency_goes_on_account(host: Host) -> None:
    noted = another_amount(host, Money(1250, USD))

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert (adopted.money, adopted.status) == (Money(1250, USD), COMPLETED)
    assert adopted.payment_id == f"unapplied-{noted.discrepancy_id.hex}"


def test_what_is_in_doubt_is_not_taken_off_the_list(host: Host) -> None:
    noted = another_amount(host, Money(1000, SAR))

    assert "is in doubt" in refused(host, noted, Remedy.ACCEPTED)

    assert host.find(context()).is_open
    assert only(host) == noted


def test_an_execution_that_moves_meanwhile_is_decided_again(host: Host) -> None:
    noted = another_amount(host, Money(1000, SAR))
    doubt = host.find(context())

    def elsewhere() -> None:
        host.store.before_record = lambda: None
        host.clock.advance(61)
        host.rail.lookup = lambda _: RailResult.pending(
            PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1"
        )
        host.twin().refresh(doubt)

    host.store.before_record = elsewhere
    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert adopted.status is COMPLETED
    assert host.find(context()).status is FAILED


# Orphans ----------------------------------------------------------------------------------------


def test_rc5_an_orphan_is_noted_once(host: Host) -> None:
    assert orphan(host) == orphan(host) == only(host)
    assert only(host).discrepancy.kind is DiscrepancyKind.ORPHAN_CHARGE


def test_an_adopted_orphan_can_be_refunded_like_any_charge(host: Host) -> None:
    adopted = made_of(host, resolve(host, orphan(host), Remedy.ADOPT))

    assert (adopted.money, adopted.provider_ref) == (ORPHAN.money, "ch_9")
    assert adopted.payment_id == ORPHAN.payment_id
    refund = host.execute(
        context(
            payment_id=adopted.payment_id,
            idempotency_key="refund-1",
            money=Money(300, SAR),
            operation=Operation.REFUND,
            parent_execution_id=adopted.execution_id,
        )
    )
    assert refund.status is COMPLETED


def test_an_orphan_is_given_back(host: Host) -> None:
    refund = made_of(host, resolve(host, orphan(host), Remedy.REFUND))

    assert (refund.status, refund.money) == (COMPLETED, ORPHAN.money)


def test_an_orphan_that_is_accepted_books_nothing(host: Host) -> None:
    resolve(host, orphan(host), Remedy.ACCEPTED)

    assert not host.store.executions("acme", ORPHAN.payment_id)
    types = [event.type for event in host.store.events("acme", ORPHAN.payment_id)]
    assert types == [EventType.ORPHAN, EventType.RESOLVED]


def test_an_orphans_card_number_is_masked() -> None:
    found = attrs.evolve(ORPHAN, provider_ref="4111111111111111")

    assert "4111111111111111" not in str(found.discrepancy)


@pytest.mark.parametrize("amount_minor", [0, -1])
def test_an_orphan_has_an_amount(amount_minor: int) -> None:
    with pytest.raises(InvalidValueError, match="above zero"):
        attrs.evolve(ORPHAN, money=Money(amount_minor, SAR))


# What a remedy cannot mend ----------------------------------------------------------------------


def refused(host: Host, noted: NotedDiscrepancy, remedy: Remedy, **decided: Any) -> str:
    events = host.store.events("acme", noted.payment_id)
    with pytest.raises(NoRemedyError) as caught:
        resolve(host, noted, remedy, attrs.evolve(ALICE, **decided))
    assert host.store.events("acme", noted.payment_id) == events
    assert isinstance(caught.value, RailcoreError)
    return str(caught.value)


def test_a_refusal_of_what_is_completed_leaves_it_refundable_as_it_is(host: Host) -> None:
    done = host.execute(context())
    noted = tell(host, done, RailResult.failed(PaymentFailureCode.DECLINED))

    assert "can be refunded as it is" in refused(host, noted, Remedy.ADOPT)


def test_another_reason_of_a_failure_can_only_be_accepted(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    failed = host.execute(context())
    noted = tell(host, failed, RailResult.failed(PaymentFailureCode.RISK_REJECTED))

    assert "only accepted is left" in refused(host, noted, Remedy.REFUND)
    assert not resolve(host, noted, Remedy.ACCEPTED).is_open


def test_a_partial_receipt_wants_to_know_how_much_came(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.CANCELLED)
    failed = host.execute(context())
    part = RailResult.pending(PendingReason.AWAITING_FUNDS, reported=Money(500, SAR))
    noted = tell(host, failed, part)

    assert "how much came is not known" in refused(host, noted, Remedy.ADOPT)
    assert "asked in SAR" in refused(host, noted, Remedy.ADOPT, received=Money(500, USD))
    assert "no money came" in refused(host, noted, Remedy.ADOPT, received=Money(0, SAR))
    received = attrs.evolve(ALICE, received=Money(500, SAR))
    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT, received))
    assert (adopted.money, adopted.provider_ref) == (Money(500, SAR), "statement-7")


def test_another_amount_than_the_provider_tells_is_refused(host: Host) -> None:
    noted = late_success(host)

    assert "tells of" in refused(host, noted, Remedy.ADOPT, received=Money(1, SAR))


def test_an_amount_that_is_booked_is_not_booked_again(host: Host) -> None:
    host.rail.answer = lambda one: RailResult.success("ch_1", one.money)
    done = host.execute(context())
    noted = tell(host, done, RailResult.success("ch_1", Money(99, SAR)))

    assert "is booked as execution" in refused(host, noted, Remedy.ADOPT)


def test_two_strange_references_are_nothing_to_adopt(host: Host) -> None:
    done = host.execute(context())
    found = decide(attrs.evolve(done, provider_ref="x"), success("y")).discrepancy
    assert found is not None
    host.store.note(done, found, draft_discrepancy(done, found))

    assert "neither of the two" in refused(host, only(host), Remedy.ADOPT)


def test_what_is_still_open_is_looked_up_first(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    doubt = host.execute(context())
    done = attrs.evolve(
        doubt, status=COMPLETED, pending_reason=None, cause=None, provider_ref="ch_1"
    )
    found = decide(done, success("ch_2")).discrepancy
    assert found is not None
    host.store.note(doubt, found, draft_discrepancy(doubt, found))

    assert "look it up first" in refused(host, only(host), Remedy.ADOPT)


def test_a_late_refund_is_adopted_but_not_given_back(host: Host) -> None:
    charge = host.execute(context())
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    asked = context(
        idempotency_key="refund-1",
        operation=Operation.REFUND,
        parent_execution_id=charge.execution_id,
    )
    noted = tell(host, host.execute(asked), RailResult.success("re_1", ASKED))

    assert "cannot be given back by itself" in refused(host, noted, Remedy.REFUND)
    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert (adopted.operation, payment.refunded_minor) == (Operation.REFUND, 1250)


def test_a_late_refund_stands_in_the_way_until_somebody_resolves_it(host: Host) -> None:
    charge = host.execute(context())
    asked = context(
        idempotency_key="refund-1",
        operation=Operation.REFUND,
        parent_execution_id=charge.execution_id,
    )
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    noted = tell(host, host.execute(asked), RailResult.success("re_1", ASKED))
    host.rail.answer = succeed
    again = attrs.evolve(asked, idempotency_key="refund-2")
    sent = len(host.rail.sent)

    with pytest.raises(InDoubtError):
        host.execute(again)
    assert len(host.rail.sent) == sent

    resolve(host, noted, Remedy.ADOPT)
    with pytest.raises(LimitExceededError):
        host.execute(again)
    assert len(host.rail.sent) == sent


def test_one_charge_that_two_discrepancies_name_is_given_back_once(host: Host) -> None:
    done = host.execute(context())
    own = done.provider_ref
    assert own is not None
    engine: Any = host.engine
    run(engine.note_orphan(attrs.evolve(ORPHAN, provider_ref="ch_2", money=ASKED)))
    second = attrs.evolve(RailResult.success(own, ASKED), also=(RailResult.success("ch_2", ASKED),))
    host.rail.lookup = lambda _: second
    recheck(host, done)
    host.rail.lookup = lambda _: RailResult.absent()
    sent = len(host.rail.sent)

    first, other = review(host).discrepancies
    resolve(host, first, Remedy.REFUND)
    for remedy in (Remedy.REFUND, Remedy.ADOPT):
        assert "booked already" in refused(host, other, remedy)
    assert len(host.rail.sent) == sent + 1


def test_a_charge_that_is_booked_is_no_orphan_to_give_back(host: Host) -> None:
    done = host.execute(context())
    assert done.provider_ref is not None
    engine: Any = host.engine
    mistaken = attrs.evolve(ORPHAN, provider_ref=done.provider_ref, money=ASKED)
    noted = run(engine.note_orphan(mistaken))
    sent = len(host.rail.sent)

    assert "booked already" in refused(host, noted, Remedy.REFUND)
    assert len(host.rail.sent) == sent


# Money that may have come after all -------------------------------------------------------------


@pytest.mark.parametrize("operation", [Operation.CHARGE, Operation.AUTHORIZE])
def test_a_debt_is_not_charged_again_while_a_late_success_is_open(
    host: Host, operation: Operation
) -> None:
    noted = late_success(host)
    again = context(idempotency_key="key-2", operation=operation)
    sent = len(host.rail.sent)

    with pytest.raises(InDoubtError) as caught:
        host.execute(again)

    assert caught.value.execution_ids == (noted.execution_id,)
    assert caught.value.discrepancy_ids == (noted.discrepancy_id,)
    assert "resolved first" in str(caught.value)
    assert len(host.rail.sent) == sent
    assert host.store.find("acme", "key-2") is None


def test_a_debt_is_not_enqueued_again_either(host: Host) -> None:
    noted = late_success(host)
    engine: Any = host.engine
    again = context(idempotency_key="key-2")

    with pytest.raises(InDoubtError, match=str(noted.discrepancy_id)):
        run(engine.enqueue(again))
    (refusal,) = run(engine.enqueue_many([again]))

    assert isinstance(refusal, InDoubtError)
    assert refusal.execution_ids == (noted.execution_id,)


def test_the_key_that_failed_still_answers(host: Host) -> None:
    late_success(host)

    assert host.execute(context()).status is FAILED


@pytest.mark.parametrize(
    ("remedy", "is_paid"), [(Remedy.ACCEPTED, False), (Remedy.ADOPT, True), (Remedy.REFUND, True)]
)
def test_what_is_resolved_gives_its_room_back_once(
    host: Host, remedy: Remedy, is_paid: bool
) -> None:
    noted = late_success(host)
    resolve(host, noted, remedy)

    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert payment.disputed_minor == 0
    if is_paid:
        with pytest.raises(LiveExecutionExists):
            host.execute(context(idempotency_key="key-2"))
    else:
        assert host.execute(context(idempotency_key="key-2")).status is COMPLETED


def test_beside_what_may_have_come_there_may_be_room(host: Host) -> None:
    part = context(money=Money(500, SAR), due=ASKED)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    tell(host, host.execute(part), RailResult.success("ch_late", part.money))
    host.rail.answer = succeed

    with pytest.raises(InDoubtError):
        host.execute(attrs.evolve(part, idempotency_key="key-2", money=Money(751, SAR)))
    rest = host.execute(attrs.evolve(part, idempotency_key="key-3", money=Money(750, SAR)))

    assert rest.status is COMPLETED


def test_the_larger_amount_that_the_provider_tells_is_in_doubt(host: Host) -> None:
    part = context(money=Money(500, SAR), due=ASKED)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    tell(host, host.execute(part), RailResult.success("ch_late", Money(700, SAR)))
    host.rail.answer = succeed

    with pytest.raises(InDoubtError):
        host.execute(attrs.evolve(part, idempotency_key="key-2", money=Money(551, SAR)))
    host.execute(attrs.evolve(part, idempotency_key="key-3", money=Money(550, SAR)))


def test_another_reason_of_a_failure_stands_in_nobodys_way(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    tell(host, host.execute(context()), RailResult.failed(PaymentFailureCode.RISK_REJECTED))
    host.rail.answer = succeed

    assert host.execute(context(idempotency_key="key-2")).status is COMPLETED


# A capture that ran twice -----------------------------------------------------------------------


def captured_twice(host: Host, second: Money = ASKED) -> NotedDiscrepancy:
    """An authorization whose capture the provider made twice."""
    held = host.execute(context(operation=Operation.AUTHORIZE))
    host.rail.answer = lambda one: attrs.evolve(
        RailResult.success("cap_1", one.money), also=(RailResult.success("cap_2", second),)
    )
    capture = context(
        idempotency_key="capture-1",
        operation=Operation.CAPTURE,
        parent_execution_id=held.execution_id,
    )
    host.execute(capture)
    host.rail.answer = succeed
    return only(host)


@pytest.mark.parametrize("second", [ASKED, Money(99, SAR)], ids=["the same", "another amount"])
def test_what_was_captured_twice_is_adopted_as_money_on_account(host: Host, second: Money) -> None:
    noted = captured_twice(host, second)

    adopted = made_of(host, resolve(host, noted, Remedy.ADOPT))

    assert (adopted.operation, adopted.status) == (Operation.CHARGE, COMPLETED)
    assert (adopted.provider_ref, adopted.money) == ("cap_2", second)
    assert adopted.payment_id == f"unapplied-{noted.discrepancy_id.hex}"
    assert adopted.context.parent_execution_id is None


def test_what_was_captured_twice_is_given_back(host: Host) -> None:
    noted = captured_twice(host)

    refund = made_of(host, resolve(host, noted, Remedy.REFUND))

    assert (refund.operation, refund.status, refund.parent_ref) == (
        Operation.REFUND,
        COMPLETED,
        "cap_2",
    )
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert (payment.captured_minor, payment.refunded_minor) == (1250, 0)


def test_a_late_capture_is_booked_where_it_was_asked_and_given_back(host: Host) -> None:
    held = host.execute(context(operation=Operation.AUTHORIZE))
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    capture = context(
        idempotency_key="capture-1",
        operation=Operation.CAPTURE,
        parent_execution_id=held.execution_id,
    )
    noted = tell(host, host.execute(capture), RailResult.success("cap_1", ASKED))
    host.rail.answer = succeed

    refund = made_of(host, resolve(host, noted, Remedy.REFUND))

    adopted = stored(host, adopting_id(noted.discrepancy_id))
    assert (adopted.operation, adopted.payment_id) == (Operation.CAPTURE, "inv-1")
    assert (refund.status, refund.parent_ref) == (COMPLETED, "cap_1")
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert (payment.captured_minor, payment.refunded_minor) == (1250, 1250)


# A refund that is refused -----------------------------------------------------------------------


def declined_refund(host: Host) -> NotedDiscrepancy:
    """A late success that was to be given back, which the provider refuses."""
    noted = late_success(host)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    refund = made_of(host, resolve(host, noted, Remedy.REFUND))
    host.rail.answer = succeed
    assert refund.status is FAILED
    return only(host)


def test_money_that_was_not_given_back_is_listed_again(host: Host) -> None:
    listed = declined_refund(host)

    refund = stored(host, listed.execution_id)
    assert listed.discrepancy.kind is DiscrepancyKind.REFUND_FAILED
    assert refund.operation is Operation.REFUND
    assert "declined" in str(listed.discrepancy.sides)
    *_, event = host.store.events("acme", "inv-1")
    assert event.to_status == "failed"
    assert resolve(host, listed, Remedy.ACCEPTED).resolved is not None
    assert not review(host).discrepancies


def test_a_refused_refund_is_tried_again_under_a_new_key(host: Host) -> None:
    listed = declined_refund(host)

    refund = made_of(host, resolve(host, listed, Remedy.REFUND))

    first = stored(host, listed.execution_id)
    assert (refund.status, refund.money) == (COMPLETED, ASKED)
    assert refund.idempotency_key == refunding_key(listed.discrepancy_id) != first.idempotency_key
    assert refund.context.parent_execution_id == first.context.parent_execution_id
    assert refund.parent_ref == first.parent_ref == "ch_late"
    assert not review(host).discrepancies
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert (payment.captured_minor, payment.refunded_minor) == (1250, 1250)


def test_a_refund_that_is_refused_twice_is_listed_twice(host: Host) -> None:
    listed = declined_refund(host)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.RISK_REJECTED)

    refund = made_of(host, resolve(host, listed, Remedy.REFUND))

    assert refund.status is FAILED
    assert only(host).execution_id == refund.execution_id


def test_what_is_booked_is_not_adopted_again(host: Host) -> None:
    listed = declined_refund(host)

    assert "booked already" in refused(host, listed, Remedy.ADOPT)


def test_what_somebody_gave_back_otherwise_is_not_given_back_again(host: Host) -> None:
    listed = declined_refund(host)
    adopted_id = stored(host, listed.execution_id).context.parent_execution_id
    host.execute(
        context(
            idempotency_key="refund-1",
            operation=Operation.REFUND,
            parent_execution_id=adopted_id,
        )
    )

    assert "no room" in refused(host, listed, Remedy.REFUND)


def test_a_refund_whose_failure_is_found_by_a_lookup_is_listed_too(host: Host) -> None:
    noted = late_success(host)
    host.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    refund = made_of(host, resolve(host, noted, Remedy.REFUND))
    assert not review(host).discrepancies
    host.rail.lookup = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)

    host.refresh_later(refund)

    assert only(host).discrepancy.kind is DiscrepancyKind.REFUND_FAILED


def test_a_refund_is_listed_before_its_failure_is_recorded(host: Host) -> None:
    noted = late_success(host)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    host.store.before_record = raises(KeyboardInterrupt())
    host.store.before_mark = lambda: setattr(
        host.store, "before_record", raises(KeyboardInterrupt())
    )
    host.store.before_record = lambda: None
    with pytest.raises(KeyboardInterrupt):
        resolve(host, noted, Remedy.REFUND)

    listed = only(host)
    assert stored(host, listed.execution_id).is_open
    host.store.before_mark = host.store.before_record = lambda: None
    assert "still open" in refused(host, listed, Remedy.REFUND)
    assert "is in doubt" in refused(host, listed, Remedy.ACCEPTED)


def test_a_hosts_own_refund_that_is_refused_is_no_discrepancy(host: Host) -> None:
    charge = host.execute(context())
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    host.execute(
        context(
            idempotency_key="refund-1",
            operation=Operation.REFUND,
            parent_execution_id=charge.execution_id,
        )
    )

    assert not review(host).discrepancies


def test_a_refused_refund_stands_in_no_other_refunds_way(host: Host) -> None:
    listed = declined_refund(host)
    adopted_id = stored(host, listed.execution_id).context.parent_execution_id

    part = context(
        idempotency_key="refund-1",
        money=Money(300, SAR),
        operation=Operation.REFUND,
        parent_execution_id=adopted_id,
    )

    assert host.execute(part).status is COMPLETED
