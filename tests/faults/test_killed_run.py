"""A run that is killed and run again ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import sqlalchemy

from railcore.money import SAR, Money
from railcore.wallet import WalletAccount, WalletAccountKind, WalletTransfer, transfer_id
from railcore_adapters.sandbox import Sandbox
from railcore_sqlalchemy.wallet import SqlWalletRepository
from tests.conftest import fresh_database

HERE = Path(__file__).parent
LEASE_S = 4.0
EACH = 12
OPENING = Money(10_000_00, SAR)
ROUTES = """
routes.cards = {rail = "card_psp", provider = "stub", account = "main", mode = "sandbox"}
routes.bank = {rail = "open_banking_pis", provider = "stub", account = "main", mode = "sandbox"}
routes.wallets = {rail = "wallet", provider = "wallet", account = "house", mode = "sandbox"}
defaults = {card = "cards", bank = "bank", wallet = "wallets"}
"""


@attrs.frozen
class Outcome:
    """What the providers did in the end: the sandbox by reference, the wallet by transfer."""

    charged: Mapping[str, int]
    ordered: Mapping[str, int]
    transferred: frozenset[tuple[str, str, int]]


@attrs.frozen
class Bench:
    """A sandbox, a database and a billing file, and the command over them."""

    sandbox: Sandbox
    database_url: str
    file: Path
    routes: Path

    def run(self, *entry: str) -> subprocess.CompletedProcess[str]:
        words = ("run", self.file, "--routes", self.routes, "--json", "--at-once", "8")
        bounds = ("--lease-s", f"{LEASE_S}", "--stub-url", self.sandbox.url)
        environment = {
            **os.environ,
            "RAILCORE_DATABASE_URL": self.database_url,
            "RAILCORE_SECRET_STUB_MAIN": self.sandbox.accounts["main"],
        }
        return subprocess.run(
            [sys.executable, *entry, *words, *bounds],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run_to_the_end(self) -> Mapping[str, Any]:
        """Run the ordinary command, let all payers approve, and run it once more."""
        first = self.run("-m", "railcore_adapters.cli")
        assert first.returncode == 0, first.stdout + first.stderr
        for reference in self.references("bank"):
            self.sandbox.bank.approve(reference)
            self.sandbox.bank.settle(reference)
        last = self.run("-m", "railcore_adapters.cli")
        assert last.returncode == 0, last.stdout + last.stderr
        summary: Mapping[str, Any] = json.loads(last.stdout)
        return summary

    def references(self, service: str) -> set[str]:
        seen = self.sandbox.ledger.requests
        return {one.reference for one in seen if one.service == service}

    def outcome(self) -> Outcome:
        by_reference = self.sandbox.ledger.by_reference()
        return Outcome(
            {reference: len(charges) for reference, charges in by_reference.items()},
            {reference: self._orders(reference) for reference in self.references("bank")},
            transfers(self.database_url),
        )

    def _orders(self, reference: str) -> int:
        answer = httpx.get(
            f"{self.sandbox.url}/bank/v1/payments?reference={reference}",
            headers={"Authorization": f"Bearer {self.sandbox.accounts['main']}"},
        )
        return len(answer.json()["data"])


def transfers(database_url: str) -> frozenset[tuple[str, str, int]]:
    asked = "select transfer_id::text, kind, amount_minor from railcore_wallet_transfer"
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return frozenset((a, b, c) for a, b, c in connection.execute(sqlalchemy.text(asked)))


def lines() -> Sequence[Mapping[str, object]]:
    """Cards, open banking and wallets in turn."""
    more: Mapping[str, Mapping[str, object]] = {
        "card": {"instrument_token": "tok_visa"},
        "bank": {"return_url": "https://billing.example/thanks"},
        "wallet": {"payer_token": "wallet-1"},
    }
    return [
        {
            "tenant_id": "acme",
            "payment_id": f"{option}-{number}",
            "idempotency_key": f"{option}-{number}/1",
            "amount": f"{number + 1}.50",
            "currency": "SAR",
            "payment_option_key": option,
            **fields,
        }
        for number in range(EACH)
        for option, fields in more.items()
    ]


def fill_wallet(database_url: str) -> None:
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    wallet = SqlWalletRepository(engine)
    for name in ("house", "treasury"):
        kind = WalletAccountKind.HOUSE
        wallet.open_account(
            WalletAccount(tenant_id="acme", account_id=name, currency=SAR, kind=kind)
        )
    wallet.open_account(WalletAccount(tenant_id="acme", account_id="wallet-1", currency=SAR))
    opening = WalletTransfer(
        transfer_id=transfer_id("wallet-1", "opening"),
        tenant_id="acme",
        debit_account="treasury",
        credit_account="wallet-1",
        amount=OPENING,
    )
    assert wallet.transfer(opening).verdict.stands


def make_bench(sandbox: Sandbox, database_url: str, folder: Path) -> Bench:
    file, routes = folder / "run.jsonl", folder / "routes.toml"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in lines()))
    routes.write_text(ROUTES)
    fill_wallet(database_url)
    return Bench(sandbox, database_url, file, routes)


@pytest.fixture
def bench(railcore_sandbox: Sandbox, database_url: str, tmp_path: Path) -> Bench:
    return make_bench(railcore_sandbox, database_url, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Sandbox() as sandbox, fresh_database(postgres_url, template=template_database) as url:
        bench = make_bench(sandbox, url, folder)
        bench.run_to_the_end()
        yield bench.outcome()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("before_claim", 9),
        ("after_claim", 5),
        ("after_send", 1),
        ("after_send", 23),
        ("before_record", 17),
    ],
)
def test_a_killed_run_ends_with_the_ledger_of_an_undisturbed_one(
    bench: Bench, undisturbed: Outcome, point: str, nth: int
) -> None:
    killed = bench.run(str(HERE / "killed_run.py"), point, str(nth))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr

    summary = bench.run_to_the_end()

    assert bench.outcome() == undisturbed
    assert set(undisturbed.charged.values()) == set(undisturbed.ordered.values()) == {1}
    assert len(undisturbed.charged) == 2 * EACH
    assert len(undisturbed.transferred) == 2 * EACH + 1
    completed = {group["rail"]: group["count"] for group in summary["executions"]}
    assert completed == {"card_psp": EACH, "open_banking_pis": EACH, "wallet": EACH}
    assert [group["status"] for group in summary["executions"]] == ["completed"] * 3
