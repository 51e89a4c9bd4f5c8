"""railcore, the payment-execution kernel that a billing app imports to take money safely."""

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
    ApprovalError,
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    IllegalTransitionError,
    InProgressError,
    InvalidValueError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    MoneyError,
    OutcomeUnknownError,
    RailcoreError,
    RefusedError,
    RouteNotFoundError,
    SendDeadlinePassed,
    StoreError,
    TransportError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.execution import Lease, PaymentExecution, PaymentView
from railcore.failures import Advice, Certainty, FailureCategory, PaymentFailureCode
from railcore.flow import adrive, drive
from railcore.http import Exchange, HttpRequest, HttpResponse
from railcore.kernel import EngineSettings
from railcore.money import Currency, Money
from railcore.observability import ExecutionObserved, RailObserved
from railcore.ports import OperatorDecision
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
from railcore.routing import (
    ConfigDrivenRouteResolver,
    PaymentRoute,
    Resolution,
    RouteCapabilities,
    TimingBounds,
)

__all__ = [
    "Advice",
    "ApprovalError",
    "AsyncPaymentEngine",
    "Certainty",
    "ConfigDrivenRouteResolver",
    "Currency",
    "CurrencyMismatchError",
    "Deadline",
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
    "Operation",
    "OperatorDecision",
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
    "Resolution",
    "ResultStatus",
    "RouteCapabilities",
    "RouteMode",
    "RouteNotFoundError",
    "Secret",
    "SendDeadlinePassed",
    "SettlementMode",
    "StoreError",
    "SystemClock",
    "TimingBounds",
    "TransportError",
    "UnknownProviderError",
    "UnsupportedOperationError",
    "adrive",
    "derive_provider_key",
    "drive",
]
