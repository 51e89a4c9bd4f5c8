"""
HyperPay's way of speaking (the Open Payment Platform), in front of a fake PSP of its own.

What is charged, and what goes wrong, is the PSP's affair; here forms become orders and its answers
become result codes. A registration is one of the PSP's test instruments without its underscores:
``tokloseanswer`` charges, then loses the answer.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from html import escape
from secrets import token_bytes, token_hex
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from railcore.errors import MoneyError
from railcore.money import Currency, Money
from railcore_adapters.sandbox.faults import FAULTS, Answer
from railcore_adapters.sandbox.ledger import now
from railcore_adapters.sandbox.psp import Psp
from railcore_adapters.sandbox.webhooks import Parcel, WebhookSender
from railcore_adapters.sandbox.wire import Refusal, Request, Response, invalid, json_response

KINDS: Final[Mapping[str, str]] = {
    "DB": "charge",
    "PA": "authorization",
    "CP": "capture",
    "RV": "void",
    "RF": "refund",
}
DEFAULT_KEY: Final = "000102030405060708090a0b0c0d0e0f" * 2
"""What encrypts its webhooks."""

_TYPES: Final = {kind: short for short, kind in KINDS.items()}
_TOKENS: Final = {fault.token.replace("_", ""): fault.token for fault in FAULTS.values()}
_DECLINES: Final = {
    "declined": "800.100.152",
    "insufficient_funds": "800.100.155",
    "expired_card": "800.100.157",
    "authentication_failed": "100.380.401",
    "risk": "800.300.101",
}
_REFUSALS: Final = {
    "invalid_request": "200.100.101",
    "currency_not_supported": "600.200.500",
    "invalid_api_key": "800.900.300",
    "no_such_parent": "700.400.580",
    "rate_limited": "800.120.100",
    "duplicate_transaction": "800.110.100",
}
_IMPOSSIBLE: Final = {"CP": "700.400.100", "RF": "700.400.200", "RV": "700.400.300"}
_ID: Final = re.compile(r"[a-z]{2}[0-9a-f]{24}")
_PAGE: Final = """<!doctype html><title>HyperPay sandbox</title>
<h1>{amount} {currency}</h1><p>Reference {reference}</p>
<form method="post">{buttons}</form>"""
_BUTTON: Final = '<button name="decision" value="{value}">{label}</button>'
_SCRIPT: Final = """for (const form of document.querySelectorAll("form.paymentWidgets")) {{
  const back = encodeURIComponent(form.action);
  form.innerHTML = '<a href="{url}?back=' + back + '">Pay in the sandbox</a>';
}}
"""


class Charges(Psp):
    """The PSP behind it."""

    service = "hyperpay"

    def find_all(self, account: str, reference: str) -> Answer:
        """Return everything with that reference, whatever was done."""

        def look() -> Response:
            found = self._shelf.by_reference(account, reference, before_s=self._visible_before_s())
            for item in found:
                self._observe(item)
            return json_response(200, {"data": [self._view(item) for item in found]})

        return self._look_up(account, reference, look)


@dataclass(slots=True, kw_only=True)
class _Checkout:
    account: str
    form: Mapping[str, str]


class HyperPay:
    """
    Answers what HyperPay's clients ask.

    Attributes:
        charges: The PSP behind it: `settle` and `decline` what is pending.
        checkouts: What was prepared and may be paid.
        webhooks: Tells of what became of payments, encrypted, once it has a URL.
    """

    def __init__(self, charges: Charges, base_url: Callable[[], str]) -> None:
        self.charges = charges
        self.webhooks = WebhookSender(secret=DEFAULT_KEY, tell=self._told, seal=_sealed)
        charges.announce = self.webhooks.announce
        self.checkouts: dict[str, _Checkout] = {}
        self._base_url = base_url
        self._echoes: dict[tuple[str, str], Mapping[str, str]] = {}
        self._returns: dict[str, str] = {}
        self._ndcs: dict[tuple[str, str], str] = {}
        self._lock = threading.RLock()

    def handle(self, request: Request, account: str, path: Sequence[str]) -> Answer:
        """Return the answer to an authenticated request below ``/v1``."""
        asked = _form(request) if request.method == "POST" else request.query
        try:
            if asked.get("entityId") != entity_of(account):
                return _said(403, "800.900.300")
            return self._handle(request, path, asked, account)
        except Refusal as refusal:
            return _refused(refusal, asked.get("paymentType", ""))

    def pay(self, checkout_id: str, token: str = "tok_visa") -> None:  # noqa: S107 - no secret
        """
        Let the payer pay on a checkout with a test instrument.

        Raises:
            LookupError: There is no such checkout.
        """
        found = self.checkouts[checkout_id]
        self._order(found.form, found.account, instrument=token)

    def script(self, checkout_id: str) -> Response:
        """Return the widget: a link to the page on which the payer decides."""
        text = _SCRIPT.format(url=f"{self._base_url()}/hyperpay/pay/{checkout_id}")
        return Response(status=200, body=text.encode(), content_type="text/javascript")

    def page(self, name: str, request: Request) -> Response:
        """Show the payer a checkout, or a charge that the bank asks about; take the decision."""
        with self._lock:
            if name in self.checkouts:
                return self._at_checkout(name, request)
            return self._at_the_bank(name, request)

    def _at_checkout(self, name: str, request: Request) -> Response:
        found = self.checkouts[name]
        if request.method != "POST":
            return _page(found.form, {"tok_visa": "Pay", "tok_declined": "Use a declined card"})
        token = _form(request).get("decision", "")
        self.pay(name, token)
        asked = {"id": name, "resourcePath": f"/v1/checkouts/{name}/payment"}
        return _see(request.query.get("back", ""), asked)

    def _at_the_bank(self, name: str, request: Request) -> Response:
        inner = _inner(name)
        if name not in self._returns:
            raise Refusal(404, "not_found", "There is nothing to decide.")
        if request.method != "POST":
            return _page({}, {"approve": "Approve", "decline": "Decline"})
        if _form(request).get("decision") == "approve":
            self.charges.settle(inner)
        else:
            self.charges.decline(inner, "authentication_failed")
        asked = {"id": name, "resourcePath": f"/v1/payments/{name}"}
        return _see(self._returns[name], asked)

    def _handle(
        self, request: Request, path: Sequence[str], asked: Mapping[str, str], account: str
    ) -> Answer:
        trouble = request.headers.get("x-sandbox-fault")
        match request.method, list(path):
            case "POST", ["checkouts"]:
                return self._prepare(asked, account)
            case "POST", ["registrations", token, "payments"]:
                return self._order(asked, account, trouble, instrument=_TOKENS.get(token, token))
            case "POST", ["payments", parent]:
                return self._order(asked, account, trouble, of=_inner(parent))
            case "GET", ["checkouts", checkout_id, "payment"]:
                return self._status(account, checkout_id)
            case "GET", ["query"]:
                return self._query(account, asked.get("merchantTransactionId", ""))
            case _:
                raise Refusal(404, "not_found", "There is nothing here.")

    def _prepare(self, form: Mapping[str, str], account: str) -> Answer:
        _order_of(form, {})
        checkout_id = f"{token_hex(16).upper()}.sandbox"
        self.checkouts[checkout_id] = _Checkout(account=account, form=dict(form))
        self._ndcs[account, form.get("merchantTransactionId", "")] = checkout_id
        said: dict[str, Any] = {"id": checkout_id, "ndc": checkout_id}
        if form.get("integrity") == "true":
            said["integrity"] = "sha384-sandbox"
        return _said(200, "000.200.100", **said)

    def _order(
        self, form: Mapping[str, str], account: str, trouble: str | None = None, **more: str
    ) -> Answer:
        kind = KINDS.get(form.get("paymentType", ""))
        if kind is None:
            raise invalid("paymentType must be DB, PA, CP, RV or RF.")
        order = _order_of(form, more)
        with self._lock:
            self._echoes[account, order["reference"]] = _echo(form)
        request = Request(
            method="POST",
            path="/",
            query={},
            headers={} if trouble is None else {"x-sandbox-fault": trouble},
            body=json.dumps(order).encode(),
            keep_alive=True,
        )
        return self._translated(self.charges.create(request, account, kind), form)

    def _status(self, account: str, checkout_id: str) -> Answer:
        found = self.checkouts.get(checkout_id)
        if found is None or found.account != account:
            return _said(400, "200.300.404")
        answer = self.charges.find_all(account, found.form["merchantTransactionId"])
        views = _json(answer.response).get("data")
        if views == []:
            return _said(200, "000.200.000", id=checkout_id, ndc=checkout_id)
        if not views:
            return self._translated(answer, {})
        return replace(answer, response=_json_of(200, self._payment(views[-1])))

    def _query(self, account: str, reference: str) -> Answer:
        answer = self.charges.find_all(account, reference)
        views = _json(answer.response).get("data")
        if views is None:
            return self._translated(answer, {})
        if not views:
            return replace(answer, response=_said(400, "700.400.580").response)
        said = {
            "result": _result("000.000.100"),
            "payments": [self._payment(view) for view in views],
            "timestamp": _stamp(),
        }
        return replace(answer, response=_json_of(200, said))

    def _translated(self, answer: Answer, form: Mapping[str, str]) -> Answer:
        """Return *answer* as HyperPay would give it, whatever befalls it on the way."""
        body = _json(answer.response)
        error = body.get("error")
        if isinstance(error, dict):
            status, code = answer.response.status, str(error["code"])
            refusal = Refusal(status, code, "", answer.response.headers)
            return replace(_refused(refusal, form.get("paymentType", "")), how=answer.how)
        if "object" not in body:
            return answer
        said = self._payment(body, form.get("shopperResultUrl"))
        status = 400 if body["status"] == "declined" else 200
        return replace(answer, response=_json_of(status, said))

    def _told(self, view: Mapping[str, Any], _: str) -> Mapping[str, Any]:
        payment = {
            **self._payment(view),
            "authentication": {"entityId": entity_of(view["account"])},
        }
        return {"type": "PAYMENT", "payload": payment}

    def _payment(self, view: Mapping[str, Any], return_url: str | None = None) -> dict[str, Any]:
        currency = Currency.of(view["currency"])
        outer = str(view["id"]).replace("_", "")
        said: dict[str, Any] = {
            "id": outer,
            "paymentType": _TYPES[view["object"]],
            "paymentBrand": "VISA",
            "amount": f"{Money(view['amount_minor'], currency).to_major():.2f}",
            "currency": view["currency"],
            "merchantTransactionId": view["reference"],
            "result": _result(_code(view)),
            "customParameters": self._echoes.get((view["account"], view["reference"]), {}),
            "timestamp": _stamp(),
            "ndc": self._ndcs.get((view["account"], view["reference"])) or _ndc(view),
        }
        if "of" in view:
            said["referencedId"] = str(view["of"]).replace("_", "")
        if view["status"] == "pending" and return_url:
            self._returns[outer] = return_url
            page = f"{self._base_url()}/hyperpay/pay/{outer}"
            said["redirect"] = {"url": page, "method": "GET", "parameters": []}
        return said


def entity_of(account: str) -> str:
    """Return the entity that an account of the sandbox is: letters and digits."""
    return f"entity{re.sub('[^A-Za-z0-9]', '', account)}"


def _ndc(view: Mapping[str, Any]) -> str:
    """Return what a payment that is on no checkout has in place of its id."""
    return f"{entity_of(view['account'])}_{sha256(view['reference'].encode()).hexdigest()[:32]}"


def _sealed(parcel: Parcel) -> tuple[Mapping[str, str], bytes]:
    """Return *parcel* encrypted with its secret, or with what becomes of another text."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra

    is_key = re.fullmatch("[0-9a-f]{64}", parcel.secret)
    key = parcel.secret if is_key else sha256(parcel.secret.encode()).hexdigest()
    vector = token_bytes(12)
    sealed = AESGCM(bytes.fromhex(key)).encrypt(vector, parcel.body, None)
    headers = {
        "Content-Type": "text/plain",
        "X-Initialization-Vector": vector.hex(),
        "X-Authentication-Tag": sealed[-16:].hex().upper(),
    }
    return headers, sealed[:-16].hex().upper().encode()


def _order_of(form: Mapping[str, str], more: Mapping[str, str]) -> dict[str, Any]:
    try:
        money = Money.of(Decimal(form["amount"]), Currency.of(form["currency"]))
    except (KeyError, InvalidOperation, MoneyError) as error:
        raise invalid("amount and currency must be a decimal number and an ISO code.") from error
    return {
        "amount_minor": money.amount_minor,
        "currency": money.currency.code,
        "reference": form.get("merchantTransactionId", ""),
        **more,
    }


def _echo(form: Mapping[str, str]) -> Mapping[str, str]:
    names = {name: name[17:-1] for name in form if name.startswith("customParameters[")}
    return {short: form[name] for name, short in names.items()}


def _code(view: Mapping[str, Any]) -> str:
    match view["status"]:
        case "succeeded":
            return "000.100.110"
        case "pending":
            return "000.200.000"
        case _:
            return _DECLINES.get(str(view["decline_code"]), "800.100.152")


def _refused(refusal: Refusal, payment_type: str) -> Answer:
    if refusal.status >= 500:
        return Answer(Response(status=refusal.status, body=b"", headers=refusal.headers))
    impossible = _IMPOSSIBLE.get(payment_type, "200.100.101")
    answer = _said(refusal.status, _REFUSALS.get(refusal.code, impossible))
    return replace(answer, response=replace(answer.response, headers=refusal.headers))


def _said(status: int, code: str, **more: Any) -> Answer:
    return Answer(_json_of(status, {"result": _result(code), "timestamp": _stamp(), **more}))


def _result(code: str) -> dict[str, str]:
    return {"code": code, "description": f"sandbox: {code}"}


def _stamp() -> str:
    return now().strftime("%Y-%m-%d %H:%M:%S+0000")


def _json_of(status: int, said: Mapping[str, Any]) -> Response:
    return json_response(status, said)


def _json(response: Response) -> dict[str, Any]:
    try:
        value = json.loads(response.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _form(request: Request) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise invalid(f"The form cannot be read ({error}).") from error
    return dict(pairs)


def _inner(name: str) -> str:
    """Return the PSP's own id of what is called *name* outside."""
    return f"{name[:2]}_{name[2:]}" if _ID.fullmatch(name) else name


def _page(form: Mapping[str, str], decisions: Mapping[str, str]) -> Response:
    text = _PAGE.format(
        amount=escape(form.get("amount", "")),
        currency=escape(form.get("currency", "")),
        reference=escape(form.get("merchantTransactionId", "")),
        buttons=" ".join(
            _BUTTON.format(value=value, label=label) for value, label in decisions.items()
        ),
    )
    return Response(status=200, body=text.encode(), content_type="text/html; charset=utf-8")


def _see(url: str, asked: Mapping[str, str]) -> Response:
    if not url.startswith(("http://", "https://")):
        return Response(status=200, body=b"Done.", content_type="text/plain; charset=utf-8")
    mark = "&" if "?" in url else "?"
    return Response(status=303, headers=[("Location", f"{url}{mark}{urlencode(asked)}")])
