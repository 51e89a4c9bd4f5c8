"""Servers for the tests of sinks: started here, on loopback, and ended with the tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

DEBIANS_RABBIT = "/usr/lib/rabbitmq/bin"  # what is on the PATH wants to be run as its own user


def program(name: str) -> str:
    """Return the path of *name*, beside this Python or on the PATH; skip where there is none."""
    beside = Path(sys.executable).with_name(name)
    path = os.pathsep.join((DEBIANS_RABBIT, os.environ.get("PATH", os.defpath)))
    found = str(beside) if beside.exists() else shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"there is no {name} here: run `nox -s brokers`, which says what can be had")
    return found


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* until the block is left; it listens on *port*, and writes to *log*."""
    with log.open("wb") as said:
        server = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )
    try:
        await_port(port, server, log)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # it may have children
        server.wait()


def await_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when *server* listens on *port*."""
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        else:
            return


def nats_config(port: int, folder: Path) -> str:
    """Return the configuration of a JetStream that has on disk what it acknowledges."""
    return (
        f'listen: "127.0.0.1:{port}"\n'
        f'jetstream {{ store_dir: "{folder}/jetstream", sync_interval: always }}\n'
    )
