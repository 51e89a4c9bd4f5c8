"""The stub's rails against the sandbox, over real sockets, in both colours."""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from railcore.clock import Deadline, SystemClock
from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.enums import PaymentRail, PendingReason
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.http import HttpRequest, HttpResponse
from railcore.money import USD, Currency, Money
from railcore.ports import AsyncRail, FlowRail, Rail
from railcore.rails.card_psp import CardPspRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.redaction import Secret
from railcore.results import NextActionKind, RailResult, ResultStatus
from railcore_adapters.sandbox import FAULTS, Sandbox
from railcore_adapters.stub import SANDBOX_TIMING, StubBank, StubGateway
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    HttpxTransport,
)
from tests.core.executions import an_execution, on_account

TIMING = attrs.evolve(SANDBOX_TIMING, answer_timeout_s=0.5)
Code = PaymentFailureCode


@attrs.frozen
class Keys:
    """The API keys of the sandbox's accounts."""

    sandbox: Sandbox

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        return Secret(self.sandbox.accounts.get(account, "sk_wrong"))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(delay_s=0.1, drip_interval_s=0.05) as sandbox:
        yield sandbox


def in_time() -> Deadline:
    monotonic = SystemClock().monotonic
    return Deadline(monotonic() + 5, monotonic)


Steps = Callable[..., list[RailResult]]


@pytest.fixture(params=["sync", "async"])
def card(request: pytest.FixtureRequest, sandbox: Sandbox) -> Steps:
    return stepping(request.param, sandbox, CardPspRail(StubGateway(sandbox.url, TIMING)))


@pytest.fixture(params=["sync", "async"])
def bank(request: pytest.FixtureRequest, sandbox: Sandbox) -> Steps:
    return stepping(request.param, sandbox, OpenBankingPaymentRail(StubBank(sandbox.url, TIMING)))


def stepping(colour: str, sandbox: Sandbox, flows: FlowRail[HttpRequest, HttpResponse]) -> Steps:
    """Return what takes an execution through steps named by method, in one colour."""
    authorizer = BearerAuthorizer(Keys(sandbox))

    def sync(execution: PaymentExecution, *steps: str) -> list[RailResult]:
        with HttpxTransport.open(authorizer=authorizer) as transport:
            rail: Rail = DrivenRail(flows, transport.send)
            return [getattr(rail, step)(execution, **late(step)) for step in steps]

    async def asynchronous(execution: PaymentExecution, *steps: str) -> list[RailResult]:
        async with AsyncHttpxTransport.open(authorizer=authorizer) as transport:
            rail: AsyncRail = AsyncDrivenRail(flows, transport.send)
            return [await getattr(rail, step)(execution, **late(step)) for step in steps]

    if colour == "sync":
        return sync
    return lambda execution, *steps: asyncio.run(asynchronous(execution, *steps))


def late(step: str) -> dict[str, Any]:
    return {} if step == "check_status" else {"send_by": in_time()}


def gist(result: RailResult) -> object:
    """What matters of a result: the code, the cause, or why it waits."""
    if result.is_absent:
        return "absent"
    return result.failure or result.cause or result.pending_reason or result.status


FOUND = ResultStatus.SUCCESS
OUTCOMES: dict[str, tuple[object, object]] = {
    "visa": (FOUND, FOUND),
    "declined": (Code.DECLINED, Code.DECLINED),
    "insufficient_funds": (Code.INSUFFICIENT_FUNDS, Code.INSUFFICIENT_FUNDS),
    "expired_card": (Code.INSTRUMENT_INVALID, Code.INSTRUMENT_INVALID),
    "authentication_failed": (Code.AUTHENTICATION_FAILED, Code.AUTHENTICATION_FAILED),
    "risk": (Code.RISK_REJECTED, Code.RISK_REJECTED),
    "pending": (PendingReason.PROVIDER_PROCESSING, PendingReason.PROVIDER_PROCESSING),
    "slow": (PendingReason.PROVIDER_PROCESSING, PendingReason.PROVIDER_PROCESSING),
    "drop": (Code.PROVIDER_TIMEOUT, "absent"),
    "503": (Code.PROVIDER_UNAVAILABLE, "absent"),
    "429": (Code.RATE_LIMITED, "absent"),
    "401": (Code.INVALID_CREDENTIALS, "absent"),
    "lose_answer": (Code.PROVIDER_TIMEOUT, FOUND),
    "delay": (FOUND, FOUND),
    "500_after": (Code.INVALID_RESPONSE, FOUND),
    "garbage": (Code.INVALID_RESPONSE, FOUND),
    "truncated": (Code.PROVIDER_TIMEOUT, FOUND),
    "slow_drip": (Code.PROVIDER_TIMEOUT, FOUND),
    "wrong_amount": (FOUND, FOUND),
    "wrong_currency": (FOUND, FOUND),
    "duplicate": (Code.INVALID_RESPONSE, FOUND),
}


def test_every_fault_of_the_sandbox_is_told() -> None:
    assert set(OUTCOMES) == set(FAULTS)


@pytest.mark.parametrize("name", OUTCOMES)
def test_no_fault_makes_a_charge_look_like_a_failure(
    card: Steps, sandbox: Sandbox, name: str
) -> None:
    execution = an_execution(instrument_token=f"tok_{name}")

    answered, looked_up = card(execution, "execute", "check_status")

    assert (gist(answered), gist(looked_up)) == OUTCOMES[name]
    charged = execution.provider_key in sandbox.ledger.by_reference()
    assert charged is (gist(looked_up) is FOUND)
    assert not (charged and answered.failure)


def test_a_lookup_reports_what_was_really_charged(card: Steps) -> None:
    execution = an_execution(instrument_token="tok_wrong_currency")

    answered, looked_up = card(execution, "execute", "check_status")

    assert answered.reported == Money(1250, USD)
    assert looked_up.reported == execution.money


@pytest.mark.parametrize("name", ["lose_answer", "500_after", "drop", "duplicate"])
def test_a_resend_with_the_same_key_charges_once(card: Steps, sandbox: Sandbox, name: str) -> None:
    execution = an_execution(instrument_token=f"tok_{name}")

    _, again = card(execution, "execute", "execute")

    assert again.status is ResultStatus.SUCCESS
    assert [charge.reference for charge in sandbox.ledger.charges] == [execution.provider_key]


def test_an_outage_before_the_first_byte_is_a_definite_failure(
    card: Steps, sandbox: Sandbox
) -> None:
    sandbox.stop()

    answered, looked_up = card(an_execution(), "execute", "check_status")

    assert gist(answered) is Code.NETWORK_ERROR
    assert gist(looked_up) is Code.PROVIDER_TIMEOUT


def test_a_wrong_key_is_a_definite_failure(card: Steps, sandbox: Sandbox) -> None:
    (answered,) = card(on_account(an_execution(), "nobody"), "execute")

    assert gist(answered) is Code.INVALID_CREDENTIALS
    assert sandbox.ledger.charges == ()


def test_an_unsupported_currency_is_a_definite_failure(card: Steps) -> None:
    (answered,) = card(an_execution(money=Money(1250, Currency.of("KPW"))), "execute")

    assert gist(answered) is Code.UNSUPPORTED_OPERATION


def test_a_payment_is_authorized_at_the_bank_and_settles(bank: Steps, sandbox: Sandbox) -> None:
    execution = an_execution(PaymentRail.OPEN_BANKING_PIS)

    (ordered,) = bank(execution, "execute")
    assert ordered.next_action is not None
    assert ordered.next_action.kind is NextActionKind.REDIRECT
    assert ordered.expires_at is not None
    sandbox.bank.approve(execution.provider_key)
    (returned,) = bank(execution, "advance")
    sandbox.bank.settle(execution.provider_key)
    (settled,) = bank(execution, "check_status")

    assert gist(ordered) is PendingReason.CUSTOMER_ACTION
    assert gist(returned) is PendingReason.PROVIDER_PROCESSING
    assert settled.reported == execution.money


@pytest.mark.parametrize("end", ["reject", "expire"])
def test_a_payment_that_the_payer_lets_go_is_cancelled(
    bank: Steps, sandbox: Sandbox, end: str
) -> None:
    execution = an_execution(PaymentRail.OPEN_BANKING_PIS)
    bank(execution, "execute")

    getattr(sandbox.bank, end)(execution.provider_key)

    assert gist(bank(execution, "check_status")[0]) is Code.CANCELLED


def test_a_lost_order_is_found_with_its_redirect(bank: Steps, sandbox: Sandbox) -> None:
    sandbox.fail_next(1, "lose_answer")

    lost, found = bank(an_execution(PaymentRail.OPEN_BANKING_PIS), "execute", "check_status")

    assert gist(lost) is Code.PROVIDER_TIMEOUT
    assert gist(found) is PendingReason.CUSTOMER_ACTION
    assert found.next_action is not None
    with urllib.request.urlopen(found.next_action.url or "") as page:
        assert page.status == 200


def test_the_ledger_over_http_agrees(card: Steps, sandbox: Sandbox) -> None:
    card(an_execution(), "execute")

    with urllib.request.urlopen(f"{sandbox.url}/ledger") as page:
        assert [one["amount_minor"] for one in json.load(page)["charges"]] == [1250]
