"""Importing railcore costs little and starts nothing."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import railcore

ALLOWED_S = 0.100
TRIES = 20

TIMED = """
import time
import attr, attrs
started = time.process_time()
import railcore
print(time.process_time() - started)
"""

WATCHED = """
import json, sys, threading
seen = []
watched = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "_thread.start_new")
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(watched) else None)
import railcore
threads = threading.active_count()
print(json.dumps({"seen": seen, "threads": threads, "modules": sorted(sys.modules)}))
"""

HEAVY = {"alembic", "asyncio", "click", "httpx", "psycopg", "pytest", "rich", "sqlalchemy", "ssl"}
OTHERS = {"railcore_adapters", "railcore_sqlalchemy", "structlog", "hypothesis", "socket"}


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout


def test_importing_railcore_takes_less_than_a_tenth_of_a_second_beyond_attrs() -> None:
    # Neighbours on the machine only ever slow it down, so one quick try shows the cost.
    took_s = (float(run(TIMED)) for _ in range(TRIES))

    assert any(took < ALLOWED_S for took in took_s)


def test_every_public_name_is_loaded_from_where_the_type_checker_sees_it() -> None:
    tree = ast.parse(Path(railcore.__file__).read_text(encoding="utf-8"))
    seen = {
        name.name: one.module
        for one in ast.walk(tree)
        if isinstance(one, ast.ImportFrom) and str(one.module).startswith("railcore.")
        for name in one.names
    }

    assert seen == railcore._HOME_OF
    assert sorted(seen) == sorted(railcore.__all__)
    assert set(railcore.__all__) <= set(dir(railcore))
    for name, home in seen.items():
        assert getattr(railcore, name) is getattr(import_module(str(home)), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Payment"):
        _ = railcore.Payment  # type: ignore[attr-defined]


def test_importing_railcore_opens_no_socket_and_starts_no_thread_or_process() -> None:
    outcome = json.loads(run(WATCHED))

    assert outcome["seen"] == []
    assert outcome["threads"] == 1


def test_importing_railcore_loads_neither_drivers_nor_frameworks() -> None:
    loaded = {name.split(".")[0] for name in json.loads(run(WATCHED))["modules"]}

    assert "railcore" in loaded
    assert not loaded & (HEAVY | OTHERS)
