"""``railcore worker``: a process that sends, looks up, applies, relays and expires by itself."""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
from rich.console import Console

from railcore.budget import AccountLimits
from railcore.errors import MisconfiguredError
from railcore.ports import AsyncEventSink, Observer
from railcore.relay import AsyncRelay
from railcore_adapters.cli.configuration import Configuration, read_configuration
from railcore_adapters.cli.delivery import ConfiguredSink, sink_of
from railcore_adapters.cli.wiring import (
    Host,
    Wishes,
    accounts_of,
    modes_of,
    open_host,
    stub_webhooks,
)
from railcore_adapters.credentials import EnvironmentCredentials, EnvironmentWebhookAccounts
from railcore_adapters.embedded import open_database
from railcore_adapters.sinks import AsyncPrintedSink
from railcore_adapters.worker import AsyncWorker, Duty, WorkerSettings

_HOLDS = 100


@attrs.frozen(kw_only=True)
class WorkerProcess:
    """
    What to work on and how.

    Attributes:
        routes: The configuration.
        database_url: With the schema installed.
        stub_url: The sandbox, for cards and open banking.
        duties: Which to do; None for all that there is something for.
        once: Do what is due and end.
        lease_s: For how long an execution is this process's alone.
        first_check_s: When an open execution is looked at again first.
        at_once: How many are under way.
        per_second: How many of one account are taken up a second.
        recovery_since: When the database came back from a copy or a failover.
        is_printing: Whether events are relayed to standard output, where no receiver is configured.
        console: Where it says that it is ready.
        observer: Is told of every call and outcome.
    """

    routes: Path
    database_url: str
    stub_url: str | None
    duties: Sequence[Duty] | None
    once: bool
    lease_s: float
    first_check_s: float
    at_once: int
    per_second: float
    recovery_since: datetime | None
    is_printing: bool
    console: Console
    observer: Observer | None = None

    def carry_out(self) -> int | None:
        """Work until told to stop; with ``once`` return how much there was to do."""
        with open_database(self.database_url) as database:
            return asyncio.run(self._carry_out(database.url))

    async def _carry_out(self, url: str) -> int | None:
        configuration = read_configuration(self.routes)
        async with AsyncExitStack() as opened:
            sink = self._sink(configuration.events)
            if isinstance(sink, ConfiguredSink):
                await opened.enter_async_context(sink)
            host = await opened.enter_async_context(open_host(self._wishes(url, configuration)))
            worker = self._worker(host, sink)
            with _stopped_by_signals(worker):
                if self.once:
                    return await worker.run_once()
                self.console.print(f"Working as {host.payments.settings.owner}")
                await worker.run()
        return None

    def _sink(self, events: Mapping[str, object]) -> AsyncEventSink | None:
        """Return where events go: never to the terminal what a receiver waits for."""
        if events and self.is_printing:
            problem = "the configuration delivers events elsewhere"
            raise MisconfiguredError("--print-events", problem, "Leave it out, or [events]")
        if self.is_printing:
            return AsyncPrintedSink()
        return sink_of(events) if events and self._does(Duty.RELAY) else None

    def _does(self, duty: Duty) -> bool:
        return self.duties is None or duty in self.duties

    def _wishes(self, url: str, configuration: Configuration) -> Wishes:
        names, modes = accounts_of(configuration, "stub"), modes_of(configuration)
        accounts = EnvironmentWebhookAccounts(names, modes=modes)
        return Wishes(
            database_url=url,
            configuration=configuration,
            credentials=EnvironmentCredentials(),
            stub_url=self.stub_url,
            lease_s=self.lease_s,
            first_check_s=self.first_check_s,
            at_once=2 * self.at_once,
            owner=_owner(),
            recovery_since=self.recovery_since,
            webhooks=partial(stub_webhooks, accounts),
            observer=self.observer,
        )

    def _worker(self, host: Host, sink: AsyncEventSink | None) -> AsyncWorker:
        burst = max(1, min(self.at_once, round(self.per_second)))
        limits = AccountLimits(at_once=self.at_once, per_second=self.per_second, burst=burst)
        return AsyncWorker(
            host.payments,
            settings=WorkerSettings(at_once=self.at_once, default_limits=limits),
            duties=self.duties,
            apply_inbox=None if host.webhooks is None else host.payments.apply_inbox,
            relay=None if sink is None else _relay(host, sink, self.observer).run_once,
            expire_holds=lambda: host.wallet.expire_holds(_HOLDS),
            observer=self.observer,
        )


def _relay(host: Host, sink: AsyncEventSink, observer: Observer | None) -> AsyncRelay:
    return AsyncRelay(host.outbox, sink, gather=asyncio.gather, observer=observer)


def _owner() -> str:
    return f"worker-{socket.gethostname()[:64]}-{os.getpid()}"


def _stopped_by_signals(worker: AsyncWorker) -> ExitStack:
    """Return a context in which SIGTERM and SIGINT stop *worker*, which ends what it has begun."""
    loop, stack = asyncio.get_running_loop(), ExitStack()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
        stack.callback(loop.remove_signal_handler, number)
    return stack
