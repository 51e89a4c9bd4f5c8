"""
The stage: one database on which many cases are run side by side, each on its own wire.

A batch is run in three acts. First every case is prepared and its operation carried out on its
wire, where its fault befalls it. Then the recovery: a worker with all duties takes over, hosts ask
again with the same keys, providers settle and tell, and black holes end after all. When nothing is
open any more, the judge reads what is there.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import attrs
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.budget import AccountLimits
from railcore.enums import ExecutionStatus
from railcore.errors import DeliveryError, RailcoreError
from railcore.events import JournalEvent
from railcore.execution import PaymentExecution
from railcore_adapters.worker import AsyncWorker, WorkerSettings
from tests.faults.wire import judge
from tests.faults.wire.hosts import (
    LEASE_S,
    PATIENT,
    Host,
    Wishes,
    async_database,
    opened,
    sync_database,
    sync_host,
)
from tests.faults.wire.judge import Finding
from tests.faults.wire.operations import (
    Act,
    Case,
    EnqueueAndSend,
    Execute,
    Hear,
    HostsOwnError,
    Setting,
    deliver,
    patiently,
    recover,
)
from tests.faults.wire.providers import Behaviour, Provider
from tests.faults.wire.proxy import Fault, Mode, Upstream, Wire

AT_ONCE: Final = 8
"""How many operations are under way at a time; those that hang do not count."""

PATIENCE_S: Final = 10.0
"""For how long an operation may take that nothing was to keep from its end."""

BLACK_S: Final = LEASE_S + 1.0
"""When black holes end, counted from the beginning of the recovery."""

SETTLED_S: Final = 25.0
"""When everything has to be settled, counted from the beginning of the recovery."""

_WORK: Final = WorkerSettings(
    at_once=24,
    default_limits=AccountLimits(at_once=8, per_second=1000.0, burst=8),
    shortest_pause_s=0.03,
    longest_pause_s=0.15,
)


@attrs.frozen(kw_only=True)
class Kind:
    """What the cases of one batch have in common."""

    act: Act
    behaviour: Behaviour
    colour: str = "async"

    def __str__(self) -> str:
        return f"{self.act.name}, {self.colour}, {self.behaviour.name}"


@attrs.define
class Batch:
    """
    The outcome of one batch.

    Attributes:
        settled_s: How long the recovery took until nothing was open any more.
    """

    kind: Kind
    cases: Sequence[Case]
    findings: Sequence[Finding]
    settled_s: float


@attrs.define(eq=False)
class Slot:
    """A wire, and what uses it."""

    wire: Wire
    database: AsyncEngine
    sync: sqlalchemy.Engine

    def warm(self) -> None:
        """Have SQLAlchemy ask what it asks on its first connection, and close that."""
        with self.sync.connect():
            pass
        self.sync.dispose()


@attrs.define(eq=False)
class Stage:
    """One database with its wires."""

    url: str
    name: str
    provider: Provider
    direct: AsyncEngine
    slots: list[Slot]
    threads: ThreadPoolExecutor
    numbers: "itertools.count[int]" = attrs.field(factory=lambda: itertools.count(1))
    delivered: list[tuple[str, str, int]] = attrs.field(factory=list)
    hurt: set[str] = attrs.field(factory=set)

    async def rehearse(self, kind: Kind) -> Sequence[str]:
        """Return the messages of an operation that nothing befalls."""
        batch = await self.run(kind, [(None, None)])
        if batch.findings:
            raise RuntimeError(f"{kind}: wrong without any fault: {batch.findings}")
        return batch.cases[0].seen

    async def run(self, kind: Kind, faults: Sequence[tuple[Fault | None, Fault | None]]) -> Batch:
        """Run one case for each of *faults*, at most one a slot; return what became of them."""
        cases = [self._case(first, second) for first, second in faults]
        accounts = [case.account for case in cases]
        for case in cases:
            case.others = [one for one in accounts if one != case.account]
            self.provider.open_account(case.tenant, kind.behaviour)
        where = self.provider.upstream(kind.behaviour)
        base_url = f"http://{where.host}:{where.port}"
        wishes = Wishes(
            provider=self.provider,
            behaviour=kind.behaviour,
            base_url=base_url,
            owner="recovery",
            deliver=self._deliver,
        )
        async with opened(self.direct, wishes) as host:
            run = _Run(self, kind, cases, host, where)
            return await run.run()

    def _case(self, fault: Fault | None, again: Fault | None) -> Case:
        number = next(self.numbers)
        tenant = f"{self.name}-{number}"
        account = (self.provider.rail, self.provider.name, tenant)
        return Case(
            number=number,
            tenant=tenant,
            account=account,
            token=self.provider.token,
            fault=fault,
            again=again,
        )

    async def _deliver(self, event: JournalEvent) -> None:
        self.delivered.append((event.tenant_id, event.payment_id, event.seq))


@asynccontextmanager
async def staged(
    url: str, name: str, provider: Provider, size: int, database: Upstream
) -> AsyncIterator[Stage]:
    """Yield a stage of *size* slots on the database at *url*."""
    direct = async_database(url, connections=12, options=PATIENT)
    table = "create table if not exists host_invoice (tenant_id text primary key)"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(direct.dispose)
        async with direct.begin() as connection:
            await connection.execute(sqlalchemy.text(table))
        threads = stack.enter_context(ThreadPoolExecutor(2 * size, "caller"))
        slots = [await _slot(stack, url, provider, database) for _ in range(size)]
        yield Stage(url, name, provider, direct, slots, threads)


async def _slot(stack: AsyncExitStack, url: str, provider: Provider, database: Upstream) -> Slot:
    wire = Wire(database, database)
    await wire.open()
    stack.push_async_callback(wire.close)
    at = sqlalchemy.make_url(url).set(query={}, host="127.0.0.1", port=wire.database_port)
    through = at.render_as_string(hide_password=False)
    slot = Slot(wire, async_database(through), sync_database(through))
    stack.push_async_callback(slot.database.dispose)
    stack.callback(slot.sync.dispose)
    async with slot.database.connect():  # SQLAlchemy asks some questions on its first connection
        pass
    await slot.database.dispose()
    return slot


@attrs.define(eq=False)
class _Run:
    """One batch on its way."""

    stage: Stage
    kind: Kind
    cases: Sequence[Case]
    host: Host
    upstream: Upstream
    callers: list[asyncio.Task[None]] = attrs.field(factory=list)
    torn: list[Finding] = attrs.field(factory=list)
    settled_s: float = 0.0

    @property
    def tenants(self) -> Sequence[str]:
        return [case.tenant for case in self.cases]

    @property
    def _used(self) -> int:
        """How many slots it takes: two a case where something befalls the recovery too."""
        return len(self.cases) * (2 if self.cases[0].again is not None else 1)

    async def run(self) -> Batch:
        stage, slots = self.stage, self.stage.slots[: self._used]
        at_once = asyncio.Semaphore(AT_ONCE)
        for slot in slots:
            slot.wire.provider = self.upstream
            slot.wire.revive()
        async with AsyncExitStack() as stack:
            await gather(
                self._play(stack, case, place, at_once) for place, case in enumerate(self.cases)
            )
            if isinstance(self.kind.act, EnqueueAndSend):
                self.torn = await judge.torn(stage.direct, self.tenants)
            await self._recover(slots)
            for slot in slots:
                slot.wire.bury()
            await self._end_callers()
        for slot in slots:
            await slot.database.dispose()
            slot.sync.dispose()
        stage.hurt.clear()
        found = await judge.gathered(
            stage.direct, self.tenants, stage.provider.moved(set(self.tenants)), stage.delivered
        )
        stage.delivered.clear()
        for case in self.cases:
            stage.provider.close_account(case.tenant)
        said = [one for case in self.cases for one in judge.findings(case, found)]
        return Batch(self.kind, self.cases, [*self.torn, *said], self.settled_s)

    async def _play(
        self, stack: AsyncExitStack, case: Case, place: int, at_once: asyncio.Semaphore
    ) -> None:
        stage, kind = self.stage, self.kind
        slot = stage.slots[place]
        async with at_once:
            victim = await stack.enter_async_context(
                opened(slot.database, self._wishes(slot, "caller"))
            )
            await self._prepare(case, slot, victim)
            act: Callable[[], Coroutine[Any, Any, Any]]
            if kind.colour == "sync":
                assert isinstance(kind.act, Execute)
                await asyncio.get_running_loop().run_in_executor(stage.threads, slot.warm)
                caller = sync_host(slot.sync, self._wishes(slot, "caller"))
                stack.callback(caller.transport.close)
                call = partial(caller.engine.execute, kind.act.request(case))
                act = partial(self._in_a_thread, call)
            else:
                act = partial(kind.act.act, case, victim)
            await self._watch(case, slot.wire, act, case.fault)
            case.seen, case.struck = tuple(slot.wire.seen), slot.wire.struck
        if case.again is not None:
            await asyncio.sleep(LEASE_S + 0.05)
            other = stage.slots[len(self.cases) + place]
            async with at_once:
                await self._recover_badly(stack, case, other)

    def _wishes(self, slot: Slot, owner: str) -> Wishes:
        """Return what a host on the wire of *slot* speaks to."""
        return Wishes(
            provider=self.stage.provider,
            behaviour=self.kind.behaviour,
            base_url=f"http://127.0.0.1:{slot.wire.provider_port}",
            owner=owner,
            deliver=self._take_badly,
        )

    async def _prepare(self, case: Case, slot: Slot, victim: Host) -> None:
        provider, kind = self.stage.provider, self.kind
        provider.behave(case.tenant, kind.act.misbehaves_in)
        setting = Setting(host=self.host, provider=provider, behaviour=kind.behaviour)
        await kind.act.prepare(case, setting, slot.wire, victim)
        slot.wire.disarm()
        await slot.database.dispose()

    async def _in_a_thread(self, call: Callable[[], PaymentExecution]) -> PaymentExecution:
        return await asyncio.get_running_loop().run_in_executor(self.stage.threads, call)

    async def _watch(
        self,
        case: Case,
        wire: Wire,
        act: Callable[[], Coroutine[Any, Any, Any]],
        fault: Fault | None,
    ) -> None:
        """Let it act until it has ended, or is dead, or hangs in a black hole."""
        wire.arm(fault)
        caller = asyncio.create_task(_told(case, wire, act))
        struck = asyncio.create_task(wire.calm.wait())
        self.callers.append(caller)
        await asyncio.wait({caller, struck}, timeout=PATIENCE_S, return_when="FIRST_COMPLETED")
        leaves = fault is not None and fault.mode in {Mode.KILL, Mode.BLACK_HOLE}
        if wire.struck is None or not leaves:
            await asyncio.wait({caller}, timeout=PATIENCE_S)
            if not caller.done():
                case.outcome = "hangs"
        struck.cancel()
        wire.disarm()

    async def _recover_badly(self, stack: AsyncExitStack, case: Case, slot: Slot) -> None:
        """Recover on a wire of its own, where a second fault waits."""
        await slot.database.dispose()
        victim = await stack.enter_async_context(
            opened(slot.database, self._wishes(slot, "recoverer"))
        )
        act = partial(recover, self.kind.act, case, victim)
        await self._watch(case, slot.wire, act, case.again)
        case.seen_again, case.struck_again = tuple(slot.wire.seen), slot.wire.struck

    async def _take_badly(self, event: JournalEvent) -> None:
        """Take an event of a relay on the wire, as the behaviour of the sink says."""
        behaviour, stage = self.kind.behaviour.name, self.stage
        first = event.tenant_id not in stage.hurt
        stage.hurt.add(event.tenant_id)
        if first and behaviour == "refuses once":
            raise DeliveryError("not now")
        stage.delivered.append((event.tenant_id, event.payment_id, event.seq))
        if first and behaviour == "takes and breaks":
            raise DeliveryError("the answer was lost")

    async def _recover(self, slots: Sequence[Slot]) -> None:
        host, stage = self.host, self.stage
        worker = AsyncWorker(
            host.engine,
            settings=_WORK,
            apply_inbox=host.engine.apply_inbox,
            relay=host.relay.run_once,
            expire_holds=partial(host.wallet.expire_holds, 100),
        )
        working = asyncio.create_task(worker.run())
        again = asyncio.create_task(gather(self.kind.act.repeat(case, host) for case in self.cases))
        began_s, is_black = time.monotonic(), any(slot.wire.is_black for slot in slots)
        try:
            while (took_s := time.monotonic() - began_s) < SETTLED_S:
                await self._go_on_at_the_provider()
                rest = await judge.unsettled(stage.direct, self.tenants)
                is_quiet = not any(rest.values())
                is_late = took_s > (LEASE_S if is_quiet else BLACK_S)
                if is_black and is_late:
                    is_black = False
                    for slot in slots:
                        slot.wire.wake()
                    await self._end_callers(leave_dead=True)
                elif is_quiet and again.done() and not is_black:
                    break
                await asyncio.sleep(0.05)
            self.settled_s = took_s
        finally:
            worker.stop()
            await working
            if not again.done():
                again.cancel()
        with suppress(asyncio.CancelledError):
            await again

    async def _go_on_at_the_provider(self) -> None:
        """Let it settle what it holds, and deliver what it tells of that."""
        provider = self.stage.provider
        if self.kind.behaviour.fault != "pending" or isinstance(self.kind.act, Hear):
            return
        for account, key in await judge.pending_keys(self.stage.direct, self.tenants):
            provider.settle(account, key)
        for tenant in self.tenants:
            for news in provider.take_news(tenant):
                await patiently(partial(deliver, self.host, news))

    async def _end_callers(self, *, leave_dead: bool = False) -> None:
        """Wait until the callers that live have ended."""
        waiting = [one for one in self.callers if not one.done()]
        if waiting and not leave_dead:
            _, left = await asyncio.wait(waiting, timeout=PATIENCE_S)
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        elif waiting:
            await asyncio.wait(waiting, timeout=1.0)


async def _told(case: Case, wire: Wire, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Note what the caller is told; a dead one hears nothing."""
    try:
        done = await act()
    except (RailcoreError, HostsOwnError) as error:
        case.outcome = "died" if wire.is_dead else f"raised {type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - what is not typed is a finding
        untyped = f"raised untyped {type(error).__name__}: {error}"
        case.outcome = "died" if wire.is_dead else untyped
    else:
        if wire.is_dead:
            case.outcome = "died"
            return
        case.outcome = "returned" if done is None else f"returned {done.status}"
        case.failure = done is not None and done.status is ExecutionStatus.FAILED
        case.completed = done is not None and done.status is ExecutionStatus.COMPLETED


async def gather(all_of: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them side by side; the first that raises ends the others."""
    async with asyncio.TaskGroup() as group:
        for one in all_of:
            group.create_task(one)
