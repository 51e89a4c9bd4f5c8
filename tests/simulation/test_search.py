"""Whatever happens to one payment, in every order, within the bounds of a scenario."""

import os

import pytest

from tests.simulation.scenarios import LONG, SHORT
from tests.simulation.search import Scenario, search

_LONG_S = float(os.environ.get("RAILCORE_SEARCH_S", "600"))


@pytest.mark.parametrize("scenario", SHORT, ids=lambda one: one.name)
def test_nothing_breaks_within_the_bounds(scenario: Scenario) -> None:
    found = search(scenario)
    print(found)  # noqa: T201 - the figures and stories are quoted in the docs
    assert found.story is None, f"{found}\n{found.story}"
    assert found.is_exhausted


@pytest.mark.skipif(
    "RAILCORE_SEARCH_S" not in os.environ, reason="takes minutes: run `nox -s simulation`"
)
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("scenario", LONG, ids=lambda one: one.name)
def test_nothing_breaks_within_wider_bounds(scenario: Scenario) -> None:
    found = search(scenario, most_s=_LONG_S)
    print(found)  # noqa: T201 - the figures and stories are quoted in the docs
    assert found.story is None, f"{found}\n{found.story}"
