"""A seeded selection of the crash matrix; ``python -m tests.faults.wire`` runs all of it."""

import os
from collections.abc import Sequence

import pytest

from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.kernel import Kernel
from railcore.lifecycle import Fact, FactSource
from railcore.results import RailResult
from tests.faults.wire import matrix
from tests.faults.wire.matrix import Tally
from tests.faults.wire.operations import OPERATIONS
from tests.faults.wire.providers import PROVIDERS

SEED = int(os.environ.get("RAILCORE_FAULT_SEED", "20261124"))
pytestmark = pytest.mark.usefixtures("own_sessions")


async def played(
    url: str,
    *names: str,
    colours: Sequence[str] = ("async",),
    sample: int = 16,
    pairs: bool = False,
    provider_name: str = "stub",
) -> list[Tally]:
    with PROVIDERS[provider_name]() as provider, matrix.databases(url, 3) as urls:
        wanted = [
            kind
            for kind in matrix.kinds(provider, names)
            if kind.colour in colours and kind.behaviour.name == "answers"
        ]
        return await matrix.run(urls, provider, wanted, sample=sample, seed=SEED, pairs=pairs)


async def test_cp1_cp2_a_break_at_any_message_settles_without_a_double_charge(
    postgres_url: str,
) -> None:
    names = [name for name in OPERATIONS if name != "webhook"]
    tallies = await played(postgres_url, *names, colours=("async", "sync"))

    assert [matrix.line(one) for one in tallies if one.findings] == []
    assert sum(one.struck for one in tallies) == sum(one.run for one in tallies) == 160


async def test_cp1_hyperpays_gateway_in_place_of_the_stubs_settles_as_well(
    postgres_url: str,
) -> None:
    names = ("charge", "capture", "refund", "check", "webhook")
    tallies = await played(postgres_url, *names, sample=8, provider_name="hyperpay")

    assert [matrix.line(one) for one in tallies if one.findings] == []
    assert sum(one.struck for one in tallies) == sum(one.run for one in tallies) == 32


async def test_cp3_a_second_break_in_the_recovery_changes_nothing(postgres_url: str) -> None:
    tallies = await played(postgres_url, *matrix.IN_PAIRS, sample=8, pairs=True)

    assert [matrix.line(one) for one in tallies if one.findings] == []
    assert sum(one.struck for one in tallies) == sum(one.run for one in tallies) > 8


async def test_the_matrix_sees_a_lost_answer_that_is_called_a_failure(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Kernel.fact_of_answer

    def wrong(self: Kernel, execution: PaymentExecution, result: RailResult) -> Fact:
        if result.failure is None and result.pending_reason is not None:
            lost = RailResult.failed(PaymentFailureCode.DECLINED)
            return Fact(result=lost, source=FactSource.CALL, phase=execution.phase)
        return right(self, execution, result)

    monkeypatch.setattr(Kernel, "fact_of_answer", wrong)
    tallies = await played(postgres_url, "charge", sample=0)

    assert "false failure" in {one.kind for tally in tallies for _, one in tally.findings}
