"""
A private PostgreSQL server that never outlives the process that asked for it.

How it dies with its parent: between the two stands a small process, the *keeper*
(``keeper.py``), which starts the server as its own child and holds one end of a pipe. When the
parent ends in any way, SIGKILL included, the operating system closes the other end; the keeper
then stops the server and removes the folder. It is preferred to ``PR_SET_PDEATHSIG`` set by the
parent because it works on macOS, removes the folder too, needs no ``preexec_fn`` (unsafe in a
process with threads) and is not fooled when the *thread* that started the server ends. The keeper
has a session of its own, so that Ctrl-C reaches the parent alone, which stops things in order.

Only the unix socket listens, in a folder that other accounts cannot enter; whoever gets there is
trusted.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from railcore_adapters.embedded.binaries import ServerBinaries, find_server
from railcore_adapters.embedded.errors import (
    NotRunningError,
    ServerStartError,
    UnsupportedPlatformError,
)
from railcore_adapters.embedded.folder import (
    PORT,
    Account,
    make_folder,
    reachable_bindir,
    server_account,
)

if TYPE_CHECKING:  # keeper.py runs in a process of its own, and loads on Unix only
    from railcore_adapters.embedded.keeper import Plan

USER = DATABASE = "postgres"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
KEEPER = Path(__file__).with_name("keeper.py")
STOP_TIMEOUT_S = 60


class EmbeddedPostgres:
    """
    A context manager: a fresh cluster while inside, nothing left afterwards.

    Args:
        settings: Server settings by name, such as ``{"max_connections": "300"}``.
        durable: Whether a commit waits for the disk. Turn it off for tests only.
        binaries: The server to run; by default :func:`find_server` looks for one.
        start_timeout_s: How long making the cluster and starting its server may take together.

    Raises:
        ServerNotFoundError: On entering: there is no server to run.
        ServerStartError: On entering: it did not start; the end of its log is in the message.
        UnsupportedPlatformError: On entering: not Linux or macOS.
    """

    def __init__(
        self,
        settings: Mapping[str, str] = NO_SETTINGS,
        durable: bool = True,  # noqa: FBT001, FBT002 - reads as durable=False everywhere
        *,
        binaries: ServerBinaries | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._settings = {**({} if durable else NOT_DURABLE), **settings}
        self._binaries = binaries
        self._start_timeout_s = start_timeout_s
        self._keeper: _Keeper | None = None

    def __enter__(self) -> Self:
        account = server_account()
        self._binaries = self._binaries or find_server()
        with contextlib.ExitStack() as undo:
            folder = make_folder(account)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            keeper = undo.enter_context(_Keeper(folder))
            bindir = reachable_bindir(self._binaries, account, folder)
            keeper.start(
                f"PostgreSQL {self._binaries.version} from {self._binaries.bindir}",
                self._plan(folder, bindir, account),
            )
            undo.pop_all()
        self._keeper = keeper
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._keeper:
            self._keeper.stop()
        self._keeper = None

    @property
    def url(self) -> str:
        """The address as SQLAlchemy reads it."""
        host = quote(str(self.folder / "run"))
        return f"postgresql+psycopg://{USER}@/{DATABASE}?host={host}&port={PORT}"

    @property
    def conninfo(self) -> str:
        """The address as libpq reads it."""
        host = str(self.folder / "run").replace("\\", r"\\").replace("'", r"\'")
        return f"host='{host}' port={PORT} user={USER} dbname={DATABASE}"

    @property
    def folder(self) -> Path:
        """The private folder, which disappears with the server."""
        if self._keeper is None:
            raise NotRunningError
        return self._keeper.folder

    @property
    def bindir(self) -> Path:
        """Where the server's binaries were found."""
        return self._found.bindir

    @property
    def version(self) -> str:
        """The server's version, such as ``"18.4"``."""
        return self._found.version

    @property
    def source(self) -> str:
        """Which search found the binaries."""
        return self._found.source

    @property
    def _found(self) -> ServerBinaries:
        if self._binaries is None:
            raise NotRunningError
        return self._binaries

    def _plan(self, folder: Path, bindir: Path, account: Account | None) -> "Plan":
        data = str(folder / "data")
        # Where it listens comes last and so wins over the caller's settings.
        settings = {
            **self._settings,
            "listen_addresses": "",
            "unix_socket_directories": str(folder / "run"),
            "port": str(PORT),
        }
        initdb = ["--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8"]
        return {
            "initdb": [str(bindir / "initdb"), "-D", data, "--locale=C", *initdb],
            "server": [str(bindir / "postgres"), "-D", data, *_options(settings)],
            "data": data,
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "start_timeout_s": self._start_timeout_s,
        }


def _options(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


class _Keeper:
    """The parent's end of the dialogue with ``keeper.py``, which guards *folder* from now on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owner = os.getpid()
        try:
            self._process = subprocess.Popen(
                [sys.executable or "", "-I", "-S", KEEPER, folder],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            wanted = "a Python interpreter in sys.executable"
            raise UnsupportedPlatformError(wanted, found=str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, server: str, plan: "Plan") -> None:
        """Hand over the plan and wait for the server to be ready."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin  # noqa: S101 - tells the type checker that a pipe was asked for
        assert stdout  # noqa: S101 - as above
        with contextlib.suppress(BrokenPipeError):  # its last words say why
            stdin.write(json.dumps(plan).encode() + b"\n")
        answer = stdout.readline().decode().strip()
        if answer != "ready":
            raise ServerStartError(server, answer or "its keeper ended without a word", self.stop())

    def stop(self) -> str:
        """Stop the server, remove the folder and return the end of the server's log."""
        a_forked_copy_leaves_its_block = os.getpid() != self._owner
        if a_forked_copy_leaves_its_block or self._process.returncode is not None:
            return ""
        try:
            log, _ = self._process.communicate(b"stop\n", timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            log, _ = self._process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)  # gone already, unless it was killed
        return log.decode("utf-8", "replace").strip()


def _environment() -> dict[str, str]:
    """Return the parent's environment without what libpq and initdb read, in plain English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
