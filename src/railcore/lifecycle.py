"""
How news moves an execution.

One table, ``TRANSITIONS``, drives this module, the database, the diagrams and the tests. News is a
``Fact``; ``decide`` says what it changes, ``evolve`` applies that. Two rules:

1. *Definite beats pending, and pending facts are ranked.* A fact changes an open execution only
when it outranks what is known.
   Rank is (phase, reason, progress, content), a total order that knows nothing of arrival time.
2. *Terminal rows never change.* News that contradicts one is a ``Discrepancy``, the same one
whichever of the two came first.

So every permutation of the same facts, with any duplicates, ends in the same state with the same
discrepancies, as long as their definite facts agree (same outcome, code, reference and phase).
Where they do not, the definite fact that came first holds the row, and row and discrepancies
together name every definite claim in every order. The reference of an open row is one that news of
its own phase gave; of several the greatest text, for no better reason than that it is always the
same one.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID, uuid5

import attrs

from railcore import _checks
from railcore.enums import ExecutionStatus, PendingReason
from railcore.errors import IllegalTransitionError, InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.money import Money
from railcore.redaction import kept_reference, masked, shown_reference
from railcore.results import NextAction, RailResult, ResultStatus

ABSENT: Final = "none"
"""The status before an execution exists, in the journal and in ``railcore_edge``."""

TRANSITIONS: Final[Mapping[str, frozenset[ExecutionStatus]]] = MappingProxyType(
    {
        ABSENT: frozenset({ExecutionStatus.PROCESSING}),
        ExecutionStatus.PROCESSING: frozenset(
            {ExecutionStatus.PENDING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED}
        ),
        ExecutionStatus.PENDING: frozenset(
            {ExecutionStatus.PENDING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED}
        ),
        ExecutionStatus.COMPLETED: frozenset(),
        ExecutionStatus.FAILED: frozenset(),
    }
)
"""Every change that exists."""

EDGES: Final = frozenset(
    (str(before), str(after)) for before, afters in TRANSITIONS.items() for after in afters
)
"""The same, as pairs of texts."""

REASON_RANK: Final[Mapping[PendingReason, int]] = MappingProxyType(
    {
        PendingReason.OUTCOME_UNKNOWN: 0,
        PendingReason.CUSTOMER_ACTION: 1,
        PendingReason.AWAITING_FUNDS: 2,
        PendingReason.PROVIDER_PROCESSING: 3,
        PendingReason.MANUAL_REVIEW: 4,
    }
)
"""Which pending reason says more than which."""


_LAST_PHASE: Final = 32_767


class FactSource(StrEnum):
    """Who brings the news."""

    CALL = "call"
    LOOKUP = "lookup"
    WEBHOOK = "webhook"
    OPERATOR = "operator"
    KERNEL = "kernel"


@attrs.frozen(kw_only=True)
class Fact:
    """
    One piece of news about an execution.

    Attributes:
        result: What is claimed.
        source: Who says so.
        phase: The step that it speaks of.
        actor: The named operator, for ``operator``.
        evidence: What the operator goes by, as opaque references.
        is_fenced: It speaks only for the tries that whoever brings it knew of (their request never
            left; the provider had not seen any), so that it counts only while they hold the lease.
    """

    result: RailResult = attrs.field(validator=_checks.one_of(RailResult))
    source: FactSource = attrs.field(validator=_checks.one_of(FactSource))
    phase: int = attrs.field(default=0, validator=_checks.whole_number(0, most=_LAST_PHASE))
    actor: str | None = attrs.field(default=None, validator=_checks.text(128, optional=True))
    evidence: str | None = attrs.field(default=None, validator=_checks.reference(255))
    is_fenced: bool = attrs.field(default=False, validator=_checks.one_of(bool))


class DiscrepancyKind(StrEnum):
    """How news contradicts what is known."""

    SUCCESS_AFTER_FAILURE = "success_after_failure"
    SECOND_REFERENCE = "second_reference"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    FAILURE_DIFFERS = "failure_differs"
    ORPHAN_CHARGE = "orphan_charge"
    REFUND_FAILED = "refund_failed"
    MISSING_AT_PROVIDER = "missing_at_provider"

    @property
    def needs_review(self) -> bool:
        """Whether a person has to look: money may be in the wrong place."""
        return self is not DiscrepancyKind.FAILURE_DIFFERS

    @property
    def tells_of_money(self) -> bool:
        """Whether an execution may have moved money that counts nowhere."""
        return self in _TELLS_OF_MONEY


_TELLS_OF_MONEY: Final = frozenset(
    {
        DiscrepancyKind.SUCCESS_AFTER_FAILURE,
        DiscrepancyKind.SECOND_REFERENCE,
        DiscrepancyKind.AMOUNT_DIFFERS,
        DiscrepancyKind.CURRENCY_DIFFERS,
    }
)


@attrs.frozen(kw_only=True)
class Discrepancy:
    """
    News that contradicts what is known: recorded and announced, never dropped, never overwriting.

    Attributes:
        discrepancy_id: Derived from the execution, the kind and what disagrees, so that the same
            contradiction is stored once.
        execution_id: What it contradicts. For an orphan, the execution that would adopt it.
        sides: The two claims, in an order that does not depend on which came first.
        provider_ref: What the provider calls the money in question, where that does not depend on
            which claim came first.
        reported: How much it is, where it is not what was asked.
        evidence: An opaque reference to what showed it first, where a person or a statement did.
    """

    discrepancy_id: UUID
    execution_id: UUID
    kind: DiscrepancyKind
    sides: tuple[str, ...]
    provider_ref: str | None = attrs.field(default=None, repr=shown_reference)
    reported: Money | None = None
    evidence: str | None = attrs.field(default=None, validator=_checks.reference(255))


@attrs.frozen(kw_only=True)
class Change:
    """What a fact makes of an execution: the new values, whole."""

    status: ExecutionStatus
    pending_reason: PendingReason | None = None
    failure: PaymentFailureCode | None = None
    cause: PaymentFailureCode | None = None
    phase: int = 0
    progress: int = 0
    provider_ref: str | None = attrs.field(default=None, repr=shown_reference)
    settled_minor: int | None = None
    next_action: NextAction | None = None
    expires_at: datetime | None = None
    provider_response: Mapping[str, object] = attrs.field(factory=dict, hash=False)


@attrs.frozen
class Decision:
    """
    What news does.

    Change the execution, contradict it, both, or nothing (it was known already).

    Attributes:
        more: Further contradictions of the same news: it told of several charges.
    """

    change: Change | None = None
    discrepancy: Discrepancy | None = None
    more: tuple[Discrepancy, ...] = ()

    @property
    def discrepancies(self) -> tuple[Discrepancy, ...]:
        """Every contradiction."""
        return self.more if self.discrepancy is None else (self.discrepancy, *self.more)


NO_NEWS: Final = Decision()


def decide(execution: PaymentExecution, fact: Fact) -> Decision:
    """Return what *fact* does to *execution*. The same news twice, or weaker news, does nothing."""
    decision = _decide(execution, fact)
    return _with_more(execution, fact, decision) if fact.result.also else decision


def _with_more(execution: PaymentExecution, fact: Fact, decision: Decision) -> Decision:
    """Return *decision* with what the further charges contradict once it holds."""
    after = execution if decision.change is None else evolve(execution, decision.change)
    others = (attrs.evolve(fact, result=one) for one in fact.result.also)
    found = dict.fromkeys(_decide(after, other).discrepancy for other in others)
    more = tuple(one for one in found if one is not None and one != decision.discrepancy)
    return attrs.evolve(decision, more=more)


def _decide(execution: PaymentExecution, fact: Fact) -> Decision:
    result = fact.result
    match result.status:
        case ResultStatus.SUCCESS:
            return _success(execution, fact)
        case ResultStatus.FAILED:
            return _failure(execution, fact)
        case ResultStatus.PENDING:
            return _pending(execution, fact)


def missing(execution: PaymentExecution, evidence: str) -> Discrepancy:
    """
    Return that the provider's statement lacks what *execution* completed: one, however often.

    Raises:
        InvalidValueError: It is not completed, so that no statement has to have it.
    """
    if execution.status is not ExecutionStatus.COMPLETED:
        raise InvalidValueError("execution_id", "a completed execution", execution.status)
    held = f"holds {execution.money} as {_called(execution.provider_ref)}"
    kind = DiscrepancyKind.MISSING_AT_PROVIDER
    found = _discrepancy(execution, kind, held, "missing in the provider's statement")
    return attrs.evolve(found, provider_ref=execution.provider_ref, evidence=masked(evidence))


def evolve(execution: PaymentExecution, change: Change) -> PaymentExecution:
    """
    Return *execution* after *change*, one version on.

    Raises:
        IllegalTransitionError: The change is no edge of ``TRANSITIONS``.
    """
    check_edge(execution.status, change.status)
    return execution.changed(
        status=change.status,
        pending_reason=change.pending_reason,
        failure=change.failure,
        cause=change.cause,
        phase=change.phase,
        progress=change.progress,
        provider_ref=change.provider_ref,
        settled_minor=change.settled_minor,
        next_action=change.next_action,
        expires_at=change.expires_at,
        provider_response=change.provider_response,
        version=execution.version + 1,
        next_check_at=None if change.status.is_terminal else execution.next_check_at,
    )


def check_edge(before: str, after: ExecutionStatus) -> None:
    """
    Check that a change from *before* to *after* exists.

    Raises:
        IllegalTransitionError: It does not.
    """
    if after not in TRANSITIONS[before]:
        raise IllegalTransitionError(str(before), str(after))


def fold(
    execution: PaymentExecution, facts: tuple[Fact, ...]
) -> tuple[PaymentExecution, frozenset[Discrepancy]]:
    """Return *execution* after all *facts* in their order, and what contradicted it on the way."""
    found = set[Discrepancy]()
    for fact in facts:
        decision = decide(execution, fact)
        found.update(decision.discrepancies)
        if decision.change is not None:
            execution = evolve(execution, decision.change)
    return execution, frozenset(found)


def _success(execution: PaymentExecution, fact: Fact) -> Decision:
    wrong = _wrong_amount(execution, fact.result)
    if wrong is not None:
        return Decision(_doubt(execution, fact), wrong)
    match execution.status:
        case ExecutionStatus.COMPLETED:
            return _second_success(execution, fact.result)
        case ExecutionStatus.FAILED:
            return Decision(
                None, _late_success(execution, fact.result.provider_ref, execution.failure)
            )
        case _:
            return Decision(_settled(fact, ExecutionStatus.COMPLETED, fact.result.provider_ref))


def _failure(execution: PaymentExecution, fact: Fact) -> Decision:
    match execution.status:
        case ExecutionStatus.COMPLETED:
            return Decision(
                None, _late_success(execution, execution.provider_ref, fact.result.failure)
            )
        case ExecutionStatus.FAILED if execution.failure is not fact.result.failure:
            return Decision(
                None,
                _discrepancy(
                    execution,
                    DiscrepancyKind.FAILURE_DIFFERS,
                    str(execution.failure),
                    str(fact.result.failure),
                ),
            )
        case ExecutionStatus.FAILED:
            return NO_NEWS
        case _:
            change = _settled(fact, ExecutionStatus.FAILED, fact.result.provider_ref)
            is_late = bool(execution.settled_minor)
            return Decision(change, _receipt(execution, fact.result.failure) if is_late else None)


def _pending(execution: PaymentExecution, fact: Fact) -> Decision:
    result = fact.result
    wrong = _wrong_currency(execution, result)
    if wrong is not None:
        uncounted = attrs.evolve(fact, result=attrs.evolve(result, reported=None))
        return Decision(_pending(execution, uncounted).change, wrong)
    match execution.status:
        case ExecutionStatus.COMPLETED:
            return NO_NEWS
        case ExecutionStatus.FAILED:
            is_late = result.reported is not None and result.reported.amount_minor > 0
            return Decision(None, _receipt(execution, execution.failure)) if is_late else NO_NEWS
        case _ if rank_of_fact(fact) > rank_of(execution):
            return Decision(_waiting(execution, fact))
        case _:
            return _learned(execution, fact)


def _learned(execution: PaymentExecution, fact: Fact) -> Decision:
    """Take from weaker news only what adds up in any order: a reference, and a larger receipt."""
    provider_ref = _reference(execution, fact)
    settled_minor = _larger(execution.settled_minor, fact.result.reported)
    if (provider_ref, settled_minor) == (execution.provider_ref, execution.settled_minor):
        return NO_NEWS
    return Decision(
        Change(
            status=execution.status,
            pending_reason=execution.pending_reason,
            cause=execution.cause,
            phase=execution.phase,
            progress=execution.progress,
            provider_ref=provider_ref,
            settled_minor=settled_minor,
            next_action=execution.next_action,
            expires_at=execution.expires_at,
            provider_response=execution.provider_response,
        )
    )


def _reference(execution: PaymentExecution, fact: Fact) -> str | None:
    known, said = execution.provider_ref, fact.result.provider_ref
    if fact.phase != execution.phase:
        return known if fact.phase < execution.phase else said
    return known or said if known is None or said is None else max(known, said)


def _larger(settled_minor: int | None, reported: Money | None) -> int | None:
    received = None if reported is None else reported.amount_minor
    return max((amount for amount in (settled_minor, received) if amount is not None), default=None)


def rank_of(execution: PaymentExecution) -> tuple[int, int, int, str]:
    """Return how much is known of an open execution; nothing at all while it is processing."""
    if execution.pending_reason is None:
        return (-1, -1, 0, "")
    return (
        execution.phase,
        REASON_RANK[execution.pending_reason],
        execution.progress,
        _content(execution.cause, execution.next_action, execution.expires_at),
    )


def rank_of_fact(fact: Fact) -> tuple[int, int, int, str]:
    """Return how much a pending fact claims to know."""
    result = fact.result
    assert result.pending_reason is not None, "only pending facts are ranked"  # noqa: S101 - narrows the type
    return (
        fact.phase,
        REASON_RANK[result.pending_reason],
        result.progress,
        _content(result.cause, result.next_action, result.expires_at),
    )


def _content(
    cause: PaymentFailureCode | None,
    action: NextAction | None,
    expires_at: datetime | None,
) -> str:
    shown = (
        None
        if action is None
        else [action.kind, action.url, action.reference, sorted(action.fields.items())]
    )
    expiry = "" if expires_at is None else f"{expires_at.timestamp():020.6f}"
    return json.dumps([expiry, shown, cause])


def _settled(fact: Fact, status: ExecutionStatus, provider_ref: str | None) -> Change:
    reported = fact.result.reported
    return Change(
        status=status,
        failure=fact.result.failure,
        phase=fact.phase,
        provider_ref=provider_ref,
        settled_minor=None if reported is None else reported.amount_minor,
        provider_response=fact.result.provider_response,
    )


def _waiting(execution: PaymentExecution, fact: Fact) -> Change:
    result = fact.result
    return Change(
        status=ExecutionStatus.PENDING,
        pending_reason=result.pending_reason,
        cause=result.cause,
        phase=fact.phase,
        progress=result.progress,
        provider_ref=_reference(execution, fact),
        settled_minor=_larger(execution.settled_minor, result.reported),
        next_action=result.next_action,
        expires_at=result.expires_at,
        provider_response=result.provider_response,
    )


def _doubt(execution: PaymentExecution, fact: Fact) -> Change | None:
    unknown = RailResult.unknown(
        PaymentFailureCode.INVALID_RESPONSE, provider_ref=fact.result.provider_ref
    )
    return _pending(execution, attrs.evolve(fact, result=unknown)).change


def _wrong_amount(execution: PaymentExecution, result: RailResult) -> Discrepancy | None:
    asked, reported = execution.money, result.reported
    if reported is None or reported == asked:
        return None
    same = reported.currency.code == asked.currency.code
    kind = DiscrepancyKind.AMOUNT_DIFFERS if same else DiscrepancyKind.CURRENCY_DIFFERS
    return _another_amount(execution, kind, result.provider_ref, reported)


def _wrong_currency(execution: PaymentExecution, result: RailResult) -> Discrepancy | None:
    asked, reported = execution.money, result.reported
    if reported is None or reported.currency == asked.currency:
        return None
    kind = DiscrepancyKind.CURRENCY_DIFFERS
    return _another_amount(execution, kind, result.provider_ref, reported)


def _receipt(execution: PaymentExecution, failure: PaymentFailureCode | None) -> Discrepancy:
    """Return that part of the money came although the execution failed, however much it was."""
    kind = DiscrepancyKind.SUCCESS_AFTER_FAILURE
    return _discrepancy(execution, kind, f"failed {failure}", "received a part")


def _second_success(execution: PaymentExecution, result: RailResult) -> Decision:
    if result.provider_ref == execution.provider_ref:
        return NO_NEWS
    return Decision(
        None,
        _discrepancy(
            execution,
            DiscrepancyKind.SECOND_REFERENCE,
            _called(execution.provider_ref),
            _called(result.provider_ref),
        ),
    )


def _late_success(
    execution: PaymentExecution, provider_ref: str | None, failure: PaymentFailureCode | None
) -> Discrepancy:
    found = _discrepancy(
        execution,
        DiscrepancyKind.SUCCESS_AFTER_FAILURE,
        f"failed {failure}",
        f"success {_called(provider_ref)}",
    )
    return attrs.evolve(found, provider_ref=provider_ref)


def _another_amount(
    execution: PaymentExecution, kind: DiscrepancyKind, provider_ref: str | None, reported: Money
) -> Discrepancy:
    said = f"reported {reported} as {_called(provider_ref)}"
    found = _discrepancy(execution, kind, f"asked {execution.money}", said)
    return attrs.evolve(found, provider_ref=provider_ref, reported=reported)


def _called(provider_ref: str | None) -> str:
    return "None" if provider_ref is None else kept_reference(provider_ref)


def _discrepancy(execution: PaymentExecution, kind: DiscrepancyKind, *claims: str) -> Discrepancy:
    sides = tuple(sorted(claims))
    name = hashlib.sha256(json.dumps([execution.tenant_id, kind, sides]).encode()).hexdigest()
    return Discrepancy(
        discrepancy_id=uuid5(execution.execution_id, name),
        execution_id=execution.execution_id,
        kind=kind,
        sides=sides,
    )
