"""
Hearing HyperPay's webhooks: AES-256-GCM around a payment, in hexadecimal.

The tag is what proves where a delivery comes from; there is no signature and no event id, so that
what is decrypted stands for itself. By default it is only a reason to look up, because one payment
may be told of in several final states and in any order.

Source: docs.oppwa.com (Webhooks, Decryption).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from railcore.enums import PaymentRail, PendingReason
from railcore.errors import InvalidValueError, RailcoreError, WebhookRefusedError
from railcore.failures import PaymentFailureCode
from railcore.http import instant
from railcore.redaction import Secret
from railcore.results import RailResult
from railcore.webhooks import (
    Delivery,
    VerifiedDelivery,
    WebhookEvent,
    WebhookNews,
    WebhookTrust,
    json_event,
)
from railcore_adapters.hyperpay.codes import Outcome, classify, told_of
from railcore_adapters.hyperpay.wire import OUR_KEY, TYPES, is_checkout, money_of

__all__ = ["HyperPayWebhooks"]

VECTOR: Final = "x-initialization-vector"
TAG: Final = "x-authentication-tag"

_OPERATIONS: Final = {kind: operation for operation, kind in TYPES.items()}
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_PROVIDER_KEY: Final = re.compile(r"[0-9a-f]{32}")
_NOTHING_NEW: Final = RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)


@attrs.frozen
class HyperPayWebhooks:
    """
    HyperPay's ``WebhookProvider``. A secret is the 64 hexadecimal digits of the portal.

    Attributes:
        trust: Whether to look up what a delivery tells of, or to believe it; of what happens on
            a checkout only a success is believed.
        takes_test_mode: Whether a success of test mode is believed: on entities for play alone.
    """

    trust: WebhookTrust = WebhookTrust.REFETCH
    takes_test_mode: bool = False

    def verify(
        self, delivery: Delivery, secrets: Sequence[Secret], _: datetime, /
    ) -> VerifiedDelivery:
        """
        Return the body of a delivery that one of *secrets* decrypts.

        Raises:
            WebhookRefusedError: None does.
        """
        vector = _bytes_of(delivery, delivery.headers.get(VECTOR, "").encode(), "vector", 12)
        tag = _bytes_of(delivery, delivery.headers.get(TAG, "").encode(), "tag", 16)
        sealed = _bytes_of(delivery, _sealed(delivery), "body") + tag
        for secret in secrets:
            if not _KEY.fullmatch(secret.reveal()):
                continue
            try:
                body = AESGCM(bytes.fromhex(secret.reveal())).decrypt(vector, sealed, None)
            except InvalidTag:
                continue
            return VerifiedDelivery(event_id=None, body=body)
        raise WebhookRefusedError(delivery.provider, "no key of the account decrypts it")

    def parse(self, body: bytes, /) -> WebhookEvent:
        """
        Return what the payment in *body* says.

        Raises:
            InvalidValueError: It is no event, or says what cannot be.
        """
        event = json_event(body)
        payment = event.get("payload")
        if event["type"] != "PAYMENT":
            return WebhookEvent(news=())
        if not isinstance(payment, dict):
            raise InvalidValueError("payload", "an object", type(payment).__name__)
        operation = _OPERATIONS.get(str(payment.get("paymentType")))
        ref, key = payment.get("id"), _our_key(payment)
        if operation is None or not isinstance(ref, str):
            return WebhookEvent(news=())
        news = WebhookNews(
            result=self._result(payment, ref),
            provider_key=key,
            provider_ref=ref,
            operation=operation,
            rail=PaymentRail.CARD_PSP,
        )
        return WebhookEvent(news=(news,), occurred_at=instant(payment.get("timestamp")))

    def _result(self, payment: Mapping[str, object], ref: str) -> RailResult:
        """Return what is claimed; what may still change, and what is no payment, claims nothing."""
        said = payment.get("result")
        meaning = classify(str(said.get("code")) if isinstance(said, dict) else "")
        ndc = payment.get("ndc")
        is_all = isinstance(ndc, str) and not is_checkout(ndc)  # on a checkout: one of several
        match meaning.outcome:
            case Outcome.SUCCESS | Outcome.REVIEW:
                return _moved(payment, ref)
            case Outcome.TEST_SUCCESS if self.takes_test_mode:
                return _moved(payment, ref)
            case Outcome.PENDING if is_all:
                return RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref=ref)
            case Outcome.FAILED if meaning.failure is not None and is_all:
                return RailResult.failed(told_of(meaning.failure), provider_ref=ref)
            case _:
                return _NOTHING_NEW


def _moved(payment: Mapping[str, object], ref: str) -> RailResult:
    """Return the success that is claimed; one that says no amount, as a void may, is looked up."""
    try:
        return RailResult.success(ref, money_of(payment))
    except RailcoreError:
        return _NOTHING_NEW


def _our_key(payment: Mapping[str, object]) -> str | None:
    told = payment.get("customParameters")
    key = told.get(OUR_KEY) if isinstance(told, dict) else None
    return key if isinstance(key, str) and _PROVIDER_KEY.fullmatch(key) else None


def _sealed(delivery: Delivery) -> bytes:
    """Return the text with the cipher in it, of either form of the body."""
    body = delivery.body.strip()
    if not body.startswith(b"{"):
        return body
    try:
        wrapped: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WebhookRefusedError(delivery.provider, "its body is no JSON") from error
    sealed = wrapped.get("encryptedBody") if isinstance(wrapped, dict) else None
    if not isinstance(sealed, str):
        raise WebhookRefusedError(delivery.provider, "its body has no encryptedBody")
    return sealed.encode(errors="replace")


def _bytes_of(delivery: Delivery, text: bytes, name: str, length: int | None = None) -> bytes:
    is_right = _HEX.fullmatch(text) and (length is None or len(text) == 2 * length)
    if not is_right:
        wanted = "hexadecimal digits" if length is None else f"{2 * length} hexadecimal digits"
        raise WebhookRefusedError(delivery.provider, f"its {name} is not {wanted}")
    return bytes.fromhex(text.decode("ascii"))
