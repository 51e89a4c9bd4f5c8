"""
Workers in both colours: loops around an engine, one for each duty.

A worker stops when it is told to: it takes up nothing more, finishes what is under way, and gives
back the leases of what it has not begun. A worker that dies loses nothing: what it held is due
again when its leases run out.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Generic, TypeVar

from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.errors import MisconfiguredError
from railcore.ports import Clock, Observer
from railcore.protocol import Acquired
from railcore_adapters.worker.desk import IS_UNSENT, Desk, Duty, Pace, WorkerSettings

__all__ = ["AsyncWorker", "Worker"]

Call = TypeVar("Call")
Running = TypeVar("Running")


class _Hands(Generic[Running]):
    """What a duty has under way."""

    def __init__(self, duty: Duty, settings: WorkerSettings) -> None:
        self.duty = duty
        self.running = set[Running]()
        self._most = settings.at_once

    @property
    def free(self) -> int:
        return max(0, self._most - len(self.running))


class Worker:
    """
    Works on threads: one a duty, and up to ``at_once`` for the calls of ``send`` and ``check``.

    Args:
        engine: Sends and looks up.
        settings: How much at once.
        duties: Which to do; by default everything that there is something for.
        apply_inbox: Applies deliveries that are due and returns how many, as
            ``engine.apply_inbox`` does.
        relay: Relays some events and returns how many, as ``Relay.run_once`` does.
        expire_holds: Releases wallet holds whose time is over and returns how many.
        clock: Monotonic time; the machine's by default.
        observer: Is told of what went wrong.

    Raises:
        MisconfiguredError: There is nothing to do a duty with.
    """

    def __init__(
        self,
        engine: PaymentEngine,
        *,
        settings: WorkerSettings | None = None,
        duties: Sequence[Duty] | None = None,
        apply_inbox: Callable[[], int] | None = None,
        relay: Callable[[], int] | None = None,
        expire_holds: Callable[[], int] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings or WorkerSettings()
        self._engine = engine
        calls = {Duty.APPLY: apply_inbox, Duty.RELAY: relay, Duty.EXPIRE: expire_holds}
        self._calls = _given(calls)
        self._duties = _chosen(duties, self._calls)
        self._desk = Desk(engine.settings, self._settings, engine.resting, clock, observer)
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Do the duties until ``stop`` is called, from another thread or a signal handler."""
        threads = [
            threading.Thread(target=self._go_on, args=(duty,), name=f"railcore-{duty}")
            for duty in self._duties
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a signal handler runs between two joins
                thread.join(self._settings.longest_pause_s)

    def run_once(self) -> int:
        """Do what is due now, until nothing more is; how many pieces of work that was."""
        done = 0
        for duty in self._duties:
            with self._pool() as pool:
                done += self._exhaust(_Hands(duty, self._settings), pool)
        return done

    def stop(self) -> None:
        """Take up nothing more, and let ``run`` return once all that is under way is done."""
        self._stopping.set()

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._settings.at_once, "railcore-call")

    def _go_on(self, duty: Duty) -> None:
        pace = Pace(self._settings, duty)
        hands = _Hands[Future[None]](duty, self._settings)
        with self._pool() as pool:  # which waits for what is under way
            while not self._stopping.is_set():
                found = self._try(hands, pool)
                pause_s = pace.after(found)
                if hands.free:
                    self._stopping.wait(pause_s)
                else:
                    wait(hands.running, timeout=pause_s, return_when=FIRST_COMPLETED)

    def _exhaust(self, hands: _Hands[Future[None]], pool: ThreadPoolExecutor) -> int:
        done = 0
        while not self._stopping.is_set():
            is_held_up = hands.duty in IS_UNSENT and self._is_held_up()
            found = self._do(hands, pool)
            done += found
            wait(hands.running)
            if not found and not is_held_up:
                break
            if not found:
                self._stopping.wait(self._settings.shortest_pause_s)
        return done

    def _is_held_up(self) -> bool:
        with self._lock:
            return self._desk.is_held_up()

    def _try(self, hands: _Hands[Future[None]], pool: ThreadPoolExecutor) -> int:
        try:
            return self._do(hands, pool)
        except Exception as error:  # noqa: BLE001 - told; no trouble of one duty stops it or another
            self._desk.tell(hands.duty, error)
            return 0

    def _do(self, hands: _Hands[Future[None]], pool: ThreadPoolExecutor) -> int:
        if hands.duty not in IS_UNSENT:
            return self._calls[hands.duty]()
        hands.running = {one for one in hands.running if not one.done()}
        if not hands.free:
            return 0
        with self._lock:  # so that two duties do not spend the same budget
            started_s = self._desk.now_s()
            taken = self._engine.acquire_due(self._desk.due(hands.duty, hands.free))
            for one in taken:
                self._desk.begin(one.execution.account_key)
        for one in taken:
            hands.running.add(pool.submit(self._carry_out, hands.duty, one, started_s))
        return len(taken)

    def _carry_out(self, duty: Duty, acquired: Acquired, started_s: float) -> None:
        try:
            if self._stopping.is_set():
                self._engine.give_back(acquired)
            else:
                self._engine.check(acquired, started_s)
        except Exception as error:  # noqa: BLE001 - told; the lease runs out and it is due again
            self._desk.tell(duty, error)
        finally:
            with self._lock:
                self._desk.end(acquired.execution.account_key)


class AsyncWorker:
    """
    Works in one event loop: a task a duty, and up to ``at_once`` for ``send`` and for ``check``.

    Args:
        engine: Sends and looks up.
        settings: How much at once.
        duties: Which to do; by default everything that there is something for.
        apply_inbox: Applies deliveries that are due and returns how many, as
            ``engine.apply_inbox`` does.
        relay: Relays some events and returns how many, as ``Relay.run_once`` does.
        expire_holds: Releases wallet holds whose time is over and returns how many.
        clock: Monotonic time; the machine's by default.
        observer: Is told of what went wrong.

    Raises:
        MisconfiguredError: There is nothing to do a duty with.
    """

    def __init__(
        self,
        engine: AsyncPaymentEngine,
        *,
        settings: WorkerSettings | None = None,
        duties: Sequence[Duty] | None = None,
        apply_inbox: Callable[[], Awaitable[int]] | None = None,
        relay: Callable[[], Awaitable[int]] | None = None,
        expire_holds: Callable[[], Awaitable[int]] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings or WorkerSettings()
        self._engine = engine
        calls = {Duty.APPLY: apply_inbox, Duty.RELAY: relay, Duty.EXPIRE: expire_holds}
        self._calls = _given(calls)
        self._duties = _chosen(duties, self._calls)
        self._desk = Desk(engine.settings, self._settings, engine.resting, clock, observer)
        self._budget = asyncio.Lock()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Do the duties until ``stop`` is called, from the same event loop."""
        async with asyncio.TaskGroup() as group:
            for duty in self._duties:
                group.create_task(self._go_on(duty))

    async def run_once(self) -> int:
        """Do what is due now, until nothing more is; how many pieces of work that was."""
        return sum([await self._exhaust(_Hands(duty, self._settings)) for duty in self._duties])

    def stop(self) -> None:
        """Take up nothing more, and let ``run`` return once all that is under way is done."""
        self._stopping.set()

    async def _go_on(self, duty: Duty) -> None:
        pace = Pace(self._settings, duty)
        hands = _Hands[asyncio.Task[None]](duty, self._settings)
        async with asyncio.TaskGroup() as group:  # which waits for what is under way
            while not self._stopping.is_set():
                found = await self._try(hands, group)
                pause_s = pace.after(found)
                if hands.free:
                    await self._rest(pause_s)
                else:
                    await asyncio.wait(
                        hands.running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED
                    )

    async def _exhaust(self, hands: _Hands[asyncio.Task[None]]) -> int:
        done = 0
        while not self._stopping.is_set():
            is_held_up = hands.duty in IS_UNSENT and self._desk.is_held_up()
            async with asyncio.TaskGroup() as group:
                found = await self._do(hands, group)
            done += found
            if not found and not is_held_up:
                break
            if not found:
                await self._rest(self._settings.shortest_pause_s)
        return done

    async def _rest(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _try(self, hands: _Hands[asyncio.Task[None]], group: asyncio.TaskGroup) -> int:
        try:
            return await self._do(hands, group)
        except Exception as error:  # noqa: BLE001 - told; no trouble of one duty stops it or another
            self._desk.tell(hands.duty, error)
            return 0

    async def _do(self, hands: _Hands[asyncio.Task[None]], group: asyncio.TaskGroup) -> int:
        if hands.duty not in IS_UNSENT:
            return await self._calls[hands.duty]()
        hands.running = {one for one in hands.running if not one.done()}
        if not hands.free:
            return 0
        async with self._budget:  # so that two duties do not spend the same
            started_s = self._desk.now_s()
            taken = await self._engine.acquire_due(self._desk.due(hands.duty, hands.free))
            for one in taken:
                self._desk.begin(one.execution.account_key)
        for one in taken:
            hands.running.add(group.create_task(self._carry_out(hands.duty, one, started_s)))
        return len(taken)

    async def _carry_out(self, duty: Duty, acquired: Acquired, started_s: float) -> None:
        try:
            if self._stopping.is_set():
                await self._engine.give_back(acquired)
            else:
                await self._engine.check(acquired, started_s)
        except Exception as error:  # noqa: BLE001 - told; the lease runs out and it is due again
            self._desk.tell(duty, error)
        finally:
            self._desk.end(acquired.execution.account_key)


def _given(calls: Mapping[Duty, Call | None]) -> Mapping[Duty, Call]:
    return {duty: call for duty, call in calls.items() if call is not None}


def _chosen(duties: Sequence[Duty] | None, calls: Mapping[Duty, object]) -> tuple[Duty, ...]:
    possible = (*IS_UNSENT, *calls)
    if duties is None:
        return possible
    for duty in duties:
        if duty not in possible:
            problem = f"there is nothing to {duty} with"
            raise MisconfiguredError("duties", problem, "Give the worker what does it")
    return tuple(dict.fromkeys(duties))
