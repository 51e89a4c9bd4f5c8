"""
The sandbox's wire: requests built, answers read.

Reading is total: any status and any bytes give a ``RailResult``. An answer counts only when it is a
charge or a payment that carries our reference; a refusal only when status and code are both known
to mean that nothing was done. All else is unknown, "duplicate transaction" included: it usually
means that the first try worked.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import quote

import attrs

from railcore.enums import Operation, PendingReason
from railcore.errors import InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.http import HttpRequest, HttpResponse, instant, retry_after_s
from railcore.money import Currency, Money
from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
from railcore.routing import TimingBounds
from railcore_adapters.stub.codes import DECLINES, REFUSALS

Item = Mapping[str, object]
"""A charge or a payment as the sandbox shows it."""

_CARD_PATHS: Final[Mapping[Operation, str]] = {
    Operation.CHARGE: "/psp/v1/charges",
    Operation.AUTHORIZE: "/psp/v1/authorizations",
    Operation.CAPTURE: "/psp/v1/captures",
    Operation.VOID: "/psp/v1/voids",
    Operation.REFUND: "/psp/v1/refunds",
}
_PAYMENTS: Final = "/bank/v1/payments"
_KEPT: Final = ("id", "status", "decline_code", "account", "created_at", "livemode")
"""What is stored of an answer, and nothing else."""

_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,255}")
_TEXT_LIMIT: Final = 64
_MOST_TRUSTED: Final = {ResultStatus.SUCCESS: 2, ResultStatus.PENDING: 1, ResultStatus.FAILED: 0}
_UNREADABLE: Final = RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)


def charge_request(base_url: str, execution: PaymentExecution, timing: TimingBounds) -> HttpRequest:
    """Return the request that charges or holds, or that acts on what was charged or held."""
    of = {"of": execution.parent_ref}
    instrument = {"instrument": execution.context.instrument_token}
    more = of if execution.operation.follows_a_parent else instrument
    return _order(f"{base_url}{_CARD_PATHS[execution.operation]}", execution, timing, more)


def payment_request(
    base_url: str, execution: PaymentExecution, timing: TimingBounds
) -> HttpRequest:
    """Return the request that orders a payment for the payer to authorize."""
    order = {"return_url": execution.context.return_url}
    return _order(f"{base_url}{_PAYMENTS}", execution, timing, order)


def charge_lookup(base_url: str, execution: PaymentExecution, timing: TimingBounds) -> HttpRequest:
    """Return the request that asks for what stands under our reference."""
    return _lookup(f"{base_url}{_CARD_PATHS[execution.operation]}", execution, timing)


def payment_lookup(base_url: str, execution: PaymentExecution, timing: TimingBounds) -> HttpRequest:
    """Return the request that asks for the payments of our reference."""
    return _lookup(f"{base_url}{_PAYMENTS}", execution, timing)


def read_charge(execution: PaymentExecution, response: HttpResponse) -> RailResult:
    """Return what the answer to a charge means."""
    return _read_order(execution, response, _charge)


def read_payment(execution: PaymentExecution, response: HttpResponse) -> RailResult:
    """Return what the answer to a payment order means."""
    return _read_order(execution, response, _payment)


def read_charge_lookup(execution: PaymentExecution, response: HttpResponse) -> RailResult:
    """Return what the charges found under our reference mean."""
    return _read_lookup(execution, response, _charge)


def read_payment_lookup(execution: PaymentExecution, response: HttpResponse) -> RailResult:
    """Return what the payments found under our reference mean."""
    return _read_lookup(execution, response, _payment)


def read_news(item: Item) -> RailResult:
    """
    Return what a charge or a payment means that the sandbox tells of by itself.

    Raises:
        InvalidValueError: It is neither, or says what cannot be.
    """
    result = _payment(item) if item.get("object") == "payment" else _charge(item)
    if result is _UNREADABLE:
        raise InvalidValueError("data", "a charge or a payment in a known status", "another")
    return result


def _order(url: str, execution: PaymentExecution, timing: TimingBounds, more: Item) -> HttpRequest:
    order = {
        "amount_minor": execution.money.amount_minor,
        "currency": execution.money.currency.code,
        "reference": execution.provider_key,
        **more,
    }
    return HttpRequest(
        method="POST",
        url=url,
        headers={
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Idempotency-Key": execution.provider_key,
        },
        body=json.dumps(order, sort_keys=True).encode(),
        moves_money=True,
        credentials_of=_account(execution),
        timeout_s=timing.answer_timeout_s,
    )


def _lookup(url: str, execution: PaymentExecution, timing: TimingBounds) -> HttpRequest:
    return HttpRequest(
        method="GET",
        url=f"{url}?reference={quote(execution.provider_key, safe='')}",
        headers={"Accept": "application/json"},
        credentials_of=_account(execution),
        timeout_s=timing.answer_timeout_s,
    )


def _account(execution: PaymentExecution) -> tuple[str, str, str]:
    return execution.tenant_id, execution.provider, execution.account


def _read_order(
    execution: PaymentExecution, response: HttpResponse, read: Callable[[Item], RailResult]
) -> RailResult:
    body = response.json_object() or {}
    if response.status in {200, 201}:
        return _ours(execution, body, read)
    if response.status == 402:
        declined = _ours(execution, body, read)
        return declined if declined.status is ResultStatus.FAILED else _UNREADABLE
    refused = REFUSALS.get((response.status, _error_code(body)))
    if refused is None:
        return attrs.evolve(_UNREADABLE, retry_after_s=retry_after_s(response))
    said = {"http_status": response.status, "error_code": _error_code(body)}
    failed = RailResult.failed(refused, provider_response=said)
    return attrs.evolve(failed, retry_after_s=retry_after_s(response))


def _read_lookup(
    execution: PaymentExecution, response: HttpResponse, read: Callable[[Item], RailResult]
) -> RailResult:
    found = (response.json_object() or {}).get("data")
    if response.status != 200 or not isinstance(found, list):
        return attrs.evolve(_UNREADABLE, retry_after_s=retry_after_s(response))
    if not found:
        return RailResult.absent()
    results = [_ours(execution, one, read) for one in found]
    taken = {one.provider_ref: one for one in results if one.status is ResultStatus.SUCCESS}
    if len(taken) > 1:  # one is what was asked; the others are charges too many
        first, *others = sorted(taken.values(), key=partial(_strangeness, execution))
        return attrs.evolve(first, also=tuple(others))
    return max(results, key=lambda result: _MOST_TRUSTED[result.status])


def _strangeness(execution: PaymentExecution, result: RailResult) -> tuple[bool, bool, str]:
    """Order what was charged: first what was asked, and what is known already."""
    is_another = result.provider_ref != execution.provider_ref
    return result.reported != execution.money, is_another, str(result.provider_ref)


def _ours(
    execution: PaymentExecution, item: object, read: Callable[[Item], RailResult]
) -> RailResult:
    if not isinstance(item, dict) or item.get("reference") != execution.provider_key:
        return _UNREADABLE
    try:
        return read(item)
    except InvalidValueError:  # a value that cannot exist: no id, no such currency, a strange URL
        return _UNREADABLE


def _charge(item: Item) -> RailResult:
    match item.get("status"):
        case "succeeded":
            return _success(item)
        case "pending":
            return _processing(item)
        case "declined":
            code = DECLINES.get(str(item.get("decline_code")), PaymentFailureCode.DECLINED)
            return _failure(item, code)
        case _:
            return _UNREADABLE


def _payment(item: Item) -> RailResult:
    match item.get("status"):
        case "awaiting_authorization":
            return _redirect(item)
        case "accepted":
            return _processing(item)
        case "settled":
            return _success(item)
        case "rejected" | "expired":
            return _failure(item, PaymentFailureCode.CANCELLED)
        case _:
            return _UNREADABLE


def _success(item: Item) -> RailResult:
    return RailResult.success(_id(item), _money(item), provider_response=_kept(item))


def _failure(item: Item, code: DefiniteFailureCode) -> RailResult:
    return RailResult.failed(code, provider_ref=_id(item), provider_response=_kept(item))


def _processing(item: Item) -> RailResult:
    reason = PendingReason.PROVIDER_PROCESSING
    return RailResult.pending(reason, provider_ref=_id(item), provider_response=_kept(item))


def _redirect(item: Item) -> RailResult:
    url = item.get("authorize_url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise InvalidValueError("authorize_url", "a URL", type(url).__name__)
    return RailResult.pending(
        PendingReason.CUSTOMER_ACTION,
        provider_ref=_id(item),
        next_action=NextAction(kind=NextActionKind.REDIRECT, url=url),
        expires_at=instant(item.get("expires_at")),
        provider_response=_kept(item),
    )


def _id(item: Item) -> str:
    value = item.get("id")
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        raise InvalidValueError("id", "1 to 255 visible ASCII characters", type(value).__name__)
    return value


def _money(item: Item) -> Money:
    amount, currency = item.get("amount_minor"), item.get("currency")
    if type(amount) is not int or not isinstance(currency, str):
        raise InvalidValueError("amount_minor", "an amount and a currency", "something else")
    return Money(amount, Currency.of(currency))


def _error_code(body: Item) -> str:
    error = body.get("error")
    return str(error.get("code"))[:_TEXT_LIMIT] if isinstance(error, dict) else ""


def _kept(item: Item) -> Mapping[str, object]:
    return {name: value for name in _KEPT if (value := _plain(item.get(name))) is not None}


def _plain(value: object) -> str | bool | None:
    if isinstance(value, bool):
        return value
    return value[:_TEXT_LIMIT] if isinstance(value, str) and value.isprintable() else None
