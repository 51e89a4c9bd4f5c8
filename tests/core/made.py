"""Values that the tests of the core start from."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.enums import (
    ExecutionStatus,
    Idempotency,
    Lookup,
    Operation,
    PaymentRail,
    PendingReason,
    RouteMode,
)
from railcore.execution import Lease, PaymentExecution
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.lifecycle import Fact, FactSource
from railcore.money import SAR, Money
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.routing import RouteCapabilities, TimingBounds

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = UUID("018f4d0e-0000-7000-8000-000000000001")
ASKED = Money(1250, SAR)
REDIRECT = NextAction(kind=NextActionKind.REDIRECT, url="https://bank.example/authorize/1")
QUOTE = NextAction(kind=NextActionKind.QUOTE_REFERENCE, reference="RF18539007547034")

TIMING = TimingBounds(
    send_deadline_s=5, latest_arrival_s=120, read_lag_s=60, key_window_s=600, answer_timeout_s=30
)
CAPABLE = RouteCapabilities(
    operations=frozenset(Operation),
    supports_async=True,
    partial_capture=True,
    multiple_capture=True,
    partial_refund=True,
    multiple_refund=True,
    idempotency=Idempotency.KEY,
    lookup=Lookup.BY_KEY,
    lookup_is_authoritative=True,
    timing=TIMING,
)


class FakeClock:
    """A clock that goes on only when told to."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at
        self.monotonic_s = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.monotonic_s

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.monotonic_s += seconds


def context(**changes: Any) -> PaymentContext:
    """A charge of 12.50 SAR; *changes* replace single values."""
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "payment_id": "inv-1",
        "idempotency_key": "key-1",
        "money": ASKED,
        "payment_option_key": "card.mada",
    }
    return PaymentContext(**{**values, **changes})


def execution(**changes: Any) -> PaymentExecution:
    """That charge, claimed and sent just now; *changes* replace single values."""
    values: dict[str, Any] = {
        "execution_id": ID,
        "context": context(),
        "rail": PaymentRail.CARD_PSP,
        "provider": "stub",
        "account": "main",
        "mode": RouteMode.SANDBOX,
        "lease": Lease("engine", 1, NOW + timedelta(seconds=60)),
        "send_count": 1,
        "first_sent_at": NOW,
        "last_sent_at": NOW,
        "next_check_at": NOW + timedelta(seconds=60),
    }
    return PaymentExecution(**{**values, **changes})


def unknown_execution(**changes: Any) -> PaymentExecution:
    """The same, its outcome unknown."""
    doubt = {
        "status": ExecutionStatus.PENDING,
        "pending_reason": PendingReason.OUTCOME_UNKNOWN,
        "cause": PaymentFailureCode.PROVIDER_TIMEOUT,
        "version": 2,
    }
    return execution(**{**doubt, **changes})


def fact(result: RailResult, **changes: Any) -> Fact:
    """Say *result*, as a webhook would."""
    return attrs.evolve(Fact(result=result, source=FactSource.WEBHOOK), **changes)


def success(ref: str = "ch_1", reported: Money = ASKED, **changes: Any) -> Fact:
    """Say that *reported* moved as *ref*."""
    return fact(RailResult.success(ref, reported), **changes)


def failed(
    code: DefiniteFailureCode = PaymentFailureCode.DECLINED, *, ref: str | None = None
) -> Fact:
    """Say that no money moved and none will."""
    return fact(RailResult.failed(code, provider_ref=ref))


def pending(reason: PendingReason, *, phase: int = 0, **changes: Any) -> Fact:
    """Say who acts next."""
    return fact(RailResult.pending(reason, **changes), phase=phase)


def unknown(ref: str | None = None) -> Fact:
    """Say that nothing is known."""
    return fact(RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT, provider_ref=ref))
