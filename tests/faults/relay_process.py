"""
A relay in a process of its own: ``relay_process.py URL LOG LEASE_S COLOUR [SIGNAL NTH]``.

Its sink appends a line to the file LOG for every event: owner, payment, seq, id. It says on
standard output when it was fenced. With SIGNAL and NTH it sends itself that signal in its NTH
delivery, when the sink has the event and the outbox does not know it yet.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import attrs
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.errors import StoreError
from railcore.events import JournalEvent
from railcore.relay import AsyncRelay, Relay, RelayRun, RelaySettings
from railcore_sqlalchemy.outbox import AsyncSqlOutbox, SqlOutbox
from tests.faults.ledgers import FileSink

CONNECT = {"options": "-c role=railcore_relay -c lock_timeout=500ms -c jit=off"}
SLOW_S = 0.002
IDLE_S = 0.01


@attrs.define
class Self:
    """Sends this process a signal in its nth delivery."""

    signal: int
    left: int

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signal)


@attrs.frozen
class SyncSink:
    inner: FileSink
    then: Callable[[], None]

    def deliver(self, event: JournalEvent, /) -> None:
        self.inner.take(event)
        self.then()
        time.sleep(SLOW_S)


@attrs.frozen
class AsyncSink:
    inner: FileSink
    then: Callable[[], None]

    async def deliver(self, event: JournalEvent, /) -> None:
        self.inner.take(event)
        self.then()
        await asyncio.sleep(SLOW_S)


def note(run: RelayRun) -> float:
    """Say that the run was fenced, if it was; return how long to wait."""
    if run.is_fenced:
        print("fenced", flush=True)  # noqa: T201 - what the test reads
    return IDLE_S if run.is_idle else 0.0


def relay(url: str, sink: SyncSink, settings: RelaySettings) -> None:
    outbox = SqlOutbox(sqlalchemy.create_engine(url, connect_args=CONNECT))
    one = Relay(outbox, sink, settings)
    while True:
        try:
            time.sleep(note(one.run()))
        except StoreError:
            time.sleep(IDLE_S)


async def arelay(url: str, sink: AsyncSink, settings: RelaySettings) -> None:
    outbox = AsyncSqlOutbox(create_async_engine(url, connect_args=CONNECT))
    one = AsyncRelay(outbox, sink, settings, gather=asyncio.gather)
    while True:
        try:
            await asyncio.sleep(note(await one.run()))
        except StoreError:
            await asyncio.sleep(IDLE_S)


def main(url: str, log: str, lease_s: str, colour: str, *own_end: str) -> None:
    sent, nth = own_end or ("SIGKILL", "0")
    then = Self(signal.Signals[sent], int(nth))
    sink = FileSink(log, f"relay-{os.getpid()}")
    settings = RelaySettings(owner=sink.owner, lease_s=float(lease_s), batch=64, per_payment=16)
    if colour == "sync":
        relay(url, SyncSink(sink, then), settings)
    asyncio.run(arelay(url, AsyncSink(sink, then), settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
