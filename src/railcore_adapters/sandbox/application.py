"""Which request goes where, and who may ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from railcore_adapters.sandbox.bank import Bank
from railcore_adapters.sandbox.control import Control
from railcore_adapters.sandbox.faults import Answer
from railcore_adapters.sandbox.hyperpay import HyperPay
from railcore_adapters.sandbox.ledger import Ledger
from railcore_adapters.sandbox.psp import Psp
from railcore_adapters.sandbox.wire import Refusal, Request, Response, invalid, json_response

_PSP_KINDS: Final[Mapping[str, str]] = {
    "charges": "charge",
    "authorizations": "authorization",
    "captures": "capture",
    "voids": "void",
    "refunds": "refund",
}


@dataclass(frozen=True, slots=True)
class Application:
    """The providers, the ledger and the switchboard behind one address."""

    accounts: Mapping[str, str]
    ledger: Ledger
    psp: Psp
    bank: Bank
    hyperpay: HyperPay
    control: Control

    def handle(self, request: Request) -> Answer:
        """
        Return the answer to *request*.

        Raises:
            Refusal: It is answered with an error.
        """
        match request.path.removeprefix("/").split("/"):
            case ["psp", "v1", kinds, *rest] if kinds in _PSP_KINDS:
                return self._provider(self.psp, request, rest, _PSP_KINDS[kinds])
            case ["bank", "v1", "payments", *rest]:
                return self._provider(self.bank, request, rest, "payment")
            case ["bank", "authorize", payment_id]:
                return Answer(self._customer(request, payment_id))
            case ["v1", "paymentWidgets.js"]:
                return Answer(self.hyperpay.script(request.query.get("checkoutId", "")))
            case ["v1", *rest]:
                return self.hyperpay.handle(request, self._authenticate(request), rest)
            case ["hyperpay", "pay", name]:
                return Answer(self.hyperpay.page(name, request))
            case ["control", *action]:
                _allow(request, "POST")
                return Answer(self.control.handle("/".join(action), request))
            case ["ledger"]:
                _allow(request, "GET")
                return Answer(json_response(200, self.ledger.as_json()))
            case _:
                raise Refusal(404, "not_found", "There is nothing here; see the reference page.")

    def _provider(
        self, provider: Psp | Bank, request: Request, rest: list[str], kind: str
    ) -> Answer:
        account = self._authenticate(request)
        match rest:
            case []:
                _allow(request, "GET", "POST")
                if request.method == "POST":
                    return provider.create(request, account, kind)
                return provider.find(account, _reference(request), kind)
            case [item_id]:
                _allow(request, "GET")
                return provider.read(account, item_id, kind)
            case _:
                raise Refusal(404, "not_found", "There is nothing here.")

    def _customer(self, request: Request, payment_id: str) -> Response:
        _allow(request, "GET", "POST")
        if request.method == "POST":
            return self.bank.decide(payment_id, request)
        return self.bank.page(payment_id)

    def _authenticate(self, request: Request) -> str:
        """Return the account whose key the request carries."""
        scheme, _, said = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            for account, api_key in self.accounts.items():
                if compare_digest(said.encode(), api_key.encode()):
                    return account
        raise Refusal(401, "invalid_api_key", "Send Authorization: Bearer and a known API key.")


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise Refusal(405, "method_not_allowed", f"Use {allowed}.", [("Allow", allowed)])


def _reference(request: Request) -> str:
    reference = request.query.get("reference")
    if not reference:
        raise invalid("Ask with ?reference= and the reference of the POST.")
    return reference
