"""``railcore demo`` accounts for everything, and says so when something is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from railcore_adapters.cli import demo, main
from railcore_adapters.sandbox import Charge, Ledger, Sandbox

ROOT = Path(__file__).parents[2]
SLOW = ("tok_delay", "tok_slow_drip", "tok_pending")


@pytest.fixture
def play(postgres_url: str, tmp_path: Path) -> Callable[[], Result]:
    """Return what plays a part of the example, without what takes its time."""
    lines = (ROOT / "examples" / "billing-run.jsonl").read_text().splitlines()
    quick = [line for line in lines if "card" in line and not any(one in line for one in SLOW)]
    others = [line for line in lines if "card" not in line and "bank.open_banking" not in line]
    file = tmp_path / "part.jsonl"
    file.write_text("\n".join([*quick[:30], *others[:30]]))

    def played() -> Result:
        words = ["demo", "--file", str(file), "--database-url", postgres_url]
        return CliRunner().invoke(main, words, catch_exceptions=False)

    return played


class TamperedLedger(Ledger):
    """A ledger that tells its charges as *told* says."""

    told: Callable[[tuple[Charge, ...]], tuple[Charge, ...]] = staticmethod(lambda charges: charges)

    @property
    def charges(self) -> tuple[Charge, ...]:
        return type(self).told(super().charges)


@attrs.frozen
class Tamper:
    monkeypatch: pytest.MonkeyPatch

    def with_ledger(self, told: Callable[[tuple[Charge, ...]], tuple[Charge, ...]]) -> None:
        ledger = type("Told", (TamperedLedger,), {"told": staticmethod(told)})

        def sandbox(**settings: Any) -> Sandbox:
            made = Sandbox(**settings)
            made.ledger = made.psp._ledger = made.bank._ledger = ledger()
            return made

        self.monkeypatch.setattr(demo, "Sandbox", sandbox)


@pytest.fixture
def tamper(monkeypatch: pytest.MonkeyPatch) -> Tamper:
    return Tamper(monkeypatch)


def test_every_promise_is_kept(play: Callable[[], Result]) -> None:
    result = play()

    assert result.exit_code == 0, result.output
    assert "promises kept" in result.stdout
    assert "✘" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_it_needs_no_database_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAILCORE_DATABASE_URL", raising=False)
    lines = (ROOT / "examples" / "billing-run.jsonl").read_text().splitlines()
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join(line for line in lines if "bank.transfer" in line))

    result = CliRunner().invoke(main, ["demo", "--file", str(file), "--json"])

    assert result.exit_code == 0, result.output
    assert "a private PostgreSQL" in result.stderr
    assert all(promise["is_kept"] for promise in json.loads(result.stdout)["promises"])


def test_a_double_charge_at_the_provider_is_told(
    play: Callable[[], Result], tamper: Tamper
) -> None:
    tamper.with_ledger(lambda charges: (*charges, *charges[:1]))

    result = play()

    assert result.exit_code == 3
    assert "took place 2 times" in " ".join(result.stdout.split())
    assert "promises are broken" in result.stdout


def test_rc5_a_charge_that_nobody_asked_for_is_told(
    play: Callable[[], Result], tamper: Tamper
) -> None:
    def told(charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
        stray = Charge(
            id="ch_stray",
            service="psp",
            account="main",
            reference="stray",
            idempotency_key=None,
            amount_minor=1,
            currency="SAR",
            at=charges[0].at,
        )
        return (*charges, stray)

    tamper.with_ledger(told)

    result = play()

    assert result.exit_code == 3
    assert "ch_stray at the provider belongs to no execution" in " ".join(result.stdout.split())


def test_rc5_a_payment_that_was_never_charged_is_told(
    play: Callable[[], Result], tamper: Tamper
) -> None:
    tamper.with_ledger(lambda charges: charges[1:])

    result = play()

    assert result.exit_code == 3
    assert "is completed and never took place" in " ".join(result.stdout.split())
