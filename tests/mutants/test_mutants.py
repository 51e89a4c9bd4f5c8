"""The lists of mutants fit the source; ``nox -s mutants`` runs them."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.mutants.mutation import ROOT, Mutant, source
from tests.mutants.protocol import PROTOCOL
from tests.mutants.sql import SQL

MUTANTS = (*SQL, *PROTOCOL)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mutant_changes_what_the_source_says(mutant: Mutant) -> None:
    text = source(mutant.file)
    assert mutant.applied(text) != text


def test_a_mutant_of_python_is_python() -> None:
    for mutant in MUTANTS:
        if mutant.file.endswith(".py"):
            compile(mutant.applied(source(mutant.file)), mutant.file, "exec")


def test_names_tell_mutants_apart() -> None:
    assert [name for name, times in Counter(one.name for one in MUTANTS).items() if times > 1] == []


def test_the_tests_that_mutants_name_exist() -> None:
    named = {test for one in MUTANTS for test in one.tests}
    files = sorted({test.partition("::")[0] for test in named})
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", *files],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    there = {*listed, *(line.partition("[")[0] for line in listed)}
    assert sorted(named - there) == []
