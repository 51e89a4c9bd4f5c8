"""A PgBouncer of our own in front of a server, in transaction mode with a pool of two."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy
from sqlalchemy import URL

WAIT_S: Final = 10
SETTINGS = """
[databases]
* = host={host} port={port} user={user} connect_query='set lock_timeout = 500; \
set idle_in_transaction_session_timeout = 5000'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 400
ignore_startup_parameters = options, extra_float_digits
server_reset_query =
query_wait_timeout = 60
logfile = {folder}/log
pidfile = {folder}/pid
"""


def binary() -> str | None:
    """Return where PgBouncer is installed, if it is."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pooler(server: str) -> Iterator[URL]:
    """Run PgBouncer in front of *server*; yield its address, whose database is to be set."""
    program = binary()
    assert program, "Wanted pgbouncer; install it with the system's package manager"
    behind = sqlalchemy.make_url(server)
    listen = _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        settings = folder / "settings.ini"
        settings.write_text(
            SETTINGS.format(
                host=behind.host or behind.query["host"],
                port=behind.port or behind.query.get("port", 5432),
                user=behind.username,
                listen=listen,
                folder=folder,
            ),
            encoding="utf-8",
        )
        as_user = ["-u", _owner(behind)] if os.geteuid() == 0 else []
        with subprocess.Popen([program, "-q", *as_user, os.fspath(settings)]) as process:
            try:
                _await_port(listen, process)
                yield URL.create(
                    "postgresql+psycopg", behind.username, host="127.0.0.1", port=listen
                )
            finally:
                process.send_signal(signal.SIGINT)


def _owner(server: URL) -> str:
    """Return who may enter the folder of the server's socket: PgBouncer refuses to be root."""
    folder = server.query.get("host")
    return Path(folder).owner() if isinstance(folder, str) else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        assert process.poll() is None, "pgbouncer ended; see what it printed"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"pgbouncer does not listen on {port} after {WAIT_S} s")
