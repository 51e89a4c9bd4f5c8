"""A failover that loses commits: what was paid and forgotten is asked for again, and paid once."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from railcore_adapters.embedded import find_server
from railcore_adapters.sandbox import Sandbox
from railcore_sqlalchemy import schema
from tests.faults.clusters import pair
from tests.faults.host_process import INVOICES, is_enqueued, token
from tests.faults.nurseries import ROUTES, Nursery, ended_by, ended_with, nursed, state_of
from tests.faults.worker_nursery import Ground

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.usefixtures("own_sessions"),
]

PAYMENTS = 200
NUMBERS = [
    number
    for number in range(PAYMENTS * 2)
    if not is_enqueued(number) and token(number) == "tok_visa"
][:PAYMENTS]


@pytest.mark.parametrize("is_random", [False, True], ids=["derived key", "mutant: random key"])
def test_db1_lost_commits_charge_nobody_twice(
    railcore_sandbox: Sandbox, tmp_path: Path, is_random: bool
) -> None:
    if not shutil.which("pg_basebackup", path=str(find_server().bindir)):
        pytest.skip("there is no pg_basebackup among the server's binaries")
    railcore_sandbox.amount_faults = False
    routes = tmp_path / "routes.toml"
    routes.write_text(ROUTES)
    with pair() as servers:
        schema.install(servers.url)
        servers.primary.ask(INVOICES)
        servers.standby.follow(servers.primary)
        ground = Ground(
            database_url=servers.url,
            stub_url=railcore_sandbox.url,
            routes=str(routes),
            lease_s=10.0,
            sink=str(tmp_path / "sink"),
            notes=str(tmp_path / "notes"),
        )
        count = "select count(*), count(*) filter (where status <> 'processing')"
        count += " from railcore_execution"
        with nursed(railcore_sandbox, ground) as nursery:
            receiver = servers.hold_back()
            pay(nursery, is_random=is_random)
            assert servers.primary.ask(count) == [(PAYMENTS, PAYMENTS)]
            first = len(railcore_sandbox.ledger.requests)

            servers.fail_over(receiver)
            (forgotten,) = (PAYMENTS - row[0] for row in servers.primary.ask(count))
            pay(nursery, is_random=is_random)

        assert servers.primary.ask(count) == [(PAYMENTS, PAYMENTS)]
    asked_again = len(railcore_sandbox.ledger.requests) - first
    charges = len(railcore_sandbox.ledger.charges)
    sys.stdout.write(
        f"{PAYMENTS} paid, {forgotten} forgotten, {asked_again} asked again,"
        f" {charges - PAYMENTS} charged twice\n"
    )
    assert forgotten == asked_again == PAYMENTS
    assert charges == (2 * PAYMENTS if is_random else PAYMENTS)


def pay(nursery: Nursery, *, is_random: bool) -> None:
    """Have a host pay, which knows nothing of any before it."""
    pid = nursery.start(orders=NUMBERS, is_random=is_random)
    until_s = time.monotonic() + 60
    while state_of(pid) != "Z":
        assert time.monotonic() < until_s
        time.sleep(0.02)
    assert (ended_by(pid), ended_with(pid)) == (0, 0)
