"""The fake PSP and the ledger of truth."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from railcore_adapters.sandbox import Sandbox
from tests.adapters.sandbox_caller import Caller


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(delay_s=1) as sandbox:
        yield sandbox


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    with Caller(sandbox) as caller:
        yield caller


def test_a_charge_has_the_documented_shape(caller: Caller) -> None:
    answer = caller.charge()
    charge = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"ch_[0-9a-f]{24}", charge.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", charge.pop("created_at"))
    assert charge == {
        "object": "charge",
        "status": "succeeded",
        "decline_code": None,
        "amount_minor": 1250,
        "currency": "SAR",
        "reference": "r-1",
        "account": "main",
        "livemode": False,
    }


def test_the_ledger_has_the_charge_as_it_was_made(sandbox: Sandbox, caller: Caller) -> None:
    made = caller.charge(key="k-1").json()
    (charge,) = sandbox.ledger.charges
    assert (charge.id, charge.account, charge.reference) == (made["id"], "main", "r-1")
    assert (charge.idempotency_key, charge.service) == ("k-1", "psp")
    assert (charge.amount_minor, charge.currency) == (1250, "SAR")
    assert charge.at.utcoffset() is not None


def test_a_charge_is_found_by_id(caller: Caller) -> None:
    made = caller.charge().json()
    assert caller.http.get(f"/psp/v1/charges/{made['id']}").json() == made


def test_a_charge_is_found_by_reference(caller: Caller) -> None:
    made = caller.charge("r/ü?&".encode().hex()).json()
    caller.charge("another")
    assert caller.lookup(made["reference"]) == [made]


def test_an_unknown_id_is_404(caller: Caller) -> None:
    answer = caller.http.get("/psp/v1/charges/ch_none")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_replay_gives_the_stored_answer(sandbox: Sandbox, caller: Caller) -> None:
    first, second = caller.charge(key="k-1"), caller.charge(key="k-1")
    assert "Idempotent-Replay" not in first.headers
    assert second.headers["Idempotent-Replay"] == "true"
    assert (second.status_code, second.json()) == (first.status_code, first.json())
    assert len(sandbox.ledger.charges) == 1
    assert [seen.idempotency_key for seen in sandbox.ledger.requests] == ["k-1", "k-1"]


def test_a_decline_is_replayed_too(sandbox: Sandbox, caller: Caller) -> None:
    answers = [caller.charge(key="k-1", instrument="tok_declined") for _ in range(2)]
    assert answers[0].status_code == answers[1].status_code == 402
    assert answers[0].json() == answers[1].json()
    assert sandbox.ledger.charges == ()


@pytest.mark.parametrize("other", [{"amount_minor": 1251}, {"reference": "r-2"}, {"note": "x"}])
def test_a_key_with_another_body_is_a_conflict(
    sandbox: Sandbox, caller: Caller, other: dict[str, Any]
) -> None:
    caller.charge(key="k-1")
    order = {"reference": "r-1", **other}
    answer = caller.charge(key="k-1", **order)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_key_reuse")
    assert len(sandbox.ledger.charges) == 1


def test_a_key_belongs_to_its_account(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.accounts["second"] = "sk_sandbox_second"
    with Caller(sandbox, "sk_sandbox_second") as other:
        first, second = caller.charge(key="k-1"), other.charge("r-2", key="k-1")
    assert (first.json()["account"], second.json()["account"]) == ("main", "second")
    assert len(sandbox.ledger.charges) == 2


def test_another_account_does_not_see_a_charge(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.accounts["second"] = "sk_sandbox_second"
    made = caller.charge().json()
    with Caller(sandbox, "sk_sandbox_second") as other:
        assert other.lookup() == []
        assert other.http.get(f"/psp/v1/charges/{made['id']}").status_code == 404


def test_a_key_in_flight_is_a_conflict_until_the_first_is_answered(
    sandbox: Sandbox, caller: Caller
) -> None:
    with Caller(sandbox) as other, ThreadPoolExecutor() as pool:
        first = pool.submit(other.charge, key="k-1", instrument="tok_delay")
        while not sandbox.ledger.charges:
            time.sleep(0.002)
        meanwhile = caller.charge(key="k-1", instrument="tok_delay")
        assert (meanwhile.status_code, meanwhile.json()["error"]["code"]) == (409, "in_progress")
        answered = first.result()
    assert caller.charge(key="k-1", instrument="tok_delay").json() == answered.json()
    assert len(sandbox.ledger.charges) == 1


def test_an_unkeyed_repeat_charges_twice_in_the_ledger(sandbox: Sandbox, caller: Caller) -> None:
    ids = [caller.charge().json()["id"] for _ in range(2)]
    caller.charge("r-2")
    assert ids[0] != ids[1]
    doubles = sandbox.ledger.double_charges()
    assert list(doubles) == ["r-1"]
    assert [charge.id for charge in doubles["r-1"]] == ids
    assert [found["id"] for found in caller.lookup()] == ids


def test_a_reference_charged_on_two_accounts_is_charged_twice(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.accounts["second"] = "sk_sandbox_second"
    caller.charge(key="k-1")
    with Caller(sandbox, "sk_sandbox_second") as other:
        other.charge(key="k-1")
    assert list(sandbox.ledger.double_charges()) == ["r-1"]


def test_lookups_lag_behind_by_the_read_lag(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.read_lag_s = 60
    made = caller.charge().json()
    assert caller.lookup() == []
    assert caller.http.get(f"/psp/v1/charges/{made['id']}").status_code == 404
    sandbox.read_lag_s = 0
    assert caller.lookup() == [made]


def test_the_read_lag_ends_by_itself(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.read_lag_s = 0.5
    caller.charge()
    begun = time.monotonic()
    assert caller.lookup() == []
    while not caller.lookup():
        time.sleep(0.02)
    assert time.monotonic() - begun > 0.4


def test_every_lookup_is_written_down(sandbox: Sandbox, caller: Caller) -> None:
    caller.lookup("r-7")
    (seen,) = sandbox.ledger.lookups
    assert (seen.service, seen.account, seen.sought) == ("psp", "main", "r-7")


def test_a_pending_charge_moves_no_money_until_it_is_settled(
    sandbox: Sandbox, caller: Caller
) -> None:
    assert caller.charge(instrument="tok_pending").json()["status"] == "pending"
    assert caller.lookup()[0]["status"] == "pending"
    assert sandbox.ledger.charges == ()
    assert sandbox.psp.settle("r-1")["status"] == "succeeded"
    assert caller.lookup()[0]["status"] == "succeeded"
    assert len(sandbox.ledger.charges) == 1


def test_a_pending_charge_is_settled_once(sandbox: Sandbox, caller: Caller) -> None:
    caller.charge(instrument="tok_pending")
    sandbox.psp.settle("r-1")
    with pytest.raises(ValueError, match="Only a pending"):
        sandbox.psp.settle("r-1")
    assert len(sandbox.ledger.charges) == 1


def test_a_pending_charge_can_be_declined(sandbox: Sandbox, caller: Caller) -> None:
    made = caller.charge(instrument="tok_pending").json()
    sandbox.psp.decline(made["id"], "insufficient_funds")
    (found,) = caller.lookup()
    assert (found["status"], found["decline_code"]) == ("declined", "insufficient_funds")
    assert sandbox.ledger.charges == ()


def test_settling_what_nobody_ordered_says_so(sandbox: Sandbox) -> None:
    with pytest.raises(LookupError, match="r-9"):
        sandbox.psp.settle("r-9")


def test_a_slow_charge_is_charged_at_its_nth_lookup(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.lookups_to_settle = 3
    caller.charge(instrument="tok_slow")
    seen = [(caller.lookup()[0]["status"], len(sandbox.ledger.charges)) for _ in range(4)]
    assert seen == [("pending", 0), ("pending", 0), ("succeeded", 1), ("succeeded", 1)]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer sk_wrong"}, {"Authorization": "Basic sk_sandbox_main"}],
)
@pytest.mark.parametrize("path", ["/psp/v1/charges?reference=r", "/bank/v1/payments?reference=r"])
def test_a_wrong_key_sees_nothing(sandbox: Sandbox, headers: dict[str, str], path: str) -> None:
    with Caller(sandbox) as caller:
        del caller.http.headers["Authorization"]
        answer = caller.http.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_wrong_key_charges_nothing(sandbox: Sandbox) -> None:
    with Caller(sandbox, "sk_wrong") as caller:
        assert caller.charge().status_code == 401
    assert sandbox.ledger.charges == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"amount_minor": 0},
        {"amount_minor": -1},
        {"amount_minor": 12.5},
        {"amount_minor": "1250"},
        {"amount_minor": True},
        {"amount_minor": None},
        {"amount_minor": 2**63},
        {"currency": "sar"},
        {"currency": "SARX"},
        {"currency": 682},
        {"reference": ""},
        {"reference": "with space"},
        {"reference": "\r\nX: y"},
        {"reference": "r" * 256},
        {"reference": "\ud800"},
        {"instrument": "4111111111111111"},
        {"instrument": "tok_unheard_of"},
        {"instrument": None},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    sandbox: Sandbox, caller: Caller, fields: dict[str, Any]
) -> None:
    reference = fields.pop("reference", "r-1")
    answer = caller.charge(reference, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert (sandbox.ledger.charges, sandbox.ledger.requests) == ((), ())


def test_a_refused_order_does_not_take_its_key(caller: Caller) -> None:
    assert caller.charge(key="k-1", amount_minor=0).status_code == 400
    assert caller.charge(key="k-1").status_code == 201


@pytest.mark.parametrize("currency", ["SAR", "AED", "USD", "JPY", "KWD", "EUR", "BHD"])
def test_any_currency_is_charged(sandbox: Sandbox, caller: Caller, currency: str) -> None:
    assert caller.charge(currency=currency).status_code == 201
    assert [charge.currency for charge in sandbox.ledger.charges] == [currency]


@pytest.mark.parametrize("currency", ["KPW", "XTS", "XXX"])
def test_an_unsupported_currency_is_named_as_such(caller: Caller, currency: str) -> None:
    answer = caller.charge(currency=currency)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "currency_not_supported")


def test_200_concurrent_charges_are_ledgered_once_each(sandbox: Sandbox) -> None:
    barrier = threading.Barrier(200)

    def charge(number: int) -> int:
        with Caller(sandbox) as caller:
            barrier.wait()
            return caller.charge(f"r-{number}", key=f"k-{number}").status_code

    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(charge, range(200))) == {201}
    assert len(sandbox.ledger.charges) == 200
    assert set(sandbox.ledger.by_reference()) == {f"r-{number}" for number in range(200)}
    assert sandbox.ledger.double_charges() == {}


def test_50_concurrent_charges_with_one_key_are_one_charge(sandbox: Sandbox) -> None:
    barrier = threading.Barrier(50)

    def charge(_: int) -> str:
        with Caller(sandbox) as caller:
            barrier.wait()
            return str(caller.charge(key="k-1").json()["id"])

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(charge, range(50)))) == 1
    assert (len(sandbox.ledger.charges), len(sandbox.ledger.requests)) == (1, 50)


def test_the_latency_counts_as_in_flight(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.latency_s = 0.1
    begun = time.monotonic()
    caller.charge(key="k-1")
    assert time.monotonic() - begun >= 0.1
    sandbox.latency_s = 0
    assert caller.charge(key="k-1").status_code == 201
