"""
Give the server a folder and an account of its own.

PostgreSQL refuses to run as root, so a root parent lends it the account ``postgres`` or
``nobody``. Nothing outside the private folder changes: no account is added and no mode of a parent
folder. Binaries that the account cannot reach (a virtual environment under a closed home) are
copied into the private folder instead.

::

    railcore-pg-k2x8v0qd/   the parent's; traversable by the server's group when the parent is root
    ├── data/               the server's alone
    ├── run/                the server's alone: its socket
    ├── log                 what initdb and the server wrote
    └── software/           a copy of the binaries, when one was needed
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

from railcore_adapters.embedded.binaries import ServerBinaries
from railcore_adapters.embedded.errors import ServerStartError, UnsupportedPlatformError

PORT = 5432
PREFIX = "railcore-pg-"
LONGEST_SOCKET_PATH = 103  # bytes; sun_path is 104 with its NUL on macOS, 108 on Linux


@attrs.frozen(kw_only=True)
class Account:
    """The operating-system account that a server started by root runs as."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """
    Return the account to lend the server, or None when it can run as the caller.

    Raises:
        UnsupportedPlatformError: Not a Unix, or a root without any account to lend.
    """
    if sys.platform == "win32":
        raise UnsupportedPlatformError(wanted="Linux or macOS", found=sys.platform)
    if os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - absent on Windows, where the error above is the answer

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise UnsupportedPlatformError(
        wanted="an account named postgres or nobody when started by root", found="neither"
    )


def make_folder(account: Account | None) -> Path:
    """Make the private folder, in the temporary folder or else in ``/tmp``."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_root(account)))
    rooms = [folder / "data", folder / "run"]
    for room in rooms:
        room.mkdir(mode=0o700)
    if account:
        for room in rooms:
            os.chown(room, account.uid, account.gid)
        os.chown(folder, -1, account.gid)
        folder.chmod(0o710)
    return folder


def _root(account: Account | None) -> Path:
    roots = [Path(root).resolve() for root in (tempfile.gettempdir(), "/tmp")]  # noqa: S108
    for root in roots:
        if _fits(root) and (account is None or _open_to_all(root)):
            return root
    raise UnsupportedPlatformError(
        wanted="a temporary folder with a short path that the server's account can reach",
        found=" and ".join(str(root) for root in roots),
    )


def _fits(root: Path) -> bool:
    socket = root / f"{PREFIX}12345678" / "run" / f".s.PGSQL.{PORT}"
    return len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH


def _open_to_all(root: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (root, *root.parents))


def reachable_bindir(binaries: ServerBinaries, account: Account | None, folder: Path) -> Path:
    """
    Return a folder of the same binaries that *account* can run, copied when need be.

    Raises:
        ServerStartError: The account cannot run the copy either.
    """
    if account is None or _runs(binaries.bindir, account):
        return binaries.bindir
    copy = _copy(binaries.bindir, folder / "software")
    if _runs(copy, account):
        return copy
    reason = f"the account {account.name} can run neither it nor a copy of it"
    raise ServerStartError(f"PostgreSQL in {binaries.bindir}", reason)


def _runs(bindir: Path, account: Account) -> bool:
    try:
        done = subprocess.run(
            [bindir / "postgres", "--version"],
            capture_output=True,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy(bindir: Path, software: Path) -> Path:
    """
    Copy an installation, keeping the layout by which its programs find their libraries.

    A Linux wheel has shared libraries in ``<package>.libs`` beside the package, a macOS wheel in
    ``<package>/.dylibs``; the programs look for both relative to themselves.
    """
    install = bindir.resolve().parent
    package = install.parent
    if not any(install.glob("share/**/postgres.bki")):
        raise ServerStartError(f"PostgreSQL in {bindir}", "a closed folder hides it from others")
    trees = {
        install: software / package.name / install.name,
        package / ".dylibs": software / package.name / ".dylibs",
        package.parent / f"{package.name}.libs": software / f"{package.name}.libs",
    }
    for source, target in trees.items():
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (software, *software.rglob("*")):
        path.chmod(0o755)
    return trees[install] / "bin"
