"""
railcore, the payment-execution kernel that a billing app imports to take money safely.

A name is loaded when it is first asked for, so that a program pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from railcore.breaker import BreakerSettings
    from railcore.budget import AccountLimits
    from railcore.clock import Deadline, SystemClock
    from railcore.context import PaymentContext, derive_provider_key
    from railcore.engine import AsyncPaymentEngine, PaymentEngine
    from railcore.enums import (
        ExecutionStatus,
        Idempotency,
        Lookup,
        Operation,
        PaymentRail,
        PendingReason,
        RouteMode,
        SettlementMode,
    )
    from railcore.errors import (
        AlreadyResolvedError,
        ApprovalError,
        CurrencyMismatchError,
        DeliveryError,
        DiscrepancyNotFoundError,
        ExecutionNotFoundError,
        IdempotencyConflict,
        IllegalTransitionError,
        InDoubtError,
        InProgressError,
        InvalidValueError,
        LimitExceededError,
        LiveExecutionExists,
        MisconfiguredError,
        MoneyError,
        NoRemedyError,
        OutcomeUnknownError,
        RailcoreError,
        RefusedError,
        RouteNotFoundError,
        SendDeadlinePassed,
        StoreError,
        TransportError,
        UnknownProviderError,
        UnsupportedOperationError,
        WebhookRefusedError,
    )
    from railcore.execution import Lease, PaymentExecution, PaymentView
    from railcore.failures import Advice, Certainty, FailureCategory, PaymentFailureCode
    from railcore.flow import adrive, drive
    from railcore.http import Exchange, HttpRequest, HttpResponse
    from railcore.intake import Webhooks
    from railcore.kernel import EngineSettings
    from railcore.lifecycle import Discrepancy, DiscrepancyKind
    from railcore.money import Currency, Money
    from railcore.observability import ExecutionObserved, RailObserved, WebhookObserved
    from railcore.ports import OperatorDecision
    from railcore.redaction import Secret
    from railcore.registry import PaymentRailRegistry
    from railcore.relay import AsyncRelay, Relay, RelayRun, RelaySettings
    from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
    from railcore.review import NotedDiscrepancy, Orphan, Remedy, Resolved, Review
    from railcore.routing import (
        ConfigDrivenRouteResolver,
        PaymentRoute,
        Resolution,
        RouteCapabilities,
        TimingBounds,
    )
    from railcore.story import Story
    from railcore.webhooks import (
        WebhookAccount,
        WebhookReceipt,
        WebhookSettings,
        WebhookVerdict,
    )

__all__ = [
    "AccountLimits",
    "Advice",
    "AlreadyResolvedError",
    "ApprovalError",
    "AsyncPaymentEngine",
    "AsyncRelay",
    "BreakerSettings",
    "Certainty",
    "ConfigDrivenRouteResolver",
    "Currency",
    "CurrencyMismatchError",
    "Deadline",
    "DeliveryError",
    "Discrepancy",
    "DiscrepancyKind",
    "DiscrepancyNotFoundError",
    "EngineSettings",
    "Exchange",
    "ExecutionNotFoundError",
    "ExecutionObserved",
    "ExecutionStatus",
    "FailureCategory",
    "HttpRequest",
    "HttpResponse",
    "Idempotency",
    "IdempotencyConflict",
    "IllegalTransitionError",
    "InDoubtError",
    "InProgressError",
    "InvalidValueError",
    "Lease",
    "LimitExceededError",
    "LiveExecutionExists",
    "Lookup",
    "MisconfiguredError",
    "Money",
    "MoneyError",
    "NextAction",
    "NextActionKind",
    "NoRemedyError",
    "NotedDiscrepancy",
    "Operation",
    "OperatorDecision",
    "Orphan",
    "OutcomeUnknownError",
    "PaymentContext",
    "PaymentEngine",
    "PaymentExecution",
    "PaymentFailureCode",
    "PaymentRail",
    "PaymentRailRegistry",
    "PaymentRoute",
    "PaymentView",
    "PendingReason",
    "RailObserved",
    "RailResult",
    "RailcoreError",
    "RefusedError",
    "Relay",
    "RelayRun",
    "RelaySettings",
    "Remedy",
    "Resolution",
    "Resolved",
    "ResultStatus",
    "Review",
    "RouteCapabilities",
    "RouteMode",
    "RouteNotFoundError",
    "Secret",
    "SendDeadlinePassed",
    "SettlementMode",
    "StoreError",
    "Story",
    "SystemClock",
    "TimingBounds",
    "TransportError",
    "UnknownProviderError",
    "UnsupportedOperationError",
    "WebhookAccount",
    "WebhookObserved",
    "WebhookReceipt",
    "WebhookRefusedError",
    "WebhookSettings",
    "WebhookVerdict",
    "Webhooks",
    "adrive",
    "derive_provider_key",
    "drive",
]

_HOMES: Final = {
    "railcore.breaker": ("BreakerSettings",),
    "railcore.budget": ("AccountLimits",),
    "railcore.clock": (
        "Deadline",
        "SystemClock",
    ),
    "railcore.context": (
        "PaymentContext",
        "derive_provider_key",
    ),
    "railcore.engine": (
        "AsyncPaymentEngine",
        "PaymentEngine",
    ),
    "railcore.enums": (
        "ExecutionStatus",
        "Idempotency",
        "Lookup",
        "Operation",
        "PaymentRail",
        "PendingReason",
        "RouteMode",
        "SettlementMode",
    ),
    "railcore.errors": (
        "AlreadyResolvedError",
        "ApprovalError",
        "CurrencyMismatchError",
        "DeliveryError",
        "DiscrepancyNotFoundError",
        "ExecutionNotFoundError",
        "IdempotencyConflict",
        "IllegalTransitionError",
        "InDoubtError",
        "InProgressError",
        "InvalidValueError",
        "LimitExceededError",
        "LiveExecutionExists",
        "MisconfiguredError",
        "MoneyError",
        "NoRemedyError",
        "OutcomeUnknownError",
        "RailcoreError",
        "RefusedError",
        "RouteNotFoundError",
        "SendDeadlinePassed",
        "StoreError",
        "TransportError",
        "UnknownProviderError",
        "UnsupportedOperationError",
        "WebhookRefusedError",
    ),
    "railcore.execution": (
        "Lease",
        "PaymentExecution",
        "PaymentView",
    ),
    "railcore.failures": (
        "Advice",
        "Certainty",
        "FailureCategory",
        "PaymentFailureCode",
    ),
    "railcore.flow": (
        "adrive",
        "drive",
    ),
    "railcore.http": (
        "Exchange",
        "HttpRequest",
        "HttpResponse",
    ),
    "railcore.intake": ("Webhooks",),
    "railcore.kernel": ("EngineSettings",),
    "railcore.lifecycle": (
        "Discrepancy",
        "DiscrepancyKind",
    ),
    "railcore.money": (
        "Currency",
        "Money",
    ),
    "railcore.observability": (
        "ExecutionObserved",
        "RailObserved",
        "WebhookObserved",
    ),
    "railcore.ports": ("OperatorDecision",),
    "railcore.redaction": ("Secret",),
    "railcore.registry": ("PaymentRailRegistry",),
    "railcore.relay": (
        "AsyncRelay",
        "Relay",
        "RelayRun",
        "RelaySettings",
    ),
    "railcore.results": (
        "NextAction",
        "NextActionKind",
        "RailResult",
        "ResultStatus",
    ),
    "railcore.review": (
        "NotedDiscrepancy",
        "Orphan",
        "Remedy",
        "Resolved",
        "Review",
    ),
    "railcore.routing": (
        "ConfigDrivenRouteResolver",
        "PaymentRoute",
        "Resolution",
        "RouteCapabilities",
        "TimingBounds",
    ),
    "railcore.story": ("Story",),
    "railcore.webhooks": (
        "WebhookAccount",
        "WebhookReceipt",
        "WebhookSettings",
        "WebhookVerdict",
    ),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker shall know the names above, and no others

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value: object = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
