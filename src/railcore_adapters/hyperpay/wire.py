"""
HyperPay's wire: requests built, answers read.

Reading is total: any status and any bytes give a ``RailResult``. An answer counts as a success only
when it carries our reference, the type of payment that was asked for and an amount. Codes decide,
not statuses: a declined payment comes as 400, and an error of a query says nothing of the payment
that was asked about.

Source: docs.oppwa.com (COPYandPAY, Server-to-Server, Backoffice Operations, Transaction Reports).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Final, cast
from urllib.parse import urlencode

import attrs

from railcore.enums import Operation, PendingReason, RouteMode
from railcore.errors import InvalidValueError, RailcoreError
from railcore.execution import PaymentExecution
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.http import HttpRequest, HttpResponse, instant, retry_after_s
from railcore.money import Currency, Money
from railcore.results import NextAction, NextActionKind, RailResult, ResultStatus
from railcore.routing import TimingBounds
from railcore_adapters.hyperpay.codes import Meaning, Outcome, classify, told_of
from railcore_adapters.hyperpay.settings import (
    CHECKOUT_LIFE,
    CHECKOUT_SLACK,
    HyperPayAccount,
)

Item = Mapping[str, object]
"""A payment as HyperPay shows it."""

TYPES: Final[Mapping[Operation, str]] = {
    Operation.CHARGE: "DB",
    Operation.AUTHORIZE: "PA",
    Operation.CAPTURE: "CP",
    Operation.VOID: "RV",
    Operation.REFUND: "RF",
}
"""What each operation is called on the wire."""

OUR_KEY: Final = "SHOPPER_railcore"
"""The custom parameter that carries the provider key, which webhooks bring back."""

_KEPT: Final = ("id", "paymentType", "paymentBrand", "referencedId", "timestamp")
"""What is stored of an answer, beside its code."""

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_REFERENCE_LENGTH: Final = 20
_SESSION_OVER: Final = "200.300.404"
_FOUND: Final = "000.000.100"
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CHECKOUT: Final = re.compile(r"[0-9A-F]{32}\.[A-Za-z0-9-]{1,40}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_AMOUNT: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,4})?")
_MOST_TRUSTED: Final = {ResultStatus.SUCCESS: 2, ResultStatus.PENDING: 1, ResultStatus.FAILED: 0}
_UNREADABLE: Final = RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)


def reference_of(provider_key: str) -> str:
    """
    Return the twenty capital letters that stand for a provider key as ``merchantTransactionId``.

    Acquirers take 8 to 20 characters; letters alone are never mistaken for a card number.

    >>> reference_of("9f86d081884c7d659a2feaa0c55ad015")
    'HBFQOFXJBKRBCRWTFEIN'
    """
    number, letters = int(provider_key, 16), ""
    for _ in range(_REFERENCE_LENGTH):
        number, index = divmod(number, len(_LETTERS))
        letters += _LETTERS[index]
    return letters


def is_checkout(provider_ref: str | None) -> bool:
    """Return whether *provider_ref* is the id of a checkout, which names the node it is on."""
    return provider_ref is not None and _CHECKOUT.fullmatch(provider_ref) is not None


@attrs.frozen
class Wire:
    """
    Speaks for one execution on one entity.

    Attributes:
        base_url: The host, without a slash at the end.
        account: The entity.
        timing: The bounds that are declared.
    """

    base_url: str
    execution: PaymentExecution
    account: HyperPayAccount
    timing: TimingBounds

    def checkout(self) -> HttpRequest:
        """Return the request that prepares a widget for the payer."""
        return self._post("/v1/checkouts", {"integrity": "true"})

    def registered(self) -> HttpRequest | None:
        """Return the request that charges a stored registration; None where it cannot be one."""
        token = str(self.execution.context.instrument_token)
        if not _TOKEN.fullmatch(token):
            return None
        more = {"shopperResultUrl": self.execution.context.return_url or ""}
        if self.execution.context.merchant_initiated:
            more["standingInstruction.mode"] = "REPEATED"
            more["standingInstruction.type"] = "UNSCHEDULED"
            more["standingInstruction.source"] = "MIT"
        kept = {name: value for name, value in more.items() if value}
        return self._post(f"/v1/registrations/{token}/payments", kept)

    def follow_up(self) -> HttpRequest | None:
        """Return the request that captures, reverses or refunds; None without what it acts on."""
        parent = self.execution.parent_ref
        if parent is None or not _TOKEN.fullmatch(parent):
            return None
        return self._post(f"/v1/payments/{parent}", {})

    def returned(self) -> HttpRequest:
        """Return the request that asks what became of a checkout, once its payer is back."""
        return self._get(f"/v1/checkouts/{self.execution.provider_ref}/payment", {})

    def query(self) -> HttpRequest:
        """Return the request that asks for all payments under our reference."""
        return self._get("/v1/query", {"merchantTransactionId": self._reference})

    def read_checkout(self, response: HttpResponse) -> RailResult:
        """Return what the answer to ``checkout`` means."""
        body = response.json_object() or {}
        meaning, checkout_id = _meaning(body), body.get("id")
        if meaning.outcome is Outcome.FAILED and meaning.failure is not None:
            return RailResult.failed(meaning.failure, provider_response=_kept(body))
        prepared = meaning.outcome is Outcome.PENDING and _code(body) == "000.200.100"
        if not prepared or not isinstance(checkout_id, str) or not is_checkout(checkout_id):
            return _unread(response)
        integrity = body.get("integrity")
        fields = {"action": str(self.execution.context.return_url)}
        fields["brands"] = " ".join(self.account.brands)
        if isinstance(integrity, str):
            fields["integrity"] = integrity[:256]
        script = f"{self.base_url}/v1/paymentWidgets.js?checkoutId={checkout_id}"
        return RailResult.pending(
            PendingReason.CUSTOMER_ACTION,
            provider_ref=checkout_id,
            next_action=NextAction(
                kind=NextActionKind.WIDGET, url=script, reference=checkout_id, fields=fields
            ),
            expires_at=_expiry(body, response),
            provider_response=_kept(body),
        )

    def read_answer(self, response: HttpResponse) -> RailResult:
        """Return what the answer to a request of ours means; it is about our own payment."""
        body = response.json_object() or {}
        if not _is_or_lacks(body, "merchantTransactionId", self._reference):
            return _UNREADABLE
        if self._acts_on_nothing(body):
            return RailResult.failed(PaymentFailureCode.DECLINED, provider_response=_kept(body))
        return self._read(body, response)

    def read_returned(self, response: HttpResponse) -> RailResult:
        """Return what the status of a checkout means, which may be another order's."""
        body = response.json_object() or {}
        if body.get("merchantTransactionId") != self._reference:
            return _of_a_lookup(classify(_code(body)), response)
        return self._as_long_as_it_lives(self._read(body, response), body, response)

    def read_query(self, response: HttpResponse) -> RailResult:
        """Return what the payments under our reference mean; none of them proves nothing yet."""
        body = response.json_object() or {}
        meaning, found = classify(_code(body)), body.get("payments", body.get("records"))
        is_nothing = found == [] and _code(body) == _FOUND
        if is_nothing or (found is None and meaning.outcome is Outcome.ABSENT):
            return self._absent(body, response)
        if not isinstance(found, list):
            return _of_a_lookup(meaning, response)
        results = [self._read(one, response) for one in found if self._is_ours(one)]
        if not results:
            return _unread(response)
        taken = {one.provider_ref: one for one in results if one.status is ResultStatus.SUCCESS}
        if len(taken) > 1:  # one is what was asked; the others are charges too many
            first, *others = sorted(taken.values(), key=self._strangeness)
            return attrs.evolve(first, also=tuple(others))
        best = max(results, key=lambda result: _MOST_TRUSTED[result.status])
        return self._as_long_as_it_lives(best, body, response)

    @property
    def _reference(self) -> str:
        return reference_of(self.execution.provider_key)

    def _post(self, path: str, more: Mapping[str, str]) -> HttpRequest:
        execution = self.execution
        form = {
            "entityId": self.account.entity_id,
            "amount": sent_amount(execution.money, self.account.decimals),
            "currency": execution.money.currency.code,
            "paymentType": TYPES[execution.operation],
            "merchantTransactionId": self._reference,
            f"customParameters[{OUR_KEY}]": execution.provider_key,
            **more,
        }
        if self.account.test_mode is not None and execution.mode is RouteMode.SANDBOX:
            form["testMode"] = self.account.test_mode
        return HttpRequest(
            method="POST",
            url=f"{self.base_url}{path}",
            headers={
                "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
                "Accept": "application/json",
            },
            body=urlencode(form).encode(),
            moves_money=True,
            credentials_of=self._credentials,
            timeout_s=self.timing.answer_timeout_s,
        )

    def _get(self, path: str, more: Mapping[str, str]) -> HttpRequest:
        asked = urlencode({"entityId": self.account.entity_id, **more})
        return HttpRequest(
            method="GET",
            url=f"{self.base_url}{path}?{asked}",
            headers={"Accept": "application/json"},
            credentials_of=self._credentials,
            timeout_s=min(15.0, self.timing.answer_timeout_s),
        )

    @property
    def _credentials(self) -> tuple[str, str, str]:
        return self.execution.tenant_id, self.execution.provider, self.execution.account

    def _is_ours(self, item: object) -> bool:
        return (
            isinstance(item, dict)
            and item.get("merchantTransactionId") == self._reference
            and item.get("paymentType") == TYPES[self.execution.operation]
        )

    def _read(self, item: Item, response: HttpResponse) -> RailResult:
        meaning = _meaning(item)
        if not _is_or_lacks(item, "paymentType", TYPES[self.execution.operation]):
            return _UNREADABLE
        if not self._is_of_the_entity(item) or not self._is_of_the_parent(item):
            return _UNREADABLE
        try:
            return self._meant(item, meaning, response)
        except RailcoreError:  # a value that cannot exist: no id, no such currency, a strange URL
            return _UNREADABLE

    def _meant(self, item: Item, meaning: Meaning, response: HttpResponse) -> RailResult:
        match meaning.outcome:
            case Outcome.SUCCESS | Outcome.REVIEW | Outcome.TEST_SUCCESS:
                return self._success(item, meaning)
            case Outcome.FAILED if meaning.failure is not None:
                ref = item.get("id")
                known = ref if isinstance(ref, str) and _VISIBLE.fullmatch(ref) else None
                return RailResult.failed(
                    meaning.failure, provider_ref=known, provider_response=_kept(item)
                )
            case Outcome.PENDING:
                return self._pending(item)
            case _:
                return _unread(response)

    def _success(self, item: Item, meaning: Meaning) -> RailResult:
        is_ours = item.get("merchantTransactionId") == self._reference
        if not is_ours or item.get("paymentType") != TYPES[self.execution.operation]:
            return _UNREADABLE
        if meaning.outcome is Outcome.TEST_SUCCESS and self.execution.mode is RouteMode.LIVE:
            return RailResult.failed(
                PaymentFailureCode.CONFIGURATION_ERROR,
                provider_ref=_id(item),
                provider_response=_kept(item),
            )
        is_void = self.execution.operation is Operation.VOID and "amount" not in item
        reported = self.execution.money if is_void else money_of(item)
        return RailResult.success(_id(item), reported, provider_response=_kept(item))

    def _pending(self, item: Item) -> RailResult:
        if self._is_on_a_checkout:  # it is one of several, and the checkout goes on
            return RailResult.pending(
                PendingReason.PROVIDER_PROCESSING,
                provider_ref=self.execution.provider_ref,
                expires_at=self.execution.expires_at,
                provider_response=_kept(item),
            )
        action = _redirect(item.get("redirect"), self.base_url)
        waits_for_payer = PendingReason.CUSTOMER_ACTION
        return RailResult.pending(
            PendingReason.PROVIDER_PROCESSING if action is None else waits_for_payer,
            provider_ref=_id(item),
            next_action=action,
            provider_response=_kept(item),
        )

    def _is_of_the_entity(self, item: Item) -> bool:
        said = item.get("authentication")
        return _is_or_lacks(
            said if isinstance(said, dict) else item, "entityId", self.account.entity_id
        )

    def _is_of_the_parent(self, item: Item) -> bool:
        if not self.execution.operation.follows_a_parent:
            return True
        return _is_or_lacks(item, "referencedId", self.execution.parent_ref)

    @property
    def _is_on_a_checkout(self) -> bool:
        """Whether the payer pays in the widget, where one order may be paid on several times."""
        context = self.execution.context
        return context.instrument_token is None and not context.operation.follows_a_parent

    def _acts_on_nothing(self, body: Item) -> bool:
        """Return whether it was refused because there is no payment that it could act on."""
        is_absent = classify(_code(body)).outcome is Outcome.ABSENT
        return is_absent and self.execution.operation.follows_a_parent

    def _as_long_as_it_lives(
        self, result: RailResult, body: Item, response: HttpResponse
    ) -> RailResult:
        """Return *result*; a payer whose card was declined may try another on the same checkout."""
        if result.failure is None:
            return result
        if not self._is_over(body, response):
            return self._still_open()
        return attrs.evolve(result, failure=told_of(cast("DefiniteFailureCode", result.failure)))

    def _absent(self, body: Item, response: HttpResponse) -> RailResult:
        if not self._is_on_a_checkout or self.execution.provider_ref is None:
            return RailResult.absent()
        if not self._is_over(body, response):
            return self._still_open()
        return RailResult.failed(PaymentFailureCode.CANCELLED, provider_response=_kept(body))

    def _still_open(self) -> RailResult:
        """Return what is known already: the payer has a checkout and may yet pay on it."""
        return RailResult.pending(
            PendingReason.CUSTOMER_ACTION,
            provider_ref=self.execution.provider_ref,
            next_action=self.execution.next_action,
            expires_at=self.execution.expires_at,
        )

    def _is_over(self, body: Item, response: HttpResponse) -> bool:
        """Return whether nobody can pay any more, by the provider's own clock."""
        if not self._is_on_a_checkout:
            return True
        until, now = self.execution.expires_at, _now(body, response)
        return until is not None and now is not None and now >= until + CHECKOUT_SLACK

    def _strangeness(self, result: RailResult) -> tuple[bool, bool, str]:
        """Order what was charged: first what was asked, and what is known already."""
        is_another = result.provider_ref != self.execution.provider_ref
        return result.reported != self.execution.money, is_another, str(result.provider_ref)


def _is_or_lacks(item: Item, name: str, wanted: str | None) -> bool:
    """Return whether *item* says *wanted*, or nothing of that name."""
    said = item.get(name)
    return said is None or said == wanted


def sent_amount(money: Money, decimals: int) -> str:
    """
    Return *money* as the wire has it, with *decimals* decimal places; nothing is rounded.

    Raises:
        InvalidValueError: It has more decimal places than that.

    >>> from railcore.money import Currency
    >>> (
    ...     sent_amount(Money(9_200, Currency.of("SAR")), 2),
    ...     sent_amount(Money(92, Currency.of("JPY")), 2),
    ... )
    ('92.00', '92.00')
    """
    major = money.to_major()
    wire = major.quantize(Decimal(1).scaleb(-decimals))
    if wire != major:
        raise InvalidValueError("money", f"at most {decimals} decimal places", str(money))
    return f"{wire:f}"


def money_of(item: Item) -> Money:
    """
    Return what a payment says it moved.

    Raises:
        InvalidValueError: It says no amount and currency, or one that does not exist.
    """
    amount, currency = item.get("amount"), item.get("currency")
    if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
        raise InvalidValueError("amount", "a decimal number as a text", type(amount).__name__)
    if not isinstance(currency, str):
        raise InvalidValueError("currency", "a currency", type(currency).__name__)
    known = Currency.of(currency)
    try:
        minor = Decimal(amount).scaleb(known.exponent)
    except InvalidOperation as error:  # pragma: no cover - the shape above leaves none
        raise InvalidValueError("amount", "a decimal number", "none") from error
    if minor != minor.to_integral_value():
        raise InvalidValueError("amount", f"{known.exponent} decimal places", "more")
    return Money(int(minor), known)


def _redirect(redirect: object, base_url: str) -> NextAction | None:
    """Return where the payer goes: over https, or to a provider that is itself on plain http."""
    if not isinstance(redirect, dict):
        return None
    url, parameters = redirect.get("url"), redirect.get("parameters")
    own = f"{base_url}/" if base_url.startswith("http://") else "https://"
    if not isinstance(url, str) or not url.startswith(("https://", own)):
        raise InvalidValueError("redirect.url", "an https URL", type(url).__name__)
    fields = dict(_parameters(parameters if isinstance(parameters, list) else ()))
    if not fields and redirect.get("method", "GET") == "GET":
        return NextAction(kind=NextActionKind.REDIRECT, url=url)
    return NextAction(kind=NextActionKind.FORM, url=url, fields=fields)


def _parameters(parameters: Sequence[object]) -> Sequence[tuple[str, str]]:
    return [
        (str(one["name"]), str(one["value"]))
        for one in parameters
        if isinstance(one, dict) and {"name", "value"} <= one.keys()
    ]


def _unread(response: HttpResponse) -> RailResult:
    return attrs.evolve(_UNREADABLE, retry_after_s=retry_after_s(response))


def _of_a_lookup(meaning: Meaning, response: HttpResponse) -> RailResult:
    """Return what an answer to a lookup means that shows no payment: nothing of any."""
    if meaning.outcome is Outcome.THROTTLED:  # of this reference alone; the provider is well
        throttled = RailResult.failed(PaymentFailureCode.RATE_LIMITED)
        return attrs.evolve(throttled, retry_after_s=retry_after_s(response))
    return _unread(response)


def _meaning(item: Item) -> Meaning:
    """Return what the code of an answer means; one code means two things."""
    result, code = item.get("result"), _code(item)
    if code == _SESSION_OVER and isinstance(result, dict) and result.get("parameterErrors"):
        return Meaning(Outcome.FAILED, PaymentFailureCode.CONFIGURATION_ERROR)
    return classify(code)


def _code(item: Item) -> str:
    result = item.get("result")
    return str(result.get("code")) if isinstance(result, dict) else ""


def _id(item: Item) -> str:
    value = item.get("id")
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        raise InvalidValueError("id", "1 to 255 visible ASCII characters", type(value).__name__)
    return value


def _now(body: Item, response: HttpResponse) -> datetime | None:
    """Return the provider's time: of the answer's ``Date``, or as its body says."""
    try:
        return parsedate_to_datetime(response.headers["date"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return instant(body.get("timestamp"))


def _expiry(body: Item, response: HttpResponse) -> datetime | None:
    now = _now(body, response)
    return None if now is None else now + CHECKOUT_LIFE


def _kept(item: Item) -> Mapping[str, object]:
    kept: dict[str, object] = {"code": _code(item)[:16]}
    for name in _KEPT:
        value = item.get(name)
        if isinstance(value, str) and value.isprintable():
            kept[name] = value[:64]
    return kept
