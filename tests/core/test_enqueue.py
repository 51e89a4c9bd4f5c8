"""Work that a host hands over to workers: claimed now, sent once, whatever is in the way."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest

from railcore.breaker import BreakerSettings
from railcore.enums import ExecutionStatus, Idempotency, PendingReason
from railcore.errors import IdempotencyConflict, LiveExecutionExists, MisconfiguredError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.kernel import EngineSettings, Kernel
from railcore.money import SAR, Money
from railcore.protocol import Due
from railcore.results import RailResult
from tests.core.hosts import COLOURS, Host, find_nothing, raises, run, succeed
from tests.core.made import CAPABLE, NOW, context

PROCESSING, PENDING = ExecutionStatus.PROCESSING, ExecutionStatus.PENDING
COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
REFUSALS = (
    PaymentFailureCode.NETWORK_ERROR,
    PaymentFailureCode.PROVIDER_UNAVAILABLE,
    PaymentFailureCode.RATE_LIMITED,
)


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def always(result: RailResult) -> Any:
    return lambda _: result


def work(host: Host, **changes: Any) -> list[PaymentExecution]:
    """Do what is due, once."""
    wanted: dict[str, Any] = {"owner": "worker", "lease_s": 60.0, "limit": 100}
    started_s = host.clock.monotonic()
    acquired = run(host.engine.acquire_due(Due(**{**wanted, **changes})))
    return [run(host.engine.check(one, started_s)) for one in acquired]


def enqueue(host: Host, **changes: Any) -> PaymentExecution:
    return run(host.engine.enqueue(context(), **changes))


def test_enqueued_work_is_claimed_and_not_sent(host: Host) -> None:
    queued = enqueue(host)

    assert (queued.status, queued.send_count, queued.lease.owner) == (PROCESSING, 0, None)
    assert queued.next_check_at == host.clock.now()
    assert queued.send_before == NOW + timedelta(days=7)
    assert not host.rail.sent


def test_a_worker_sends_it_once_without_a_lookup(host: Host) -> None:
    enqueue(host)

    (done,) = work(host)

    assert (done.status, done.send_count) == (COMPLETED, 1)
    assert not host.rail.looked_up
    assert not work(host)
    assert len(host.rail.sent) == 1


def test_a_known_key_is_answered_with_what_it_stands_for(host: Host) -> None:
    queued = enqueue(host)

    assert enqueue(host) == queued
    assert host.execute(context()) == queued
    with pytest.raises(IdempotencyConflict):
        run(host.engine.enqueue(context(money=Money(1, SAR))))
    with pytest.raises(LiveExecutionExists):
        run(host.engine.enqueue(context(idempotency_key="key-2")))


def test_a_store_without_transactions_says_so(host: Host) -> None:
    with pytest.raises(MisconfiguredError, match="Leave connection out"):
        run(host.engine.enqueue(context(), connection=object()))
    with pytest.raises(MisconfiguredError, match="Leave connection out"):
        run(host.engine.enqueue_many([context()], connection=object()))


def test_of_many_each_has_what_it_would_have_alone(host: Host) -> None:
    wanted = [
        context(),
        context(payment_id="inv-2", idempotency_key="key-2"),
        context(),
        context(money=Money(1, SAR)),
        context(idempotency_key="key-3"),
    ]

    found: Sequence[Any] = run(host.engine.enqueue_many(iter(wanted)))

    assert found[0].status is found[1].status is PROCESSING
    assert found[2] == found[0]
    assert isinstance(found[3], IdempotencyConflict)
    assert isinstance(found[4], LiveExecutionExists)
    assert [one.status for one in work(host)] == [COMPLETED, COMPLETED]


@pytest.mark.parametrize("code", REFUSALS)
def test_a_definite_refusal_leaves_it_to_be_sent_again(host: Host, code: Any) -> None:
    host.rail.answer = always(RailResult.failed(code))
    enqueue(host)

    (refused,) = work(host)

    assert (refused.status, refused.version, refused.tries) == (PROCESSING, 1, 0)
    assert refused.next_check_at == host.clock.now() + timedelta(seconds=15)
    host.clock.advance(15)
    host.rail.answer = succeed
    (done,) = work(host)
    assert (done.status, done.send_count, done.refused_count) == (COMPLETED, 2, 1)
    assert not host.rail.looked_up


def test_refusals_are_tried_again_ever_more_rarely(host: Host) -> None:
    host.rail.answer = always(RailResult.failed(PaymentFailureCode.NETWORK_ERROR))
    enqueue(host)
    waits = list[float]()
    for _ in range(5):
        (refused,) = work(host)
        assert refused.next_check_at is not None
        waits.append((refused.next_check_at - host.clock.now()).total_seconds())
        host.clock.advance(waits[-1])

    assert waits == [15, 30, 60, 120, 240]


@pytest.mark.parametrize("code", REFUSALS)
def test_inline_a_definite_refusal_fails(host: Host, code: Any) -> None:
    host.rail.answer = always(RailResult.failed(code))

    assert host.execute(context()).status is FAILED


def test_what_could_not_be_sent_in_time_fails(host: Host) -> None:
    host.rail.answer = always(RailResult.failed(PaymentFailureCode.NETWORK_ERROR))
    enqueue(host, send_before=NOW + timedelta(seconds=20))
    work(host)
    host.clock.advance(15)
    (again,) = work(host)
    assert again.next_check_at == again.send_before

    host.clock.advance(5)
    (over,) = work(host)

    assert (over.status, over.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)
    assert len(host.rail.sent) == 2


def test_a_decline_is_final(host: Host) -> None:
    host.rail.answer = always(RailResult.failed(PaymentFailureCode.DECLINED))
    enqueue(host)

    assert work(host)[0].status is FAILED


def test_a_lost_answer_is_looked_up_before_anything_else(host: Host) -> None:
    host.rail.answer = raises(KeyboardInterrupt())
    enqueue(host)
    with pytest.raises(KeyboardInterrupt):
        work(host)
    assert not work(host)
    host.rail.answer = succeed
    host.rail.lookup = succeed
    host.clock.advance(61)

    (found,) = work(host)

    assert (found.status, found.send_count) == (COMPLETED, 1)
    assert len(host.rail.looked_up) == 1


def test_uo7_what_was_sent_and_is_not_found_is_never_resent_without_a_key(host: Host) -> None:
    host.rail.capabilities = attrs.evolve(CAPABLE, idempotency=Idempotency.NONE)
    host.restart()
    host.rail.answer = raises(KeyboardInterrupt())
    enqueue(host)
    with pytest.raises(KeyboardInterrupt):
        work(host)
    host.clock.advance(61)

    (doubt,) = work(host)

    assert doubt.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert len(host.rail.sent) == 1


def test_a_refused_resend_says_nothing_of_the_try_before(host: Host) -> None:
    host.rail.answer = raises(KeyboardInterrupt())
    enqueue(host)
    with pytest.raises(KeyboardInterrupt):
        work(host)
    host.rail.answer = always(RailResult.failed(PaymentFailureCode.NETWORK_ERROR))
    host.clock.advance(61)

    (doubt,) = work(host)

    assert (doubt.pending_reason, doubt.refused_count) == (PendingReason.OUTCOME_UNKNOWN, 0)


# What the provider asks for -----------------------------------------------------------------------


def slow_down(seconds: float) -> RailResult:
    refused = RailResult.failed(PaymentFailureCode.RATE_LIMITED)
    return attrs.evolve(refused, retry_after_s=seconds)


def test_rc2_a_refused_send_waits_as_long_as_the_provider_asks(host: Host) -> None:
    host.rail.answer = always(slow_down(90))
    enqueue(host)

    (refused,) = work(host)

    assert refused.next_check_at == host.clock.now() + timedelta(seconds=90)
    ((_, left_s),) = host.engine.resting().items()
    assert left_s == 90


def test_rc2_a_lookup_waits_as_long_as_the_provider_asks(host: Host) -> None:
    unknown = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    host.rail.answer = always(unknown)
    host.rail.lookup = always(attrs.evolve(unknown, retry_after_s=500.0))
    host.execute(context())
    host.clock.advance(61)

    (doubt,) = work(host)

    assert doubt.next_check_at == host.clock.now() + timedelta(seconds=500)


def test_rc2_nobody_is_made_to_wait_for_more_than_a_day(host: Host) -> None:
    host.rail.answer = always(slow_down(10**6))
    enqueue(host)

    (refused,) = work(host)

    assert refused.next_check_at == host.clock.now() + timedelta(days=1)


# The breaker --------------------------------------------------------------------------------------


def unanswered(host: Host, count: int) -> None:
    host.rail.answer = always(RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT))
    for number in range(count):
        host.execute(context(payment_id=f"p-{number}", idempotency_key=f"k-{number}"))
    host.rail.answer = succeed


def test_rc2_an_open_breaker_is_a_definite_not_sent(host: Host) -> None:
    limit = BreakerSettings().failures
    unanswered(host, limit)

    refused = host.execute(context())

    assert (refused.status, refused.failure) == (FAILED, PaymentFailureCode.PROVIDER_UNAVAILABLE)
    assert len(host.rail.sent) == limit


def test_enqueued_work_waits_for_the_breaker_to_close(host: Host) -> None:
    unanswered(host, BreakerSettings().failures)
    enqueue(host)
    (refused,) = work(host, is_unsent=True)
    assert refused.next_check_at == host.clock.now() + timedelta(seconds=30)

    host.clock.advance(30)
    (done,) = work(host, is_unsent=True)

    assert (done.status, done.tries) == (COMPLETED, 1)
    assert not host.engine.resting()


def test_below_the_limit_a_breaker_stays_closed(host: Host) -> None:
    unanswered(host, BreakerSettings().failures - 1)

    assert host.execute(context()).status is COMPLETED
    assert not host.engine.resting()


# A database that lost commits ---------------------------------------------------------------------


def recover(host: Host) -> None:
    """Start again as a host whose database was restored just now."""
    settings = EngineSettings(recovery_since=host.clock.now() + timedelta(seconds=1))
    host.engine._procedures = attrs.evolve(
        host.engine._procedures,
        kernel=attrs.evolve(host.engine._procedures.kernel, settings=settings),
    )


def test_db2_a_forgotten_send_is_found_before_the_first_one(host: Host) -> None:
    enqueue(host)
    recover(host)
    host.rail.lookup = succeed

    (found,) = work(host)

    assert (found.status, found.send_count) == (COMPLETED, 0)
    assert not host.rail.sent


def test_what_the_provider_does_not_know_is_sent_under_its_key(host: Host) -> None:
    enqueue(host)
    recover(host)

    (done,) = work(host)

    assert (done.status, done.send_count) == (COMPLETED, 1)
    assert len(host.rail.looked_up) == 1


def test_db2_without_a_key_silence_has_to_prove_something_first(host: Host) -> None:
    host.rail.capabilities = attrs.evolve(CAPABLE, idempotency=Idempotency.NONE)
    host.restart()
    enqueue(host)
    recover(host)

    (waiting,) = work(host)
    assert (waiting.status, waiting.send_count) == (PROCESSING, 0)
    assert not host.rail.sent

    host.clock.advance(187)
    (done,) = work(host)
    assert done.status is COMPLETED


def test_after_the_recovery_nothing_is_looked_up_first(host: Host) -> None:
    recover(host)
    host.clock.advance(2)
    enqueue(host)

    assert work(host)[0].status is COMPLETED
    assert host.rail.lookup is find_nothing
    assert not host.rail.looked_up


def late(host: Host) -> None:
    """Enqueue after the recovery, for a worker that comes too late."""
    recover(host)
    host.clock.advance(2)
    enqueue(host, send_before=host.clock.now() + timedelta(seconds=10))
    host.clock.advance(11)


def test_db2_what_came_too_late_fails_once_silence_proves_that_nothing_was_forgotten(
    host: Host,
) -> None:
    late(host)

    (waiting,) = work(host)
    assert (waiting.status, waiting.send_count) == (PROCESSING, 0)
    assert waiting.next_check_at is not None

    host.clock.advance(187)
    (over,) = work(host)
    assert (over.status, over.failure) == (FAILED, PaymentFailureCode.NETWORK_ERROR)
    assert not host.rail.sent


def test_db2_what_came_too_late_was_charged_under_a_claim_that_was_lost(host: Host) -> None:
    late(host)
    host.rail.lookup = succeed

    (found,) = work(host)

    assert (found.status, found.send_count) == (COMPLETED, 0)


def test_db2_a_time_that_runs_out_behind_the_lookup_is_proven_by_none(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(host)
    recover(host)
    said = iter((False, False, True))  # before the lookup, at its answer, and just behind it
    monkeypatch.setattr(Kernel, "is_too_late", lambda *_: next(said))

    (waiting,) = work(host)

    assert (waiting.status, waiting.send_count) == (PROCESSING, 0)
    assert waiting.next_check_at == host.clock.now()
    assert not host.rail.sent


def test_db2_a_try_that_never_left_is_looked_up_where_its_claim_may_have_been_lost(
    host: Host,
) -> None:
    host.execute(context())
    host.store.forget()
    recover(host)
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.NETWORK_ERROR)

    doubtful = host.execute(context())
    assert (doubtful.status, doubtful.pending_reason) == (PENDING, PendingReason.OUTCOME_UNKNOWN)

    host.rail.lookup = succeed
    assert host.refresh_later(doubtful).status is COMPLETED
    assert len(host.rail.sent) == 2  # the one that was forgotten, and the one that never left
