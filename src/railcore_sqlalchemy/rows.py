"""
Values to rows and back.

Parameters are texts: the statements cast each of them, so that one prepared statement serves every
value, whatever the driver would have made of its type. What a context holds beside the columns
lives in the JSON of ``request``.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import attrs
import orjson

from railcore._ids import text_of
from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.errors import InvalidValueError, MoneyError
from railcore.events import EventDraft, EventType, JournalEvent
from railcore.execution import Lease, PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import Discrepancy, DiscrepancyKind
from railcore.money import Currency, Money
from railcore.protocol import Claim, Due, Recording, Resolving
from railcore.redaction import kept_reference, true_reference
from railcore.results import NextAction, NextActionKind
from railcore.review import (
    NotedDiscrepancy,
    Orphan,
    Remedy,
    Resolved,
    adopting_id,
    adopting_key,
    disputed_minor,
)

__all__ = [
    "Parameters",
    "Row",
    "claim_parameters",
    "claimed",
    "due_parameters",
    "event_of",
    "execution_of",
    "instant",
    "items",
    "kept",
    "note_parameters",
    "noted_of",
    "orphan_parameters",
    "payment_of",
    "record_parameters",
    "recorded",
    "resolve_parameters",
    "seconds",
    "sent",
]

Row = Mapping[str, Any]
"""One row by column name; the driver knows the types."""

Parameters = dict[str, str | None]
"""What a statement is given, by name, in the spelling that PostgreSQL reads."""

_STRICT: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
"""For what orjson refuses or would change: integers of over 64 bits, NaN."""

_PLAIN_ONLY: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_NESTED: Final = ("payload", "request", "next_action", "provider_response")
"""The parameters that are JSON; ``payload`` is never missing."""

_NO_LEASE: Final = Lease(None, 0, None)
_PLAIN: Final = ("payer_token", "instrument_token", "contract_id", "return_url", "correlation_id")
_BOOLEAN: Final = {False: "false", True: "true"}


def claim_parameters(claim: Claim) -> Parameters:
    """
    Return what the claim statements are given.

    Raises:
        InvalidValueError: The event's payload is not JSON-like.
    """
    execution, event = claim.execution, claim.event
    context = execution.context
    parent = context.parent_execution_id
    return {
        "tenant_id": context.tenant_id,
        "execution_id": text_of(execution.execution_id),
        "payment_id": context.payment_id,
        "operation": context.operation,
        "amount_minor": str(context.money.amount_minor),
        "currency": context.money.currency.code,
        "due_minor": str(context.due_minor),
        "idempotency_key": context.idempotency_key,
        "fingerprint": f"\\x{context.fingerprint.hex()}",
        "provider_key": context.provider_key,
        "rail": execution.rail,
        "provider": execution.provider,
        "account": execution.account,
        "mode": execution.mode,
        "payment_option_key": context.payment_option_key,
        "parent_execution_id": None if parent is None else str(parent),
        "request": _json("request", _request(execution)),
        "lease_owner": claim.owner,
        "lease_s": seconds(claim.lease_s),
        "sent": _BOOLEAN[claim.is_sent],
        "check_after_s": seconds(claim.check_after_s),
        "head_seq": _number(claim.head_seq),
        "settles_minor": "0",
        **_event(event),
    }


def record_parameters(recording: Recording) -> Parameters:
    """
    Return what the record statements are given.

    Raises:
        InvalidValueError: The event's payload or the provider's response is not JSON-like.
    """
    before, after = recording.before, recording.after
    response = after.provider_response
    return {
        "tenant_id": before.tenant_id,
        "execution_id": text_of(before.execution_id),
        "payment_id": before.payment_id,
        "version": str(before.version),
        "from_status": before.status,
        "to_status": after.status,
        "pending_reason": after.pending_reason,
        "failure_code": after.failure,
        "cause_code": after.cause,
        "phase": str(after.phase),
        "progress": str(after.progress),
        "provider_ref": kept(after.provider_ref),
        "settled_minor": _number(after.settled_minor),
        "next_action": _shown(after.next_action),
        "expires_at": None if after.expires_at is None else after.expires_at.isoformat(),
        "provider_response": _json("provider_response", response) if response else None,
        "token": str(before.lease.token),
        "fenced": _BOOLEAN[recording.is_fenced],
        "next_check_s": None if recording.next_check_s is None else seconds(recording.next_check_s),
        **_event(recording.event),
    }


def note_parameters(
    execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft
) -> Parameters:
    """Return what the statement that notes a contradiction is given."""
    return {
        "tenant_id": execution.tenant_id,
        "payment_id": execution.payment_id,
        "execution_id": text_of(execution.execution_id),
        "discrepancy_id": str(discrepancy.discrepancy_id),
        "kind": discrepancy.kind,
        "detail": _json("sides", _detail(discrepancy)),
        "disputed_minor": str(disputed_minor(execution, discrepancy)),
        **_event(event),
    }


def orphan_parameters(orphan: Orphan, event: EventDraft) -> Parameters:
    """Return what the statement that keeps an orphan is given."""
    found = orphan.discrepancy
    place = {"account": orphan.account, "mode": orphan.mode}
    route = {"rail": orphan.rail, "provider": orphan.provider, **place}
    return {
        "tenant_id": orphan.tenant_id,
        "payment_id": orphan.payment_id,
        "currency": orphan.money.currency.code,
        "amount_minor": str(orphan.money.amount_minor),
        "adopting_id": str(found.execution_id),
        "adopting_key": adopting_key(found.discrepancy_id),
        "rail": orphan.rail,
        "provider": orphan.provider,
        "discrepancy_id": str(found.discrepancy_id),
        "kind": found.kind,
        "detail": _json("detail", {**_detail(found), "orphan": route}),
        **_event(event),
    }


def resolve_parameters(resolving: Resolving, settled_minor: int) -> Parameters:
    """Return what the statement that ends a discrepancy is given."""
    execution_id = resolving.execution_id
    return {
        "tenant_id": resolving.noted.tenant_id,
        "discrepancy_id": str(resolving.noted.discrepancy_id),
        "actor": resolving.actor,
        "evidence": resolving.evidence,
        "resolution": resolving.remedy,
        "settled_minor": str(settled_minor),
        "resolving_execution_id": None if execution_id is None else str(execution_id),
        **_event(resolving.event),
    }


def noted_of(row: Row) -> NotedDiscrepancy:
    """Return the discrepancy in a row of ``railcore_discrepancy``."""
    detail, discrepancy_id = row["detail"], row["discrepancy_id"]
    found = Discrepancy(
        discrepancy_id=discrepancy_id,
        execution_id=row["execution_id"] or adopting_id(discrepancy_id),
        kind=DiscrepancyKind(row["kind"]),
        sides=tuple(detail["sides"]),
        provider_ref=_true(detail.get("provider_ref")),
        reported=_money_of(detail.get("reported")),
        evidence=detail.get("evidence"),
    )
    return NotedDiscrepancy(
        tenant_id=row["tenant_id"],
        payment_id=row["payment_id"],
        discrepancy=found,
        opened_at=instant(row["opened_at"]),
        disputed_minor=row["disputed_minor"],
        orphan=_orphan_of(row["tenant_id"], found, detail.get("orphan")),
        resolved=None if row["resolved_at"] is None else _resolved_of(row),
    )


def _detail(discrepancy: Discrepancy) -> dict[str, object]:
    """Return what has no column of its own; absent members are None."""
    detail: dict[str, object] = {"sides": list(discrepancy.sides)}
    if discrepancy.provider_ref is not None:
        detail["provider_ref"] = kept(discrepancy.provider_ref)
    if discrepancy.evidence is not None:
        detail["evidence"] = discrepancy.evidence
    if discrepancy.reported is not None:
        money = discrepancy.reported
        exponent = money.currency.exponent
        detail["reported"] = [money.amount_minor, money.currency.code, exponent]
    return detail


def _money_of(told: Sequence[Any] | None) -> Money | None:
    return None if told is None else Money(told[0], Currency(told[1], told[2]))


def _orphan_of(
    tenant_id: str, found: Discrepancy, route: Mapping[str, Any] | None
) -> Orphan | None:
    if route is None or found.reported is None or found.provider_ref is None:
        return None
    return Orphan(
        tenant_id=tenant_id,
        rail=PaymentRail(route["rail"]),
        provider=route["provider"],
        account=route["account"],
        mode=RouteMode(route["mode"]),
        provider_ref=found.provider_ref,
        money=found.reported,
    )


def _resolved_of(row: Row) -> Resolved:
    return Resolved(
        remedy=Remedy(row["resolution"]),
        actor=row["resolved_by"],
        evidence=row["evidence"],
        at=instant(row["resolved_at"]),
        execution_id=row["resolving_execution_id"],
    )


def due_parameters(due: Due) -> Parameters:
    """Return what the statement that takes due executions is given."""
    accounts = [
        {"rail": rail, "provider": provider, "account": account, "most": most}
        for (rail, provider, account), most in due.most.items()
    ]
    most_each = due.limit if due.most_each is None else due.most_each
    return {
        "lease_owner": due.owner,
        "lease_s": seconds(due.lease_s),
        "limit": str(due.limit),
        "unsent": None if due.is_unsent is None else _BOOLEAN[due.is_unsent],
        "accounts": _json("most", accounts),
        "most_each": str(most_each),
    }


def items(requests: Sequence[Parameters]) -> str:
    """
    Return what a set-based statement is given: a JSON array, each member with its ``ord``.

    What is JSON already is nested as it is: to escape it again would cost both sides dearly.
    """
    return orjson.dumps([_item(ord_, one) for ord_, one in enumerate(requests)]).decode()


def claimed(claim: Claim, at: datetime) -> PaymentExecution:
    """Return the execution as a claim stored it when the database's clock showed *at*."""
    execution, now = claim.execution, instant(at)
    sent_at = now if claim.is_sent else None
    return execution.changed(
        lease=Lease(claim.owner, 1, now + _span(claim.lease_s)) if claim.is_sent else _NO_LEASE,
        send_count=int(claim.is_sent),
        first_sent_at=sent_at,
        last_sent_at=sent_at,
        next_check_at=now + _span(claim.check_after_s),
        created_at=now,
        updated_at=now,
    )


def recorded(recording: Recording, at: datetime) -> PaymentExecution:
    """Return the execution as the lease's holder stored it at the database's *at*."""
    now, check_s = instant(at), recording.next_check_s
    return recording.after.changed(
        lease=Lease(None, recording.before.lease.token, None),
        next_check_at=None if check_s is None else now + _span(check_s),
        updated_at=now,
    )


def sent(execution: PaymentExecution, row: Row, lease_s: float) -> PaymentExecution:
    """Return *execution* after its send mark, as ``mark_sent.sql`` answered in *row*."""
    now = instant(row["at"])
    until = now + _span(lease_s)
    return execution.changed(
        lease=attrs.evolve(execution.lease, until=until),
        send_count=row["send_count"],
        first_sent_at=_utc(row["first_sent_at"]),
        last_sent_at=now,
        next_check_at=max(execution.next_check_at or until, until),
        updated_at=now,
    )


def execution_of(row: Row) -> PaymentExecution:
    """Return the execution in a row of ``railcore_execution``."""
    return PaymentExecution(
        execution_id=row["execution_id"],
        context=_context_of(row),
        rail=PaymentRail(row["rail"]),
        provider=row["provider"],
        account=row["account"],
        mode=RouteMode(row["mode"]),
        parent_ref=_true(row["request"].get("parent_ref")),
        send_before=_send_before_of(row["request"]),
        status=ExecutionStatus(row["status"]),
        pending_reason=_member(PendingReason, row["pending_reason"]),
        failure=_member(PaymentFailureCode, row["failure_code"]),
        cause=_member(PaymentFailureCode, row["cause_code"]),
        version=row["version"],
        phase=row["phase"],
        progress=row["progress"],
        provider_ref=_true(row["provider_ref"]),
        settled_minor=row["settled_minor"],
        next_action=_next_action_of(row["next_action"]),
        expires_at=_utc(row["expires_at"]),
        provider_response=row["provider_response"] or {},
        lease=Lease(row["lease_owner"], row["lease_token"], _utc(row["lease_until"])),
        send_count=row["send_count"],
        refused_count=row["refused_count"],
        first_sent_at=_utc(row["first_sent_at"]),
        last_sent_at=_utc(row["last_sent_at"]),
        next_check_at=_utc(row["next_check_at"]),
        check_count=row["check_count"],
        created_at=_utc(row["created_at"]),
        updated_at=_utc(row["updated_at"]),
    )


def payment_of(row: Row) -> PaymentView:
    """Return the payment in a row of ``railcore_payment``."""
    return PaymentView(
        tenant_id=row["tenant_id"],
        payment_id=row["payment_id"],
        currency=_currency(row["currency"], None),
        seq=row["seq"],
        due_minor=row["due_minor"],
        charging_minor=row["charging"],
        authorized_minor=row["authorized"],
        capturing_minor=row["capturing"],
        captured_minor=row["captured"],
        voiding_minor=row["voiding"],
        voided_minor=row["voided"],
        refunding_minor=row["refunding"],
        refunded_minor=row["refunded"],
        disputed_minor=row["disputed"],
    )


def event_of(row: Row) -> JournalEvent:
    """Return the event in a row of ``railcore_event``."""
    return JournalEvent(
        tenant_id=row["tenant_id"],
        payment_id=row["aggregateid"],
        seq=row["seq"],
        event_id=row["id"],
        type=EventType(row["type"]),
        execution_id=row["execution_id"],
        version=row["version"],
        from_status=row["from_status"],
        to_status=row["to_status"],
        payment_rail=row["payment_rail"],
        payment_provider=row["payment_provider"],
        idempotency_key=row["idempotency_key"],
        payload=row["payload"],
        occurred_at=_utc(row["occurred_at"]),
    )


def _request(execution: PaymentExecution) -> dict[str, object]:
    """Return what has no column of its own; absent members are None, empty or False."""
    request: dict[str, object] = {}
    context = execution.context
    if execution.parent_ref is not None:
        request["parent_ref"] = kept(execution.parent_ref)
    if execution.send_before is not None:
        request["send_before"] = execution.send_before.isoformat()
    for name in _PLAIN:
        value = getattr(context, name)
        if value is not None:
            request[name] = value
    if context.due is not None:
        request["due_minor"] = context.due.amount_minor
    if context.metadata:
        request["metadata"] = dict(context.metadata)
    if context.merchant_initiated:
        request["merchant_initiated"] = True
    if not _is_iso(context.money.currency):
        request["exponent"] = context.money.currency.exponent
    return request


def _context_of(row: Row) -> PaymentContext:
    request: Mapping[str, Any] = row["request"]
    currency = _currency(row["currency"], request.get("exponent"))
    due_minor = request.get("due_minor")
    return PaymentContext(
        tenant_id=row["tenant_id"],
        payment_id=row["payment_id"],
        idempotency_key=row["idempotency_key"],
        money=Money(row["amount_minor"], currency),
        payment_option_key=row["payment_option_key"],
        operation=Operation(row["operation"]),
        parent_execution_id=row["parent_execution_id"],
        due=None if due_minor is None else Money(due_minor, currency),
        metadata=request.get("metadata", {}),
        merchant_initiated=request.get("merchant_initiated", False),
        **{name: request.get(name) for name in _PLAIN},
    )


def _send_before_of(request: Mapping[str, Any]) -> datetime | None:
    said = request.get("send_before")
    return None if said is None else datetime.fromisoformat(said)


def _event(event: EventDraft) -> Parameters:
    return {
        "event_id": text_of(event.event_id),
        "event_type": event.type,
        "payload": _json("event.payload", event.payload),
        "bucket": str(event.bucket),
    }


def _shown(action: NextAction | None) -> str | None:
    if action is None:
        return None
    told = {"kind": action.kind, "url": action.url, "reference": action.reference}
    return _json("next_action", {**told, "fields": dict(action.fields)})


def _next_action_of(shown: Mapping[str, Any] | None) -> NextAction | None:
    if shown is None:
        return None
    return NextAction(
        kind=NextActionKind(shown["kind"]),
        url=shown["url"],
        reference=shown["reference"],
        fields=shown["fields"],
    )


def _item(ord_: int, parameters: Parameters) -> dict[str, object]:
    item: dict[str, object] = {"ord": ord_, **parameters}
    for name in _NESTED:
        text = parameters.get(name)
        if text is not None:
            item[name] = orjson.Fragment(text)
    fingerprint = parameters.get("fingerprint")
    if fingerprint is not None:
        item["fingerprint"] = fingerprint[2:]
    return item


def _json(field: str, value: object) -> str:
    with suppress(orjson.JSONEncodeError):
        text = orjson.dumps(value, option=_PLAIN_ONLY)
        if b"null" not in text:  # which orjson also makes of NaN
            return text.decode()
    try:
        return _STRICT.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(field, "a JSON-like mapping", str(error)) from error


def _is_iso(currency: Currency) -> bool:
    try:
        return Currency.of(currency.code) == currency
    except MoneyError:
        return False


def _currency(code: str, exponent: int | None) -> Currency:
    return Currency.of(code) if exponent is None else Currency(code, exponent)


def _member(kind: Any, value: str | None) -> Any:
    return None if value is None else kind(value)


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def kept(reference: str | None) -> str | None:
    """Return a provider's reference as it is stored: never with digits like a card's."""
    return None if reference is None else kept_reference(reference)


def _true(reference: str | None) -> str | None:
    return None if reference is None else true_reference(reference)


@lru_cache(maxsize=256)
def seconds(duration_s: float) -> str:
    """Return a duration to the microsecond, which is as fine as the database goes."""
    return str(round(float(duration_s), 6))


@lru_cache(maxsize=256)
def _span(duration_s: float) -> timedelta:
    return timedelta(seconds=round(float(duration_s), 6))


def instant(at: datetime) -> datetime:
    """Return an instant of the database in UTC, whatever time zone the session shows."""
    return at.astimezone(UTC)


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)
