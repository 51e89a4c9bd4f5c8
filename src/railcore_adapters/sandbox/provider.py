"""
What both fake providers do alike: take an order once, answer lookups, suffer faults.

`Provider.create` is the one place where state changes on a POST, under the provider's lock: faults
of the stage *before* return above the line where the order is carried out, all others act on the
true answer below it. Ledger and stored answers are therefore right whatever the caller was told.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, ClassVar, Final, Generic, TypeVar

from railcore_adapters.sandbox.faults import (
    BY_AMOUNT,
    FAULTS,
    Answer,
    Delivery,
    Fault,
    FaultQueue,
    Outcome,
    Stage,
    apply,
    find_fault,
)
from railcore_adapters.sandbox.keys import KeyedAnswers
from railcore_adapters.sandbox.ledger import (
    Charge,
    Kind,
    Ledger,
    Movement,
    SeenLookup,
    SeenRequest,
    Service,
    now,
)
from railcore_adapters.sandbox.orders import Order, read_order
from railcore_adapters.sandbox.settings import Settings
from railcore_adapters.sandbox.shelf import Kept, Shelf
from railcore_adapters.sandbox.wire import Request, Response, error_response, json_response

K = TypeVar("K", bound=Kept)

_SUCCESS: Final = Outcome("succeeded")


class Provider(ABC, Generic[K]):
    """One fake provider; the PSP and the bank say what an order becomes."""

    service: ClassVar[Service]

    def __init__(self, ledger: Ledger, settings: Settings, faults: FaultQueue) -> None:
        self._ledger = ledger
        self._settings = settings
        self._faults = faults
        self._shelf: Shelf[K] = Shelf()
        self._keys = KeyedAnswers()
        self._posted: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self.announce: Callable[[Mapping[str, Any]], None] | None = None

    def _tell(self, item: K) -> None:
        """Let everybody know how *item* is now."""
        if self.announce is not None:
            self.announce(self._view(item))

    def create(self, request: Request, account: str, kind: str) -> Answer:
        """
        Carry out the order in *request* once per key, and answer as the fault says.

        Raises:
            Refusal: The order makes no sense, or its key is taken.
        """
        order = read_order(request, account, kind)
        asked = self._asked(request, order)
        with self._lock:
            outcome, fault = self._choose(order, asked)
            if fault is not None and fault.stage is Stage.BEFORE:
                return self._leave(None, fault)
            at_s = monotonic()
            response = self._keys.recall(order, at_s)
            if response is not None:
                return self._leave(response, fault)
            response = self._carry_out(order, outcome)
            answer = self._leave(response, fault)
            self._keys.keep(order, response, at_s + answer.hold_s)
            return answer

    def read(self, account: str, item_id: str, kind: str) -> Answer:
        """Return the object of that kind with that id."""
        return self._look_up(account, item_id, lambda: self._read(account, item_id, kind))

    def find(self, account: str, reference: str, kind: str) -> Answer:
        """Return all objects of that kind with that reference."""
        return self._look_up(account, reference, lambda: self._find(account, reference, kind))

    @abstractmethod
    def _instrument(self, order: Order) -> Fault | None:
        """Check what this provider needs besides, and return what the instrument asks for."""

    @abstractmethod
    def _carry_out(self, order: Order, outcome: Outcome) -> Response:
        """Make the object; the only step of a POST that changes anything."""

    @abstractmethod
    def _view(self, item: K) -> dict[str, Any]:
        """Return *item* as it goes over the wire."""

    def _observe(self, item: K) -> None:
        """Let *item* age before somebody looks at it."""

    def _asked(self, request: Request, order: Order) -> Sequence[Fault]:
        """Return the faults that the request itself asks for, the strongest first."""
        header = request.headers.get("x-sandbox-fault")
        by_header = None if header is None else find_fault(header)
        by_amount = BY_AMOUNT.get(order.amount_minor % 1000)
        if not self._settings.amount_faults:
            by_amount = None
        found = (by_header, self._instrument(order), by_amount)
        return [fault for fault in found if fault is not None]

    def _choose(self, order: Order, asked: Sequence[Fault]) -> tuple[Outcome, Fault | None]:
        """Return how the order ends and what befalls its answer; and write the POST down."""
        queued = self._faults.take("create")
        named = asked if queued is None else [queued, *asked]
        outcomes = (fault.effect for fault in named if isinstance(fault.effect, Outcome))
        name = (order.account, order.reference)
        troubles = [queued] if name in self._posted else named
        self._posted.add(name)
        trouble = next((one for one in troubles if one and one.stage is not Stage.CHARGING), None)
        self._log(order, trouble)
        return next(outcomes, _SUCCESS), trouble

    def _leave(self, response: Response | None, fault: Fault | None) -> Answer:
        """Return the answer as *fault* lets it out; no response means that nothing was done."""
        answer = Answer(response or Response(status=503))
        if fault is not None:
            answer = apply(fault, answer.response, self._settings.retry_after_s)
        hold_s = self._settings.latency_s
        if answer.how is Delivery.LATE:
            hold_s += self._settings.delay_s
        return replace(answer, hold_s=hold_s) if hold_s else answer

    def _look_up(self, account: str, sought: str, look: Callable[[], Response]) -> Answer:
        self._ledger.add(SeenLookup(service=self.service, account=account, sought=sought, at=now()))
        fault = self._faults.take("lookup")
        if fault is not None and fault.stage is Stage.BEFORE:
            return self._leave(None, fault)
        with self._lock:
            return self._leave(look(), fault)

    def _read(self, account: str, item_id: str, kind: str) -> Response:
        item = self._shelf.by_id(account, item_id, before_s=self._visible_before_s())
        if item is None or item.order.kind != kind:
            return error_response(404, "not_found", f"This account has no {item_id[:64]!r}.")
        self._observe(item)
        return json_response(200, self._view(item))

    def _find(self, account: str, reference: str, kind: str) -> Response:
        found = self._shelf.by_reference(account, reference, before_s=self._visible_before_s())
        items = [item for item in found if item.order.kind == kind]
        for item in items:
            self._observe(item)
        return json_response(200, {"data": [self._view(item) for item in items]})

    def _visible_before_s(self) -> float:
        return monotonic() - self._settings.read_lag_s

    def _log(self, order: Order, fault: Fault | None) -> None:
        seen = SeenRequest(
            kind=order.kind,
            service=self.service,
            account=order.account,
            reference=order.reference,
            idempotency_key=order.idempotency_key,
            amount_minor=order.amount_minor,
            currency=order.currency,
            fault=None if fault is None else fault.name,
            at=now(),
        )
        self._ledger.add(seen)

    def _write(self, item_id: str, order: Order, kind: Kind, of: str | None) -> None:
        """Write down what took place beside charges."""
        movement = Movement(
            id=item_id,
            kind=kind,
            of=of,
            service=self.service,
            account=order.account,
            reference=order.reference,
            idempotency_key=order.idempotency_key,
            amount_minor=order.amount_minor,
            currency=order.currency,
            at=now(),
        )
        self._ledger.add(movement)

    def _charge(self, item_id: str, order: Order) -> None:
        """Move the money: the one step that writes a charge into the ledger."""
        charge = Charge(
            id=item_id,
            service=self.service,
            account=order.account,
            reference=order.reference,
            idempotency_key=order.idempotency_key,
            amount_minor=order.amount_minor,
            currency=order.currency,
            at=now(),
        )
        self._ledger.add(charge)


def instrument_fault(token: str) -> Fault | None:
    """Return what the test instrument *token* asks for; ``tok_visa`` asks for nothing."""
    fault = find_fault(token)
    return None if fault is FAULTS["visa"] else fault
