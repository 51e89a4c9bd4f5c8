"""Every rule of the call protocol is there for a reason, which the search finds by itself."""

import pytest

from tests.simulation.search import search
from tests.simulation.weakened import WEAK_RULES, WeakRule


@pytest.mark.parametrize(
    "rule", [pytest.param(one, id=one.name, marks=one.marks) for one in WEAK_RULES]
)
def test_a_weakened_rule_has_a_counter_example(
    rule: WeakRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule.apply(monkeypatch)
    found = search(rule.scenario, most_s=100)
    assert found.story is not None, f"{rule.name}: {found}"
    print(f"{rule.name}\n{rule.apply.__doc__}\n{found}\n{found.story}\n")  # noqa: T201 - the figures and stories are quoted in the docs
    assert found.story.problem.startswith(f"{rule.breaks}:")
