"""The tutorial on billing runs says what happens: its files are written and its commands run."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "billing-run.md"
STEP = re.compile(
    r"<!-- (?P<how>file|append): (?P<name>[\w.]+) -->\n```\w+\n(?P<text>.*?)```"
    r"|```console\n\$ railcore (?P<words>[^\n]*)\n(?P<told>.*?)```",
    re.DOTALL,
)


@pytest.fixture
def environment() -> Iterator[Mapping[str, str]]:
    """What the second terminal knows after pasting the lines of the first one."""
    words = [sys.executable, "-m", "railcore_adapters.cli", "sandbox"]
    with subprocess.Popen(
        [*words, "--port", "0", "--with-database"], stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        exports = dict[str, str]()
        while (line := serving.stdout.readline()).startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            exports[name] = value.strip("'")
        yield {**os.environ, **exports, "PYTHONIOENCODING": "utf-8"}
        serving.send_signal(signal.SIGINT)


def test_the_page_tells_what_happens(environment: Mapping[str, str], tmp_path: Path) -> None:
    statuses = list[int]()
    for step in STEP.finditer(PAGE.read_text(encoding="utf-8")):
        if step["words"] is None:
            with (tmp_path / step["name"]).open("a" if step["how"] == "append" else "w") as file:
                file.write(step["text"])
            continue
        ran = subprocess.run(
            [sys.executable, "-m", "railcore_adapters.cli", *step["words"].split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        statuses.append(ran.returncode)
        told = [line.rstrip() for line in ran.stdout.splitlines()]
        shown = [line.rstrip() for line in step["told"].splitlines() if line.strip() != "..."]
        assert [line for line in shown if line not in told] == [], ran.stdout + ran.stderr

    assert statuses == [0, 0, 0, 1]
