"""
The provider under test, as one object: everything that the matrix needs to know of it.

Another gateway takes the stub's place by another ``Provider``: how its client is made, what it can
be made to do, and what its own ledger says afterwards. The rest of the matrix does not change.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Protocol, Self
from urllib.parse import parse_qsl

import attrs
from typing_extensions import override

from railcore.enums import Idempotency, Operation, PaymentRail
from railcore.http import HttpRequest
from railcore.ports import FlowRail, WebhookProvider
from railcore.rails.card_psp import CardPspRail
from railcore.redaction import Secret
from railcore.routing import RouteCapabilities, TimingBounds
from railcore.webhooks import WebhookTrust
from railcore_adapters.hyperpay import HyperPayAccount, HyperPayGateway, HyperPayWebhooks
from railcore_adapters.hyperpay.wire import OUR_KEY, TYPES, reference_of
from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox import ledger as sandbox_ledger
from railcore_adapters.sandbox.hyperpay import DEFAULT_KEY, entity_of
from railcore_adapters.sandbox.ledger import Charge, Movement
from railcore_adapters.sandbox.psp import Psp
from railcore_adapters.sandbox.webhooks import DEFAULT_SECRET, Parcel
from railcore_adapters.standard_webhooks import ID, SIGNATURE, TIMESTAMP, sign
from railcore_adapters.stub import StubGateway, StubWebhooks
from tests.faults.wire.proxy import Upstream

TIMING: Final = TimingBounds(
    send_deadline_s=1.0,
    latest_arrival_s=0.1,
    read_lag_s=0.7,
    key_window_s=None,
    answer_timeout_s=0.6,
)
"""Bounds that hold here, a hundred times shorter than a real provider's."""

LAG_S: Final = 0.5
"""For how long the provider that lags does not show what it has done."""


@attrs.frozen
class Behaviour:
    """
    What the provider does of itself, whatever befalls the wire.

    Attributes:
        name: For people.
        fault: What it is called at the sandbox, if anything.
        lags: Whether lookups find nothing for a while.
        is_plain: Whether it knows no idempotency keys.
        refetches: Whether its webhooks are not believed but looked up.
    """

    name: str
    fault: str | None = None
    lags: bool = False
    is_plain: bool = False
    refetches: bool = False


@attrs.frozen
class Moved:
    """One movement in the provider's own ledger; ``key`` is the reference that it was given."""

    account: str
    key: str
    kind: str
    amount_minor: int
    currency: str


@attrs.frozen
class News:
    """A webhook as it goes over the wire."""

    provider: str
    account: str
    headers: Sequence[tuple[str, str]]
    body: bytes


class Provider(Protocol):
    """
    What the matrix asks of a provider.

    Attributes:
        name: As in routes.
        rail: Which rail its client is.
        token: A stored instrument that is charged.
        behaviours: What it can be made to do.
    """

    name: str
    rail: PaymentRail
    token: str
    behaviours: Mapping[str, Behaviour]

    def upstream(self, behaviour: Behaviour) -> Upstream:
        """Return where it listens."""
        ...

    def open_account(self, account: str, behaviour: Behaviour) -> None:
        """Let it know an account."""
        ...

    def close_account(self, account: str) -> None:
        """Let it forget an account; what was done with it stays in the ledger."""
        ...

    def behave(self, account: str, operation: Operation | None) -> None:
        """Behave as the account's behaviour says in *operation*, and well in all others."""
        ...

    def client(self, base_url: str, behaviour: Behaviour) -> FlowRail[Any, Any]:
        """Return the rail, speaking to *base_url*."""
        ...

    def edited(self, request: HttpRequest) -> HttpRequest:
        """Return *request* with what makes the provider behave."""
        ...

    def webhooks(self, behaviour: Behaviour) -> WebhookProvider:
        """Return what reads its webhooks."""
        ...

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """Return the key to an account, as a ``CredentialSource``."""
        ...

    def webhook_secret(self, account: str) -> Secret:
        """Return what signs the webhooks of an account."""
        ...

    def settle(self, account: str, key: str) -> None:
        """Decide what it still holds pending under *key*, if anything."""
        ...

    def take_news(self, account: str) -> Sequence[News]:
        """Return the webhooks that wait to be delivered, once."""
        ...

    def moved(self, accounts: Container[str]) -> Sequence[Moved]:
        """Return everything that it has really done with *accounts*."""
        ...


KINDS: Final[Mapping[str, str]] = {
    Operation.CHARGE: "charge",
    Operation.AUTHORIZE: "authorization",
    Operation.CAPTURE: "capture",
    Operation.VOID: "void",
    Operation.REFUND: "refund",
}
"""What each operation is called in a ledger."""

STUB_BEHAVIOURS: Final = {
    one.name: one
    for one in (
        Behaviour("answers"),
        Behaviour("declines", "declined"),
        Behaviour("loses the answer", "lose_answer"),
        Behaviour("says 500", "500_after"),
        Behaviour("lags", lags=True),
        Behaviour("pending", "pending"),
        Behaviour("plain, answers", is_plain=True),
        Behaviour("plain, loses the answer", "lose_answer", is_plain=True),
        Behaviour("plain, lags", lags=True, is_plain=True),
        Behaviour("declines later", "pending"),
        Behaviour("refetched", "pending", refetches=True),
    )
}


@attrs.frozen
class PlainGateway(StubGateway):
    """The stub's gateway to a provider that knows no idempotency keys."""

    @property
    @override
    def capabilities(self) -> RouteCapabilities:
        return attrs.evolve(super().capabilities, idempotency=Idempotency.NONE)


class StubProvider:
    """The stub's gateway before the sandbox: one that is prompt, and one that lags."""

    name = "stub"
    rail = PaymentRail.CARD_PSP
    token = "tok_visa"
    behaviours: Mapping[str, Behaviour] = STUB_BEHAVIOURS

    def __init__(self) -> None:
        self._news: defaultdict[str, list[News]] = defaultdict(list)
        self._lock = threading.Lock()
        self._behaviours: dict[str, Behaviour] = {}
        self._under_way: dict[str, Operation] = {}
        self._count = 0
        self._stack = ExitStack()
        self._prompt = Sandbox(amount_faults=False)
        self._lagging = Sandbox(amount_faults=False, read_lag_s=LAG_S)

    def __enter__(self) -> Self:
        for sandbox in (self._prompt, self._lagging):
            sandbox.accounts.clear()
            self._psp(sandbox).announce = self._announce
            self._stack.enter_context(sandbox)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def upstream(self, behaviour: Behaviour) -> Upstream:
        return Upstream("127.0.0.1", self._sandbox(behaviour).port)

    def open_account(self, account: str, behaviour: Behaviour) -> None:
        self._behaviours[account] = behaviour
        self._sandbox(behaviour).accounts[account] = _key(account)

    def close_account(self, account: str) -> None:
        self._sandbox(self._behaviours.pop(account)).accounts.pop(account)
        self._under_way.pop(account, None)
        self._news.pop(account, None)

    def behave(self, account: str, operation: Operation | None) -> None:
        if operation is None:
            self._under_way.pop(account, None)
        else:
            self._under_way[account] = operation

    def client(self, base_url: str, behaviour: Behaviour) -> FlowRail[Any, Any]:
        gateway = PlainGateway if behaviour.is_plain else StubGateway
        return CardPspRail(gateway(base_url, TIMING))

    def edited(self, request: HttpRequest) -> HttpRequest:
        if request.credentials_of is None or not request.moves_money:
            return request
        account = request.credentials_of[2]
        behaviour, operation = self._behaviours[account], self._under_way.get(account)
        headers = dict(request.headers)
        if behaviour.is_plain:
            headers.pop("Idempotency-Key")
        if (
            behaviour.fault is not None
            and operation is not None
            and request.url.endswith(f"/{KINDS[operation]}s")
        ):
            headers["X-Sandbox-Fault"] = behaviour.fault
        return attrs.evolve(request, headers=headers)

    def webhooks(self, behaviour: Behaviour) -> WebhookProvider:
        return StubWebhooks(WebhookTrust.REFETCH if behaviour.refetches else WebhookTrust.BODY)

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        return Secret(_key(account))

    def webhook_secret(self, account: str) -> Secret:
        return Secret(DEFAULT_SECRET)

    def settle(self, account: str, key: str) -> None:
        behaviour = self._behaviours[account]
        psp, name = self._psp(self._sandbox(behaviour)), self._reference(key)
        with suppress(LookupError, ValueError):
            if behaviour.name == "declines later":
                psp.decline(name)
            else:
                psp.settle(name)

    def take_news(self, account: str) -> Sequence[News]:
        with self._lock:
            return self._news.pop(account, [])

    def moved(self, accounts: Container[str]) -> Sequence[Moved]:
        found: list[Moved] = []
        for sandbox in (self._prompt, self._lagging):
            for charge in sandbox.ledger.charges:
                found += _moved("charge", charge, accounts)
            for movement in sandbox.ledger.movements:
                found += _moved(movement.kind, movement, accounts)
        return found

    def _psp(self, sandbox: Sandbox) -> Psp:
        return sandbox.psp

    def _reference(self, key: str) -> str:
        return key

    def _sandbox(self, behaviour: Behaviour) -> Sandbox:
        return self._lagging if behaviour.lags else self._prompt

    def _announce(self, view: Mapping[str, Any]) -> None:
        with self._lock:
            self._count += 1
            event_id = f"evt_{self._count:012d}"
        told = {
            "id": event_id,
            "type": f"{view['object']}.updated",
            "created_at": sandbox_ledger.stamp(sandbox_ledger.now()),
            "data": dict(view),
        }
        body = json.dumps(told).encode()
        at_s = int(time.time())
        account = str(view["account"])
        signature = sign(self.webhook_secret(account), event_id, at_s, body)
        headers = [(ID, event_id), (TIMESTAMP, str(at_s)), (SIGNATURE, signature)]
        with self._lock:
            self._news[account].append(News(self.name, account, headers, body))


def _moved(kind: str, row: Charge | Movement, accounts: Container[str]) -> list[Moved]:
    if row.account not in accounts:
        return []
    return [Moved(row.account, row.reference, kind, row.amount_minor, row.currency)]


def _key(account: str) -> str:
    return f"sk_sandbox_{account}"


class Entities(Mapping[str, HyperPayAccount]):
    """Every account is an entity at HyperPay."""

    def __getitem__(self, account: str) -> HyperPayAccount:
        return HyperPayAccount(entity_id=entity_of(account))

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


HYPERPAY_BEHAVIOURS: Final = {
    name: one for name, one in STUB_BEHAVIOURS.items() if not one.is_plain
}


class HyperPayProvider(StubProvider):
    """HyperPay's gateway before the sandbox, which knows no idempotency keys."""

    name = "hyperpay"
    token = "tokvisa"
    behaviours: Mapping[str, Behaviour] = HYPERPAY_BEHAVIOURS

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, str] = {}

    @override
    def client(self, base_url: str, behaviour: Behaviour) -> FlowRail[Any, Any]:
        return CardPspRail(HyperPayGateway(accounts=Entities(), base_url=base_url, timing=TIMING))

    @override
    def edited(self, request: HttpRequest) -> HttpRequest:
        if request.credentials_of is None or not request.moves_money:
            return request
        form = dict(parse_qsl(request.body.decode()))
        self._keys[form["merchantTransactionId"]] = form[f"customParameters[{OUR_KEY}]"]
        account = request.credentials_of[2]
        fault, operation = self._behaviours[account].fault, self._under_way.get(account)
        if fault is None or operation is None or form["paymentType"] != TYPES[operation]:
            return request
        return attrs.evolve(request, headers={**request.headers, "X-Sandbox-Fault": fault})

    @override
    def webhooks(self, behaviour: Behaviour) -> WebhookProvider:
        trust = WebhookTrust.REFETCH if behaviour.refetches else WebhookTrust.BODY
        return HyperPayWebhooks(trust, takes_test_mode=True)

    @override
    def webhook_secret(self, account: str) -> Secret:
        return Secret(DEFAULT_KEY)

    @override
    def moved(self, accounts: Container[str]) -> Sequence[Moved]:
        return [
            attrs.evolve(one, key=self._keys.get(one.key, one.key))
            for one in super().moved(accounts)
        ]

    @override
    def _psp(self, sandbox: Sandbox) -> Psp:
        return sandbox.hyperpay.charges

    @override
    def _reference(self, key: str) -> str:
        return reference_of(key)

    @override
    def _announce(self, view: Mapping[str, Any]) -> None:
        account = str(view["account"])
        sender = self._sandbox(self._behaviours[account]).hyperpay.webhooks
        parcel = Parcel(
            event_id="",
            account=account,
            body=json.dumps(sender.tell(view, "")).encode(),
            due_s=0.0,
            secret=self.webhook_secret(account).reveal(),
        )
        headers, body = sender.seal(parcel)
        with self._lock:
            self._news[account].append(News(self.name, account, list(headers.items()), body))


PROVIDERS: Final[Mapping[str, type[StubProvider]]] = {
    "stub": StubProvider,
    "hyperpay": HyperPayProvider,
}
"""The providers that the matrix can be run with."""
