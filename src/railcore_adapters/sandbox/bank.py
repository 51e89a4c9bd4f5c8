"""The fake open-banking bank: payments that a customer approves, and that settle later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from secrets import token_hex
from time import monotonic
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl

from railcore_adapters.sandbox.faults import Fault, FaultQueue, Outcome
from railcore_adapters.sandbox.ledger import Ledger, now, stamp
from railcore_adapters.sandbox.orders import Order, read_return_url
from railcore_adapters.sandbox.provider import Provider
from railcore_adapters.sandbox.settings import Settings
from railcore_adapters.sandbox.shelf import Kept
from railcore_adapters.sandbox.wire import Refusal, Request, Response, json_response

Status: TypeAlias = Literal["awaiting_authorization", "accepted", "settled", "rejected", "expired"]

MOVES: Final[Mapping[Status, frozenset[Status]]] = {
    "awaiting_authorization": frozenset({"accepted", "rejected", "expired"}),
    "accepted": frozenset({"settled", "rejected"}),
    "settled": frozenset(),
    "rejected": frozenset(),
    "expired": frozenset(),
}
"""What a payment may become."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sandbox bank</title></head>
<body><h1>Sandbox bank</h1>
<p>Pay {amount} {currency} (minor units) for <b>{reference}</b>?</p>
<p>This payment is {status}.</p>{form}
</body></html>
"""
_FORM: Final = """
<form method="post" action="/bank/authorize/{id}">
<button name="decision" value="approve">Approve</button>
<button name="decision" value="reject">Reject</button>
</form>"""


@dataclass(slots=True, kw_only=True)
class Payment(Kept):
    """A payment as the bank keeps it."""

    return_url: str
    status: Status
    expires_at: datetime


class Bank(Provider[Payment]):
    """
    Takes payments under ``/bank/v1/payments`` and asks the customer at their `authorize_url`.

    A payment is in the ledger from the moment it settles.
    """

    service = "bank"

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        faults: FaultQueue,
        base_url: Callable[[], str],
    ) -> None:
        super().__init__(ledger, settings, faults)
        self._base_url = base_url

    def approve(self, name: str) -> dict[str, Any]:
        """
        Approve as the customer would; *name* is the payment's id or reference.

        Raises:
            LookupError: There is no such payment.
            ValueError: It awaits no authorization.
        """
        with self._lock:
            payment = self._shelf.latest(name)
            self._move(payment, "accepted")
            if self._settings.settle_at_once:
                self._move(payment, "settled")
            return self._view(payment)

    def reject(self, name: str) -> dict[str, Any]:
        """
        Reject the payment, as the customer would or, once accepted, as the bank might.

        Raises:
            LookupError: There is no such payment.
            ValueError: It is over.
        """
        return self._decide(name, "rejected")

    def settle(self, name: str) -> dict[str, Any]:
        """
        Move the money of an accepted payment.

        Raises:
            LookupError: There is no such payment.
            ValueError: It is not accepted.
        """
        return self._decide(name, "settled")

    def expire(self, name: str) -> dict[str, Any]:
        """
        Let the time of a payment that awaits authorization run out now.

        Raises:
            LookupError: There is no such payment.
            ValueError: It awaits no authorization.
        """
        return self._decide(name, "expired")

    def page(self, payment_id: str) -> Response:
        """Return the page on which the customer decides."""
        with self._lock:
            payment = self._of_customer(payment_id)
            return _page(payment, 200)

    def decide(self, payment_id: str, request: Request) -> Response:
        """Take the customer's decision from the page's form, and send them back."""
        decisions = {"approve": self.approve, "reject": self.reject}
        form = dict(parse_qsl(request.body.decode("latin-1"), max_num_fields=20))
        decide = decisions.get(form.get("decision", ""))
        if decide is None:
            raise Refusal(400, "invalid_request", "decision must be approve or reject.")
        with self._lock:
            payment = self._of_customer(payment_id)
            if payment.status != "awaiting_authorization":
                return _page(payment, 409)
            decide(payment_id)
            return Response(status=303, headers=[("Location", payment.return_url)])

    def _of_customer(self, payment_id: str) -> Payment:
        payment = self._shelf.with_id(payment_id)
        if payment is None:
            raise Refusal(404, "not_found", f"The bank has no payment {payment_id[:64]!r}.")
        self._observe(payment)
        return payment

    def _decide(self, name: str, status: Status) -> dict[str, Any]:
        with self._lock:
            payment = self._shelf.latest(name)
            self._move(payment, status)
            return self._view(payment)

    def _move(self, payment: Payment, status: Status) -> None:
        self._observe(payment)
        if status not in MOVES[payment.status]:
            raise ValueError(f"A payment that is {payment.status} cannot become {status}.")
        payment.status = status
        if status == "settled":
            self._charge(payment.id, payment.order)
        self._tell(payment)

    def _instrument(self, order: Order) -> Fault | None:
        read_return_url(order)
        return None

    def _carry_out(self, order: Order, outcome: Outcome) -> Response:  # noqa: ARG002 - the customer decides
        made_at = now()
        payment = Payment(
            id=f"pay_{token_hex(12)}",
            order=order,
            return_url=read_return_url(order),
            status="awaiting_authorization",
            created_at=made_at,
            expires_at=made_at + timedelta(seconds=self._settings.payment_expires_after_s),
            made_at_s=monotonic(),
        )
        self._shelf.put(payment)
        return json_response(201, self._view(payment))

    def _observe(self, item: Payment) -> None:
        if item.status == "awaiting_authorization" and now() >= item.expires_at:
            item.status = "expired"

    def _view(self, item: Payment) -> dict[str, Any]:
        return {
            "id": item.id,
            "object": "payment",
            "status": item.status,
            "authorize_url": f"{self._base_url()}/bank/authorize/{item.id}",
            "expires_at": stamp(item.expires_at),
            "amount_minor": item.order.amount_minor,
            "currency": item.order.currency,
            "reference": item.order.reference,
            "account": item.order.account,
            "livemode": False,
            "created_at": stamp(item.created_at),
        }


def _page(payment: Payment, status: int) -> Response:
    asks = payment.status == "awaiting_authorization"
    page = _PAGE.format(
        amount=payment.order.amount_minor,
        currency=payment.order.currency,
        reference=escape(payment.reference),
        status=payment.status.replace("_", " "),
        form=_FORM.format(id=payment.id) if asks else "",
    )
    return Response(status=status, body=page.encode(), content_type="text/html; charset=utf-8")
