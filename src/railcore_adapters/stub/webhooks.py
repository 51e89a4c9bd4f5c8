"""
Hearing the sandbox's webhooks: Standard Webhooks around a charge or a payment.

A delivery's body is ``{"id": ..., "type": "charge.updated", "data": {...}}``, where ``data`` is the
object as a lookup would show it. Types that do not end in ``.updated`` are not about payments.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import attrs

from railcore.enums import Operation, PaymentRail
from railcore.errors import InvalidValueError, WebhookRefusedError
from railcore.http import instant
from railcore.redaction import Secret
from railcore.webhooks import (
    Delivery,
    VerifiedDelivery,
    WebhookEvent,
    WebhookNews,
    WebhookTrust,
    json_event,
)
from railcore_adapters import standard_webhooks
from railcore_adapters.stub.wire import read_news

__all__ = ["StubWebhooks"]

_OF_PAYMENTS: Final = ".updated"
_OPERATIONS: Final = {
    "authorization": Operation.AUTHORIZE,
    "capture": Operation.CAPTURE,
    "charge": Operation.CHARGE,
    "payment": Operation.CHARGE,
    "refund": Operation.REFUND,
    "void": Operation.VOID,
}
_RAILS: Final = {"payment": PaymentRail.OPEN_BANKING_PIS}


@attrs.frozen
class StubWebhooks:
    """
    The sandbox's ``WebhookProvider``.

    Attributes:
        trust: Whether to believe the body, or to look up what it tells of.
        tolerance_s: How far a delivery's signature may be from now, either way.
    """

    trust: WebhookTrust = WebhookTrust.BODY
    tolerance_s: float = 300.0

    def verify(
        self, delivery: Delivery, secrets: Sequence[Secret], now: datetime, /
    ) -> VerifiedDelivery:
        """
        Return the body of a delivery that one of *secrets* signed lately.

        Raises:
            WebhookRefusedError: None did.
        """
        headers = delivery.headers
        try:
            event_id = standard_webhooks.verify(
                secrets, headers, delivery.body, now, self.tolerance_s
            )
        except WebhookRefusedError as refused:
            raise WebhookRefusedError(delivery.provider, refused.problem) from refused
        signed_at = datetime.fromtimestamp(int(headers[standard_webhooks.TIMESTAMP]), UTC)
        return VerifiedDelivery(event_id=event_id, body=delivery.body, signed_at=signed_at)

    def parse(self, body: bytes, /) -> WebhookEvent:
        """
        Return what the charge or the payment in *body* says.

        Raises:
            InvalidValueError: It says what cannot be, or is no event at all.
        """
        event = json_event(body)
        if not str(event["type"]).endswith(_OF_PAYMENTS):
            return WebhookEvent(news=())
        item = event.get("data")
        if not isinstance(item, dict):
            raise InvalidValueError("data", "an object", type(item).__name__)
        reference, provider_ref = item.get("reference"), item.get("id")
        news = WebhookNews(
            result=read_news(item),
            provider_key=reference,
            provider_ref=provider_ref,
            operation=_OPERATIONS.get(str(item.get("object"))),
            rail=_RAILS.get(str(item.get("object")), PaymentRail.CARD_PSP),
        )
        return WebhookEvent(news=(news,), occurred_at=instant(event.get("created_at")))
