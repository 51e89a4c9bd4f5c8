"""
Deliveries made of arbitrary bytes: one validly signed around them, and one that is not.

``Target.deliver`` plays both and checks the promises: nothing untyped is raised, what is not proven
leaves no row, what is proven is kept.
"""

import json
from typing import Any, Final

import attrs

from railcore.engine import PaymentEngine
from railcore.enums import PaymentRail
from railcore.errors import WebhookRefusedError
from railcore.failures import PaymentFailureCode
from railcore.intake import Webhooks
from railcore.ports import Rail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver
from railcore.testing.inbox import InMemoryWebhookInbox
from railcore.testing.memory import InMemoryExecutionStore
from railcore.webhooks import WebhookAccount, WebhookVerdict
from railcore_adapters.credentials import FixedWebhookAccounts
from railcore_adapters.standard_webhooks import ID, SIGNATURE, TIMESTAMP, sign
from railcore_adapters.stub import StubWebhooks
from tests.core.hosts import ROUTES, FakeRail
from tests.core.made import FakeClock, context

SECRET: Final = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
STRANGER: Final = Secret("whsec_bm9ib2R5IGdhdmUgdXMgdGhpcyBrZXk=")
ASKED: Final = context()
EVENT: Final[dict[str, Any]] = {
    "id": "evt_1",
    "type": "charge.updated",
    "created_at": "2026-03-01T12:00:00Z",
    "data": {
        "id": "ch_1",
        "object": "charge",
        "status": "succeeded",
        "decline_code": None,
        "amount_minor": 1250,
        "currency": "SAR",
        "reference": ASKED.provider_key,
        "account": "main",
        "livemode": False,
        "created_at": "2026-03-01T12:00:00Z",
    },
}
STRANGE: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "\x00",
    "\ud800",
    "4111111111111111",
    "x" * 300,
    [],
    {},
    [[[[[[]]]]]],
    {"status": "succeeded"},
    "succeeded",
    "pending",
    "declined",
    "settled",
    "accepted",
    "rejected",
    "awaiting_authorization",
    "payment",
    "insufficient_funds",
    "https://bank.example/pay",
    "2026-03-01T12:00:00+99:99",
    "KWD",
    "ZZZ",
)
FIELDS: Final = (
    *(("data", name) for name in EVENT["data"]),
    *(("", name) for name in EVENT),
    ("data", "authorize_url"),
    ("data", "expires_at"),
)
_ROUND: Final = 2000


@attrs.define
class Bytes:
    """Reads small choices off the front of the bytes."""

    left: bytes

    def choice(self, among: int) -> int:
        first, self.left = self.left[:1], self.left[1:]
        return int.from_bytes(first) % among

    def text(self) -> str:
        return self.left.decode("utf-8", "surrogateescape")


@attrs.define
class Target:
    """An engine with one payment in doubt, and what became of the deliveries to it."""

    count: int = 0
    refused: int = 0
    kept: int = 0
    applied: int = 0
    engine: PaymentEngine = attrs.field(init=False)
    inbox: InMemoryWebhookInbox = attrs.field(init=False)
    clock: FakeClock = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.clock = FakeClock()
        self.inbox = InMemoryWebhookInbox(self.clock)
        rails = PaymentRailRegistry[Rail]()
        rail = FakeRail(lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT))
        rails.register(PaymentRail.CARD_PSP, "stub", rail)
        account = WebhookAccount(account="main", secrets=(SECRET,))
        self.engine = PaymentEngine(
            rails=rails,
            routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
            store=InMemoryExecutionStore(self.clock),
            clock=self.clock,
            webhooks=Webhooks(
                providers={"stub": StubWebhooks()},
                accounts=FixedWebhookAccounts({"stub": [account]}),
                inbox=self.inbox,
            ),
        )
        self.engine.execute(ASKED)

    def deliver(self, data: bytes) -> None:
        """Play two deliveries, one of them signed, and check what has to be."""
        for is_signed in (True, False):
            self._play(Bytes(data), is_signed=is_signed)

    def _play(self, reader: Bytes, *, is_signed: bool) -> None:
        self.count += 1
        if self.count % _ROUND == 0:
            self.restart()
        headers, body = self._signed(reader) if is_signed else self._unsigned(reader)
        before = len(self.inbox)
        try:
            receipt = self.engine.handle_webhook("stub", headers, body)
        except WebhookRefusedError:
            assert not is_signed, "what is proven is taken"
            assert len(self.inbox) == before, "what is not proven leaves no row"
            self.refused += 1
        else:
            assert is_signed, "what is not proven is refused"
            assert len(self.inbox) == before + 1, "what is proven is kept"
            self.kept += 1
            self.applied += receipt.verdict is WebhookVerdict.APPLIED

    def _signed(self, reader: Bytes) -> tuple[dict[str, str], bytes]:
        body = _body(reader)
        return self._headers(SECRET, body), body

    def _unsigned(self, reader: Bytes) -> tuple[dict[str, str], bytes]:
        way, name = reader.choice(6), (ID, TIMESTAMP, SIGNATURE)[reader.choice(3)]
        if way == 0:
            body = _body(reader)
            return self._headers(STRANGER, body), body
        text, body = reader.text(), b"{}"
        headers = self._headers(SECRET, body)
        match way:
            case 1:
                headers.pop(name)
            case 2:
                headers[name] = f"{headers[name]},{text}"
            case 3:
                headers[name] = headers[name] + " " if text == headers[name] else text
            case 4:
                body += b" "
            case _:
                headers = self._headers(SECRET, body, late_s=301 + len(text))
        return headers, body

    def _headers(self, secret: Secret, body: bytes, late_s: int = 0) -> dict[str, str]:
        at, event_id = int(self.clock.now().timestamp()) - late_s, f"evt_{self.count}"
        signature = sign(secret, event_id, at, body)
        return {ID: event_id, TIMESTAMP: str(at), SIGNATURE: signature}


def _body(reader: Bytes) -> bytes:
    """Return any bytes, an event with any text in it, or one with strange values."""
    match reader.choice(4):
        case 0:
            return reader.left
        case 1:
            text = json.dumps(EVENT)
            at = reader.choice(256) * len(text) // 256
            return text[:at].encode() + reader.left + text[at + reader.choice(8) :].encode()
        case _:
            return json.dumps(_strange(reader)).encode()


def _strange(reader: Bytes) -> dict[str, Any]:
    data = dict(EVENT["data"])
    event: dict[str, Any] = {**EVENT, "data": data}
    for _ in range(1 + reader.choice(3)):
        part, name = FIELDS[reader.choice(len(FIELDS))]
        pick = reader.choice(len(STRANGE) + 2)
        inner = data if part else event
        if pick == len(STRANGE) + 1:
            inner.pop(name, None)
        else:
            inner[name] = STRANGE[pick] if pick < len(STRANGE) else reader.text()
    return event
