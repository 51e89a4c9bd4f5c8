"""Many runs of many payments, each from one seed, and what each rule is there for."""

import os
import time
from collections import Counter
from typing import Any

import pytest

from railcore.procedures import Procedure, ask
from railcore.relay import _Batch, _Relaying
from tests.simulation.chance import FORGETFUL, KEYED, PLAIN, play
from tests.simulation.steps import Provider
from tests.simulation.weakened import WEAK_RULES, WeakRule

SEED = int(os.environ.get("RAILCORE_SIMULATION_SEED", "0"))
LASTING_S = float(os.environ.get("RAILCORE_SIMULATION_S", "0"))
RUNS = 250
RARE = {
    "no send deadline (R2)",
    "a resend by what the clock showed before the lookup (R3)",
    "absence counted from the first send (R4)",
    "absence counted up to the answer (R4)",
    "the refusal of one try speaks for all (R5)",
    "a 500 is a failure (R5)",
}
"""What the exhaustive search finds in seconds, and chance needs many hundreds of runs for."""


def test_nothing_breaks_whatever_happens() -> None:
    """A seed from the environment is played alone; a failure prints its seed and its last steps."""
    until_s = time.monotonic() + LASTING_S
    counts, seed = Counter[str](), SEED
    while True:
        played = play(seed)
        assert played.problem is None, f"\n{played}"
        counts += played.counts
        counts["runs"] += 1
        seed += 1
        is_over = counts["runs"] >= RUNS and time.monotonic() >= until_s
        if is_over or "RAILCORE_SIMULATION_SEED" in os.environ:
            break
    print(f"seeds {SEED} to {seed - 1}: {dict(counts)}")  # noqa: T201 - the figures are quoted in the docs
    if "RAILCORE_SIMULATION_SEED" not in os.environ:
        for event in ("crashes", "pauses past a lease", "answers lost", "lies", "forgotten"):
            assert counts[event] > 5, f"the runs are too quiet: {event}"


def test_a_seed_is_one_run() -> None:
    assert str(play(11)) == str(play(11))
    assert play(11).counts != play(12).counts


@pytest.mark.parametrize(
    "rule",
    [pytest.param(one, id=one.name) for one in WEAK_RULES if LASTING_S or one.name not in RARE],
)
def test_chance_finds_what_a_weakened_rule_breaks(
    rule: WeakRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule.apply(monkeypatch)
    _is_found(rule.name, _provider_of(rule))


def test_chance_finds_events_that_are_acknowledged_before_they_are_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deliver(self: _Relaying, lease: Any, until: Any) -> Procedure[_Batch]:
        entries = yield from ask(lambda: self.outbox.waiting(lease, 10, 10))
        yield from ask(lambda: self.outbox.acknowledge(lease, entries, [], 4.0))
        batch = _Batch(until)
        yield from self._payment(batch, entries)
        return batch

    monkeypatch.setattr(_Relaying, "_deliver", deliver)
    _is_found("delete before publish", KEYED)


def test_chance_finds_events_that_are_delivered_out_of_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = _Relaying._payment

    def backwards(self: _Relaying, batch: _Batch, entries: Any) -> Procedure[None]:
        return real(self, batch, entries[::-1])

    monkeypatch.setattr(_Relaying, "_payment", backwards)
    _is_found("the last event first", KEYED)


def _provider_of(rule: WeakRule) -> Provider:
    declared = rule.scenario.provider
    if not declared.is_idempotent:
        return PLAIN
    return FORGETFUL if declared.timing.key_window_s == 3 else KEYED


def _is_found(name: str, provider: Provider) -> None:
    for seed in range(int(max(3 * RUNS, LASTING_S * 10))):
        played = play(seed, provider=provider, checks_rules=False)
        if played.problem is not None:
            print(f"{name}: found by run {seed + 1}: {played.problem}")  # noqa: T201 - quoted in the docs
            return
    pytest.fail(f"{name}: nothing was found")
