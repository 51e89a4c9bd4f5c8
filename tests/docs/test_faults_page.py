"""The page of faults says what the tests say: neither can drift from the other."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MAKER = ROOT / "docs" / "explanation" / "make_faults.py"
NUMBERS = {
    "IR": 6,
    "CP": 5,
    "UO": 9,
    "WH": 11,
    "OB": 7,
    "RC": 6,
    "WA": 4,
    "DB": 7,
    "CF": 3,
    "HI": 2,
}
IDS = [f"{kind}{number}" for kind, last in NUMBERS.items() for number in range(1, last + 1)]


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(MAKER))


@pytest.fixture(scope="module")
def tests_of(maker: dict[str, Any]) -> Mapping[str, Sequence[tuple[str, str]]]:
    found: Mapping[str, Sequence[tuple[str, str]]] = maker["tests_of"]()
    return found


def test_the_page_of_faults_is_what_list_and_tests_say(maker: dict[str, Any]) -> None:
    assert maker["PAGE"].read_text() == maker["page"](), (
        "Write the page anew: python docs/explanation/make_faults.py"
    )


def test_sixty_faults_are_listed(maker: dict[str, Any]) -> None:
    assert len(IDS) == 60
    assert [one.id for one in maker["faults"]()] == IDS


def test_a_test_is_named_for_a_fault_that_is_listed(
    tests_of: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    assert set(tests_of) <= set(IDS)


@pytest.mark.parametrize("fault_id", IDS)
def test_a_fault_has_a_test_or_a_reason_why_not(
    maker: dict[str, Any],
    tests_of: Mapping[str, Sequence[tuple[str, str]]],
    fault_id: str,
) -> None:
    (listed,) = [one for one in maker["faults"]() if one.id == fault_id]

    assert bool(listed.untested) is not bool(tests_of.get(fault_id))


def test_fifty_faults_and_more_have_tests(
    tests_of: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    assert len(tests_of) >= 50


def test_every_test_that_is_named_is_collected(
    tests_of: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    named = {pair for tests in tests_of.values() for pair in tests}
    files = sorted({path for path, _ in named})
    collecting = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]

    told = subprocess.run(
        [*collecting, "--color=no", *files],
        cwd=ROOT,
        env={name: one for name, one in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )

    collected = set(re.findall(r"^(\S+?\.py)::(?:\w+::)?(test_\w+)", told.stdout, re.MULTILINE))
    assert sorted(named - collected) == [], told.stdout[-2000:]
