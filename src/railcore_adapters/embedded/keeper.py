"""
Keep one PostgreSQL server alive exactly as long as the parent process; run as a script.

A dialogue over two pipes. The parent writes one line of JSON, the plan, to standard input. The
answer on standard output is the line ``ready`` or a line that says what went wrong. From then on
any byte or the end of standard input means stop: the operating system closes the parent's end of
the pipe however the parent ends, SIGKILL included. The keeper stops the server, removes the folder
and, as its last words, writes the end of the server's log.

Only the standard library is imported, so that it starts in some 30 ms.
"""

import ctypes
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypedDict

LOG_TAIL_LINES = 20
# How PostgreSQL is asked to stop: fast, then immediately, then not asked.
FAREWELLS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 5.0))
PR_SET_PDEATHSIG = 1


class Plan(TypedDict):
    """What to run, as whom, and how long it may take until it is ready."""

    initdb: Sequence[str]
    server: Sequence[str]
    data: str
    uid: int | None
    gid: int | None
    start_timeout_s: float


class ParentLeft(Exception):
    """The parent said stop, or is no more."""


class StartFailed(Exception):
    """The server is not going to be ready."""


class Parent:
    """The process at the other end of the pipes."""

    def __init__(self) -> None:
        self._pid = os.getppid()

    def tell(self, text: str) -> None:
        """Say something, if the parent is still there to hear it."""
        with suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), text.encode() + b"\n")

    def plan(self) -> Plan:
        """Read the plan."""
        line = sys.stdin.buffer.readline()
        if not line.startswith(b"{"):
            raise ParentLeft
        plan: Plan = json.loads(line)
        return plan

    def watch(self, wait_s: float) -> None:
        """
        Wait, and leave early when the parent does.

        A process that the parent forked may hold a copy of the pipe's other end, which then stays
        open; being adopted by another process is therefore taken as a sign too.
        """
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
        if readable or os.getppid() != self._pid:
            raise ParentLeft


def keep(folder: Path, parent: Parent) -> None:
    """Make the cluster, start its server and stay until the server or the parent ends."""
    plan = parent.plan()
    deadline = time.monotonic() + plan["start_timeout_s"]
    with (folder / "log").open("xb") as log:
        launch = functools.partial(_launch, plan, log)
        with launch(plan["initdb"]) as initdb:
            _wait(parent, deadline, lambda: initdb.poll() is not None)
        if initdb.returncode:
            raise StartFailed(f"initdb ended with status {initdb.returncode}")
        with launch(plan["server"]) as server:
            _wait(parent, deadline, lambda: server.poll() is not None or _is_ready(plan["data"]))
            if server.poll() is not None:
                raise StartFailed(f"the server ended with status {server.returncode}")
            parent.tell("ready")
            while server.poll() is None:
                parent.watch(wait_s=0.5)


def _wait(parent: Parent, deadline: float, done: Callable[[], bool]) -> None:
    while not done():
        parent.watch(wait_s=0.02)
        if time.monotonic() > deadline:
            raise StartFailed("it was not ready in time")


def _is_ready(data: str) -> bool:
    """
    Read the server's own word that it accepts connections.

    Source: PostgreSQL, src/include/utils/pidfile.h: line 8 is the status; pg_ctl waits for it too.
    """
    try:
        lines = Path(data, "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return [line.strip() for line in lines[7:8]] == ["ready"]


@contextmanager
def _launch(plan: Plan, log: BinaryIO, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of the server in the server's account, and end it on the way out."""
    as_root = plan["uid"] is not None
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=plan["data"],
        user=plan["uid"],
        group=plan["gid"],
        extra_groups=[] if as_root else None,
        preexec_fn=_follow_the_keeper(),  # noqa: PLW1509 - this process has a single thread
    )
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, patience_s in FAREWELLS:
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue


def _follow_the_keeper() -> Callable[[], None] | None:
    """Make the kernel stop the server should the keeper itself be killed (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _log_tail(folder: Path) -> str:
    try:
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(log.splitlines()[-LOG_TAIL_LINES:])


def main(folder: Path) -> None:
    """Keep the server of *folder*; leave nothing behind."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent that ignores it would pass that on
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    parent, tail = Parent(), ""
    try:
        keep(folder, parent)
    except ParentLeft:
        pass
    except (StartFailed, OSError) as error:
        parent.tell(str(error))
    finally:
        tail = _log_tail(folder)
        shutil.rmtree(folder, ignore_errors=True)
    parent.tell(tail)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
