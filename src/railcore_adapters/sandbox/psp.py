"""The fake PSP: charges that succeed, are declined, or stay pending."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from typing import Any, Final

from railcore_adapters.sandbox.faults import Fault, Outcome
from railcore_adapters.sandbox.ledger import now, stamp
from railcore_adapters.sandbox.orders import Order, read_instrument
from railcore_adapters.sandbox.provider import Provider, instrument_fault
from railcore_adapters.sandbox.shelf import Kept
from railcore_adapters.sandbox.wire import Response, invalid, json_response

_STATUS_CODES: Final = {"succeeded": 201, "pending": 201, "declined": 402}


@dataclass(slots=True, kw_only=True)
class ChargeObject(Kept):
    """A charge as the PSP keeps it, also when no money moved."""

    status: str
    decline_code: str | None
    settles_on_lookup: bool
    lookups: int = 0


class Psp(Provider[ChargeObject]):
    """
    Charges test instruments under ``/psp/v1/charges``.

    A charge is in the ledger from the moment it succeeds. Without an `Idempotency-Key` every POST
    charges again; that is the point.
    """

    service = "psp"

    def settle(self, name: str) -> dict[str, Any]:
        """
        Let the pending charge with that id or reference succeed, and return it.

        Raises:
            LookupError: There is no such charge.
            ValueError: It is not pending.
        """
        return self._decide(name, "succeeded", None)

    def decline(self, name: str, decline_code: str = "declined") -> dict[str, Any]:
        """
        Let the pending charge with that id or reference be declined, and return it.

        Raises:
            LookupError: There is no such charge.
            ValueError: It is not pending.
        """
        return self._decide(name, "declined", decline_code)

    def _decide(self, name: str, status: str, decline_code: str | None) -> dict[str, Any]:
        with self._lock:
            charge = self._shelf.latest(name)
            if charge.status != "pending":
                raise ValueError(f"Only a pending charge can be {status}; this is {charge.status}.")
            self._move(charge, status, decline_code)
            return self._view(charge)

    def _instrument(self, order: Order) -> Fault | None:
        token = read_instrument(order)
        if not token.startswith("tok_"):
            raise invalid("instrument must be a test token such as tok_visa, never a card number.")
        return instrument_fault(token)

    def _carry_out(self, order: Order, outcome: Outcome) -> Response:
        charge = ChargeObject(
            id=f"ch_{token_hex(12)}",
            order=order,
            status="pending",
            decline_code=None,
            settles_on_lookup=outcome.settles_on_lookup,
            created_at=now(),
            made_at_s=monotonic(),
        )
        self._shelf.put(charge)
        if outcome.status != "pending":
            self._move(charge, outcome.status, outcome.decline_code)
        return json_response(_STATUS_CODES[charge.status], self._view(charge))

    def _move(self, charge: ChargeObject, status: str, decline_code: str | None) -> None:
        charge.status, charge.decline_code = status, decline_code
        if status == "succeeded":
            self._charge(charge.id, charge.order)

    def _observe(self, item: ChargeObject) -> None:
        item.lookups += 1
        due = item.settles_on_lookup and item.lookups >= self._settings.lookups_to_settle
        if due and item.status == "pending":
            self._move(item, "succeeded", None)

    def _view(self, item: ChargeObject) -> dict[str, Any]:
        return {
            "id": item.id,
            "object": "charge",
            "status": item.status,
            "decline_code": item.decline_code,
            "amount_minor": item.order.amount_minor,
            "currency": item.order.currency,
            "reference": item.order.reference,
            "account": item.order.account,
            "livemode": False,
            "created_at": stamp(item.created_at),
        }
