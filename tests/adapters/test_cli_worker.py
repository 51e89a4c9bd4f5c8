"""``railcore worker``: what was left in doubt or enqueued is settled by it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy

from railcore.context import PaymentContext
from railcore.engine import PaymentEngine
from railcore.enums import PaymentRail
from railcore.money import SAR, Money
from railcore.ports import Rail
from railcore.registry import PaymentRailRegistry
from railcore.routing import ConfigDrivenRouteResolver
from railcore_adapters.sandbox import Sandbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.core.hosts import FakeRail

ROUTES = """
routes.cards = {rail = "card_psp", provider = "stub", account = "main", mode = "sandbox"}
default_route = "cards"
"""
COMMAND = (sys.executable, "-m", "railcore_adapters.cli", "worker")


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    path = tmp_path / "routes.toml"
    path.write_text(ROUTES)
    return path


@pytest.fixture
def environment(railcore_sandbox: Sandbox, database_url: str) -> Mapping[str, str]:
    return {
        **os.environ,
        "RAILCORE_DATABASE_URL": database_url,
        "RAILCORE_STUB_URL": railcore_sandbox.url,
        "RAILCORE_SECRET_STUB_MAIN": railcore_sandbox.accounts["main"],
    }


@pytest.fixture
def engine(database_url: str, routes: Path) -> Iterator[PaymentEngine]:
    """A host that only enqueues."""
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail())
    database = sqlalchemy.create_engine(database_url)
    found = ConfigDrivenRouteResolver.from_toml(routes, offered=rails.offered)
    yield PaymentEngine(rails=rails, routes=found, store=SqlExecutionStore(database))
    database.dispose()


def enqueue(engine: PaymentEngine, count: int) -> None:
    for number in range(count):
        engine.enqueue(
            PaymentContext(
                tenant_id="acme",
                payment_id=f"inv-{number}",
                idempotency_key=f"inv-{number}/1",
                money=Money(1250, SAR),
                payment_option_key="card",
                instrument_token="tok_visa",
            )
        )


def test_once_settles_what_is_due(
    engine: PaymentEngine, environment: Mapping[str, str], routes: Path, railcore_sandbox: Sandbox
) -> None:
    enqueue(engine, 5)

    ran = subprocess.run(
        [*COMMAND, "--once", "--routes", routes, "--print-events"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert ran.returncode == 0, ran.stderr
    assert not engine.open_executions()
    assert len(railcore_sandbox.ledger.charges) == 5
    assert ran.stdout.count("acme/inv-") == 10
    assert "pieces of work done." in ran.stdout


def test_a_worker_works_until_it_is_told_to_stop(
    engine: PaymentEngine, environment: Mapping[str, str], routes: Path
) -> None:
    with subprocess.Popen([*COMMAND, "--routes", routes], env=environment) as working:
        enqueue(engine, 3)
        end_s = time.monotonic() + 20
        while engine.open_executions():
            assert time.monotonic() < end_s
            time.sleep(0.05)
        working.send_signal(signal.SIGTERM)
        assert working.wait(10) == 0


def test_a_duty_without_means_is_said_in_one_sentence(
    environment: Mapping[str, str], routes: Path
) -> None:
    ran = subprocess.run(
        [*COMMAND, "--routes", routes, "--duty", "relay"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert ran.returncode == 2
    assert "nothing to relay with" in ran.stderr
