"""The sandbox as a thing to run: thread, process, pytest fixture, control from outside."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from railcore_adapters.sandbox import Sandbox
from tests.adapters.sandbox_caller import Caller, charge_request, connect, read_to_end

pytest_plugins = ["pytester"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "railcore_adapters.sandbox", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_it_has_no_url_before_it_is_started() -> None:
    with pytest.raises(RuntimeError, match="start"):
        _ = Sandbox().url


def test_it_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with Sandbox() as sandbox, connect(sandbox):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_it_hangs_up_when_it_stops() -> None:
    with Sandbox() as sandbox:
        connection = connect(sandbox)
        connection.sendall(charge_request("r-1", "tok_delay"))
        while not sandbox.ledger.charges:
            pass
    with connection:
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("number", range(20))
def test_it_closes_what_it_has_hardly_accepted(number: int) -> None:
    with Sandbox() as sandbox:
        connections = [connect(sandbox) for _ in range(number)]
    for connection in connections:
        connection.close()
    gc.collect()  # a socket left open would be a warning, and a warning is an error


def test_it_refuses_connections_once_stopped() -> None:
    with Sandbox() as sandbox:
        pass
    sandbox.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(sandbox)


def test_it_remembers_everything_over_an_outage() -> None:
    with Sandbox() as sandbox, Caller(sandbox) as caller:
        made = caller.charge(key="k-1").json()
    url = sandbox.url
    with sandbox, Caller(sandbox) as caller:
        assert sandbox.url == url
        assert caller.charge(key="k-1").json() == made
    assert len(sandbox.ledger.charges) == 1


def test_a_port_that_is_taken_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"):
        Sandbox(port=sandbox.port).start()


async def test_it_starts_inside_a_running_event_loop() -> None:
    with Sandbox(latency_s=0.05) as sandbox:
        headers = {"Authorization": "Bearer sk_sandbox_main"}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as client:
            order = {"amount_minor": 5, "currency": "JPY", "instrument": "tok_visa"}
            posts = (
                client.post("/psp/v1/charges", json={**order, "reference": f"r-{number}"})
                for number in range(50)
            )
            answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {201}
    assert len(sandbox.ledger.charges) == 50


def test_two_sandboxes_know_nothing_of_each_other(sandbox: Sandbox) -> None:
    with Sandbox() as other, Caller(other) as caller:
        caller.charge()
    assert (len(other.ledger.charges), len(sandbox.ledger.charges)) == (1, 0)


def test_the_ledger_is_served_as_json(sandbox: Sandbox) -> None:
    with Caller(sandbox) as caller:
        caller.charge()
        caller.charge()
        caller.lookup()
        ledger = httpx.get(f"{sandbox.url}/ledger").json()
    assert sorted(ledger) == [
        "charges",
        "double_charges",
        "double_movements",
        "lookups",
        "movements",
        "requests",
    ]
    assert ledger["double_charges"] == ["r-1"]
    assert [charge["id"] for charge in ledger["charges"]] == [
        charge.id for charge in sandbox.ledger.charges
    ]
    assert ledger == sandbox.ledger.as_json()


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("bank/approve", {"payment": "p-1"}, "accepted"),
        ("bank/reject", {"payment": "p-1"}, "rejected"),
        ("bank/expire", {"payment": "p-1"}, "expired"),
        ("psp/settle", {"charge": "c-1"}, "succeeded"),
        ("psp/decline", {"charge": "c-1"}, "declined"),
    ],
)
def test_another_process_can_decide(
    sandbox: Sandbox, action: str, body: dict[str, str], status: str
) -> None:
    with Caller(sandbox) as caller:
        caller.pay("p-1")
        caller.charge("c-1", instrument="tok_pending")
        assert caller.http.post(f"/control/{action}", json=body).json()["status"] == status


def test_another_process_can_settle_a_payment(sandbox: Sandbox) -> None:
    with Caller(sandbox) as caller:
        caller.pay("p-1")
        caller.http.post("/control/bank/approve", json={"payment": "p-1"})
        caller.http.post("/control/bank/settle", json={"payment": "p-1"})
    assert [charge.reference for charge in sandbox.ledger.charges] == ["p-1"]


def test_another_process_can_order_faults(sandbox: Sandbox) -> None:
    with Caller(sandbox) as caller:
        caller.http.post("/control/fail_next", json={"count": 1, "fault": "503"})
        assert [caller.charge().status_code for _ in range(2)] == [503, 201]


def test_another_process_can_turn_the_settings(sandbox: Sandbox) -> None:
    with Caller(sandbox) as caller:
        found = caller.http.post("/control/settings", json={"read_lag_s": 2.5}).json()
    assert (found["read_lag_s"], sandbox.read_lag_s) == (2.5, 2.5)


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("nonsense", {}, 404),
        ("bank/approve", {"payment": "p-9"}, 400),
        ("bank/approve", {}, 400),
        ("fail_next", {"fault": "nonsense"}, 400),
        ("fail_next", {"fault": "503", "count": -1}, 400),
        ("fail_next", {"fault": "503", "when": "never"}, 400),
        ("settings", {"port": 1}, 400),
        ("settings", {"read_lag_s": "long"}, 400),
    ],
)
def test_a_control_that_cannot_be_is_refused(
    sandbox: Sandbox, action: str, body: dict[str, Any], status: int
) -> None:
    with Caller(sandbox) as caller:
        assert caller.http.post(f"/control/{action}", json=body).status_code == status


def test_as_a_process_it_says_where_it_is() -> None:
    with running("--account", "a=sk_sandbox_a", "--settle-at-once") as (process, said):
        assert said == {
            "url": said["url"],
            "accounts": {"a": "sk_sandbox_a"},
            "pid": process.pid,
        }
        assert httpx.get(f"{said['url']}/ledger").json()["charges"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_process_it_ends_when_told(number: signal.Signals) -> None:
    with running() as (process, _):
        process.send_signal(number)
        assert process.wait(timeout=10) == 0


def test_an_account_without_a_key_is_refused_by_the_command() -> None:
    command = [sys.executable, "-m", "railcore_adapters.sandbox", "--account", "main"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "wanted NAME=KEY, found 'main'" in ended.stderr


def test_the_pytest_fixture_is_a_fresh_running_sandbox(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from urllib.request import urlopen

        def test_first(railcore_sandbox):
            with urlopen(railcore_sandbox.url + "/ledger") as answer:
                assert answer.status == 200
            railcore_sandbox.accounts.clear()

        def test_second(railcore_sandbox):
            assert railcore_sandbox.accounts == {"main": "sk_sandbox_main"}
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
