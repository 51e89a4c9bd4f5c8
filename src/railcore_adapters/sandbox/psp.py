"""The fake PSP: charges and authorizations that succeed or do not, and what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from typing import Any, ClassVar, Final, cast

from railcore_adapters.sandbox.faults import Fault, Outcome
from railcore_adapters.sandbox.ledger import Kind, Service, now, stamp
from railcore_adapters.sandbox.orders import Order, read_instrument, read_parent
from railcore_adapters.sandbox.provider import Provider, instrument_fault
from railcore_adapters.sandbox.shelf import Kept
from railcore_adapters.sandbox.wire import Refusal, Response, invalid, json_response

_STATUS_CODES: Final = {"succeeded": 201, "pending": 201, "declined": 402}
_PREFIXES: Final = {
    "charge": "ch",
    "authorization": "au",
    "capture": "cp",
    "void": "vo",
    "refund": "re",
}
_PARENTS: Final = {
    "capture": ("authorization",),
    "void": ("authorization",),
    "refund": ("charge", "authorization", "capture"),
}


@dataclass(slots=True, kw_only=True)
class ChargeObject(Kept):
    """A charge, or what else was ordered, as the PSP keeps it, also when no money moved."""

    status: str
    decline_code: str | None
    settles_on_lookup: bool
    lookups: int = 0


class Psp(Provider[ChargeObject]):
    """
    Charges test instruments under ``/psp/v1/charges``, or authorizes, captures, voids and refunds.

    No authorization gives more than it holds, nothing gives back more than it collected; what is
    pending counts. What is done is in the ledger from the moment it succeeds. Without an
    `Idempotency-Key` every POST charges again; that is the point.
    """

    service: ClassVar[Service] = "psp"

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
        if order.kind in _PARENTS:
            read_parent(order)
            return None
        token = read_instrument(order)
        if not token.startswith("tok_"):
            raise invalid("instrument must be a test token such as tok_visa, never a card number.")
        return instrument_fault(token)

    def _carry_out(self, order: Order, outcome: Outcome) -> Response:
        parent = self._parent(order) if order.kind in _PARENTS else None
        charge = ChargeObject(
            id=f"{_PREFIXES[order.kind]}_{token_hex(12)}",
            order=order,
            of=None if parent is None else parent.id,
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
        if status == "succeeded" and charge.order.kind == "charge":
            self._charge(charge.id, charge.order)
        elif status == "succeeded":
            kind = cast("Kind", charge.order.kind)
            self._write(charge.id, charge.order, kind, charge.of)
        self._tell(charge)

    def _parent(self, order: Order) -> ChargeObject:
        """Return what *order* acts on, once it allows that."""
        parent = self._shelf.with_id(read_parent(order))
        if parent is None or parent.account != order.account:
            raise Refusal(422, "no_such_parent", "This account has nothing of that id.")
        if parent.order.kind not in _PARENTS[order.kind] or parent.status != "succeeded":
            said = f"No {order.kind} of a {parent.order.kind} that is {parent.status}."
            raise Refusal(422, "not_possible", said)
        if parent.order.currency != order.currency:
            raise Refusal(422, "currency_differs", f"It is held in {parent.order.currency}.")
        left = self._refundable(parent) if order.kind == "refund" else self._capturable(parent)
        if order.amount_minor > left:
            raise Refusal(422, "amount_too_large", f"There are {left} minor units left.")
        return parent

    def _capturable(self, parent: ChargeObject) -> int:
        return parent.order.amount_minor - self._sum([parent], "capture", "void")

    def _refundable(self, parent: ChargeObject) -> int:
        own = parent.order.amount_minor - self._sum([parent], "refund")
        root = self._shelf.with_id(parent.of) if parent.of is not None else parent
        if root is None or root.order.kind == "charge":
            return own
        captures = [
            one
            for one in self._shelf.acting_on(root.id)
            if one.order.kind == "capture" and one.status == "succeeded"
        ]
        captured = sum(one.order.amount_minor for one in captures)
        return min(own, captured - self._sum([root, *captures], "refund"))

    def _sum(self, parents: Sequence[ChargeObject], *kinds: str) -> int:
        """Return what was ordered of *parents* and not declined."""
        return sum(
            one.order.amount_minor
            for parent in parents
            for one in self._shelf.acting_on(parent.id)
            if one.order.kind in kinds and one.status != "declined"
        )

    def _observe(self, item: ChargeObject) -> None:
        item.lookups += 1
        due = item.settles_on_lookup and item.lookups >= self._settings.lookups_to_settle
        if due and item.status == "pending":
            self._move(item, "succeeded", None)

    def _view(self, item: ChargeObject) -> dict[str, Any]:
        return {
            "id": item.id,
            "object": item.order.kind,
            "status": item.status,
            "decline_code": item.decline_code,
            "amount_minor": item.order.amount_minor,
            "currency": item.order.currency,
            "reference": item.order.reference,
            "account": item.order.account,
            "livemode": False,
            "created_at": stamp(item.created_at),
            **({} if item.of is None else {"of": item.of}),
        }
