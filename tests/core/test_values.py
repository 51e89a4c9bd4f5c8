"""Every public value validates on construction: no field takes just anything."""

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

import railcore
from railcore.breaker import BreakerSettings
from railcore.budget import AccountLimits
from railcore.clock import Deadline
from railcore.errors import InvalidValueError
from railcore.events import draft_event
from railcore.execution import Lease, PaymentView
from railcore.http import HttpRequest, HttpResponse
from railcore.kernel import EngineSettings
from railcore.money import SAR, Money
from railcore.ports import OperatorDecision
from railcore.protocol import Claim, Recording
from railcore.results import RailResult
from railcore.routing import PaymentRoute, Resolution, RouteCapabilities, TimingBounds
from railcore.testing.inbox import InMemoryWebhookInbox
from railcore_adapters.credentials import FixedWebhookAccounts
from tests.core.made import ASKED, NOW, REDIRECT, FakeClock, context, execution

ROUTE = PaymentRoute(
    name="cards",
    rail=railcore.PaymentRail.CARD_PSP,
    provider="stub",
    account="main",
    mode=railcore.RouteMode.SANDBOX,
)
SAMPLES: list[Any] = [
    SAR,
    ASKED,
    context(),
    execution(),
    Lease("me", 1, NOW),
    PaymentView(tenant_id="a", payment_id="p", currency=SAR, seq=1, due_minor=1),
    RailResult.success("ch_1", ASKED),
    REDIRECT,
    RouteCapabilities(),
    TimingBounds(),
    ROUTE,
    Resolution(ROUTE, ("default route: taken",)),
    EngineSettings(),
    BreakerSettings(),
    AccountLimits(),
    OperatorDecision(actor="alice", evidence="slip-7"),
    railcore.Orphan(
        tenant_id="a",
        rail=railcore.PaymentRail.CARD_PSP,
        provider="stub",
        account="main",
        mode=railcore.RouteMode.SANDBOX,
        provider_ref="ch_9",
        money=ASKED,
    ),
    HttpRequest(method="POST", url="https://psp.example/charges"),
    HttpResponse(status=200),
    Deadline(1.0, lambda: 0.0),
    railcore.WebhookAccount(account="main", secrets=(railcore.Secret("whsec_1"),)),
    railcore.RelaySettings(),
    railcore.WebhookSettings(),
    railcore.Webhooks(
        providers={}, accounts=FixedWebhookAccounts({}), inbox=InMemoryWebhookInbox(FakeClock())
    ),
]
TOLD = {
    railcore.RailObserved,
    railcore.ExecutionObserved,
    railcore.WebhookObserved,
    railcore.RelayRun,
    railcore.WebhookReceipt,
    railcore.Discrepancy,
    railcore.NotedDiscrepancy,
    railcore.Resolved,
    railcore.Review,
    railcore.Story,
}
"""Values that railcore makes and nobody gives it; they are made of checked ones."""

FIELDS = [(one, field.name) for one in SAMPLES for field in attrs.fields(type(one))]


class Nonsense:
    """Fits nowhere."""


@pytest.mark.parametrize(
    ("value", "name"), FIELDS, ids=[f"{type(one).__name__}.{name}" for one, name in FIELDS]
)
def test_no_field_takes_just_anything(value: Any, name: str) -> None:
    with pytest.raises(InvalidValueError):
        attrs.evolve(value, **{name: Nonsense()})


def test_every_public_value_is_sampled() -> None:
    public = {getattr(railcore, name) for name in railcore.__all__}
    values = {
        one
        for one in public
        if isinstance(one, type) and attrs.has(one) and not issubclass(one, Exception)
    }

    assert values - TOLD == {type(one) for one in SAMPLES}


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_a_value_never_changes(value: Any) -> None:
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "post"},
        {"method": "POST\r\nX: y"},
        {"method": ""},
        {"url": ""},
        {"url": "https://psp.example/" + "x" * 10_000},
        {"url": "https://psp.example/a b"},
        {"url": "https://psp.example/\r\nX: y"},
        {"url": "https://psp.example/\x00"},
        {"headers": {"X": 1}},
        {"headers": {1: "a"}},
        {"headers": [("X", "a")]},
        {"body": "text"},
        {"moves_money": 1},
        {"credentials_of": "acme"},
        {"credentials_of": ("acme", "stub")},
        {"timeout_s": -1},
        {"timeout_s": timedelta(seconds=1)},
    ],
    ids=lambda changes: ascii(changes)[:40],
)
def test_a_request_is_one_request(changes: dict[str, Any]) -> None:
    sample = HttpRequest(method="POST", url="https://psp.example/charges")

    with pytest.raises(InvalidValueError):
        attrs.evolve(sample, **changes)


@pytest.mark.parametrize("changes", [{"status": "200"}, {"status": 99}, {"body": None}], ids=str)
def test_a_response_is_one_response(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        attrs.evolve(HttpResponse(status=200), **changes)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"1" * 5000,
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"a": \x00}',
        b"<html>",
    ],
    ids=lambda body: ascii(body[:12]),
)
def test_a_body_that_is_no_json_object_reads_as_none(body: bytes) -> None:
    assert HttpResponse(status=200, body=body).json_object() is None


def test_a_json_object_is_read() -> None:
    assert HttpResponse(status=200, body=b'{"a": 1}').json_object() == {"a": 1}


@pytest.mark.parametrize("changes", [{"actor": "a b"}, {"evidence": ""}, {"received": 12.5}])
def test_a_decision_names_who_and_on_what(changes: dict[str, Any]) -> None:
    values = {"actor": "alice", "evidence": "slip-7", "received": Money(1, SAR)}

    with pytest.raises(InvalidValueError):
        OperatorDecision(**{**values, **changes})


def recording(after: Any, next_check_s: float | None) -> Recording:
    return Recording(
        before=execution(), after=after, event=draft_event(after), next_check_s=next_check_s
    )


def test_what_is_open_cannot_be_recorded_without_a_next_check() -> None:
    with pytest.raises(ValueError, match="next check"):
        recording(execution(), None)


def test_what_is_finished_cannot_be_recorded_with_a_next_check() -> None:
    done = execution(status=railcore.ExecutionStatus.COMPLETED, next_check_at=None)

    with pytest.raises(ValueError, match="next check"):
        recording(done, 15.0)


@pytest.mark.parametrize("bound", ["lease_s", "check_after_s"])
@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), True, None])
def test_a_claim_has_real_bounds(bound: str, seconds: Any) -> None:
    values: dict[str, Any] = {"lease_s": 60.0, "check_after_s": 60.0, bound: seconds}

    with pytest.raises(InvalidValueError, match=bound):
        Claim(
            execution=execution(),
            event=draft_event(execution()),
            owner="me",
            is_sent=True,
            **values,
        )


def test_the_machines_clocks_go_forward_in_utc() -> None:
    clock = railcore.SystemClock()
    before_s, before = clock.monotonic(), clock.now()

    assert before.utcoffset() == timedelta(0)
    assert clock.monotonic() >= before_s
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 60
