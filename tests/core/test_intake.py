"""Webhooks: verified, kept once, applied like any other news, in both colours."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.errors import (
    MisconfiguredError,
    StoreError,
    UnknownProviderError,
    WebhookRefusedError,
)
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.intake import Webhooks, _safe, _true_body
from railcore.lifecycle import DiscrepancyKind
from railcore.money import SAR, Money
from railcore.observability import WebhookObserved
from railcore.ports import AsyncRail, Rail
from railcore.redaction import KEPT, Secret, holds_card_number, masked
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, Review
from railcore.routing import ConfigDrivenRouteResolver
from railcore.testing.inbox import AsyncInMemoryWebhookInbox, InMemoryWebhookInbox
from railcore.testing.memory import AsyncInMemoryExecutionStore
from railcore.webhooks import (
    BODY_LIMIT,
    Delivery,
    InboxItem,
    InboxVerdict,
    VerifiedDelivery,
    WebhookAccount,
    WebhookEvent,
    WebhookNews,
    WebhookReceipt,
    WebhookSettings,
    WebhookTrust,
    WebhookVerdict,
)
from tests.core.hosts import COLOURS, ROUTES, AsyncFakeRail, Colour, FakeRail, Host, run
from tests.core.made import ASKED, context

KEY, OLD_KEY, OTHER_KEY = Secret("current"), Secret("old"), Secret("of another account")
Say = Callable[[PaymentExecution], dict[str, Any]]


@attrs.define
class PlainWebhooks:
    """A provider that "signs" with the secret itself in a header, and speaks JSON."""

    trust: WebhookTrust = WebhookTrust.BODY
    is_broken: bool = False

    def verify(
        self, delivery: Delivery, secrets: Sequence[Secret], now: datetime, /
    ) -> VerifiedDelivery:
        if delivery.headers.get("break") == "it":
            raise ZeroDivisionError
        if delivery.headers.get("key") not in {one.reveal() for one in secrets}:
            raise WebhookRefusedError("plain", "another key")
        return VerifiedDelivery(event_id=delivery.headers.get("id"), body=delivery.body)

    def parse(self, body: bytes, /) -> WebhookEvent:
        if self.is_broken:
            raise KeyError("broken")
        said = json.loads(body)
        return WebhookEvent(news=tuple(map(_news, said)))


def _news(said: dict[str, Any]) -> WebhookNews:
    ref = str(said.get("ref", "ch_1"))
    match said["says"]:
        case "success":
            result = RailResult.success(ref, Money(said.get("minor", ASKED.amount_minor), SAR))
        case "declined":
            result = RailResult.failed(PaymentFailureCode.DECLINED, provider_ref=ref)
        case "limited":
            result = RailResult.failed(PaymentFailureCode.RATE_LIMITED)
        case reason:
            result = RailResult.pending(PendingReason(reason), provider_ref=ref)
    named, rail, done = said.get("named"), said.get("rail"), said.get("operation")
    return WebhookNews(
        result=result,
        provider_key=said.get("key"),
        provider_ref=None if named is None else str(named),
        rail=None if rail is None else PaymentRail(rail),
        operation=None if done is None else Operation(done),
    )


@attrs.define
class Accounts:
    known: dict[str, WebhookAccount]

    def accounts(self, provider: str, account: str | None, /) -> Sequence[WebhookAccount]:
        return [one for name, one in self.known.items() if account in {None, name}]


def accounts() -> Accounts:
    main = WebhookAccount(account="main", secrets=(KEY, OLD_KEY))
    other = WebhookAccount(account="other", secrets=(OTHER_KEY,))
    return Accounts({"main": main, "other": other})


@attrs.define
class Hearing:
    """A host that hears webhooks."""

    colour: Colour
    host: Host = attrs.field(init=False)
    provider: PlainWebhooks = attrs.field(factory=PlainWebhooks)
    accounts: Accounts = attrs.field(factory=accounts)
    inbox: InMemoryWebhookInbox = attrs.field(init=False)
    engine: PaymentEngine | AsyncPaymentEngine = attrs.field(init=False)
    count: int = 0

    def __attrs_post_init__(self) -> None:
        self.host = Host(self.colour)
        self.inbox = InMemoryWebhookInbox(self.host.clock)
        self.engine = self._engine()

    def _engine(self) -> PaymentEngine | AsyncPaymentEngine:
        host, settings = self.host, WebhookSettings(park_after=3)
        shared: dict[str, Any] = {
            "providers": {"stub": self.provider},
            "accounts": self.accounts,
            "settings": settings,
        }
        told: dict[str, Any] = {"clock": host.clock, "observer": host.notes}
        if self.colour == "sync":
            rails = PaymentRailRegistry[Rail]()
            rails.register(PaymentRail.CARD_PSP, "stub", host.rail)
            return PaymentEngine(
                rails=rails,
                routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
                store=host.store,
                webhooks=Webhooks(inbox=self.inbox, **shared),
                **told,
            )
        others = PaymentRailRegistry[AsyncRail]()
        others.register(PaymentRail.CARD_PSP, "stub", AsyncFakeRail(host.rail))
        inbox = AsyncInMemoryWebhookInbox(host.clock, shared=self.inbox)
        return AsyncPaymentEngine(
            rails=others,
            routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=others.offered),
            store=AsyncInMemoryExecutionStore(host.clock, shared=host.store),
            webhooks=Webhooks(inbox=inbox, **shared),
            **told,
        )

    @property
    def rail(self) -> FakeRail:
        return self.host.rail

    def execute(self, key: str = "key-1") -> PaymentExecution:
        wanted = context(idempotency_key=key, payment_id=f"inv-{key}")
        return run(self.engine.execute(wanted))

    def in_doubt(self, key: str = "key-1") -> PaymentExecution:
        self.rail.answer = lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
        return self.execute(key)

    def get(self, execution: PaymentExecution) -> PaymentExecution:
        return run(self.engine.get(execution.tenant_id, execution.execution_id))

    def hear(
        self,
        *said: dict[str, Any],
        event_id: str | None = None,
        key: Secret = KEY,
        account: str | None = None,
    ) -> WebhookReceipt:
        self.count += 1
        headers = {"Key": key.reveal(), "Id": event_id or f"evt_{self.count}"}
        body = json.dumps(said).encode()
        return run(self.engine.handle_webhook("stub", headers, body, account))

    def apply(self, after_s: float = 0.0) -> int:
        self.host.clock.advance(after_s)
        return run(self.engine.apply_inbox())

    def told(self) -> list[str]:
        return [one.verdict for one in self.host.notes.told if isinstance(one, WebhookObserved)]


@pytest.fixture(params=COLOURS)
def hearing(request: pytest.FixtureRequest) -> Hearing:
    return Hearing(request.param)


def of(execution: PaymentExecution, says: str, **more: Any) -> dict[str, Any]:
    return {"says": says, "key": execution.provider_key, **more}


# Taking ----------------------------------------------------------------------------------------


def test_news_settles_what_is_in_doubt(hearing: Hearing) -> None:
    execution = hearing.in_doubt()

    receipt = hearing.hear(of(execution, "success"))

    settled = hearing.get(execution)
    assert receipt.verdict is WebhookVerdict.APPLIED
    assert (settled.status, settled.provider_ref) == (ExecutionStatus.COMPLETED, "ch_1")
    assert hearing.told() == ["accepted", "applied"]
    events = run(hearing.engine.events(execution.tenant_id, execution.payment_id))
    assert (events[-1].payload["source"], events[-1].payload["evidence"]) == ("webhook", "evt_1")


def test_the_same_delivery_again_changes_nothing(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.hear(of(execution, "success"), event_id="evt_1")
    version = hearing.get(execution).version

    receipt = hearing.hear(of(execution, "success"), event_id="evt_1")

    assert (receipt.verdict, receipt.item) == (WebhookVerdict.DUPLICATE, None)
    assert hearing.get(execution).version == version
    assert run(hearing.engine.apply_webhook(receipt)) == receipt


def test_wh4_the_same_event_with_another_body_is_refused_with_an_alarm(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.hear(of(execution, "provider_processing"), event_id="evt_1")

    with pytest.raises(WebhookRefusedError, match="another body"):
        hearing.hear(of(execution, "success"), event_id="evt_1")

    assert hearing.get(execution).status is ExecutionStatus.PENDING
    alarms = [one for one in hearing.host.notes.told if isinstance(one, WebhookObserved)]
    assert alarms[-1].is_alarm


def test_wh5_what_is_not_proven_leaves_no_row(hearing: Hearing) -> None:
    execution = hearing.in_doubt()

    for headers in ({"key": "forged"}, {}, {"break": "it"}):
        with pytest.raises(WebhookRefusedError):
            run(hearing.engine.handle_webhook("stub", headers, b"[]"))
    with pytest.raises(WebhookRefusedError):
        hearing.hear(of(execution, "success"), account="nobody")

    assert len(hearing.inbox) == 0
    assert set(hearing.told()) == {"refused"}


def test_an_unknown_provider_is_named(hearing: Hearing) -> None:
    with pytest.raises(UnknownProviderError, match="stub"):
        run(hearing.engine.handle_webhook("nobody", {}, b""))


def test_wh9_what_is_too_large_is_not_looked_at(hearing: Hearing) -> None:
    with pytest.raises(WebhookRefusedError, match=str(BODY_LIMIT)):
        run(hearing.engine.handle_webhook("nobody", {"break": "it"}, b" " * (BODY_LIMIT + 1)))


def test_an_engine_without_webhooks_says_so(hearing: Hearing) -> None:
    with pytest.raises(MisconfiguredError, match="webhooks"):
        run(hearing.host.engine.handle_webhook("stub", {}, b""))


def test_wh7_both_secrets_count_while_one_follows_the_other(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.hear(of(execution, "provider_processing"), key=OLD_KEY)
    assert hearing.get(execution).pending_reason is PendingReason.PROVIDER_PROCESSING
    hearing.accounts.known["main"] = WebhookAccount(account="main", secrets=(KEY,))

    with pytest.raises(WebhookRefusedError):
        hearing.hear(of(execution, "success"), key=OLD_KEY)
    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.APPLIED


@pytest.mark.parametrize("account", [None, "other"])
def test_wh10_news_of_one_account_never_touches_another(
    hearing: Hearing, account: str | None
) -> None:
    execution = hearing.in_doubt()

    receipt = hearing.hear(of(execution, "success"), key=OTHER_KEY, account=account)

    assert (receipt.verdict, receipt.account) == (WebhookVerdict.WAITING, "other")
    assert hearing.get(execution).status is ExecutionStatus.PENDING


def test_wh10_news_of_a_tenants_account_never_touches_another_tenant(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.accounts.known["main"] = WebhookAccount(
        account="main", secrets=(KEY,), tenant_id="globex"
    )

    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.WAITING
    assert hearing.get(execution).status is ExecutionStatus.PENDING


def test_a_delivery_that_cannot_be_kept_is_our_fault(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> InboxVerdict:
        raise StoreError("the connection was lost", may_have_committed=True)

    monkeypatch.setattr(hearing.inbox, "receive", fail)
    with pytest.raises(StoreError):
        hearing.hear({"says": "success", "key": "x"})


def test_hi1_card_numbers_are_masked_before_they_are_kept(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[InboxItem] = []
    store = hearing.inbox.receive

    def keep(item: InboxItem, lease_s: float) -> InboxVerdict:
        kept.append(item)
        return store(item, lease_s)

    monkeypatch.setattr(hearing.inbox, "receive", keep)
    headers = {"key": KEY.reveal(), "id": "4111111111111111"}
    body = b'[]  "pan 4111111111111111 \xff\x00\xc3\xbc"'
    run(hearing.engine.receive_webhook("stub", headers, body))

    (item,) = kept
    assert item.body == b'[]  "pan 411111******1111 \xff\x00\xc3\xbc"'
    assert item.event_id.startswith("id-sha256:")


def test_without_an_event_id_the_body_stands_for_itself(hearing: Hearing) -> None:
    headers = {"key": KEY.reveal()}

    first, again, other = (
        run(hearing.engine.handle_webhook("stub", headers, body)) for body in (b"[]", b"[]", b"[ ]")
    )

    assert first.event_id.startswith("sha256:")
    assert (first.event_id, again.verdict) == (again.event_id, WebhookVerdict.DUPLICATE)
    assert other.verdict is WebhookVerdict.APPLIED


# Applying --------------------------------------------------------------------------------------


def test_an_event_about_no_payment_is_over_at_once(hearing: Hearing) -> None:
    assert hearing.hear().verdict is WebhookVerdict.APPLIED


def test_wh3_news_before_our_own_answer_is_found_there(hearing: Hearing) -> None:
    def answer(execution: PaymentExecution) -> RailResult:
        if hearing.colour == "sync":
            hearing.hear(of(execution, "success"))
        else:
            with ThreadPoolExecutor(1) as other:
                other.submit(hearing.hear, of(execution, "success")).result()
        return RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1")

    hearing.rail.answer = answer

    execution = hearing.execute()

    assert execution.status is ExecutionStatus.COMPLETED
    assert not hearing.host.store.discrepancies


def test_news_of_an_unknown_payment_waits_for_it(hearing: Hearing) -> None:
    wanted = context(idempotency_key="key-1", payment_id="inv-key-1")
    said = {"says": "success", "key": wanted.provider_key}

    assert hearing.hear(said).verdict is WebhookVerdict.WAITING
    assert hearing.apply() == 0
    assert hearing.apply(after_s=5) == 1  # still unknown: the wait doubles
    execution = hearing.in_doubt()
    assert hearing.apply(after_s=9) == 0
    assert hearing.apply(after_s=1) == 1

    assert hearing.get(execution).status is ExecutionStatus.COMPLETED
    assert hearing.apply(after_s=1e6) == 0


def test_news_of_a_payment_that_never_comes_is_parked_in_the_end(hearing: Hearing) -> None:
    hearing.hear({"says": "success", "key": "never"}, event_id="evt_1")

    assert hearing.apply(after_s=259_200) == 1

    (parked,) = hearing.inbox.parked(10)
    assert parked.event_id == "evt_1"
    assert hearing.told()[-1] == "parked"


def test_wh11_what_nobody_can_read_is_parked_after_some_tries(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.provider.is_broken = True
    assert hearing.hear(of(execution, "success"), event_id="evt_1").verdict is (
        WebhookVerdict.WAITING
    )
    assert [hearing.apply(after_s=3600) for _ in range(3)] == [1, 1, 0]
    assert [one.problem for one in hearing.inbox.parked(10)] == ["KeyError while it was applied"]

    hearing.provider.is_broken = False
    assert hearing.inbox.replay("evt_1") == 1
    assert hearing.apply() == 1
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_wh11_one_that_cannot_be_read_stops_no_other(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.hear({"says": "nonsense"})
    run(
        hearing.engine.receive_webhook(
            "stub",
            {"key": KEY.reveal(), "id": "evt_9"},
            json.dumps([of(execution, "success")]).encode(),
        )
    )

    assert hearing.apply(after_s=60) == 2
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_a_crash_between_keeping_and_applying_forgets_nothing(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    body = json.dumps([of(execution, "success")]).encode()

    receipt = run(hearing.engine.receive_webhook("stub", {"key": KEY.reveal(), "id": "e"}, body))

    assert receipt.verdict is WebhookVerdict.ACCEPTED
    assert hearing.get(execution).status is ExecutionStatus.PENDING
    assert hearing.apply(after_s=59) == 0
    assert hearing.apply(after_s=1) == 1
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_a_fault_of_ours_while_applying_is_tried_again(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    store = hearing.host.store

    def fail() -> None:
        raise StoreError("the connection was lost", may_have_committed=False)

    store.before_record = fail
    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.ACCEPTED
    assert hearing.apply(after_s=60) == 1  # it fails again
    store.before_record = lambda: None
    assert hearing.apply(after_s=60) == 1
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_an_execution_is_found_by_the_providers_own_id(hearing: Hearing) -> None:
    hearing.rail.answer = lambda _: RailResult.pending(
        PendingReason.PROVIDER_PROCESSING, provider_ref="ch_7"
    )
    execution = hearing.execute()

    hearing.hear({"says": "success", "ref": "ch_7", "named": "ch_7"})

    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_an_id_that_two_executions_have_touches_neither(hearing: Hearing) -> None:
    hearing.rail.answer = lambda _: RailResult.pending(
        PendingReason.PROVIDER_PROCESSING, provider_ref="ch_7"
    )
    both = [hearing.execute("key-1"), hearing.execute("key-2")]

    receipt = hearing.hear({"says": "success", "ref": "ch_7", "named": "ch_7"})

    assert receipt.verdict is WebhookVerdict.WAITING
    assert {hearing.get(one).status for one in both} == {ExecutionStatus.PENDING}


def test_news_that_speaks_of_the_sender_alone_says_nothing(hearing: Hearing) -> None:
    execution = hearing.in_doubt()

    assert hearing.hear(of(execution, "limited")).verdict is WebhookVerdict.APPLIED
    assert hearing.get(execution) == execution


def test_late_news_of_a_finished_execution_becomes_a_discrepancy(hearing: Hearing) -> None:
    hearing.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    execution = hearing.execute()

    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.APPLIED

    (found,) = hearing.host.store.discrepancies
    assert found.kind is DiscrepancyKind.SUCCESS_AFTER_FAILURE
    assert hearing.get(execution).status is ExecutionStatus.FAILED


def test_news_moves_neither_lease_nor_schedule_of_the_one_who_acts(hearing: Hearing) -> None:
    seen: list[PaymentExecution] = []

    def answer(execution: PaymentExecution) -> RailResult:
        if hearing.colour == "sync":
            hearing.hear(of(execution, "provider_processing"))
            seen.append(hearing.get(execution))
        return RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)

    hearing.rail.answer = answer
    hearing.execute()

    for one in seen:
        assert one.pending_reason is PendingReason.PROVIDER_PROCESSING
        assert one.lease.owner == "engine"


# trust: refetch --------------------------------------------------------------------------------


def test_a_provider_that_is_not_believed_is_asked(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.provider.trust = WebhookTrust.REFETCH
    hearing.rail.lookup = lambda one: RailResult.success("ch_true", one.money)

    assert hearing.hear(of(execution, "declined")).verdict is WebhookVerdict.APPLIED

    assert hearing.get(execution).provider_ref == "ch_true"


def test_a_provider_that_knows_nothing_yet_is_asked_again(hearing: Hearing) -> None:
    execution = hearing.in_doubt()
    hearing.provider.trust = WebhookTrust.REFETCH

    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.WAITING
    assert hearing.get(execution).is_in_doubt
    hearing.rail.lookup = lambda one: RailResult.success("ch_1", one.money)
    assert hearing.apply(after_s=5) == 1
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


# Any order, any number of times ----------------------------------------------------------------


def test_wh2_every_order_of_seven_facts_ends_the_same() -> None:
    """Five webhooks, two looks; 5,040 orders."""
    ends = Counter[tuple[object, ...]]()
    steps = ["unknown", "redirect", "processing", "review", "success", "look", "look again"]
    for order in itertools.permutations(range(len(steps))):
        ends[_played(order)] += 1

    assert list(ends.values()) == [5040]


def _played(order: Sequence[int]) -> tuple[object, ...]:
    hearing = Hearing("sync")
    execution = hearing.in_doubt()
    for place in order:
        match place:
            case 0:
                hearing.hear(of(execution, "limited"))
            case 1:
                hearing.hear(of(execution, "awaiting_funds"))
            case 2:
                hearing.hear(of(execution, "provider_processing"))
            case 3:
                hearing.hear(of(execution, "manual_review"))
            case 4:
                hearing.hear(of(execution, "success"))
                hearing.hear(of(execution, "success"))
            case 5:
                hearing.rail.lookup = lambda _: RailResult.pending(
                    PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1"
                )
                hearing.host.clock.advance(61)
                run(hearing.engine.refresh(execution.tenant_id, execution.execution_id))
            case _:
                hearing.rail.lookup = lambda one: RailResult.success("ch_1", one.money)
                hearing.host.clock.advance(61)
                run(hearing.engine.refresh(execution.tenant_id, execution.execution_id))
    end = hearing.get(execution)
    assert not hearing.host.store.discrepancies
    return (end.status, end.provider_ref, end.settled_minor, end.pending_reason, end.failure)


def test_wh1_a_thousand_deliveries_at_once_have_one_effect() -> None:
    hearing = Hearing("sync")
    execution = hearing.in_doubt()
    version = execution.version

    def deliver(_: int) -> WebhookVerdict:
        return hearing.hear(of(execution, "success"), event_id="evt_1").verdict

    with ThreadPoolExecutor(32) as pool:
        verdicts = Counter(pool.map(deliver, range(1000)))

    assert verdicts == {WebhookVerdict.APPLIED: 1, WebhookVerdict.DUPLICATE: 999}
    assert hearing.get(execution).version == version + 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"reference": "RF18539007547034", "at": 1795000000004, "amount": 12.50}',
        b'{"id": "ch4111111111111111", "note": "a \\"quoted\\" word"}',
        b'{"id": "4f1e2d3c-5353-4535-b453-534535453453", "n": [1, -2, 3e5, null]}',
    ],
)
def test_what_is_kept_reads_as_what_came(body: bytes) -> None:
    assert json.loads(_safe(body)) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"card": "4111 1111 1111 1111"}',
        b'{"said": "PAN:4111111111111111!"}',
        b'{"card": 4111111111111111}',
        b"card=4111111111111111",
        b'{"card": "4111111111111111"',
    ],
)
def test_what_is_kept_shows_no_card(body: bytes) -> None:
    kept = _safe(body)

    assert b"411111******1111" in kept
    assert body.count(b"{") != body.count(b"}") or not body.startswith(b"{") or json.loads(kept)


def test_a_secret_that_is_none_spoils_no_other_account(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = type(hearing.provider).verify

    def verify(provider: Any, delivery: Any, secrets: Sequence[Secret], now: datetime, /) -> Any:
        if tuple(secrets) == (OLD_KEY,):
            raise MisconfiguredError("webhook secret", "it is none", "Set another")
        return honest(provider, delivery, secrets, now)

    execution = hearing.in_doubt()
    monkeypatch.setattr(type(hearing.provider), "verify", verify)
    good = hearing.accounts.known.pop("main")
    hearing.accounts.known["broken"] = WebhookAccount(account="broken", secrets=(OLD_KEY,))
    with pytest.raises(MisconfiguredError):
        hearing.hear(of(execution, "success"))

    hearing.accounts.known["main"] = good
    assert hearing.hear(of(execution, "success")).verdict is WebhookVerdict.APPLIED


# Each news by itself ---------------------------------------------------------------------------


def test_news_that_cannot_be_told_apart_stops_none_of_the_others(hearing: Hearing) -> None:
    hearing.rail.answer = lambda _: RailResult.pending(
        PendingReason.PROVIDER_PROCESSING, provider_ref="ch_7"
    )
    both = [hearing.execute(f"key-{number}") for number in (1, 2)]
    execution = hearing.in_doubt("key-3")
    ambiguous = {"says": "success", "ref": "ch_7", "named": "ch_7"}

    receipt = hearing.hear(ambiguous, of(execution, "success"), ambiguous)

    assert receipt.verdict is WebhookVerdict.WAITING
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED
    assert {hearing.get(one).status for one in both} == {ExecutionStatus.PENDING}
    version = hearing.get(execution).version
    assert [hearing.apply(after_s=3600) for _ in range(3)] == [1, 1, 0]
    assert hearing.get(execution).version == version
    assert [one.problem for one in hearing.inbox.parked(10)] == ["LookupError while it was applied"]


def test_news_that_waits_stops_none_of_the_others_and_is_applied_later(hearing: Hearing) -> None:
    execution = hearing.in_doubt("key-1")
    unknown = context(idempotency_key="key-2", payment_id="inv-key-2")
    late = {"says": "success", "key": unknown.provider_key, "ref": "ch_2"}

    assert hearing.hear(late, of(execution, "success")).verdict is WebhookVerdict.WAITING
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED
    other = hearing.in_doubt("key-2")
    assert hearing.apply(after_s=5) == 1

    assert hearing.get(other).provider_ref == "ch_2"
    assert hearing.told()[-1] == "applied"
    assert not hearing.host.store.discrepancies


def test_a_fault_of_ours_with_one_news_leaves_the_others_applied(hearing: Hearing) -> None:
    first, second = hearing.in_doubt("key-1"), hearing.in_doubt("key-2")
    fails = [True]

    def fail_once() -> None:
        if fails.pop() if fails else False:
            raise StoreError("the connection was lost", may_have_committed=False)

    hearing.host.store.before_record = fail_once
    receipt = hearing.hear(of(first, "success"), of(second, "success", ref="ch_2"))

    assert receipt.verdict is WebhookVerdict.ACCEPTED
    assert hearing.get(first).is_open
    assert hearing.get(second).status is ExecutionStatus.COMPLETED
    assert hearing.apply(after_s=60) == 1
    assert hearing.get(first).status is ExecutionStatus.COMPLETED


# Waiting is no fault ---------------------------------------------------------------------------


def test_a_fault_after_much_waiting_is_the_first_fault(hearing: Hearing) -> None:
    hearing.provider.trust = WebhookTrust.REFETCH
    execution = hearing.in_doubt()
    hearing.hear(of(execution, "success"), event_id="evt_1")
    waits = [hearing.apply(after_s=3600) for _ in range(6)]

    hearing.provider.is_broken = True
    faults = [hearing.apply(after_s=3600) for _ in range(2)]

    assert waits + faults == [1] * 8
    assert not hearing.inbox.parked(10)
    hearing.provider.is_broken = False
    hearing.rail.lookup = lambda one: RailResult.success("ch_1", one.money)
    assert hearing.apply(after_s=3600) == 1
    assert hearing.get(execution).status is ExecutionStatus.COMPLETED


def test_faults_wait_from_the_beginning_however_long_was_waited(hearing: Hearing) -> None:
    hearing.hear({"says": "success", "key": "never"})
    for wait_s in (5, 10, 20, 40):
        assert hearing.apply(after_s=wait_s) == 1

    hearing.provider.is_broken = True
    assert hearing.apply(after_s=80) == 1
    assert hearing.apply(after_s=5) == 1


def test_a_provider_that_stays_silent_is_asked_until_patience_ends(hearing: Hearing) -> None:
    hearing.provider.trust = WebhookTrust.REFETCH
    execution = hearing.in_doubt()
    hearing.hear(of(execution, "success"))

    tries = 0
    while not hearing.inbox.parked(1):
        tries += hearing.apply(after_s=3600)

    assert 70 < tries < 90
    assert [one.problem for one in hearing.inbox.parked(1)] == [
        "the provider, asked again, says nothing definite yet"
    ]
    assert not noted(hearing)


# Money that nobody asked for -------------------------------------------------------------------


def noted(hearing: Hearing) -> Sequence[NotedDiscrepancy]:
    found: Review = run(hearing.engine.review())
    return found.discrepancies


def test_a_charge_that_never_finds_its_payment_is_noted_once(hearing: Hearing) -> None:
    hearing.hear(
        {"says": "success", "operation": "charge", "key": "never", "ref": "ch_9"}, event_id="evt_1"
    )
    assert not noted(hearing)

    hearing.apply(after_s=259_200)

    (found,) = noted(hearing)
    orphan = found.orphan
    assert orphan is not None
    assert (orphan.provider_ref, orphan.money, orphan.account) == ("ch_9", ASKED, "main")
    assert (orphan.tenant_id, orphan.rail) == ("unassigned", PaymentRail.CARD_PSP)
    (parked,) = hearing.inbox.parked(10)
    assert parked.problem == "it tells of a charge that nobody here asked for"
    assert hearing.inbox.replay("evt_1") == 1
    assert hearing.apply() == 1
    hearing.hear(
        {"says": "success", "operation": "charge", "key": "never", "ref": "ch_9"}, event_id="evt_2"
    )
    hearing.apply(after_s=259_200)
    assert list(noted(hearing)) == [found]
    assert len(hearing.inbox.parked(10)) == 2


def test_an_orphan_belongs_to_the_tenant_of_its_account(hearing: Hearing) -> None:
    hearing.accounts.known["main"] = WebhookAccount(
        account="main", secrets=(KEY,), tenant_id="globex", mode=RouteMode.SANDBOX
    )
    hearing.hear({"says": "success", "operation": "charge", "key": "never"})
    hearing.apply(after_s=259_200)

    (found,) = noted(hearing)
    assert found.orphan is not None
    assert (found.tenant_id, found.orphan.mode) == ("globex", RouteMode.SANDBOX)


@pytest.mark.parametrize(
    "said",
    [
        {"says": "declined"},
        {"says": "provider_processing"},
        {"says": "success"},
        {"says": "success", "operation": "charge", "minor": 0},
        {"says": "success", "operation": "charge", "ref": "x/411111******1111"},
        {"says": "success", "operation": "refund"},
        {"says": "success", "operation": "authorize"},
        {"says": "success", "operation": "void"},
    ],
)
def test_what_took_no_money_is_no_orphan(hearing: Hearing, said: dict[str, Any]) -> None:
    hearing.hear({"key": "never", **said})
    hearing.apply(after_s=259_200)

    assert not noted(hearing)
    assert len(hearing.inbox.parked(10)) == 1


def test_a_provider_that_is_not_believed_makes_no_orphan(hearing: Hearing) -> None:
    hearing.provider.trust = WebhookTrust.REFETCH
    hearing.hear({"says": "success", "operation": "charge", "key": "never"})
    hearing.apply(after_s=259_200)

    assert not noted(hearing)
    assert len(hearing.inbox.parked(10)) == 1


def test_an_orphan_that_cannot_be_kept_is_tried_again(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise StoreError("the connection was lost", may_have_committed=True)

    hearing.hear({"says": "success", "operation": "charge", "key": "never"})
    with monkeypatch.context() as patch:
        patch.setattr(hearing.host.store, "note_orphan", fail)
        assert hearing.apply(after_s=259_200) == 1
    assert not hearing.inbox.parked(10)

    assert hearing.apply(after_s=60) == 1
    assert len(noted(hearing)) == len(hearing.inbox.parked(10)) == 1


def test_an_orphan_of_several_rails_is_told_and_not_guessed(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def several(*_: object) -> PaymentRail:
        raise LookupError

    monkeypatch.setattr("railcore.intake.Intake._only_rail", several)
    known = {
        "says": "success",
        "operation": "charge",
        "key": "other",
        "ref": "ch_2",
        "rail": "open_banking_pis",
    }
    hearing.hear({"says": "success", "operation": "charge", "key": "never"}, known)
    hearing.apply(after_s=259_200)

    (found,) = noted(hearing)
    assert found.orphan is not None
    assert found.orphan.rail is PaymentRail.OPEN_BANKING_PIS
    (parked,) = hearing.inbox.parked(10)
    assert parked.problem.endswith("could not be noted (LookupError)")


# References like card numbers ------------------------------------------------------------------


CARD_LIKE, ANOTHER = "4111111111111111", "4111110000000021111"
assert masked(CARD_LIKE)[:6] == masked(ANOTHER)[:6]


def _told(result: RailResult, _: object) -> RailResult:
    return result


def test_a_reference_like_a_card_number_finds_its_execution(hearing: Hearing) -> None:
    waiting = []
    for number, ref in enumerate((CARD_LIKE, ANOTHER)):
        pending = RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref=ref)
        hearing.rail.answer = partial(_told, pending)
        waiting.append(hearing.execute(f"key-{number}"))

    hearing.hear({"says": "success", "ref": ANOTHER, "named": ANOTHER})

    settled = [hearing.get(one) for one in waiting]
    assert [one.is_open for one in settled] == [True, False]
    assert [one.provider_ref for one in settled] == [CARD_LIKE, ANOTHER]
    assert ANOTHER not in repr(settled)


@pytest.mark.parametrize("as_number", [False, True], ids=["text", "number"])
def test_a_reference_like_a_card_number_is_the_same_at_a_later_try(
    hearing: Hearing, monkeypatch: pytest.MonkeyPatch, as_number: bool
) -> None:
    kept: list[InboxItem] = []
    store = hearing.inbox.receive

    def keep(item: InboxItem, lease_s: float) -> InboxVerdict:
        kept.append(item)
        return store(item, lease_s)

    monkeypatch.setattr(hearing.inbox, "receive", keep)
    ref: object = int(CARD_LIKE) if as_number else CARD_LIKE
    hearing.hear(
        {"says": "success", "ref": ref, "named": ref, "pan": "5555555555554444", "at": "railcore~9"}
    )
    pending = RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref=CARD_LIKE)
    hearing.rail.answer = lambda _: pending
    execution = hearing.execute()

    assert hearing.apply(after_s=5) == 1

    assert hearing.get(execution).status is ExecutionStatus.COMPLETED
    (item,) = kept
    assert not {CARD_LIKE.encode(), b"5555555555554444"} & set(re.findall(rb"\d+", item.body))
    assert b"555555******4444" in item.body


around = st.text(st.characters(max_codepoint=255), max_size=20)


pieces = st.sampled_from([CARD_LIKE, ANOTHER, KEPT, f"{KEPT}9:", "x~7", '"', "{}", "12", "411111"])


@given(st.lists(pieces), st.sampled_from("| -.~"))
@example([KEPT, CARD_LIKE, f"{KEPT}3:", ANOTHER], "|")
@example(["12", CARD_LIKE, "411111", "411111", "12"], " ")
def test_a_body_that_holds_only_references_is_kept_exactly(parts: list[str], by: str) -> None:
    body = by.join(parts).encode()
    assume(not holds_card_number(body.decode().replace(CARD_LIKE, "x").replace(ANOTHER, "x")))

    kept = _safe(body, {CARD_LIKE, ANOTHER})

    assert _true_body(kept) == body
    assert not holds_card_number(kept.decode("latin-1"))


@pytest.mark.parametrize(
    "body", [rb'{"id": "a\/\u00e9 4111111111111111"}', '{"id": "a/é 4111111111111111"}'.encode()]
)
def test_a_reference_is_kept_however_json_spells_it(body: bytes) -> None:
    kept = _safe(body, {json.loads(body)["id"]})

    assert _true_body(kept) == body
    assert not holds_card_number(kept.decode("latin-1"))


@given(st.lists(around), st.lists(around))
def test_whatever_is_around_them_references_are_kept(before: list[str], after: list[str]) -> None:
    body = json.dumps([before, CARD_LIKE, after]).encode()

    said = json.loads(_true_body(_safe(body, {CARD_LIKE})))

    assert said[1] == CARD_LIKE
