"""
PostgreSQL that crashes, runs out of disk, has a strange clock, and loses commits in a failover.

The binaries, the account and the folder are those of ``EmbeddedPostgres``, whose own server ends
for good when it ends; these are started again. Each dies with the process that started it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import psycopg

from railcore_adapters.embedded import find_server
from railcore_adapters.embedded.folder import make_folder, reachable_bindir, server_account

SETTINGS = {
    "fsync": "off",  # nothing here crashes the machine, and what a process wrote is kept
    "jit": "off",
    "listen_addresses": "",
    "max_connections": "200",
    "max_parallel_workers_per_gather": "0",
    "max_standby_archive_delay": "0",  # a question to a standby never keeps it from replaying
    "max_standby_streaming_delay": "0",
    "max_wal_size": "256MB",
    "synchronous_commit": "on",
    "wal_keep_size": "128MB",
    "wal_retrieve_retry_interval": "200ms",
}
GUARD = """
import ctypes, os, signal, sys
uid, gid = map(int, sys.argv[1:3])
if uid >= 0:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
ctypes.CDLL(None).prctl(1, signal.SIGQUIT)
os.execv(sys.argv[3], sys.argv[3:])
"""
_READY_S = 120


def clock_library() -> str | None:
    """Return the library that shifts a process's clock, where Debian's ``faketime`` has put it."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return str(found[0]) if found else None


def _shifted(clock_s: int) -> tuple[str, ...]:
    """
    Return what to put before a command so that it sees a clock so far ahead.

    The library is loaded by the command alone: what it shares with a process of another user before
    it, it could not open.
    """
    env, library = shutil.which("env"), clock_library()
    if env is None or library is None:
        return ()
    return (env, f"LD_PRELOAD={library}", f"FAKETIME={clock_s:+d}s", "DONT_FAKE_MONOTONIC=1")


@attrs.define
class Cluster:
    """One data folder, and the server on it while it runs."""

    folder: Path
    bindir: Path
    uid: int
    gid: int
    has_own_disk: bool = False
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        return self.folder / "disk" / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def create(self) -> None:
        more = ("--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        self._program("initdb", "--no-sync", "-D", self.data, *more)

    def follow(self, primary: "Cluster") -> None:
        """Become an asynchronous standby of *primary*: a copy of it that goes on reading."""
        shutil.rmtree(self.data, ignore_errors=True)
        how = ("--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf")
        self._program("pg_basebackup", "-h", primary.run, "-U", "postgres", "-D", self.data, *how)
        self.start()

    def start(self, clock_s: int = 0) -> None:
        """Start the server, with its clock so far ahead, and wait until it answers."""
        environment = {name: one for name, one in os.environ.items() if not name.startswith("PG")}
        shifted = _shifted(clock_s) if clock_s else ()
        settings = {**SETTINGS, "unix_socket_directories": str(self.run)}
        words = [f"{name}={value}" for name, value in settings.items()]
        server = [self.bindir / "postgres", "-D", self.data]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", GUARD, str(self.uid), str(self.gid)),
                    *shifted,
                    *map(str, server),
                    *(part for word in words for part in ("-c", word)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**environment, "LC_ALL": "C"},
            )
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers."""
        until_s = time.monotonic() + _READY_S
        while True:
            try:
                self.ask("select 1")
            except psycopg.Error as error:
                ended = self.process is None or self.process.poll() is not None
                if ended or time.monotonic() > until_s:
                    raise RuntimeError(self.log_tail()) from error
                time.sleep(0.05)
            else:
                return

    def crash(self) -> None:
        """End the server as ``pg_ctl stop -m immediate`` does: no farewell, no checkpoint."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, query: Any, *values: Any) -> list[tuple[Any, ...]]:
        """Ask this server, standby or not."""
        told = f"host={self.run} user=postgres dbname=postgres connect_timeout=5"
        with psycopg.connect(told, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def receiver(self) -> int:
        """Return the process that receives what the primary commits."""
        until_s = time.monotonic() + _READY_S
        while not (found := self.ask("select pid from pg_stat_wal_receiver")):
            assert time.monotonic() < until_s, self.log_tail()
            time.sleep(0.05)
        return int(found[0][0])

    def promote(self) -> None:
        """Become a primary; a standby that replays may refuse even to be asked."""
        until_s = time.monotonic() + _READY_S
        while True:
            with suppress(psycopg.Error):
                if self.ask("select pg_is_in_recovery()") == [(False,)]:
                    return
                self.ask("select pg_promote(true, 20)")
            assert time.monotonic() < until_s, self.log_tail()

    def fill(self) -> None:
        """Leave no room on the disk of its own."""
        with (self.folder / "disk" / "balloon").open("wb") as balloon:
            while room := os.statvfs(self.folder / "disk").f_bavail:
                size = balloon.seek(0, os.SEEK_END)
                step = max(1, room - 4) * 4096  # the server may take some meanwhile
                with suppress(OSError):
                    os.posix_fallocate(balloon.fileno(), size, step)

    def free(self) -> None:
        (self.folder / "disk" / "balloon").unlink()

    def log_tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _program(self, name: str, *words: Path | str) -> None:
        as_user: dict[str, Any] = {}
        if self.uid >= 0:
            as_user = {"user": self.uid, "group": self.gid, "extra_groups": []}
        ran = subprocess.run(
            [self.bindir / name, *words], capture_output=True, cwd="/", check=False, **as_user
        )
        assert ran.returncode == 0, ran.stderr.decode()


@contextmanager
def cluster(disk_mb: int | None = None) -> Iterator[Cluster]:
    """Yield a cluster that has no data yet; with *disk_mb* on a disk of its own, if possible."""
    account = server_account()
    folder = make_folder(account)
    disk = folder / "disk"
    disk.mkdir(mode=0o700)
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    bindir = reachable_bindir(find_server(), account, folder)
    made = Cluster(folder, bindir, uid, gid)
    try:
        if account and disk_mb is not None:
            options = f"size={disk_mb}m,uid={uid},gid={gid},mode=0700"
            mount = ("mount", "-t", "tmpfs", "-o", options, "railcore-test", str(disk))
            made.has_own_disk = subprocess.run(mount, check=False).returncode == 0
        if account and not made.has_own_disk:
            os.chown(disk, uid, gid)
        yield made
    finally:
        made.crash()
        if made.has_own_disk:
            subprocess.run(("umount", "-l", str(disk)), check=False)
        shutil.rmtree(folder, ignore_errors=True)


@attrs.define
class Pair:
    """A primary and its asynchronous standby, which clients find by trying both."""

    primary: Cluster
    standby: Cluster

    @property
    def url(self) -> str:
        """The address as SQLAlchemy reads it: whichever of the two may be written to."""
        hosts = "&".join(f"host={one.run}" for one in (self.primary, self.standby))
        return f"postgresql+psycopg://postgres@/postgres?{hosts}&target_session_attrs=read-write"

    def hold_back(self) -> int:
        """Let the standby receive nothing more."""
        receiver = self.standby.receiver()
        os.kill(receiver, signal.SIGSTOP)
        return receiver

    def fail_over(self, receiver: int) -> None:
        """Lose the primary, and what the standby did not receive; the standby takes over."""
        self.primary.crash()
        os.kill(receiver, signal.SIGKILL)  # with what lies in its socket; the server starts anew
        time.sleep(0.2)
        self.standby.wait()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary


@contextmanager
def pair(disk_mb: int | None = None) -> Iterator[Pair]:
    """Yield two clusters, of which the first one runs and the other has no data yet."""
    with cluster(disk_mb) as primary, cluster(disk_mb) as standby:
        primary.create()
        primary.start()
        yield Pair(primary, standby)
