"""``railcore run``: exit statuses, bad lines, running again, and what is told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from railcore_adapters.cli import main
from railcore_adapters.sandbox import Sandbox

ROUTES = """
routes.cards = {rail = "card_psp", provider = "stub", account = "main", mode = "sandbox"}
routes.transfers = {rail = "bank_transfer", provider = "bank", account = "ours", mode = "sandbox"}
defaults = {card = "cards", transfer = "transfers"}

[bank_accounts.ours]
beneficiary = "Example Billing"
iban = "SA03 8000 0000 6080 1016 7519"
"""


def row(number: int, **changes: object) -> Mapping[str, object]:
    """Return a line that is charged, with *changes*."""
    good = {
        "tenant_id": "acme",
        "payment_id": f"inv-{number}",
        "idempotency_key": f"inv-{number}/1",
        "amount": "12.50",
        "currency": "SAR",
        "payment_option_key": "card",
        "instrument_token": "tok_visa",
    }
    return {**good, **changes}


@attrs.frozen
class Desk:
    """A folder, a database and a sandbox, and the command over them."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *rows: Mapping[str, object] | str, routes: str = ROUTES, **more: Any) -> Result:
        file, configuration = self.folder / "run.jsonl", self.folder / "routes.toml"
        lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
        file.write_text("".join(f"{line}\n" for line in lines))
        configuration.write_text(routes)
        words = ["run", str(file), "--routes", str(configuration), "--at-once", "4"]
        return CliRunner().invoke(
            main,
            [*words, *more.get("options", ())],
            env={**self.environment, **more.get("environment", {})},
            catch_exceptions=False,
        )

    def summary(self, *rows: Mapping[str, object] | str, **more: Any) -> Mapping[str, Any]:
        result = self.run(*rows, options=["--json", *more.pop("options", ())], **more)
        found: Mapping[str, Any] = json.loads(result.stdout)
        assert found["exit_status"] == result.exit_code
        return found


@pytest.fixture
def desk(railcore_sandbox: Sandbox, database_url: str, tmp_path: Path) -> Desk:
    environment = {
        "RAILCORE_DATABASE_URL": database_url,
        "RAILCORE_STUB_URL": railcore_sandbox.url,
        "RAILCORE_SECRET_STUB_MAIN": railcore_sandbox.accounts["main"],
    }
    return Desk(tmp_path, environment)


def test_it_ends_with_0_when_everything_is_settled(desk: Desk, railcore_sandbox: Sandbox) -> None:
    summary = desk.summary(row(1), row(2, instrument_token="tok_declined"))

    assert summary["exit_status"] == 0
    assert summary["failures"] == {"declined": 1}
    assert len(railcore_sandbox.ledger.charges) == 1


def test_it_ends_with_0_when_somebody_else_has_to_act(desk: Desk) -> None:
    summary = desk.summary(
        row(1, payment_option_key="transfer"), row(2, instrument_token="tok_pending")
    )

    assert summary["exit_status"] == 0
    waiting = {group["pending_reason"] for group in summary["executions"]}
    assert waiting == {"awaiting_funds", "provider_processing"}


def test_it_ends_with_1_and_tells_bad_lines_while_the_rest_goes_on(
    desk: Desk, railcore_sandbox: Sandbox
) -> None:
    summary = desk.summary(row(1), "{", row(3, amount=12.5), row(4))

    assert summary["exit_status"] == 1
    assert [bad["number"] for bad in summary["bad_lines"]] == [2, 3]
    assert "decimal text" in summary["bad_lines"][1]["reason"]
    assert len(railcore_sandbox.ledger.charges) == 2


def test_it_ends_with_1_and_tells_refused_lines_by_kind(desk: Desk) -> None:
    summary = desk.summary(
        row(1), row(1, amount="13.50"), row(2, payment_option_key="voucher"), row(3)
    )

    assert summary["exit_status"] == 1
    refused = {one["number"]: one["kind"] for one in summary["refused_lines"]}
    assert refused == {2: "idempotency_conflict", 3: "route_not_found"}
    assert all(promise["is_kept"] for promise in summary["promises"])


def test_it_ends_with_1_while_an_outcome_is_in_doubt(desk: Desk, railcore_sandbox: Sandbox) -> None:
    railcore_sandbox.fail_next(1, "lose_answer")
    railcore_sandbox.fail_next(1000, "500_after", when="lookup")

    summary = desk.summary(row(1), options=["--settle-s", "0.3"])

    assert summary["exit_status"] == 1
    assert summary["in_doubt"] == 1


def test_the_first_of_two_conflicting_lines_counts(desk: Desk, railcore_sandbox: Sandbox) -> None:
    desk.run(*(row(1, amount=f"{number}.00") for number in range(10, 20)))

    (charge,) = railcore_sandbox.ledger.charges
    assert charge.amount_minor == 1000


def test_what_follows_a_payment_names_it_by_its_key(desk: Desk, railcore_sandbox: Sandbox) -> None:
    held = row(1, operation="authorize")
    taken = row(1, operation="capture", idempotency_key="c", amount="10.00", parent_key="inv-1/1")
    back = row(1, operation="refund", idempotency_key="r", amount="4.00", parent_key="c")
    for _ in range(2):
        result = desk.run(held, taken, back, options=["--json"])

        assert result.exit_code == 0, result.output
        assert [one.kind for one in railcore_sandbox.ledger.movements] == [
            "authorization",
            "capture",
            "refund",
        ]
        assert [
            (one["operation"], one["amounts"]) for one in json.loads(result.stdout)["executions"]
        ] == [
            ("authorize", {"SAR": "12.50"}),
            ("capture", {"SAR": "10.00"}),
            ("refund", {"SAR": "4.00"}),
        ]


def test_a_parent_that_nobody_knows_is_refused(desk: Desk, railcore_sandbox: Sandbox) -> None:
    result = desk.run(row(1, operation="refund", parent_key="inv-0/1"))

    assert result.exit_code == 1
    assert "execution_not_found" in result.stdout
    assert not railcore_sandbox.ledger.movements


def test_a_refund_that_the_provider_never_made_is_told(
    desk: Desk, railcore_sandbox: Sandbox
) -> None:
    rows = [row(1), row(1, operation="refund", idempotency_key="r", parent_key="inv-1/1")]
    assert desk.run(*rows).exit_code == 0
    railcore_sandbox.ledger._movements.clear()

    assert desk.run(*rows).exit_code == 3


def test_running_again_charges_nothing_twice(desk: Desk, railcore_sandbox: Sandbox) -> None:
    rows = [row(number) for number in range(8)]
    desk.summary(*rows[:5])

    summary = desk.summary(*rows)

    assert summary["repeats"] == 5
    assert len(railcore_sandbox.ledger.charges) == 8
    assert not railcore_sandbox.ledger.double_charges()


def test_the_tables_fit_a_log_of_100_columns(desk: Desk) -> None:
    result = desk.run(row(1), row(2, payment_option_key="voucher"), "{")

    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("line 3: ") for line in lines)
    assert "route_not_found" in result.stdout
    assert "1 line could not be read and 1 line was refused." in result.stdout
    assert "\x1b" not in result.stdout


def test_an_answer_that_names_another_amount_is_kept_for_review(
    desk: Desk, railcore_sandbox: Sandbox
) -> None:
    result = desk.run(row(1, instrument_token="tok_wrong_amount"))

    assert result.exit_code == 0
    assert "1 contradiction" in result.stdout
    assert len(railcore_sandbox.ledger.charges) == 1


def test_a_broken_promise_ends_it_with_3(desk: Desk, railcore_sandbox: Sandbox) -> None:
    desk.run(row(1))
    railcore_sandbox.ledger.add(railcore_sandbox.ledger.charges[0])

    result = desk.run(row(1))

    assert result.exit_code == 3
    assert "took place 2 times" in result.stdout


def test_it_ends_with_2_without_credentials_before_anything_is_sent(
    desk: Desk, railcore_sandbox: Sandbox
) -> None:
    result = desk.run(row(1), environment={"RAILCORE_SECRET_STUB_MAIN": None})

    assert result.exit_code == 2
    assert "RAILCORE_SECRET_STUB_MAIN" in result.stderr
    assert not railcore_sandbox.ledger.requests


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ("routes = [", "not a TOML file"),
        ('routes.x = {rail = "wallet"}', "routes.x.provider"),
        ("[bank_accounts.ours]\nbeneficiary = 'x'", "bank_accounts.ours"),
        ("bank_accounts = 7", "bank_accounts"),
        ("[approvals]\nfour_eyes = 3", "approvals_required"),
        ('[approvals]\nfour_eyes = "two"', "approvals_required"),
    ],
)
def test_it_ends_with_2_when_the_configuration_is_wrong(desk: Desk, routes: str, told: str) -> None:
    result = desk.run(row(1), routes=routes)

    assert result.exit_code == 2
    assert told in result.stderr


def test_it_ends_with_2_when_the_database_cannot_be_reached(desk: Desk) -> None:
    nowhere = {"RAILCORE_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}

    result = desk.run(row(1), environment=nowhere)

    assert result.exit_code == 2
    assert "database" in result.stderr


def test_it_ends_with_2_when_the_schema_is_missing(desk: Desk, empty_database_url: str) -> None:
    result = desk.run(row(1), environment={"RAILCORE_DATABASE_URL": empty_database_url})

    assert result.exit_code == 2
    assert "schema" in result.stderr


def test_an_interrupted_run_ends_with_130_and_can_be_run_again(
    desk: Desk, railcore_sandbox: Sandbox
) -> None:
    desk.run()
    (desk.folder / "run.jsonl").write_text(json.dumps(row(1)))
    railcore_sandbox.latency_s = 60.0
    words = ["run", str(desk.folder / "run.jsonl"), "--routes", str(desk.folder / "routes.toml")]
    with subprocess.Popen(
        [sys.executable, "-m", "railcore_adapters.cli", *words, "--lease-s", "3"],
        env={**os.environ, **desk.environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as running:
        while not railcore_sandbox.ledger.requests:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=20)
    assert running.returncode == 130, told
    assert "Run the same command again" in told
    assert "Traceback" not in told
    railcore_sandbox.latency_s = 0.0

    assert desk.run(row(1), options=["--lease-s", "3"]).exit_code == 0

    assert len(railcore_sandbox.ledger.charges) == 1


def test_every_call_is_logged_when_asked(desk: Desk) -> None:
    result = desk.run(row(1), options=["--log"])

    assert result.exit_code == 0
    assert "billing.execution.result" in result.stderr
