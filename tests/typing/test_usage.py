"""The API as users write it is type-checked, and so is what must not check."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USAGE = Path(__file__).with_name("usage.py")


def mypy(*paths: Path, options: tuple[str, ...] = ()) -> str:
    """Return what mypy says of *paths*, by the project's own settings."""
    command = [sys.executable, "-m", "mypy", "--strict", *options, *map(str, paths)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_users_write_checks_strictly() -> None:
    assert "Success: no issues found" in mypy(USAGE)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_mistake_is_an_error_of_its_own(tmp_path: Path) -> None:
    source = USAGE.read_text()
    marked = {
        number: set(re.findall(r"[a-z-]+", one.group(1)))
        for number, line in enumerate(source.splitlines(), start=1)
        if (one := re.search(r"# type: ignore\[([^]]+)\]", line))
    }
    naked = tmp_path / "naked.py"
    naked.write_text(re.sub(r"# type: ignore\[[^]]+\]", "#", source))

    said = mypy(naked, options=("--hide-error-context",))
    found = dict[int, set[str]]()
    for number, code in re.findall(r"naked\.py:(\d+): error: .*\[([a-z-]+)\]", said):
        found.setdefault(int(number), set()).add(code)

    assert found == marked
    assert len(marked) > 40
