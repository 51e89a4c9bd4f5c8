"""Workers of both colours: what they take up, what they leave, and how they stop."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import pytest

from railcore.budget import AccountLimits
from railcore.context import PaymentContext
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import ExecutionStatus
from railcore.errors import InvalidValueError, MisconfiguredError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.observability import DutyObserved
from railcore.results import RailResult
from railcore_adapters.worker import AsyncWorker, Duty, Worker, WorkerSettings
from tests.core.hosts import COLOURS, Host, raises, run, succeed
from tests.core.made import context

QUICK = WorkerSettings(shortest_pause_s=0.005, longest_pause_s=0.02)
COMPLETED = ExecutionStatus.COMPLETED


@attrs.define
class Workshop:
    """A worker of either colour over a host in memory."""

    host: Host
    worker: Any = None

    def make(self, **parts: Any) -> None:
        calls: dict[str, Any] = {
            name: self.coloured(parts.pop(name))
            for name in ("apply_inbox", "relay", "expire_holds")
            if name in parts
        }
        wanted: dict[str, Any] = {"settings": QUICK, "observer": self.host.notes, **parts, **calls}
        if self.host.colour == "sync":
            self.worker = Worker(cast("PaymentEngine", self.host.engine), **wanted)
        else:
            self.worker = AsyncWorker(cast("AsyncPaymentEngine", self.host.engine), **wanted)

    def coloured(self, call: Callable[[], int]) -> Any:
        if self.host.colour == "sync":
            return call

        async def awaited() -> int:
            await asyncio.sleep(0)
            return call()

        return awaited

    def run_once(self) -> int:
        found: int = run(self.worker.run_once())
        return found

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run the worker until *condition* holds, and stop it."""
        if self.host.colour == "async":
            asyncio.run(self._arun_until(condition))
            return
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        try:
            within(condition)
        finally:
            self.worker.stop()
            thread.join(5)
        assert not thread.is_alive()

    async def _arun_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            working = asyncio.create_task(self.worker.run())
            while not condition():  # noqa: ASYNC110 - of whatever kind
                await asyncio.sleep(0.005)
            self.worker.stop()
            await working


def within(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.fixture(params=COLOURS)
def shop(request: pytest.FixtureRequest) -> Workshop:
    return Workshop(Host(request.param))


def contexts(count: int) -> Sequence[PaymentContext]:
    return [
        context(payment_id=f"inv-{number}", idempotency_key=f"key-{number}")
        for number in range(count)
    ]


def enqueue(shop: Workshop, count: int) -> list[PaymentExecution]:
    found: list[PaymentExecution] = run(shop.host.engine.enqueue_many(contexts(count)))  # type: ignore[arg-type]  # either colour
    return found


def open_count(shop: Workshop) -> int:
    return len(shop.host.store.open_executions(1000))


def test_a_worker_sends_what_was_enqueued(shop: Workshop) -> None:
    enqueue(shop, 20)
    shop.make()

    shop.run_until(lambda: not open_count(shop))

    assert len(shop.host.rail.sent) == 20
    assert {one.lease.owner for one in shop.host.rail.sent} == {f"{shop.host.colour}-engine"}


def test_once_means_until_nothing_is_due(shop: Workshop) -> None:
    enqueue(shop, 100)
    limits = AccountLimits(at_once=8, per_second=100_000, burst=8)
    shop.make(settings=attrs.evolve(QUICK, default_limits=limits, at_once=3))

    assert shop.run_once() == 100
    assert shop.run_once() == 0
    assert len(shop.host.rail.sent) == 100


def test_looks_and_sends_are_duties_of_their_own(shop: Workshop) -> None:
    host = shop.host
    host.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
    doubt = host.execute(context(payment_id="inv-x", idempotency_key="key-x"))
    host.rail.answer = host.rail.lookup = succeed
    host.clock.advance(61)
    enqueue(shop, 1)

    shop.make(duties=[Duty.CHECK])
    assert shop.run_once() == 1
    assert host.get(doubt.tenant_id, doubt.execution_id).status is COMPLETED
    shop.make(duties=[Duty.SEND])
    assert shop.run_once() == 1
    assert len(host.rail.looked_up) == 1


def test_trouble_of_one_duty_stops_no_other(shop: Workshop) -> None:
    relayed = list[int]()

    def relay() -> int:
        relayed.append(1)
        return 0

    enqueue(shop, 2)
    shop.make(apply_inbox=raises(RuntimeError("secret text")), relay=relay)

    shop.run_until(lambda: not open_count(shop) and len(relayed) > 3)

    told = [one for one in shop.host.notes.told if isinstance(one, DutyObserved)]
    assert told
    assert {(one.duty, one.error) for one in told} == {("apply", "RuntimeError")}


def test_a_broken_rail_leaves_its_execution_to_the_next_look(shop: Workshop) -> None:
    shop.host.rail.answer = raises(RuntimeError())
    enqueue(shop, 1)
    shop.make()

    assert shop.run_once() == 1

    (row,) = shop.host.store.open_executions(10)
    assert row.pending_reason == "outcome_unknown"
    assert DutyObserved(duty="send", error="RuntimeError") in shop.host.notes.told


def test_who_stops_finishes_what_is_under_way(shop: Workshop) -> None:
    def slow(execution: PaymentExecution) -> RailResult:
        shop.worker.stop() if shop.host.colour == "sync" else None
        return succeed(execution)

    shop.host.rail.answer = slow
    enqueue(shop, 50)
    shop.make(settings=attrs.evolve(QUICK, at_once=4))

    shop.run_until(lambda: len(shop.host.rail.sent) > 0)

    rows = [shop.host.find(one) for one in contexts(50)]
    assert not [one for one in rows if one.lease.owner is not None]
    assert sum(one.send_count for one in rows) == len(shop.host.rail.sent)
    assert all(one.status is COMPLETED for one in rows if one.send_count)


def test_an_account_that_rests_is_left_out(shop: Workshop) -> None:
    limited = RailResult.failed(PaymentFailureCode.RATE_LIMITED)
    shop.host.rail.answer = lambda _: attrs.evolve(limited, retry_after_s=60.0)
    enqueue(shop, 3)
    limits = AccountLimits(at_once=1, burst=1)
    shop.make(settings=attrs.evolve(QUICK, default_limits=limits), duties=[Duty.SEND])

    assert shop.run_once() == 1

    shop.host.rail.answer = succeed
    shop.host.clock.advance(60)
    limits = AccountLimits(at_once=1, per_second=1000.0, burst=1)
    shop.make(settings=attrs.evolve(QUICK, default_limits=limits), duties=[Duty.SEND])
    assert shop.run_once() == 3


def test_simple_duties_are_repeated_until_nothing_is_left(shop: Workshop) -> None:
    left = [3, 2, 0]
    shop.make(expire_holds=lambda: left.pop(0), duties=[Duty.EXPIRE])

    assert shop.run_once() == 5
    assert not left


def test_where_there_were_events_there_is_no_waiting_for_more(shop: Workshop) -> None:
    left = [1] * 20
    slow = WorkerSettings(shortest_pause_s=5.0, longest_pause_s=5.0)
    shop.make(relay=lambda: left.pop() if len(left) > 1 else 1, duties=[Duty.RELAY], settings=slow)
    started_s = time.monotonic()

    shop.run_until(lambda: len(left) == 1)

    assert time.monotonic() - started_s < 4


def test_a_duty_without_means_is_refused(shop: Workshop) -> None:
    with pytest.raises(MisconfiguredError, match="nothing to relay with"):
        shop.make(duties=[Duty.RELAY])


@pytest.mark.parametrize(
    "wrong", [{"at_once": 0}, {"shortest_pause_s": 0.0}, {"shortest_pause_s": 2.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        WorkerSettings(**wrong)
