"""Every fault of the table: what goes over the wire, and what the ledger says nevertheless."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from railcore_adapters.sandbox import FAULTS, Sandbox, Stage
from railcore_adapters.sandbox.faults import BY_AMOUNT, faults_as_markdown
from tests.adapters.sandbox_caller import Caller, charge_request, connect, exchange

ROOT = Path(__file__).parents[2]

DECLINES = {
    "declined": "declined",
    "insufficient_funds": "insufficient_funds",
    "expired_card": "expired_card",
    "authentication_failed": "authentication_failed",
    "risk": "risk",
}
REFUSALS = {
    "503": (503, "unavailable"),
    "429": (429, "rate_limited"),
    "401": (401, "invalid_api_key"),
}
ERRORS_AFTER = {"500_after": (500, "internal"), "duplicate": (409, "duplicate_transaction")}
HANG_UPS = ["drop", "lose_answer"]
AFTER = [name for name, fault in FAULTS.items() if fault.stage is Stage.AFTER]
TROUBLES = [name for name, fault in FAULTS.items() if fault.stage is not Stage.CHARGING]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(delay_s=0.2, drip_interval_s=0.001) as sandbox:
        yield sandbox


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    with Caller(sandbox) as caller:
        yield caller


def suffer(caller: Caller, fault: str, key: str | None = "k-1") -> httpx.Response | None:
    """Charge with that test instrument; nothing is what a caller gets who is hung up on."""
    try:
        return caller.charge(instrument=f"tok_{fault}", key=key)
    except httpx.RemoteProtocolError:
        return None


@pytest.mark.parametrize(("fault", "code"), DECLINES.items())
def test_a_decline_moves_no_money(sandbox: Sandbox, caller: Caller, fault: str, code: str) -> None:
    answer = caller.charge(instrument=f"tok_{fault}")
    assert answer.status_code == 402
    assert (answer.json()["status"], answer.json()["decline_code"]) == ("declined", code)
    assert sandbox.ledger.charges == ()
    assert caller.lookup() == [answer.json()]


@pytest.mark.parametrize(("fault", "said"), REFUSALS.items())
def test_a_refusal_before_charging_moves_no_money(
    sandbox: Sandbox, caller: Caller, fault: str, said: tuple[int, str]
) -> None:
    answer = caller.charge(instrument=f"tok_{fault}")
    assert (answer.status_code, answer.json()["error"]["code"]) == said
    assert sandbox.ledger.charges == ()
    assert caller.lookup() == []


def test_a_rate_limit_says_when_to_come_back(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.retry_after_s = 7
    assert caller.charge(instrument="tok_429").headers["Retry-After"] == "7"


@pytest.mark.parametrize(("fault", "charged"), [("drop", 0), ("lose_answer", 1)])
def test_a_hang_up_shows_no_byte_of_whether_it_charged(
    sandbox: Sandbox, fault: str, charged: int
) -> None:
    assert exchange(sandbox, charge_request("r-1", f"tok_{fault}")) == b""
    assert len(sandbox.ledger.charges) == charged


@pytest.mark.parametrize(("fault", "said"), ERRORS_AFTER.items())
def test_an_error_after_charging_hides_a_charge(
    sandbox: Sandbox, caller: Caller, fault: str, said: tuple[int, str]
) -> None:
    answer = caller.charge(instrument=f"tok_{fault}")
    assert (answer.status_code, answer.json()["error"]["code"]) == said
    assert [charge.reference for charge in sandbox.ledger.charges] == ["r-1"]


def test_a_delayed_answer_comes_after_the_charge(sandbox: Sandbox, caller: Caller) -> None:
    assert caller.charge(instrument="tok_delay").status_code == 201
    (charge,) = sandbox.ledger.charges
    assert datetime.now(UTC) - charge.at >= timedelta(seconds=0.19)


def test_a_charge_outlives_a_caller_who_does_not_wait(sandbox: Sandbox, caller: Caller) -> None:
    caller.http.timeout = httpx.Timeout(5, read=0.05)
    with pytest.raises(httpx.ReadTimeout):
        caller.charge(instrument="tok_delay")
    while not sandbox.ledger.charges:
        time.sleep(0.01)


def test_garbage_is_200_with_bytes_that_are_no_json(sandbox: Sandbox, caller: Caller) -> None:
    answer = caller.charge(instrument="tok_garbage")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        json.loads(answer.content)
    assert len(sandbox.ledger.charges) == 1


def test_a_truncated_answer_promises_more_than_comes(sandbox: Sandbox) -> None:
    octets = exchange(sandbox, charge_request("r-1", "tok_truncated"))
    head, _, body = octets.partition(b"\r\n\r\n")
    promised = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    assert 0 < len(body) < promised
    assert len(sandbox.ledger.charges) == 1


def test_a_slow_drip_sends_a_byte_at_a_time(sandbox: Sandbox) -> None:
    sandbox.drip_interval_s = 0.05
    with connect(sandbox) as connection:
        connection.sendall(charge_request("r-1", "tok_slow_drip"))
        assert [connection.recv(65536) for _ in range(4)] == [b"H", b"T", b"T", b"P"]
    assert len(sandbox.ledger.charges) == 1


def test_a_slow_drip_is_the_whole_answer_in_the_end(caller: Caller) -> None:
    assert caller.charge(instrument="tok_slow_drip").json()["status"] == "succeeded"


def test_a_wrong_amount_is_reported_not_charged(sandbox: Sandbox, caller: Caller) -> None:
    assert caller.charge(instrument="tok_wrong_amount").json()["amount_minor"] == 1251
    assert [charge.amount_minor for charge in sandbox.ledger.charges] == [1250]
    assert caller.lookup()[0]["amount_minor"] == 1250


@pytest.mark.parametrize(("charged", "reported"), [("SAR", "USD"), ("USD", "EUR")])
def test_a_wrong_currency_is_reported_not_charged(
    sandbox: Sandbox, caller: Caller, charged: str, reported: str
) -> None:
    answer = caller.charge(instrument="tok_wrong_currency", currency=charged)
    assert answer.json()["currency"] == reported
    assert [charge.currency for charge in sandbox.ledger.charges] == [charged]
    assert caller.lookup()[0]["currency"] == charged


@pytest.mark.parametrize("fault", TROUBLES)
def test_a_resend_with_the_same_key_gets_the_truth(
    sandbox: Sandbox, caller: Caller, fault: str
) -> None:
    suffer(caller, fault)
    resent = suffer(caller, fault)
    assert resent is not None
    assert (resent.status_code, resent.json()["amount_minor"]) == (201, 1250)
    assert [charge.id for charge in sandbox.ledger.charges] == [resent.json()["id"]]
    assert ("Idempotent-Replay" in resent.headers) == (fault in AFTER)


@pytest.mark.parametrize("fault", AFTER)
def test_a_lookup_after_any_fault_is_truthful(sandbox: Sandbox, caller: Caller, fault: str) -> None:
    suffer(caller, fault)
    (found,) = caller.lookup()
    (charge,) = sandbox.ledger.charges
    assert (found["id"], found["status"]) == (charge.id, "succeeded")
    assert (found["amount_minor"], found["currency"]) == (1250, "SAR")


@pytest.mark.parametrize("fault", AFTER)
def test_an_unkeyed_resend_after_any_fault_charges_twice(
    sandbox: Sandbox, caller: Caller, fault: str
) -> None:
    suffer(caller, fault, key=None)
    suffer(caller, fault, key=None)
    assert list(sandbox.ledger.double_charges()) == ["r-1"]


@pytest.mark.parametrize("ending", BY_AMOUNT)
def test_the_end_of_an_amount_asks_for_the_same_fault_as_the_token(
    sandbox: Sandbox, ending: int
) -> None:
    sandbox.delay_s = 0
    fault = BY_AMOUNT[ending]
    with Caller(sandbox) as caller:
        by_token = _traits(lambda: caller.charge("r-token", instrument=fault.token))
        by_amount = _traits(lambda: caller.charge("r-amount", amount_minor=7000 + ending))
    assert by_amount == by_token
    charged = [len(sandbox.ledger.by_reference().get(name, ())) for name in ("r-token", "r-amount")]
    assert charged[0] == charged[1]


def test_amounts_ask_for_nothing_when_told_so(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.amount_faults = False
    assert caller.charge(amount_minor=7951).json()["status"] == "succeeded"


@pytest.mark.parametrize("said", ["lose_answer", "tok_lose_answer"])
def test_a_header_asks_for_a_fault(sandbox: Sandbox, caller: Caller, said: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        caller.charge(fault=said)
    assert len(sandbox.ledger.charges) == 1


def test_a_header_can_lose_the_answer_of_a_decline(sandbox: Sandbox, caller: Caller) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        caller.charge(instrument="tok_declined", fault="lose_answer")
    assert caller.lookup()[0]["status"] == "declined"
    assert sandbox.ledger.charges == ()


@pytest.mark.parametrize("service", ["charge", "pay"])
def test_an_unknown_fault_is_refused_by_name(
    sandbox: Sandbox, caller: Caller, service: str
) -> None:
    answer = getattr(caller, service)(fault="tok_lose_anwser")
    assert answer.status_code == 400
    assert "lose_answer" in answer.json()["error"]["message"]
    assert sandbox.ledger.requests == ()


def test_the_next_requests_fail_as_ordered(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail_next(2, "503")
    codes = [caller.charge(key="k-1").status_code for _ in range(3)]
    assert codes == [503, 503, 201]


def test_an_ordered_fault_hits_a_resend_too(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail_next(2, "lose_answer")
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            caller.charge(key="k-1")
    assert caller.charge(key="k-1").headers["Idempotent-Replay"] == "true"
    assert len(sandbox.ledger.charges) == 1


def test_an_ordered_fault_hits_a_lookup(sandbox: Sandbox, caller: Caller) -> None:
    caller.charge()
    sandbox.fail_next(1, "503", when="lookup")
    codes = [
        caller.http.get("/psp/v1/charges", params={"reference": "r-1"}).status_code
        for _ in range(2)
    ]
    assert codes == [503, 200]


def test_an_ordered_fault_can_falsify_a_lookup(sandbox: Sandbox, caller: Caller) -> None:
    caller.charge()
    sandbox.fail_next(1, "wrong_amount", when="lookup")
    assert [caller.lookup()[0]["amount_minor"] for _ in range(2)] == [1251, 1250]


@pytest.mark.parametrize(("fault", "when"), [("nonsense", "create"), ("declined", "lookup")])
def test_a_fault_that_cannot_happen_is_a_mistake_of_the_test(
    sandbox: Sandbox, fault: str, when: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        sandbox.fail_next(1, fault, when=when)  # type: ignore[arg-type]


def test_the_ledger_names_the_fault_that_hit(sandbox: Sandbox, caller: Caller) -> None:
    suffer(caller, "lose_answer")
    suffer(caller, "lose_answer")
    assert [seen.fault for seen in sandbox.ledger.requests] == ["lose_answer", None]


def test_a_fault_hits_the_bank_too(sandbox: Sandbox, caller: Caller) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        caller.pay(key="k-1", fault="lose_answer")
    (found,) = caller.lookup(service="bank/v1/payments")
    assert caller.pay(key="k-1", fault="lose_answer").json() == found
    assert sandbox.ledger.charges == ()


def test_the_reference_page_has_the_table_of_faults() -> None:
    page = (ROOT / "docs/reference/sandbox.md").read_text(encoding="utf-8")
    assert faults_as_markdown() in page


def _traits(call: object) -> object:
    assert callable(call)
    try:
        answer = call()
    except httpx.RemoteProtocolError as error:
        return str(error).partition("(")[0]
    try:
        value = answer.json()
    except ValueError:
        return answer.status_code
    return answer.status_code, value.get("status"), value.get("decline_code"), value.get("error")
