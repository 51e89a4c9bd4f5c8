"""``POST /control/...``: what `Sandbox` offers in Python, for callers in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

from railcore_adapters.sandbox.bank import Bank
from railcore_adapters.sandbox.faults import FaultQueue, When, find_fault
from railcore_adapters.sandbox.psp import Psp
from railcore_adapters.sandbox.settings import Settings
from railcore_adapters.sandbox.webhooks import WebhookSender
from railcore_adapters.sandbox.wire import (
    Refusal,
    Request,
    Response,
    invalid,
    json_response,
    read_json_object,
)

Handler: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]

_WHENS: Final[Mapping[str, When]] = {"create": "create", "lookup": "lookup"}


@dataclass(frozen=True, slots=True)
class Control:
    """The switchboard of a running sandbox."""

    psp: Psp
    bank: Bank
    faults: FaultQueue
    settings: Settings
    webhooks: WebhookSender

    def handle(self, action: str, request: Request) -> Response:
        """
        Do *action* with the arguments in the body.

        Raises:
            Refusal: 404 or 400; there is no such action, or it cannot be done now.
        """
        handlers: dict[str, Handler] = {
            "bank/approve": lambda asked: self.bank.approve(_text(asked, "payment")),
            "bank/reject": lambda asked: self.bank.reject(_text(asked, "payment")),
            "bank/settle": lambda asked: self.bank.settle(_text(asked, "payment")),
            "bank/expire": lambda asked: self.bank.expire(_text(asked, "payment")),
            "psp/settle": lambda asked: self.psp.settle(_text(asked, "charge")),
            "psp/decline": lambda asked: self.psp.decline(_text(asked, "charge")),
            "fail_next": self._fail_next,
            "settings": self._set,
            "webhooks": self.webhooks.configure,
        }
        handler = handlers.get(action)
        if handler is None:
            known = ", ".join(sorted(handlers))
            raise Refusal(404, "not_found", f"There is no such control; there are: {known}.")
        try:
            return json_response(200, handler(read_json_object(request.body)))
        except (LookupError, ValueError) as error:
            raise invalid(str(error)) from error

    def _fail_next(self, asked: dict[str, Any]) -> Mapping[str, Any]:
        count = asked.get("count", 1)
        when = _WHENS.get(asked.get("when", "create"))
        if not isinstance(count, int) or not 0 <= count <= 10_000 or when is None:
            raise ValueError("count must be from 0 to 10000 and when must be create or lookup.")
        fault = find_fault(_text(asked, "fault"))
        self.faults.put(count, fault, when)
        return {"fault": fault.name, "count": count, "when": when}

    def _set(self, asked: dict[str, Any]) -> Mapping[str, Any]:
        known = {field.name for field in fields(Settings)}
        for name, value in asked.items():
            if name not in known or not isinstance(value, int | float):
                raise ValueError(f"{name} = {value!r} is no setting; there are: {sorted(known)}.")
        for name, value in asked.items():
            setattr(self.settings, name, value)
        return {name: getattr(self.settings, name) for name in sorted(known)}


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise invalid(f"{name} must be text.")
    return value
