"""The lists of mutants fit the source; ``nox -s mutants`` runs them."""

from collections import Counter

import pytest

from tests.mutants.mutation import Mutant, collected, source
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
    cases = collected({test for one in MUTANTS for test in one.tests})
    assert sorted(test for test, found in cases.items() if not found) == []
