"""What an engine of either colour promises, whatever goes wrong between its steps."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import attrs
import pytest

from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.engine import AsyncPaymentEngine
from railcore.enums import ExecutionStatus, Idempotency, Operation, PaymentRail, PendingReason
from railcore.errors import (
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    InDoubtError,
    InProgressError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    OutcomeUnknownError,
    RouteNotFoundError,
    StoreError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.events import EventType
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind
from railcore.money import SAR, USD, Currency, Money
from railcore.observability import ExecutionObserved, RailObserved
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, Resolution
from tests.core.hosts import (
    COLOURS,
    ROUTES,
    AsyncFakeRail,
    Host,
    find_nothing,
    lost,
    nothing,
    raises,
    run,
    succeed,
)
from tests.core.made import ASKED, CAPABLE, ID, context

PROCESSING, PENDING = ExecutionStatus.PROCESSING, ExecutionStatus.PENDING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
RACERS = 50
TIMEOUT = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
NETWORK_ERROR = RailResult.failed(PaymentFailureCode.NETWORK_ERROR)
DECLINED = RailResult.failed(PaymentFailureCode.DECLINED, provider_ref="ch_key-1")
ACCEPTED = RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref="ch_key-1")


def always(result: RailResult) -> Any:
    return lambda _: result


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host; whatever a test did to it, its books are in order afterwards."""
    made = Host(request.param)
    yield made
    check_books(made)


def check_books(host: Host) -> None:
    """Check what holds after any story: no gap, one event a version, nothing forgotten."""
    payments = {(one.tenant_id, one.payment_id) for one in host.store.open_executions(10**6)}
    payments |= {("acme", "inv-1"), ("acme", "inv-2")}
    for tenant_id, payment_id in payments:
        events = host.store.events(tenant_id, payment_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        for one in host.store.executions(tenant_id, payment_id):
            versions = [
                event.version
                for event in events
                if event.execution_id == one.execution_id and event.version is not None
            ]
            assert versions == list(range(1, one.version + 1))
            assert one.is_open is (one.next_check_at is not None)


def refund(parent: PaymentExecution, key: str = "refund-1", **changes: Any) -> PaymentContext:
    return context(
        idempotency_key=key,
        operation=changes.pop("operation", Operation.REFUND),
        parent_execution_id=parent.execution_id,
        **changes,
    )


# One key, one call --------------------------------------------------------------------------------


def test_a_charge_is_claimed_sent_and_recorded(host: Host) -> None:
    after = host.execute(context())

    assert (after.status, after.provider_ref, after.settled_minor) == (COMPLETED, "ch_key-1", 1250)
    assert (after.send_count, after.version, after.lease.owner) == (1, 2, None)
    assert [event.type for event in host.store.events("acme", "inv-1")] == [
        EventType.STARTED,
        EventType.COMPLETED,
    ]


def test_the_claim_is_stored_before_anything_is_sent(host: Host) -> None:
    seen = list[ExecutionStatus]()

    def look(execution: PaymentExecution) -> RailResult:
        seen.append(host.find(context()).status)
        return succeed(execution)

    host.rail.answer = look
    host.execute(context())

    assert seen == [PROCESSING]


def test_the_provider_is_given_the_derived_key(host: Host) -> None:
    host.execute(context())

    assert host.rail.sent[0].provider_key == context().provider_key


@pytest.mark.parametrize("result", [ACCEPTED, DECLINED, TIMEOUT], ids=["pending", "no", "unknown"])
def test_asking_again_returns_the_stored_execution(host: Host, result: RailResult) -> None:
    host.rail.answer = always(result)
    first = host.execute(context())

    assert [host.execute(context()) for _ in range(3)] == [first] * 3
    assert len(host.rail.sent) == 1


def test_ir3_asking_again_while_it_is_in_flight_returns_it_as_it_is(host: Host) -> None:
    answers = list[PaymentExecution]()

    def ask_again(execution: PaymentExecution) -> RailResult:
        answers.append(host.twin().execute(context()))
        return succeed(execution)

    host.rail.answer = ask_again
    after = host.execute(context())

    assert [one.status for one in answers] == [PROCESSING]
    assert answers[0].execution_id == after.execution_id
    assert len(host.rail.sent) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"money": Money(1251, SAR)},
        {"money": Money(1250, USD)},
        {"payment_id": "inv-2"},
        {"instrument_token": "tok_2"},
        {"operation": Operation.AUTHORIZE},
    ],
    ids=["amount", "currency", "payment", "instrument", "operation"],
)
def test_ir2_the_same_key_for_another_request_is_a_conflict(
    host: Host, changes: dict[str, Any]
) -> None:
    first = host.execute(context())

    with pytest.raises(IdempotencyConflict) as error:
        host.execute(context(**changes))

    assert error.value.execution_id == first.execution_id
    assert len(host.rail.sent) == 1
    assert host.find(context()) == first


def test_ir2_the_same_key_of_another_tenant_is_another_request(host: Host) -> None:
    first = host.execute(context())
    other = host.execute(context(tenant_id="other", money=Money(7, SAR)))

    assert other.execution_id != first.execution_id
    assert other.provider_key != first.provider_key


def slow_success(execution: PaymentExecution) -> RailResult:
    threading.Event().wait(0.05)
    return succeed(execution)


def test_fifty_threads_on_one_key_call_the_provider_once() -> None:
    host = Host("sync")
    host.rail.answer = slow_success
    barrier = threading.Barrier(RACERS)

    def race(_: int) -> PaymentExecution:
        barrier.wait()
        return host.execute(context())

    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(race, range(RACERS)))

    assert len(host.rail.sent) == 1
    assert len({answer.execution_id for answer in answers}) == 1
    assert {host.execute(context()) for _ in range(RACERS)} == {host.find(context())}
    assert host.find(context()).status is COMPLETED
    check_books(host)


def test_fifty_tasks_on_one_key_call_the_provider_once() -> None:
    host = Host("async")
    engine = host.engine
    assert isinstance(engine, AsyncPaymentEngine)

    async def race() -> list[PaymentExecution]:
        return await asyncio.gather(*(engine.execute(context()) for _ in range(RACERS)))

    answers = asyncio.run(race())

    assert len(host.rail.sent) == 1
    assert len({answer.execution_id for answer in answers}) == 1
    assert {host.execute(context()) for _ in range(RACERS)} == {host.find(context())}
    assert host.find(context()).status is COMPLETED
    check_books(host)


def test_fifty_threads_on_one_refund_call_the_provider_once() -> None:
    host = Host("sync")
    parent = host.execute(context())
    host.rail.answer = slow_success
    barrier = threading.Barrier(RACERS)

    def race(_: int) -> PaymentExecution:
        barrier.wait()
        return host.execute(refund(parent))

    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(race, range(RACERS)))

    assert len(host.rail.sent) == 2
    assert len({answer.execution_id for answer in answers}) == 1
    check_books(host)


def test_ir2_of_fifty_threads_with_two_amounts_only_one_request_is_sent() -> None:
    host = Host("sync")
    host.rail.answer = slow_success
    barrier = threading.Barrier(RACERS)

    def race(number: int) -> str:
        barrier.wait()
        try:
            return str(host.execute(context(money=Money(1250 + number % 2, SAR))).execution_id)
        except IdempotencyConflict:
            return "conflict"

    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(race, range(RACERS)))

    assert answers.count("conflict") == RACERS // 2
    assert len(set(answers)) == 2
    assert len(host.rail.sent) == 1


# What an answer leads to --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status"), [(DECLINED, FAILED), (ACCEPTED, PENDING), (TIMEOUT, PENDING)]
)
def test_an_answer_is_a_value_and_never_an_exception(
    host: Host, result: RailResult, status: ExecutionStatus
) -> None:
    host.rail.answer = always(result)

    assert host.execute(context()).status is status


def test_another_amount_than_asked_is_doubt_and_a_discrepancy(host: Host) -> None:
    host.rail.answer = always(RailResult.success("ch_1", Money(1249, SAR)))
    after = host.execute(context())

    assert (after.status, after.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert [one.kind for one in host.store.discrepancies] == [DiscrepancyKind.AMOUNT_DIFFERS]


def test_a_wrong_amount_that_is_said_again_is_one_discrepancy(host: Host) -> None:
    host.rail.answer = host.rail.lookup = always(RailResult.success("ch_1", Money(1249, SAR)))
    after = host.execute(context())

    for _ in range(3):
        after = host.refresh_later(after, 10**5)

    assert len(host.store.discrepancies) == 1
    assert after.is_open


# Exceptions, cancellation, death ------------------------------------------------------------------


class BrokenRailError(Exception):
    """What a vendor's SDK might raise."""


@pytest.mark.parametrize(
    "error", [BrokenRailError("boom"), MemoryError(), StoreError("the rail's own", True)]
)
def test_an_exception_in_a_rail_reaches_the_caller_and_the_row_says_unknown(
    host: Host, error: Exception
) -> None:
    host.rail.answer = raises(error)

    with pytest.raises(type(error)) as raised:
        host.execute(context())

    assert raised.value is error
    row = host.find(context())
    assert (row.status, row.pending_reason, row.cause) == (
        PENDING,
        PendingReason.OUTCOME_UNKNOWN,
        PaymentFailureCode.INTERNAL_ERROR,
    )


def test_a_rail_that_answers_nonsense_leaves_an_unknown(host: Host) -> None:
    nonsense: Any = None
    host.rail.answer = always(nonsense)

    with pytest.raises(AttributeError):
        host.execute(context())

    assert host.find(context()).pending_reason is PendingReason.OUTCOME_UNKNOWN


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()], ids=repr
)
def test_cp5_an_interrupted_call_stays_open_until_it_is_looked_up(
    host: Host, error: BaseException
) -> None:
    host.rail.answer = raises(error)
    with pytest.raises(type(error)):
        host.execute(context())

    row = host.find(context())
    assert (row.status, row.version) == (PROCESSING, 1)
    host.rail.lookup = succeed
    assert host.refresh(row) == row
    assert host.refresh_later(row).status is COMPLETED
    assert len(host.rail.sent) == 1


def test_cp5_a_cancelled_task_stays_open_until_it_is_looked_up() -> None:
    host = Host("async")
    engine = host.engine
    assert isinstance(engine, AsyncPaymentEngine)

    class Stuck(AsyncFakeRail):
        async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
            self.rail.sent.append(execution)
            begun.set()
            await asyncio.sleep(3600)
            return succeed(execution)

    begun = asyncio.Event()
    stuck = Stuck(host.rail)
    host.restart(rails={(PaymentRail.CARD_PSP, "stub"): (host.rail, stuck)})

    async def story() -> None:
        assert isinstance(host.engine, AsyncPaymentEngine)
        task = asyncio.create_task(host.engine.execute(context()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    row = host.find(context())
    host.rail.lookup = succeed

    assert row.status is PROCESSING
    assert host.refresh_later(row).status is COMPLETED
    check_books(host)


# Lost answers -------------------------------------------------------------------------------------


def test_a_lost_answer_is_unknown_and_is_found_again(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.rail.lookup = succeed

    after = host.refresh_later(row)

    assert row.cause is PaymentFailureCode.PROVIDER_TIMEOUT
    assert after.status is COMPLETED
    assert len(host.rail.sent) == 1


def test_what_never_arrived_is_sent_again_once_with_the_same_key(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.rail.answer = succeed

    after = host.refresh_later(row)

    assert (after.status, after.send_count) == (COMPLETED, 2)
    assert [one.provider_key for one in host.rail.sent] == [context().provider_key] * 2
    assert len(host.rail.looked_up) == 1


def test_a_resend_is_marked_before_it_leaves(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    counted = list[int]()

    def look(execution: PaymentExecution) -> RailResult:
        counted.append(host.find(context()).send_count)
        return succeed(execution)

    host.rail.answer = look
    host.refresh_later(row)

    assert counted == [2]


def test_nothing_is_sent_again_without_a_lookup(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    host.rail.lookup = always(TIMEOUT)
    row = host.execute(context())

    for _ in range(5):
        row = host.refresh_later(row, 30)

    assert len(host.rail.sent) == 1
    assert row.pending_reason is PendingReason.OUTCOME_UNKNOWN


@pytest.mark.parametrize("code", [code for code in PaymentFailureCode if code.is_definite])
def test_a_lookup_that_is_refused_never_fails_what_was_sent(
    host: Host, code: PaymentFailureCode
) -> None:
    host.rail.answer = always(TIMEOUT)
    host.rail.lookup = lambda _: RailResult.failed(code)  # type: ignore[arg-type]
    row = host.refresh_later(host.execute(context()))

    assert (row.status is FAILED) is (code.category == "permanent")


def test_a_lookup_that_breaks_is_no_news(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    host.rail.lookup = raises(BrokenRailError())
    row = host.execute(context())

    after = host.refresh_later(row)

    assert (after.status, after.version, after.check_count) == (PENDING, row.version, 1)
    assert after.lease.owner is None


def test_uo6_outside_the_key_window_nothing_is_sent_again(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())

    after = host.refresh_later(row, 10_000)

    assert len(host.rail.sent) == 1
    assert (after.status, after.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)


def test_uo6_a_lookup_that_froze_past_the_key_window_resends_nothing(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())

    def freeze(_: PaymentExecution) -> RailResult:
        host.clock.advance(3600)
        return RailResult.absent()

    host.rail.lookup = freeze
    host.refresh_later(row)

    assert len(host.rail.sent) == 1


def test_without_idempotency_absence_waits_for_its_proof(host: Host) -> None:
    host.rail.capabilities = attrs.evolve(CAPABLE, idempotency=Idempotency.NONE)
    host.restart()
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())

    early = host.refresh_later(row, 185)
    late = host.refresh_later(early, 185)

    assert early.status is PENDING
    assert (late.status, late.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)
    assert len(host.rail.sent) == 1


def test_a_resend_that_never_left_fails_nothing(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.rail.answer = always(NETWORK_ERROR)

    after = host.refresh_later(row)

    assert (after.status, after.send_count) == (PENDING, 2)


def test_a_first_try_that_never_left_fails(host: Host) -> None:
    host.rail.answer = always(NETWORK_ERROR)
    after = host.execute(context())

    assert (after.status, after.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)


def test_after_a_definite_failure_another_key_may_try(host: Host) -> None:
    host.rail.answer = always(DECLINED)
    host.execute(context())
    host.rail.answer = succeed

    assert host.execute(context(idempotency_key="key-2")).status is COMPLETED


@pytest.mark.parametrize("result", [TIMEOUT, ACCEPTED], ids=["in doubt", "under way"])
def test_while_a_charge_is_open_no_other_key_may_try(host: Host, result: RailResult) -> None:
    host.rail.answer = always(result)
    first = host.execute(context())

    with pytest.raises(LiveExecutionExists, match=str(first.execution_id)):
        host.execute(context(idempotency_key="key-2"))

    assert len(host.rail.sent) == 1


# Refreshing ---------------------------------------------------------------------------------------


def test_what_is_finished_is_not_asked_about(host: Host) -> None:
    done = host.execute(context())

    assert host.refresh_later(done) == done
    assert not host.rail.looked_up


def test_what_another_holds_is_not_asked_about(host: Host) -> None:
    host.rail.answer = always(ACCEPTED)
    row = host.execute(context())
    host.store.acquire(row.tenant_id, row.execution_id, "worker", 60)

    assert host.refresh_later(row, 59).lease.owner == "worker"
    assert not host.rail.looked_up


def test_what_nobody_stored_cannot_be_refreshed(host: Host) -> None:
    with pytest.raises(ExecutionNotFoundError, match=str(ID)):
        run(host.engine.refresh("acme", ID))


def test_no_news_puts_the_next_look_off(host: Host) -> None:
    host.rail.answer = host.rail.lookup = always(ACCEPTED)
    row = host.execute(context())
    waits = list[float]()
    for _ in range(4):
        row = host.refresh_later(row)
        assert row.next_check_at is not None
        waits.append((row.next_check_at - host.clock.now()).total_seconds())

    assert waits == [15, 30, 60, 120]
    assert row.version == 2


def test_what_was_never_sent_is_sent_without_a_lookup(host: Host) -> None:
    host.store.after_claim = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.execute(context())
    host.store.after_claim = nothing
    unsent = attrs.evolve(host.find(context()), send_count=0, first_sent_at=None, last_sent_at=None)
    host.store._keep(unsent)

    after = host.refresh_later(unsent)

    assert (after.status, after.send_count) == (COMPLETED, 1)
    assert not host.rail.looked_up


# Send deadlines -----------------------------------------------------------------------------------


def test_a_slow_claim_is_marked_anew_before_it_is_sent(host: Host) -> None:
    host.store.after_claim = lambda: host.clock.advance(5.1)
    after = host.execute(context())

    assert len(host.rail.sent) == 1
    assert host.rail.sent[0].send_count == 2
    assert after.status is COMPLETED


def test_a_store_that_stays_too_slow_sends_nothing_and_fails_nothing(host: Host) -> None:
    host.store.after_claim = lambda: host.clock.advance(5.1)
    host.store.before_mark = lambda: host.clock.advance(5.1)
    after = host.execute(context())

    assert not host.rail.sent
    assert after.pending_reason is PendingReason.OUTCOME_UNKNOWN


def test_a_slow_claim_that_was_overtaken_sends_nothing(host: Host) -> None:
    def be_overtaken() -> None:
        host.clock.advance(61)
        row = host.find(context())
        assert host.store.acquire(row.tenant_id, row.execution_id, "worker", 60) is not None

    host.store.after_claim = be_overtaken
    after = host.execute(context())

    assert not host.rail.sent
    assert after.status is PROCESSING


def test_a_claim_within_the_send_deadline_sends(host: Host) -> None:
    host.store.after_claim = lambda: host.clock.advance(5)

    assert host.execute(context()).status is COMPLETED


def test_a_resend_mark_that_took_longer_than_the_send_deadline_sends_nothing(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.store.before_mark = lambda: host.clock.advance(5.1)

    after = host.refresh_later(row)

    assert len(host.rail.sent) == 1
    assert after.pending_reason is PendingReason.OUTCOME_UNKNOWN


# The store fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["before_record", "after_record"])
@pytest.mark.parametrize(
    "error",
    [lost(may_have_committed=True), InProgressError("payment", timedelta(seconds=1))],
    ids=["lost", "busy"],
)
def test_an_outcome_that_could_not_be_recorded_is_unknown_to_the_caller(
    host: Host, at: str, error: Exception
) -> None:
    setattr(host.store, at, raises(error))
    with pytest.raises(OutcomeUnknownError) as raised:
        host.execute(context())
    setattr(host.store, at, nothing)

    row = host.find(context())
    assert raised.value.execution_id == row.execution_id
    assert row.status is (PROCESSING if at == "before_record" else COMPLETED)
    assert host.execute(context()) == row
    host.rail.lookup = succeed
    assert host.refresh_later(row).status is COMPLETED
    assert len(host.rail.sent) == 1


def test_an_answer_to_a_claim_that_the_database_lost_is_unknown_to_the_caller(host: Host) -> None:
    host.store.before_record = host.store.forget

    with pytest.raises(OutcomeUnknownError):
        host.execute(context())
    assert len(host.rail.sent) == 1


def test_a_claim_that_was_not_stored_sends_nothing_and_may_be_repeated(host: Host) -> None:
    host.store.before_claim = raises(lost(may_have_committed=False))
    with pytest.raises(StoreError):
        host.execute(context())
    assert not host.rail.sent

    host.store.before_claim = nothing
    assert host.execute(context()).status is COMPLETED


def test_a_claim_that_was_stored_after_all_is_looked_up_before_it_is_sent(host: Host) -> None:
    host.store.after_claim = raises(lost(may_have_committed=True))
    with pytest.raises(StoreError):
        host.execute(context())
    host.store.after_claim = nothing

    row = host.execute(context())
    assert row.status is PROCESSING
    assert not host.rail.sent
    assert host.refresh_later(row).status is COMPLETED
    assert (len(host.rail.looked_up), len(host.rail.sent)) == (1, 1)


# Zombies ------------------------------------------------------------------------------------------


def overtaken(host: Host, answer: RailResult) -> Any:
    """Freeze until the lease is gone and another process has sent again; then say *answer*."""

    def freeze(execution: PaymentExecution) -> RailResult:
        host.rail.answer = always(TIMEOUT)
        host.clock.advance(61)
        taken_over = host.twin().refresh(execution)
        assert (taken_over.lease.token, taken_over.send_count) == (2, 2)
        return answer

    return freeze


def test_a_zombies_try_that_never_left_fails_nothing(host: Host) -> None:
    host.rail.answer = overtaken(host, NETWORK_ERROR)
    after = host.execute(context())

    assert (after.status, after.send_count, after.lease.token) == (PENDING, 2, 2)
    assert after.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert not host.store.discrepancies


def test_a_zombies_try_that_never_left_fails_nothing_while_another_is_at_it(host: Host) -> None:
    def freeze(execution: PaymentExecution) -> RailResult:
        host.clock.advance(61)
        taken_over = host.store.acquire(execution.tenant_id, execution.execution_id, "worker", 60)
        assert taken_over is not None
        assert host.store.mark_sent(taken_over.execution, 60) is not None
        return NETWORK_ERROR

    host.rail.answer = freeze
    after = host.execute(context())

    assert (after.status, after.version, after.lease.owner) == (PROCESSING, 1, "worker")


def test_a_zombies_real_answer_is_folded(host: Host) -> None:
    host.rail.answer = overtaken(host, RailResult.success("ch_1", context().money))
    after = host.execute(context())

    assert (after.status, after.provider_ref) == (COMPLETED, "ch_1")


def test_a_zombies_refusal_by_the_provider_is_folded(host: Host) -> None:
    host.rail.answer = overtaken(host, DECLINED)

    assert host.execute(context()).failure is PaymentFailureCode.DECLINED


def test_a_zombies_answer_that_contradicts_is_a_discrepancy(host: Host) -> None:
    def freeze(execution: PaymentExecution) -> RailResult:
        host.rail.lookup = succeed
        host.clock.advance(61)
        assert host.twin().refresh(execution).status is COMPLETED
        return DECLINED

    host.rail.answer = freeze
    after = host.execute(context())

    assert after.status is COMPLETED
    assert [one.kind for one in host.store.discrepancies] == [DiscrepancyKind.SUCCESS_AFTER_FAILURE]


def test_a_zombies_pending_answer_leaves_lease_and_schedule_alone(host: Host) -> None:
    held = list[PaymentExecution]()

    def freeze(execution: PaymentExecution) -> RailResult:
        host.clock.advance(61)
        host.store.acquire(execution.tenant_id, execution.execution_id, "worker", 60)
        held.append(host.find(context()))
        return ACCEPTED

    host.rail.answer = freeze
    after = host.execute(context())

    assert after.pending_reason is PendingReason.PROVIDER_PROCESSING
    assert (after.lease, after.next_check_at) == (held[0].lease, held[0].next_check_at)


def test_a_zombie_with_nothing_new_leaves_lease_and_schedule_alone(host: Host) -> None:
    def freeze(execution: PaymentExecution) -> RailResult:
        host.rail.lookup = always(ACCEPTED)
        host.clock.advance(61)
        host.twin().refresh(execution)
        host.clock.advance(61)
        host.store.acquire(execution.tenant_id, execution.execution_id, "worker", 60)
        return ACCEPTED

    host.rail.answer = freeze
    after = host.execute(context())

    assert after.lease.owner == "worker"
    assert after.check_count == 2  # the twin and the worker


def test_an_expired_lease_that_nobody_took_still_lets_its_holder_record(host: Host) -> None:
    def freeze(_: PaymentExecution) -> RailResult:
        host.clock.advance(3600)
        return NETWORK_ERROR

    host.rail.answer = freeze

    assert host.execute(context()).failure is PaymentFailureCode.NETWORK_ERROR


def test_uo5_a_zombie_between_lookup_and_resend_sends_nothing(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())

    def freeze(execution: PaymentExecution) -> RailResult:
        host.clock.advance(61)
        host.rail.lookup = succeed
        assert host.twin().refresh(execution).status is COMPLETED
        return RailResult.absent()

    host.rail.lookup = freeze
    after = host.refresh_later(row)

    assert after.status is COMPLETED
    assert len(host.rail.sent) == 1


def test_uo5_what_a_zombie_did_not_find_proves_nothing_of_a_later_send(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.clock.advance(300)  # silence proves something from 185 s on, resends are over at 475 s

    def freeze(execution: PaymentExecution) -> RailResult:
        host.rail.lookup = find_nothing
        host.clock.advance(61)
        assert host.twin().refresh(execution).send_count == 2
        host.clock.advance(120)
        return RailResult.absent()

    host.rail.lookup = freeze
    after = host.refresh(row)

    assert (after.status, after.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)
    assert len(host.rail.sent) == 2


def test_two_processes_that_refresh_at_once_resend_once() -> None:
    host = Host("sync")
    host.rail.answer = always(TIMEOUT)
    row = host.execute(context())
    host.rail.answer = slow_success
    host.clock.advance(61)
    barrier = threading.Barrier(20)

    def race(_: int) -> PaymentExecution:
        barrier.wait()
        return host.twin().refresh(row)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(race, range(20)))

    assert len(host.rail.sent) == 2
    assert host.find(context()).status is COMPLETED
    check_books(host)


# Capture, void, refund ----------------------------------------------------------------------------


def test_an_authorization_is_captured_and_the_rest_voided(host: Host) -> None:
    parent = host.execute(context(operation=Operation.AUTHORIZE))
    capture = refund(parent, "c1", operation=Operation.CAPTURE, money=Money(1000, SAR))
    void = refund(parent, "v1", operation=Operation.VOID, money=Money(250, SAR))

    assert host.execute(capture).status is COMPLETED
    assert host.execute(void).status is COMPLETED

    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    assert (payment.captured_minor, payment.voided_minor, payment.capturable_minor) == (
        1000,
        250,
        0,
    )


def test_what_was_voided_may_be_charged_again(host: Host) -> None:
    parent = host.execute(context(operation=Operation.AUTHORIZE))
    again = context(idempotency_key="key-2", money=Money(250, SAR))
    with pytest.raises(LiveExecutionExists):
        host.execute(again)

    host.execute(refund(parent, "v1", operation=Operation.VOID, money=Money(250, SAR)))

    assert host.execute(again).status is COMPLETED


def test_a_charge_is_refunded_in_parts_up_to_what_was_captured(host: Host) -> None:
    parent = host.execute(context())
    for number, amount in enumerate((500, 750)):
        host.execute(refund(parent, f"r{number}", money=Money(amount, SAR)))

    with pytest.raises(LimitExceededError, match="0 minor units available"):
        host.execute(refund(parent, "r9", money=Money(1, SAR)))


def test_a_refund_is_never_refunded(host: Host) -> None:
    first = host.execute(refund(host.execute(context()), money=Money(500, SAR)))

    with pytest.raises(UnsupportedOperationError, match="refund of a refund"):
        host.execute(refund(first, "r2", money=Money(500, SAR)))


@pytest.mark.parametrize("operation", [Operation.CAPTURE, Operation.VOID])
def test_only_an_authorization_is_captured_or_voided(host: Host, operation: Operation) -> None:
    host.execute(context(operation=Operation.AUTHORIZE, due=Money(2500, SAR)))
    charge = host.execute(context(idempotency_key="key-2", due=Money(2500, SAR)))

    with pytest.raises(UnsupportedOperationError, match=f"{operation} of a charge"):
        host.execute(refund(charge, operation=operation))


def test_no_charge_gives_back_what_another_one_collected(host: Host) -> None:
    first = host.execute(context(money=Money(250, SAR), due=ASKED))
    host.execute(context(idempotency_key="key-2", money=Money(1000, SAR), due=ASKED))

    with pytest.raises(LimitExceededError, match="250 minor units available"):
        host.execute(refund(first, money=Money(251, SAR)))
    host.execute(refund(first, money=Money(200, SAR)))
    with pytest.raises(LimitExceededError, match="50 minor units available"):
        host.execute(refund(first, "r2", money=Money(51, SAR)))


def test_no_authorization_gives_more_than_it_holds(host: Host) -> None:
    first, second = (
        host.execute(
            context(operation=Operation.AUTHORIZE, idempotency_key=key, due=Money(2500, SAR))
        )
        for key in ("a1", "a2")
    )
    host.execute(refund(first, "c1", operation=Operation.CAPTURE, money=Money(1000, SAR)))

    for operation in (Operation.CAPTURE, Operation.VOID):
        with pytest.raises(LimitExceededError, match="250 minor units available"):
            host.execute(refund(first, "c2", operation=operation, money=Money(251, SAR)))
    with pytest.raises(LimitExceededError, match="0 minor units available"):
        host.execute(refund(second, "r1", money=Money(1, SAR)))


def test_a_capture_and_its_authorization_are_refunded_once(host: Host) -> None:
    held = host.execute(context(operation=Operation.AUTHORIZE))
    captured = host.execute(refund(held, "c1", operation=Operation.CAPTURE))
    host.execute(refund(captured, "r1", money=Money(1000, SAR)))

    for parent in (held, captured):
        with pytest.raises(LimitExceededError, match="250 minor units available"):
            host.execute(refund(parent, "r2", money=Money(251, SAR)))
    assert host.execute(refund(held, "r2", money=Money(250, SAR))).status is COMPLETED


def test_a_refund_counts_in_the_units_of_what_it_gives_back(host: Host) -> None:
    parent = host.execute(context(money=Money(1250, Currency("KWD", 3))))

    with pytest.raises(CurrencyMismatchError):
        host.execute(refund(parent, money=Money(1250, Currency("KWD", 2))))


def test_a_refund_in_doubt_counts(host: Host) -> None:
    parent = host.execute(context())
    host.rail.answer = always(TIMEOUT)
    first = host.execute(refund(parent, "r1", money=Money(1000, SAR)))

    with pytest.raises(InDoubtError, match=str(first.execution_id)):
        host.execute(refund(parent, "r2", money=Money(251, SAR)))
    with pytest.raises(LimitExceededError, match="250 minor units available"):
        host.execute(refund(parent, "r2", money=Money(1251, SAR)))
    assert len(host.rail.sent) == 2


def test_a_refund_that_used_the_limit_up_is_still_known(host: Host) -> None:
    parent = host.execute(context())
    first = host.execute(refund(parent))

    assert host.execute(refund(parent)) == first
    with pytest.raises(IdempotencyConflict):
        host.execute(refund(parent, money=Money(1, SAR)))


def test_only_what_is_completed_is_refunded(host: Host) -> None:
    host.rail.answer = always(TIMEOUT)
    parent = host.execute(context())

    with pytest.raises(InDoubtError, match=str(parent.execution_id)):
        host.execute(refund(parent))


def test_a_parent_that_is_not_there_is_named(host: Host) -> None:
    missing = attrs.evolve(refund(host.execute(context())), parent_execution_id=ID)

    with pytest.raises(ExecutionNotFoundError, match=str(ID)):
        host.execute(missing)


@pytest.mark.parametrize("changes", [{"tenant_id": "other"}, {"payment_id": "inv-2"}], ids=str)
def test_a_parent_of_others_is_not_there(host: Host, changes: dict[str, Any]) -> None:
    parent = host.execute(context())

    with pytest.raises(ExecutionNotFoundError):
        host.execute(refund(parent, **changes))


def test_a_refund_in_another_currency_is_refused(host: Host) -> None:
    parent = host.execute(context())

    with pytest.raises(CurrencyMismatchError):
        host.execute(refund(parent, money=Money(1, USD)))


def test_a_payment_that_moved_meanwhile_is_decided_on_again(host: Host) -> None:
    parent = host.execute(context())
    others = iter(range(3))

    def move() -> None:
        for number in itertools.islice(others, 1):
            host.store.before_claim = nothing
            host.twin().execute(refund(parent, f"other-{number}", money=Money(100, SAR)))
            host.store.before_claim = move

    host.store.before_claim = move
    after = host.execute(refund(parent, money=Money(900, SAR)))

    assert after.status is COMPLETED


def test_a_payment_that_keeps_moving_is_busy(host: Host) -> None:
    parent = host.execute(context())
    numbers = itertools.count()

    def move() -> None:
        host.store.before_claim = nothing
        host.twin().execute(refund(parent, f"other-{next(numbers)}", money=Money(1, SAR)))
        host.store.before_claim = move

    host.store.before_claim = move
    with pytest.raises(InProgressError, match="retry after"):
        host.execute(refund(parent, money=Money(900, SAR)))

    assert host.store.find("acme", "refund-1") is None


# Known keys outlive configuration -----------------------------------------------------------------


class Nowhere:
    """Finds no route."""

    def resolve(self, asked: PaymentContext, /) -> Resolution:
        raise RouteNotFoundError(asked.tenant_id, asked.payment_option_key)


def test_a_known_key_is_known_after_its_route_was_removed(host: Host) -> None:
    first = host.execute(context())
    host.restart(routes=Nowhere())

    assert host.execute(context()) == first
    with pytest.raises(IdempotencyConflict):
        host.execute(context(money=Money(1, SAR)))
    with pytest.raises(RouteNotFoundError):
        host.execute(context(idempotency_key="key-2"))


class ToAGoneRail:
    """Finds a route to a rail that nobody registered."""

    def resolve(self, asked: PaymentContext, /) -> Resolution:
        routes = ConfigDrivenRouteResolver.from_mapping(
            ROUTES, offered={(PaymentRail.CARD_PSP, "stub"): CAPABLE}
        )
        return routes.resolve(asked)


def test_a_known_key_is_known_after_its_rail_was_removed(host: Host) -> None:
    parent = host.execute(context())
    first = host.execute(refund(parent))
    host.restart(routes=ToAGoneRail(), rails={})

    assert host.execute(context()) == parent
    assert host.execute(refund(parent)) == first
    with pytest.raises(UnknownProviderError):
        host.execute(context(idempotency_key="key-2"))
    with pytest.raises(UnknownProviderError):
        host.execute(refund(parent, "refund-2"))


def test_a_refused_request_stores_nothing(host: Host) -> None:
    host.restart(routes=Nowhere())
    with pytest.raises(RouteNotFoundError):
        host.execute(context())

    assert host.store.find("acme", "key-1") is None
    assert host.store.payment("acme", "inv-1") is None


# Observers ----------------------------------------------------------------------------------------


def test_a_payment_is_observed_once_as_a_call_and_once_as_an_outcome(host: Host) -> None:
    host.execute(context(correlation_id="trace-1"))
    call, outcome = host.notes.told

    assert isinstance(call, RailObserved)
    assert isinstance(outcome, ExecutionObserved)
    assert (call.step, call.status, call.correlation_id) == ("execute", "success", "trace-1")
    assert (outcome.status, outcome.is_repeat) == (COMPLETED, False)


def test_a_repeat_is_observed_as_one(host: Host) -> None:
    host.execute(context())
    host.execute(context())

    assert [one.is_repeat for one in host.notes.told if isinstance(one, ExecutionObserved)] == [
        False,
        True,
    ]


def test_an_exception_is_observed_by_its_type_alone(host: Host) -> None:
    host.rail.answer = raises(BrokenRailError("sk_live_hunter2"))
    with pytest.raises(BrokenRailError):
        host.execute(context())

    assert [one.error for one in host.notes.told if isinstance(one, RailObserved)] == [
        "BrokenRailError"
    ]
    assert "hunter2" not in repr(host.notes.told)


def test_an_observer_that_breaks_breaks_no_payment(host: Host) -> None:
    host.notes.told = None  # type: ignore[assignment]

    assert host.execute(context()).status is COMPLETED


# Starting -----------------------------------------------------------------------------------------


def test_cf2_an_engine_whose_lease_is_too_short_does_not_start(host: Host) -> None:
    host.rail.capabilities = attrs.evolve(
        CAPABLE, timing=attrs.evolve(CAPABLE.timing, answer_timeout_s=56)
    )

    with pytest.raises(MisconfiguredError, match=r"lease_s = 60 is not above"):
        host.restart()


def test_ids_are_dated_and_never_the_same(host: Host) -> None:
    made = {
        host.execute(context(idempotency_key=f"k{n}", payment_id=f"p{n}")).execution_id
        for n in range(50)
    }

    assert len(made) == 50
    assert {one.version for one in made} == {7}
    milliseconds = int(host.clock.now().timestamp() * 1000)
    assert {one.int >> 80 for one in made} == {milliseconds}


def test_what_is_asked_for_is_found_again(host: Host) -> None:
    done = host.execute(context())

    assert host.get("acme", done.execution_id) == done
    assert run(host.engine.find("acme", "key-1")) == done
    assert list(run(host.engine.executions("acme", "inv-1"))) == [done]
    assert run(host.engine.payment("acme", "inv-1")) == host.store.payment("acme", "inv-1")
    assert run(host.engine.events("acme", "inv-1")) == host.store.events("acme", "inv-1")
    assert list(run(host.engine.open_executions())) == []
    with pytest.raises(ExecutionNotFoundError):
        host.get("acme", uuid4())


def test_the_most_urgent_open_execution_comes_first(host: Host) -> None:
    for number, wait_s in enumerate((50, 10, 30)):
        host.rail.answer = always(ACCEPTED)
        row = host.execute(context(idempotency_key=f"k{number}", payment_id=f"p{number}"))
        acquired = host.store.acquire(row.tenant_id, row.execution_id, "worker", 1)
        assert acquired is not None
        host.store.reschedule(acquired.execution, wait_s)

    found = run(host.engine.open_executions(2))

    assert [one.idempotency_key for one in found] == ["k1", "k2"]
