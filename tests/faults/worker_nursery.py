"""
Forks workers that end or freeze at a chosen point.

Its arguments are the addresses of a database and a sandbox, a file of routes, and a lease.

Each line of standard input is a JSON object: ``point`` and ``nth``, where the worker is to act on
itself, and ``signal``, with what; an empty object is a worker that does its work. The pid of each
is written to standard output. Forking costs milliseconds, where a new Python would cost a second.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from railcore.budget import AccountLimits
from railcore_adapters.cli import wiring
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.credentials import EnvironmentCredentials
from railcore_adapters.transport_httpx import AsyncHttpxTransport
from railcore_adapters.worker import AsyncWorker, WorkerSettings
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore

POINTS = (
    "before_acquire_due",
    "after_acquire_due",
    "before_mark_sent",
    "after_mark_sent",
    "before_send",
    "after_send",
    "before_lookup",
    "after_lookup",
    "before_record",
    "after_record",
    "before_reschedule",
    "before_put_back",
)


class Fate:
    """Sends this process *number* when it has come to *point* for the *nth* time."""

    def __init__(self, point: str = "", nth: int = 0, number: int = 0) -> None:
        self.point, self.left, self.number = point, nth, number

    def reached(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


def arm(fate: Fate) -> None:
    """Replace what the command line is wired from with parts that report to *fate*."""

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
            return await super().reschedule(execution, next_check_s)

        async def put_back(self, execution: Any, next_check_s: float, /) -> bool:
            fate.reached("before_put_back")
            return await super().put_back(execution, next_check_s)

    class Transport(AsyncHttpxTransport):
        async def send(self, request: Any, send_by: Any, /) -> Any:
            name = "send" if request.moves_money else "lookup"
            fate.reached(f"before_{name}")
            try:
                return await super().send(request, send_by)
            finally:
                fate.reached(f"after_{name}")

    vars(wiring).update(AsyncSqlExecutionStore=Store, AsyncHttpxTransport=Transport)


async def work(database_url: str, stub_url: str, routes: Path, lease_s: float) -> None:
    wishes = wiring.Wishes(
        database_url=database_url,
        configuration=read_configuration(routes),
        credentials=EnvironmentCredentials(),
        stub_url=stub_url,
        lease_s=lease_s,
        first_check_s=0.2,
        at_once=16,
        owner=f"worker-{os.getpid()}",
    )
    limits = AccountLimits(at_once=8, per_second=1000.0, burst=8)
    async with wiring.open_host(wishes) as host:
        settings = WorkerSettings(at_once=8, default_limits=limits)
        worker = AsyncWorker(host.payments, settings=settings)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


def main(database_url: str, stub_url: str, routes: str, lease_s: str) -> None:
    gc.freeze()
    for line in sys.stdin:
        fate = json.loads(line)
        pid = os.fork()
        if not pid:
            arm(Fate(**fate))
            try:
                asyncio.run(work(database_url, stub_url, Path(routes), float(lease_s)))
                os._exit(0)
            except BaseException:  # noqa: BLE001 - whatever it is, it is not to be the nursery's
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
