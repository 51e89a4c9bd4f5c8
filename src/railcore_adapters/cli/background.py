"""
What goes on by itself while the demo runs: a worker, a listener for webhooks, a relay of events.

Nobody asks for anything here. What an execution leaves open is settled by the worker's lookups and
by the providers' own news, and every event is delivered to a sink that takes note of it.
"""

import asyncio
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import attrs
import uvicorn
from typing_extensions import override

from railcore.budget import AccountLimits
from railcore.enums import PendingReason
from railcore.events import JournalEvent
from railcore.execution import PaymentExecution
from railcore.relay import AsyncRelay, RelaySettings
from railcore_adapters.cli.wiring import Host
from railcore_adapters.mounts import WebhookAsgi
from railcore_adapters.sinks import AsyncCallableSink, line_of
from railcore_adapters.worker import AsyncWorker, WorkerSettings

HOST: Final = "127.0.0.1"
PATH: Final = "/api/v1/billing/webhook"
_HOLDS: Final = 100
_LOOK_S: Final = 0.25
_WAITS_FOR_OTHERS: Final = frozenset(
    {
        PendingReason.CUSTOMER_ACTION,
        PendingReason.AWAITING_FUNDS,
        PendingReason.MANUAL_REVIEW,
        PendingReason.PROVIDER_PROCESSING,
    }
)


@attrs.define
class EventLog:
    """
    A sink that takes note of every event.

    Attributes:
        write: Takes the line of each event.
        last: The last number of each payment, by tenant and payment.
        types: How many of each type were delivered for the first time.
        repeats: How many came again.
        skipped: Events that came before the one before them.
    """

    write: Callable[[str], object]
    last: defaultdict[tuple[str, str], int] = attrs.field(factory=lambda: defaultdict(int))
    types: Counter[str] = attrs.field(factory=Counter)
    repeats: int = 0
    skipped: list[str] = attrs.field(factory=list)

    async def deliver(self, event: JournalEvent) -> None:
        """Take note of *event*, as a consumer does: by its payment's number."""
        name = (event.tenant_id, event.payment_id)
        if event.seq <= self.last[name]:
            self.repeats += 1
            return
        if event.seq > self.last[name] + 1:
            self.skipped.append(f"{'/'.join(name)} #{event.seq} came after #{self.last[name]}")
        self.last[name] = event.seq
        self.types[event.type] += 1
        self.write(line_of(event))


@attrs.frozen(kw_only=True)
class Background:
    """
    What goes on by itself.

    Attributes:
        host: Whose payments.
        events: Where the relay delivers.
        patience_s: For how long a doubt may last.
        quiet_s: How long nothing has to change before what waits for others is left to them.
    """

    host: Host
    events: EventLog
    patience_s: float
    quiet_s: float

    async def settled(self, executions: Sequence[PaymentExecution]) -> list[PaymentExecution]:
        """Return *executions* once nothing moves any more, or patience ends. Only watches."""
        clock = asyncio.get_running_loop().time
        known = {one.execution_id: one for one in executions}
        ends_at_s, moved_at_s = clock() + self.patience_s, clock()
        while clock() < ends_at_s:
            fresh = await self._fresh([one for one in known.values() if one.is_open])
            if any(known[one.execution_id].version != one.version for one in fresh):
                moved_at_s = clock()
            known.update((one.execution_id, one) for one in fresh)
            is_quiet = clock() - moved_at_s >= self.quiet_s
            if is_quiet and all(_waits_for_others(one) for one in fresh):
                break
            await asyncio.sleep(_LOOK_S)
        return list(known.values())

    async def delivered(self) -> None:
        """Return once every event was delivered, or patience ends."""
        clock = asyncio.get_running_loop().time
        ends_at_s = clock() + self.patience_s
        while clock() < ends_at_s:
            if not (await self.host.outbox.backlog()).waiting:
                break
            await asyncio.sleep(_LOOK_S)

    async def _fresh(self, executions: Sequence[PaymentExecution]) -> list[PaymentExecution]:
        engine = self.host.payments
        return [await engine.get(one.tenant_id, one.execution_id) for one in executions]


@asynccontextmanager
async def working(host: Host, events: EventLog) -> AsyncIterator[None]:
    """Run a worker with all duties while inside; on leaving it finishes what is under way."""
    relay = AsyncRelay(
        host.outbox,
        AsyncCallableSink(events.deliver),
        RelaySettings(owner=host.payments.settings.owner),
        gather=asyncio.gather,
    )
    worker = AsyncWorker(
        host.payments,
        settings=WorkerSettings(default_limits=AccountLimits(at_once=32, per_second=200.0)),
        apply_inbox=host.payments.apply_inbox,
        relay=relay.run_once,
        expire_holds=lambda: host.wallet.expire_holds(_HOLDS),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()


@asynccontextmanager
async def listening(host: Host) -> AsyncIterator[str]:
    """Serve the webhook intake on a free port while inside; yield its address."""
    with socket.create_server((HOST, 0)) as taken:
        config = uvicorn.Config(
            WebhookAsgi(host.payments), lifespan="off", log_config=None, access_log=False
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[taken]))
        try:
            yield f"http://{HOST}:{taken.getsockname()[1]}{PATH}"
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """Leaves signals to the command that runs it."""

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


def _waits_for_others(execution: PaymentExecution) -> bool:
    return not execution.is_open or execution.pending_reason in _WAITS_FOR_OTHERS
