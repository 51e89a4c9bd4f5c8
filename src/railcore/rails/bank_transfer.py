"""
Transfers that the payer orders at any bank, quoting a reference.

Nothing is sent: the rail hands out instructions and a reference, and waits. What the payer is told
is derived from the execution, so that asking again, after a crash too, gives the same answer and
leaves no doubt. An operator confirms each receipt on its evidence; receipts add up, and the same
evidence counts once.
"""

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Never

import attrs

from railcore.enums import (
    ExecutionStatus,
    Idempotency,
    Lookup,
    Operation,
    PendingReason,
    SettlementMode,
)
from railcore.errors import ApprovalError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.flow import answered
from railcore.money import Money
from railcore.ports import OperatorDecision
from railcore.rails.references import (
    creditor_reference,
    digits_of,
    is_creditor_reference,
    remainder_97,
)
from railcore.redaction import holds_card_number
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.routing import RouteCapabilities, TimingBounds

__all__ = [
    "BankAccount",
    "BankTransferRail",
    "creditor_reference",
    "is_creditor_reference",
    "iso_11649",
]

Flow = Generator[Never, object, RailResult]
"""A flow that asks nobody."""

NOTHING_SENT: Final = TimingBounds(
    send_deadline_s=1.0, latest_arrival_s=0.0, read_lag_s=0.0, answer_timeout_s=0.0
)
"""The bounds of a rail that performs no I/O."""

_MOST_RECEIPTS: Final = 16
_IBAN: Final = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_BIC: Final = re.compile(r"[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?")


def _line(_: Any, attribute: Any, value: Any) -> None:
    """Accept one printable line, or None where the field has a default."""
    if value is None and attribute.default is None:
        return
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= 140 or not value.isprintable():
        raise InvalidValueError(attribute.name, "one printable line", type(value).__name__)


def _compact(text: str | None) -> str | None:
    return None if text is None else re.sub(r"\s", "", text).upper()


@attrs.frozen(kw_only=True)
class BankAccount:
    """
    Where a payer sends money to: the host's own account, shown to payers.

    Attributes:
        beneficiary: The account holder, as the bank has it.
        iban: With its check digits; blanks are left out.
        account_number: Where there is no IBAN.
        bic: 8 or 11 characters.
        bank_name: For people.
    """

    beneficiary: str = attrs.field(validator=_line)
    iban: str | None = attrs.field(default=None, converter=_compact)
    account_number: str | None = attrs.field(default=None, validator=_line)
    bic: str | None = None
    bank_name: str | None = attrs.field(default=None, validator=_line)

    def __attrs_post_init__(self) -> None:
        if self.iban is None and self.account_number is None:
            raise InvalidValueError("iban", "an IBAN or an account_number", "neither")
        if self.iban is not None and not _is_iban(self.iban):
            raise InvalidValueError("iban", "an IBAN with right check digits", "another text")
        if self.bic is not None and not _BIC.fullmatch(self.bic):
            raise InvalidValueError("bic", "8 or 11 capital letters and digits", "another text")

    @property
    def instructions(self) -> Mapping[str, str]:
        """What a payer fills in, without amount and reference."""
        known = attrs.asdict(self, recurse=False)
        return {name: value for name, value in known.items() if value is not None}


def _is_iban(text: str) -> bool:
    return bool(_IBAN.fullmatch(text)) and remainder_97(text[4:] + text[:4]) == 1


def iso_11649(execution: PaymentExecution) -> str:
    """Return the creditor reference of *execution*, the same for every repetition."""
    return creditor_reference(digits_of(execution.provider_key))


@attrs.frozen
class _Receipt:
    evidence: str
    amount_minor: int
    actor: str


@attrs.frozen
class BankTransferRail:
    """
    Waits for a transfer that quotes a reference; ``awaiting_funds`` until all of it is there.

    Attributes:
        accounts: The bank account behind each route account.
        reference_of: Makes the reference to quote. Must give the same one for the same execution.
    """

    accounts: Mapping[str, BankAccount]
    reference_of: Callable[[PaymentExecution], str] = iso_11649

    @property
    def capabilities(self) -> RouteCapabilities:
        """Charges, deferred. The rail is its own provider and knows itself."""
        return RouteCapabilities(
            operations=frozenset({Operation.CHARGE}),
            supports_async=True,
            settlement_mode=SettlementMode.DEFERRED,
            idempotency=Idempotency.REFERENCE,
            lookup=Lookup.BY_REFERENCE,
            lookup_is_authoritative=True,
            timing=NOTHING_SENT,
        )

    def execute(self, execution: PaymentExecution, /) -> Flow:
        """Return what the payer has to do."""
        return answered(self._instructions(execution))

    def advance(self, execution: PaymentExecution, /) -> Flow:
        """Return the same again."""
        return answered(self._instructions(execution))

    def check_status(self, execution: PaymentExecution, /) -> Flow:
        """Return the same again: only an operator or a statement knows more."""
        return answered(self._instructions(execution))

    def confirm(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return what a receipt means: success when all is there, still ``awaiting_funds`` until then.

        Raises:
            ApprovalError: Another currency, more than is missing, or evidence that counted as
                another amount.
        """
        receipts = _receipts_with(execution, decision)
        total = Money(sum(one.amount_minor for one in receipts), execution.money.currency)
        stored = {"receipts": [attrs.asdict(one) for one in receipts]}
        if total == execution.money:
            return RailResult.success(receipts[-1].evidence, total, provider_response=stored)
        if total > execution.money:
            problem = f"{total} would be received of {execution.money}. Confirm what belongs here"
            raise ApprovalError(execution.execution_id, problem)
        if not execution.is_open:
            problem = f"is {execution.status}; a part of the amount cannot be taken any more"
            raise ApprovalError(execution.execution_id, problem)
        return attrs.evolve(
            self._waiting(execution),
            reported=total,
            progress=total.amount_minor,
            provider_response=stored,
        )

    def reject(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return that nobody waits any longer.

        Raises:
            ApprovalError: Money was received.
        """
        if execution.status is ExecutionStatus.COMPLETED or _receipts(execution):
            problem = "money was received. Return it or confirm the rest; it cannot be rejected"
            raise ApprovalError(execution.execution_id, problem)
        said = {"rejected_by": decision.actor, "evidence": decision.evidence}
        return RailResult.failed(PaymentFailureCode.CANCELLED, provider_response=said)

    def _instructions(self, execution: PaymentExecution) -> RailResult:
        if execution.account not in self.accounts:
            return RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)
        try:
            return self._waiting(execution)
        except InvalidValueError:  # a reference that nobody can quote
            return RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)

    def _waiting(self, execution: PaymentExecution) -> RailResult:
        action = execution.next_action or self._action(execution)
        return RailResult.pending(
            PendingReason.AWAITING_FUNDS, provider_ref=action.reference, next_action=action
        )

    def _action(self, execution: PaymentExecution) -> NextAction:
        money, reference = execution.money, self.reference_of(execution)
        if holds_card_number(reference):  # it would be masked where it is stored
            raise InvalidValueError("reference", "no digits like a card number's", "such digits")
        amount = {"amount": f"{money.to_major():f}", "currency": money.currency.code}
        return NextAction(
            kind=NextActionKind.QUOTE_REFERENCE,
            reference=reference,
            fields={**self.accounts[execution.account].instructions, **amount},
        )


def _receipts(execution: PaymentExecution) -> tuple[_Receipt, ...]:
    stored = execution.provider_response.get("receipts", ())
    if not isinstance(stored, list | tuple):
        return ()
    return tuple(
        _Receipt(str(one["evidence"]), int(one["amount_minor"]), str(one["actor"]))
        for one in stored
    )


def _receipts_with(execution: PaymentExecution, decision: OperatorDecision) -> tuple[_Receipt, ...]:
    receipts = _receipts(execution)
    received = _received(execution, decision)
    known = next((one for one in receipts if one.evidence == decision.evidence), None)
    if known is None and len(receipts) < _MOST_RECEIPTS:
        return (*receipts, _Receipt(decision.evidence, received.amount_minor, decision.actor))
    if known is None:
        problem = f"already has {_MOST_RECEIPTS} receipts. Settle the rest as another payment"
    elif known.amount_minor != received.amount_minor:
        problem = "this evidence already counts as another amount. Name other evidence"
    else:
        return receipts
    raise ApprovalError(execution.execution_id, problem)


def _received(execution: PaymentExecution, decision: OperatorDecision) -> Money:
    received = decision.received or execution.money
    if received.currency != execution.money.currency:
        problem = f"received {received}, asked {execution.money}. Exchange or return it first"
        raise ApprovalError(execution.execution_id, problem)
    if received.amount_minor <= 0:
        raise ApprovalError(execution.execution_id, f"received {received}: nothing to confirm")
    return received
