"""
Forks workers that end or freeze at a chosen point.

Its argument is a JSON object, the ``Ground`` that they stand on.

Each line of standard input is a JSON object: ``point`` and ``nth``, where the worker is to act on
itself, ``number``, with which signal, and ``duties``, if not all; an empty object is a worker that
does its work. The pid of each is written to standard output. Forking costs milliseconds, where a
new Python would cost a second.

A worker writes what it delivers to the log of the sink. Once it was frozen, it writes to the log of
notes which of its writes changed nothing.
"""

import asyncio
import gc
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore import clock, context
from railcore.budget import AccountLimits
from railcore.clock import SystemClock
from railcore.errors import RailcoreError
from railcore.events import JournalEvent
from railcore.intake import Webhooks
from railcore.ports import AsyncWebhookInbox
from railcore.redaction import Secret
from railcore.relay import AsyncRelay, RelaySettings
from railcore.webhooks import WebhookAccount, WebhookSettings
from railcore_adapters.cli import wiring
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.credentials import EnvironmentCredentials, FixedWebhookAccounts
from railcore_adapters.sandbox.webhooks import DEFAULT_SECRET
from railcore_adapters.stub import StubWebhooks
from railcore_adapters.transport_httpx import AsyncHttpxTransport
from railcore_adapters.worker import AsyncWorker, Duty, WorkerSettings
from railcore_sqlalchemy.inbox import AsyncSqlWebhookInbox
from railcore_sqlalchemy.outbox import AsyncSqlOutbox
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore
from tests.faults.fences import signed
from tests.faults.ledgers import FileSink

NOT_BEGUN = 3
"""The status of a process that could not begin."""

POINTS = {
    "before_acquire_due": "send or check",
    "after_acquire_due": "send or check",
    "before_mark_sent": "send",
    "after_mark_sent": "send",
    "before_send": "send",
    "after_send": "send",
    "before_put_back": "send",
    "before_lookup": "check",
    "after_lookup": "check",
    "before_reschedule": "check",
    "before_record": "send, check or apply",
    "after_record": "send, check or apply",
    "after_inbox_due": "apply",
    "before_settle": "apply",
    "after_settle": "apply",
    "after_lease": "relay",
    "before_deliver": "relay",
    "after_deliver": "relay",
    "before_acknowledge": "relay",
    "before_release": "relay",
}
"""Where a worker may come to grief, and at which of its duties."""


@attrs.frozen(kw_only=True)
class Ground:
    """
    What workers stand on.

    Attributes:
        database_url: The database.
        stub_url: The sandbox.
        routes: The file of routes.
        lease_s: Of executions, deliveries and buckets alike.
        sink: The log of what was delivered.
        notes: The log of late writes.
        listen: The descriptor of a listening socket, for hosts that hear webhooks.
        role, relay_role: What database sessions are, if not what they log in as.
    """

    database_url: str
    stub_url: str
    routes: str
    lease_s: float
    sink: str
    notes: str
    listen: int | None = None
    role: str | None = None
    relay_role: str | None = None


class Fate:
    """Sends this process *number* when it has come to *point* for the *nth* time."""

    def __init__(self, point: str = "", nth: int = 0, number: int = 0) -> None:
        self.point, self.left, self.number = point, nth, number
        self.is_late = False

    def reached(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)
                self.is_late = True


def arm(  # noqa: C901 - a list of parts
    fate: Fate, notes: FileSink
) -> type[AsyncSqlWebhookInbox]:
    """
    Replace what the command line is wired from with parts that report to *fate*.

    Returns the inbox to hear webhooks with.
    """

    def noted(name: str, changed: bool) -> bool:
        if fate.is_late and not changed:
            notes.write(name)
        return changed

    class Store(AsyncSqlExecutionStore):
        async def acquire_due(self, due: Any, /) -> Any:
            fate.reached("before_acquire_due")
            taken = await super().acquire_due(due)
            if taken:
                fate.reached("after_acquire_due")
            return taken

        async def mark_sent(self, execution: Any, lease_s: float, /) -> Any:
            fate.reached("before_mark_sent")
            marked = await super().mark_sent(execution, lease_s)
            fate.reached("after_mark_sent")
            return marked

        async def record(self, recording: Any, /) -> Any:
            fate.reached("before_record")
            stored = await super().record(recording)
            fate.reached("after_record")
            return stored

        async def reschedule(self, execution: Any, next_check_s: float, /) -> bool:
            fate.reached("before_reschedule")
            return noted("reschedule", await super().reschedule(execution, next_check_s))

        async def put_back(self, execution: Any, next_check_s: float, /) -> bool:
            fate.reached("before_put_back")
            return noted("put_back", await super().put_back(execution, next_check_s))

    class Inbox(AsyncSqlWebhookInbox):
        async def due(self, limit: int, lease_s: float, /) -> Any:
            found = await super().due(limit, lease_s)
            if found:
                fate.reached("after_inbox_due")
            return found

        async def settle(self, item: Any, settlement: Any, /) -> bool:
            fate.reached("before_settle")
            settled = noted("settle", await super().settle(item, settlement))
            fate.reached("after_settle")
            return settled

    class Outbox(AsyncSqlOutbox):
        async def lease(self, owner: str, lease_s: float, /) -> Any:
            lease = await super().lease(owner, lease_s)
            if lease is not None:
                fate.reached("after_lease")
            return lease

        async def acknowledge(self, lease: Any, taken: Any, failed: Any, lease_s: float, /) -> bool:
            fate.reached("before_acknowledge")
            return noted("acknowledge", await super().acknowledge(lease, taken, failed, lease_s))

        async def release(self, lease: Any, /) -> None:
            fate.reached("before_release")
            await super().release(lease)

    class Transport(AsyncHttpxTransport):
        async def send(self, request: Any, send_by: Any, /) -> Any:
            name = "send" if request.moves_money else "lookup"
            fate.reached(f"before_{name}")
            try:
                return await super().send(request, send_by)
            finally:
                fate.reached(f"after_{name}")

    vars(wiring).update(
        AsyncSqlExecutionStore=Store, AsyncHttpxTransport=Transport, AsyncSqlOutbox=Outbox
    )
    return Inbox


@attrs.frozen
class Sink:
    """Delivers to a file that every process appends to."""

    log: FileSink
    fate: Fate

    async def deliver(self, event: JournalEvent, /) -> None:
        self.fate.reached("before_deliver")
        self.log.take(event)
        self.fate.reached("after_deliver")
        await asyncio.sleep(0)


def hearing(
    lease_s: float, inbox: type[AsyncSqlWebhookInbox] = AsyncSqlWebhookInbox
) -> Callable[[AsyncEngine], Webhooks[AsyncWebhookInbox]]:
    """Return what hears the sandbox, over a database; a try that ended badly is soon repeated."""
    account = WebhookAccount(account="main", secrets=(Secret(DEFAULT_SECRET),))
    settings = WebhookSettings(lease_s=lease_s, first_retry_s=0.2)

    def over(database: AsyncEngine) -> Webhooks[AsyncWebhookInbox]:
        return Webhooks(
            providers={"stub": StubWebhooks()},
            accounts=FixedWebhookAccounts({"stub": [account]}),
            inbox=inbox(database),
            settings=settings,
        )

    return over


async def work(
    ground: Ground, fate: Fate, duties: Sequence[str] | None, recovery_since: datetime | None
) -> None:
    owner = f"worker-{os.getpid()}"
    inbox = arm(fate, FileSink(ground.notes, owner))
    wishes = wiring.Wishes(
        database_url=signed(ground.database_url, owner),
        configuration=read_configuration(Path(ground.routes)),
        credentials=EnvironmentCredentials(),
        stub_url=ground.stub_url,
        lease_s=ground.lease_s,
        first_check_s=0.2,
        at_once=16,
        owner=owner,
        webhooks=hearing(ground.lease_s, inbox),
        recovery_since=recovery_since,
        role=ground.role,
        relay_role=ground.relay_role,
    )
    limits = AccountLimits(at_once=8, per_second=1000.0, burst=8)
    async with wiring.open_host(wishes) as host:
        relay = AsyncRelay(
            host.outbox,
            Sink(FileSink(ground.sink, owner), fate),
            RelaySettings(owner=owner, lease_s=ground.lease_s),
            gather=asyncio.gather,
        )
        worker = AsyncWorker(
            host.payments,
            settings=WorkerSettings(at_once=8, default_limits=limits),
            duties=None if duties is None else [Duty(one) for one in duties],
            apply_inbox=host.payments.apply_inbox,
            relay=relay.run_once,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


def be(ground: Ground, told: Any) -> None:
    """Be a worker, or a host, until the end of this process."""
    shift_s, is_random = told.pop("shift_s", 0.0), told.pop("is_random", False)
    if shift_s:
        shift_clock(shift_s)
    if is_random:
        draw_keys()
    try:
        os._exit(asyncio.run(_be(ground, told)))
    except RailcoreError:  # before it had begun: no database, or a standby
        os._exit(NOT_BEGUN)
    except BaseException:  # noqa: BLE001 - whatever it is, it is not to be the nursery's
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


async def _be(ground: Ground, told: Any) -> int:
    duties, since = told.pop("duties", None), told.pop("recovery_since", None)
    recovery_since = since and datetime.fromisoformat(since)
    if (orders := told.pop("orders", None)) is not None:
        from tests.faults.host_process import host

        return await host(ground, orders, recovery_since)
    await work(ground, Fate(**told), duties, recovery_since)
    return 0


def shift_clock(shift_s: float) -> None:
    """Set the wall clock of this process wrong."""

    def now(_: SystemClock) -> datetime:
        return datetime.fromtimestamp(time.time() + shift_s, UTC)

    vars(clock)["SystemClock"].now = now


def draw_keys() -> None:
    """Break the rule that a provider's key is derived: draw it, once for each execution."""
    drawn: dict[tuple[object, ...], str] = {}

    def draw(*of: object, **more: object) -> str:
        return drawn.setdefault((*of, *more.items()), secrets.token_hex(16))

    vars(context)["derive_provider_key"] = draw


def main(ground: Ground) -> None:
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            be(ground, json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Ground(**json.loads(sys.argv[1])))
