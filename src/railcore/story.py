"""
The story of one payment, told from the journal to somebody who has to explain it.

What was asked, why it went where it went, with which key it was sent, what is known from whom, what
is in doubt, and what happens next and when. It says nothing that could be a card number or a
secret: tokens, metadata and providers' answers are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import attrs

from railcore.enums import ExecutionStatus, Idempotency, Lookup, Operation, PendingReason
from railcore.events import EventType, JournalEvent
from railcore.execution import PaymentExecution, PaymentView
from railcore.failures import Advice, PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind, FactSource
from railcore.money import Money
from railcore.redaction import kept_reference, masked, masked_reference
from railcore.review import NotedDiscrepancy, Remedy
from railcore.routing import RouteCapabilities


@attrs.frozen
class Chapter:
    """A title and the sentences under it."""

    title: str
    sentences: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Story:
    """
    One payment explained.

    Attributes:
        headline: How it stands, in one sentence.
        chapters: The story, in order; a chapter without a sentence is left out.
        facts: The same for programs: JSON-like; instants in ISO 8601.
    """

    execution_id: UUID
    headline: str
    chapters: tuple[Chapter, ...]
    facts: Mapping[str, object] = attrs.field(hash=False)

    def text(self) -> str:
        """Return it to be read."""
        lines = [self.headline]
        for chapter in self.chapters:
            lines += ["", chapter.title, *(f"  {sentence}" for sentence in chapter.sentences)]
        return "\n".join(lines)

    def json(self) -> dict[str, object]:
        """Return it for programs, and the sentences too."""
        told = {chapter.title: list(chapter.sentences) for chapter in self.chapters}
        return {**self.facts, "headline": self.headline, "story": told}


@attrs.frozen(kw_only=True)
class Sources:
    """
    What a story is told from.

    Attributes:
        events: All of the payment, in order.
        discrepancies: All of the payment.
        can: What the rail declares; None when nothing is registered for it any more.
        at: Now.
    """

    execution: PaymentExecution
    events: Sequence[JournalEvent]
    payment: PaymentView | None
    discrepancies: Sequence[NotedDiscrepancy]
    can: RouteCapabilities | None
    at: datetime


def tell(sources: Sources) -> Story:
    """Return the story of one execution."""
    execution = sources.execution
    chapters = (
        Chapter("What was asked", tuple(_asked(execution))),
        Chapter("Why this route", tuple(_route(sources))),
        Chapter("What was sent", tuple(_sent(execution))),
        Chapter("What is known, and from whom", tuple(_known(sources))),
        Chapter("What is in doubt", tuple(_doubt(execution))),
        Chapter("What happens next", tuple(_next(sources))),
        Chapter("What contradicts it", tuple(_contradictions(sources))),
        Chapter("The whole payment", tuple(_sums(sources.payment))),
    )
    return Story(
        execution_id=execution.execution_id,
        headline=_headline(sources),
        chapters=tuple(one for one in chapters if one.sentences),
        facts=_facts(sources),
    )


def _headline(sources: Sources) -> str:
    execution = sources.execution
    if any(one.is_open and one.discrepancy.kind.needs_review for one in _noted(sources)):
        return f"{_stands(execution)} But other news contradicts this, and a person has to look."
    is_failed = execution.status is ExecutionStatus.FAILED
    return f"{_stands(execution)} No money moved." if is_failed else _stands(execution)


def _stands(execution: PaymentExecution) -> str:
    what = f"The {execution.operation} of {execution.money} for {masked(execution.payment_id)}"
    match execution.status:
        case ExecutionStatus.COMPLETED:
            return f"{what} is completed."
        case ExecutionStatus.FAILED:
            return f"{what} has failed: {_words(execution.failure)}."
        case ExecutionStatus.PROCESSING:
            how = "is waiting to be sent" if execution.is_unsent else "is under way"
            return f"{what} {how}."
        case ExecutionStatus.PENDING:
            return f"{what} is open: {_WAITS[_reason(execution)]}."


def _reason(execution: PaymentExecution) -> PendingReason:
    return execution.pending_reason or PendingReason.OUTCOME_UNKNOWN


def _asked(execution: PaymentExecution) -> Iterator[str]:
    context = execution.context
    when = "" if execution.created_at is None else f" on {_at(execution.created_at)}"
    yield (
        f"Tenant {context.tenant_id} asked{when} for a {context.operation} of {context.money} "
        f"towards payment {masked(context.payment_id)}."
    )
    yield f"The request has the key {masked(context.idempotency_key)}."
    if context.parent_execution_id is not None:
        yield f"It acts on execution {context.parent_execution_id}."
    if context.due is not None:
        yield f"The whole debt is {context.due}."
    if context.merchant_initiated:
        yield "The payer was not present and had agreed beforehand."
    if context.correlation_id is not None:
        yield f"The caller's own name for it is {masked(context.correlation_id)}."


def _route(sources: Sources) -> Iterator[str]:
    execution = sources.execution
    yield (
        f"It goes by {_words(execution.rail)} to {execution.provider}, account "
        f"{execution.account}, where money is {'real' if execution.mode == 'live' else 'play'}."
    )
    for step in _trace(sources):
        yield f"Looked at: {masked(step)}."


def _trace(sources: Sources) -> Sequence[str]:
    for event in _own(sources):
        if event.type is EventType.STARTED:
            route: Any = event.payload.get("route", ())
            return [str(step) for step in route]
    return ()


def _own(sources: Sources) -> Iterator[JournalEvent]:
    execution_id = sources.execution.execution_id
    return (one for one in sources.events if one.execution_id == execution_id)


def _sent(execution: PaymentExecution) -> Iterator[str]:
    if not execution.tries:
        yield (
            "Nothing was sent, which is certain."
            if execution.is_open or execution.status is ExecutionStatus.FAILED
            else "Nothing was sent: the money was at the provider already."
        )
        return
    first, last = execution.first_sent_at, execution.last_sent_at
    times = "once" if execution.tries == 1 else f"{execution.tries} times"
    span = "" if first is None else f", on {_at(first)}"
    if first is not None and last is not None and last != first:
        span = f", first on {_at(first)} and last on {_at(last)}"
    yield f"It was marked as sent {times}{span}."
    same = "" if execution.tries == 1 else ", every time the same one"
    yield f"The provider sees the key {execution.provider_key}{same}."


def _known(sources: Sources) -> Iterator[str]:
    for event in _own(sources):
        if event.version is not None:
            when = "" if event.occurred_at is None else f"{_at(event.occurred_at)}: "
            yield f"{when}{_news(event.payload)}"
    reference = sources.execution.provider_ref
    if reference is not None:
        yield f"The provider calls it {kept_reference(reference)}."
    settled, asked = sources.execution.settled_minor, sources.execution.money
    if settled is not None and settled != asked.amount_minor:
        came = Money(settled, asked.currency)
        yield f"Of {asked} the provider tells of {came} so far."


def _news(payload: Mapping[str, Any]) -> str:
    told = _STATUS_WORDS[ExecutionStatus(payload["status"])]
    reason, failure = payload.get("pending_reason"), payload.get("failure_code")
    if reason is not None:
        told = f"{told}: {_WAITS[PendingReason(reason)]}"
    if failure is not None:
        told = f"{told}: {_words(failure)}"
    cause = payload.get("cause_code")
    if cause is not None:
        told = f"{told} ({_words(cause)})"
    source = payload.get("source")
    if source is None:
        return f"{told}."
    whom = _SOURCES[FactSource(source)]
    if payload.get("actor") is not None:
        whom = f"from {masked(str(payload['actor']))}, an operator"
    if payload.get("evidence") is not None:
        whom = f"{whom}, on the evidence {masked(str(payload['evidence']))}"
    return f"{told}, {whom}."


def _doubt(execution: PaymentExecution) -> Iterator[str]:
    if not execution.is_open or execution.is_unsent:
        return
    if execution.status is ExecutionStatus.PROCESSING:
        yield "The request may have left, and its answer is not recorded yet."
    elif execution.pending_reason is PendingReason.OUTCOME_UNKNOWN:
        cause = execution.cause
        why = "no definite answer is known" if cause is None else _CAUSES.get(cause, _words(cause))
        yield f"Money may have moved: {why}."
    else:
        return
    yield "It counts against the payment's limits until it is settled. No clock makes it a failure."


def _next(sources: Sources) -> Iterator[str]:
    execution = sources.execution
    if not execution.is_open:
        yield from _after_the_end(sources)
        return
    yield from _waits_for(execution)
    yield from _checks(execution, sources.at)
    if execution.is_in_doubt and not execution.is_unsent:
        yield from _rules(execution, sources.can, sources.at)


def _after_the_end(sources: Sources) -> Iterator[str]:
    execution = sources.execution
    yield "This execution never changes again; later news that differs is noted for review."
    disputes = (one for one in sources.discrepancies if one.is_in_dispute)
    if execution.failure is not None and execution.execution_id in {
        one.execution_id for one in disputes
    }:
        yield "Money may have moved all the same: resolve that first, and try again only then."
    elif execution.failure is not None:
        yield _ADVICE[execution.failure.advice]
    elif execution.operation in {Operation.CHARGE, Operation.CAPTURE}:
        payment = sources.payment
        if payment is not None and payment.refundable_minor > 0:
            left = Money(payment.refundable_minor, payment.currency)
            yield f"Up to {left} of the payment can still be refunded."


def _waits_for(execution: PaymentExecution) -> Iterator[str]:
    match execution.pending_reason:
        case PendingReason.CUSTOMER_ACTION:
            yield "The payer has to act: they are to be sent where the provider wants them."
        case PendingReason.AWAITING_FUNDS:
            action = execution.next_action
            quoted = "" if action is None or action.reference is None else action.reference
            yield (
                f"The payer has to transfer the money and quote {masked_reference(quoted)}."
                if quoted
                else "The payer has to transfer the money."
            )
        case PendingReason.PROVIDER_PROCESSING:
            yield "The provider has it and will decide."
        case PendingReason.MANUAL_REVIEW:
            yield "A person has to confirm or reject it."
        case _:
            pass
    if execution.expires_at is not None:
        yield f"After {_at(execution.expires_at)} it is asked about; that alone ends nothing."
    if execution.is_unsent:
        yield "A worker will send it."
        if execution.send_before is not None:
            yield f"It is not sent after {_at(execution.send_before)}."


def _checks(execution: PaymentExecution, at: datetime) -> Iterator[str]:
    due = execution.next_check_at
    if due is None:
        return
    if execution.lease.until is not None and execution.lease.until > at:
        yield f"{execution.lease.owner} is at it, until {_at(execution.lease.until)} at the latest."
    times = "once" if execution.check_count == 1 else f"{execution.check_count} times"
    before = "" if not execution.check_count else f" It was looked at {times} before."
    if due > at:
        yield f"It is looked at next on {_at(due)}.{before}"
    else:
        yield f"It has been due since {_at(due)}: the next worker takes it.{before}"


def _rules(
    execution: PaymentExecution, can: RouteCapabilities | None, at: datetime
) -> Iterator[str]:
    if can is None:
        yield "Nothing is registered for its provider any more, so nobody can ask or send again."
        return
    if can.lookup is Lookup.NONE:
        yield "The provider cannot be asked, so only its own news or a person can settle it."
    yield _resend(execution, can, at)
    proven_at = _proven_at(execution, can)
    if proven_at is None:
        yield "If the provider finds nothing, that proves nothing."
    elif proven_at > at:
        yield f"If the provider finds nothing, that proves something only after {_at(proven_at)}."
    else:
        yield "If the provider finds nothing now, that proves that nothing happened."


def _resend(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> str:
    if can.idempotency is Idempotency.NONE:
        return "It is never sent again: the provider would not notice that it is the same request."
    until = _resend_until(execution, can)
    if until is None:
        return (
            "It is sent again only after a look-up has found nothing, with the same key: "
            "the provider would notice the repetition."
        )
    if until <= at:
        return f"It is not sent again: the provider may have forgotten the key since {_at(until)}."
    return (
        "It is sent again only after a look-up has found nothing, with the same key, "
        f"and not after {_at(until)}, when the provider may forget the key."
    )


def _resend_until(execution: PaymentExecution, can: RouteCapabilities) -> datetime | None:
    """Return when rule R3 begins to forbid a resend; None for never."""
    timing = can.timing
    if timing.key_window_s is None or execution.first_sent_at is None:
        return None
    settled_s = timing.send_deadline_s + timing.latest_arrival_s
    return execution.first_sent_at + timedelta(seconds=timing.key_window_s - settled_s)


def _proven_at(execution: PaymentExecution, can: RouteCapabilities) -> datetime | None:
    """Return from when on rule R4 lets "not found" prove something; None for never."""
    last = execution.last_sent_at
    if last is None or not can.lookup_is_authoritative or execution.provider_ref is not None:
        return None
    return last + timedelta(seconds=can.timing.silence_proves_after_s)


def _contradictions(sources: Sources) -> Iterator[str]:
    for noted in _noted(sources):
        one, other = masked(noted.discrepancy.sides[0]), masked(noted.discrepancy.sides[-1])
        yield (
            f"{_at(noted.opened_at)}: {KIND_WORDS[noted.discrepancy.kind]}: "
            f'"{one}" against "{other}" (discrepancy {noted.discrepancy_id}).'
        )
        done = noted.resolved
        if done is None:
            yield "A named person has to resolve it."
        else:
            made = "" if done.execution_id is None else f": execution {done.execution_id}"
            yield (
                f"Resolved on {_at(done.at)} by {masked(done.actor)}, on the evidence "
                f"{masked(done.evidence)}: {_REMEDIES[done.remedy]}{made}."
            )


def _noted(sources: Sources) -> Iterator[NotedDiscrepancy]:
    execution_id = sources.execution.execution_id
    for noted in sources.discrepancies:
        done = noted.resolved
        is_its_end = done is not None and done.execution_id == execution_id
        if is_its_end or noted.discrepancy.execution_id == execution_id:
            yield noted


def _sums(payment: PaymentView | None) -> Iterator[str]:
    if payment is None:
        return
    sums = {
        "is due": payment.due_minor,
        "is being collected": payment.charging_minor,
        "is collected": payment.captured_minor,
        "may have come all the same": payment.disputed_minor,
        "is being refunded": payment.refunding_minor,
        "is refunded": payment.refunded_minor,
    }
    told = [f"{Money(sum_, payment.currency)} {what}" for what, sum_ in sums.items() if sum_]
    yield f"{', '.join(told)}." if told else "Nothing is due."


def _facts(sources: Sources) -> dict[str, object]:
    execution, can = sources.execution, sources.can
    context, reference = execution.context, execution.provider_ref
    in_doubt = can is not None and execution.is_in_doubt and not execution.is_unsent
    return {
        "tenant_id": context.tenant_id,
        "execution_id": str(execution.execution_id),
        "payment_id": masked(context.payment_id),
        "operation": context.operation.value,
        "amount": str(context.money),
        "idempotency_key": masked(context.idempotency_key),
        "provider_key": execution.provider_key,
        "rail": execution.rail.value,
        "provider": execution.provider,
        "account": execution.account,
        "mode": execution.mode.value,
        "route": [masked(step) for step in _trace(sources)],
        "status": execution.status.value,
        "pending_reason": execution.pending_reason,
        "failure_code": execution.failure,
        "provider_ref": None if reference is None else kept_reference(reference),
        "sent": execution.tries,
        "first_sent_at": _iso(execution.first_sent_at),
        "last_sent_at": _iso(execution.last_sent_at),
        "is_in_doubt": execution.is_in_doubt and not execution.is_unsent,
        "next_check_at": _iso(execution.next_check_at),
        "expires_at": _iso(execution.expires_at),
        "resend": _resend_facts(execution, can, sources.at) if can and in_doubt else None,
        "absence_proves_at": _iso(_proven_at(execution, can)) if can and in_doubt else None,
        "discrepancies": [
            {
                "discrepancy_id": str(noted.discrepancy_id),
                "kind": noted.discrepancy.kind.value,
                "sides": [masked(side) for side in noted.discrepancy.sides],
                "resolution": None if noted.resolved is None else noted.resolved.remedy.value,
                "resolved_by": None if noted.resolved is None else masked(noted.resolved.actor),
            }
            for noted in _noted(sources)
        ],
    }


def _resend_facts(
    execution: PaymentExecution, can: RouteCapabilities, at: datetime
) -> dict[str, object]:
    until = _resend_until(execution, can)
    is_allowed = can.idempotency is not Idempotency.NONE and (until is None or until > at)
    return {"is_allowed": is_allowed, "until": _iso(until) if is_allowed else None}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _words(value: object) -> str:
    return str(value).replace("_", " ")


KIND_WORDS: Final[Mapping[DiscrepancyKind, str]] = {
    DiscrepancyKind.SUCCESS_AFTER_FAILURE: "one says that it failed, the other that money came",
    DiscrepancyKind.SECOND_REFERENCE: "the provider has charged twice",
    DiscrepancyKind.AMOUNT_DIFFERS: "another amount than asked",
    DiscrepancyKind.CURRENCY_DIFFERS: "another currency than asked",
    DiscrepancyKind.FAILURE_DIFFERS: "another reason for the failure",
    DiscrepancyKind.ORPHAN_CHARGE: "a charge that nobody here asked for",
    DiscrepancyKind.REFUND_FAILED: "what was to be given back was not",
    DiscrepancyKind.MISSING_AT_PROVIDER: "a charge of ours that the provider's statement lacks",
}
"""What a kind of discrepancy means, for people."""

_WAITS: Final[Mapping[PendingReason, str]] = {
    PendingReason.OUTCOME_UNKNOWN: "nobody knows yet whether money moved",
    PendingReason.CUSTOMER_ACTION: "it waits for the payer",
    PendingReason.AWAITING_FUNDS: "it waits for the payer's transfer",
    PendingReason.PROVIDER_PROCESSING: "the provider is working on it",
    PendingReason.MANUAL_REVIEW: "it waits for a person",
}
_STATUS_WORDS: Final[Mapping[ExecutionStatus, str]] = {
    ExecutionStatus.PROCESSING: "It was written down before anything was sent",
    ExecutionStatus.PENDING: "Open",
    ExecutionStatus.COMPLETED: "Completed",
    ExecutionStatus.FAILED: "Failed",
}
_SOURCES: Final[Mapping[FactSource, str]] = {
    FactSource.CALL: "from the provider's answer to the request",
    FactSource.LOOKUP: "from asking the provider",
    FactSource.WEBHOOK: "from the provider's own news (a webhook)",
    FactSource.OPERATOR: "from an operator",
    FactSource.KERNEL: "which is our own conclusion",
}
_CAUSES: Final[Mapping[PaymentFailureCode, str]] = {
    PaymentFailureCode.PROVIDER_TIMEOUT: "the provider's answer never came",
    PaymentFailureCode.INVALID_RESPONSE: "the provider's answer could not be read, or tells of "
    "another amount",
    PaymentFailureCode.INTERNAL_ERROR: "something broke here while the request was under way",
}
_ADVICE: Final[Mapping[Advice, str]] = {
    Advice.RETRY_LATER: "It may be tried again later, under a new key.",
    Advice.LOOK_UP: "Look it up before anything else.",
    Advice.USE_ANOTHER_INSTRUMENT: "It may be tried with another instrument, under a new key.",
    Advice.FIX_CONFIGURATION: "Correct the configuration, and try again under a new key.",
    Advice.INVESTIGATE: "Find out what broke here, and try again under a new key.",
}
_REMEDIES: Final[Mapping[Remedy, str]] = {
    Remedy.ACCEPTED: "nothing is to be done",
    Remedy.ADOPT: "the money is booked",
    Remedy.REFUND: "the money is given back",
}
