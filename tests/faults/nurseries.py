"""What tests use to have processes: a nursery that forks them, and the look of a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from railcore_adapters.sandbox import Sandbox
from tests.faults.worker_nursery import Ground

ROUTES = """
routes.cards = {rail = "card_psp", provider = "stub", account = "main", mode = "sandbox"}
default_route = "cards"
"""


@attrs.define
class Nursery:
    """Starts workers, and knows what became of them."""

    process: "subprocess.Popen[str]"
    pids: set[int] = attrs.field(factory=set)

    def start(self, **fate: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fate) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        self.pids.add(pid)
        return pid

    def end(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@contextmanager
def nursed(sandbox: Sandbox, ground: Ground) -> Iterator[Nursery]:
    told = json.dumps(attrs.asdict(ground))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.worker_nursery", told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RAILCORE_SECRET_STUB_MAIN": sandbox.accounts["main"]},
        cwd=Path(__file__).parents[2],
        pass_fds=() if ground.listen is None else (ground.listen,),
        text=True,
    )
    nursery = Nursery(process)
    try:
        yield nursery
    finally:
        nursery.end()
        if process.stdout is not None:
            process.stdout.close()


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z (dead) or nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def ended_by(pid: int) -> int:
    """The signal that ended a process which nobody has waited for yet; 0 for none."""
    return _status(pid) & 0x7F


def ended_with(pid: int) -> int:
    """The status with which such a process ended by itself."""
    return _status(pid) >> 8


def _status(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().split()[-1])
