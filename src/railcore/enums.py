"""The closed vocabularies of railcore: rails, operations, states and the modes of a route."""

from enum import StrEnum


class PaymentRail(StrEnum):
    """How money moves."""

    CARD_PSP = "card_psp"
    BANK_TRANSFER = "bank_transfer"
    OPEN_BANKING_PIS = "open_banking_pis"
    WALLET = "wallet"
    MANUAL_SETTLEMENT = "manual_settlement"


class Operation(StrEnum):
    """What an execution does with money. ``payout`` and ``chargeback`` are reserved names."""

    CHARGE = "charge"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"

    @property
    def follows_a_parent(self) -> bool:
        """Whether the operation acts on an earlier execution of the same payment."""
        return self in _FOLLOW_UPS


_FOLLOW_UPS = frozenset({Operation.CAPTURE, Operation.VOID, Operation.REFUND})


class ExecutionStatus(StrEnum):
    """
    Where an execution stands. ``completed`` and ``failed`` are terminal.

    The row never changes.
    """

    PROCESSING = "processing"
    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether no later news can change the row."""
        return self in _TERMINAL


_TERMINAL = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED})


class PendingReason(StrEnum):
    """Why a pending execution waits, and for whom."""

    OUTCOME_UNKNOWN = "outcome_unknown"
    CUSTOMER_ACTION = "customer_action"
    AWAITING_FUNDS = "awaiting_funds"
    PROVIDER_PROCESSING = "provider_processing"
    MANUAL_REVIEW = "manual_review"


class SettlementMode(StrEnum):
    """When a successful execution means that the money is there."""

    INSTANT = "instant"
    DEFERRED = "deferred"
    MANUAL = "manual"


class RouteMode(StrEnum):
    """Whether a route moves real money."""

    LIVE = "live"
    SANDBOX = "sandbox"


class Idempotency(StrEnum):
    """What makes a repeated request harmless at the provider."""

    KEY = "key"
    REFERENCE = "reference"
    NONE = "none"


class Lookup(StrEnum):
    """How the provider can be asked what became of a request whose answer was lost."""

    BY_KEY = "by_key"
    BY_REFERENCE = "by_reference"
    NONE = "none"
