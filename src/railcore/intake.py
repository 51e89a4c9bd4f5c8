"""
How webhooks are taken, step by step, written once for both colours.

Taking a delivery is one step that is committed before anybody is told that it was taken: verify,
then store under the event's id. Applying it is another: read it, find its executions, and fold what
it says like any other news. Each news of an event is applied by itself; whatever keeps one from
being applied leaves the event in the inbox, with the date of the next try, and stops no other.

Waiting is no fault: news of a payment that is not known yet has patience, in days, and only tries
that failed are counted. Where patience ends with a charge that no payment was found for, it is
money at the provider that nobody here asked for, and is noted as an orphan.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from railcore import _checks
from railcore.enums import Operation, PaymentRail
from railcore.errors import (
    InProgressError,
    InvalidValueError,
    MisconfiguredError,
    OutcomeUnknownError,
    StoreError,
    UnknownProviderError,
    WebhookRefusedError,
)
from railcore.events import draft_orphan
from railcore.execution import PaymentExecution
from railcore.lifecycle import Fact, FactSource
from railcore.observability import WebhookObserved
from railcore.ports import WebhookAccounts, WebhookInbox, WebhookProvider
from railcore.procedures import Procedure, Procedures, ask
from railcore.redaction import (
    KEPT,
    MASK,
    chunked,
    kept_reference,
    masked,
    masked_reference,
    unchunked,
)
from railcore.results import ResultStatus
from railcore.review import Orphan
from railcore.webhooks import (
    BODY_LIMIT,
    Delivery,
    Headers,
    InboxItem,
    InboxState,
    InboxVerdict,
    Settlement,
    Sought,
    VerifiedDelivery,
    WebhookAccount,
    WebhookNews,
    WebhookReceipt,
    WebhookSettings,
    WebhookTrust,
    WebhookVerdict,
    joined,
    receipt_of,
)

Inbox_co = TypeVar("Inbox_co", covariant=True)

_OURS: Final = (StoreError, InProgressError, OutcomeUnknownError)
"""Faults of ours: the delivery stays as it is and is tried again when its lease has run out."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\w.+\-])(?!1\d{12}(?!\d))\d{13,19}(?![\w.])')
"""A text of JSON, or a bare number that could be a card's: no card of 13 digits begins with 1."""

_WORD: Final = re.compile(r"[A-Za-z0-9_\-]+")
_FRAME: Final = re.compile(rf"{KEPT}(\d{{1,4}}):")
"""Before so many characters of a reference, ``chunked``; before none it stands for itself."""

_COLLECTING: Final = {Operation.CHARGE, Operation.CAPTURE}
"""News that does not say what it is of may tell of money that went out: that is for people."""

_APPLIED: Final = Settlement(InboxState.APPLIED)


def _can(method: str) -> _checks.Check:
    def check(_: Any, attribute: Any, value: Any) -> None:
        if not callable(getattr(value, method, None)):
            wanted = f"something with a method {method}"
            raise InvalidValueError(attribute.name, wanted, _checks.shape(value))

    return check


@attrs.frozen(kw_only=True)
class Webhooks(Generic[Inbox_co]):
    """
    What an engine needs to hear webhooks.

    Attributes:
        providers: Who verifies and reads the deliveries, by provider.
        accounts: Knows accounts and their secrets.
        inbox: Where deliveries are kept; ``WebhookInbox`` for ``PaymentEngine``,
            ``AsyncWebhookInbox`` for ``AsyncPaymentEngine``.
        settings: Tries and waits.
    """

    providers: Mapping[str, WebhookProvider] = attrs.field(validator=_checks.one_of(Mapping))
    accounts: WebhookAccounts = attrs.field(validator=_can("accounts"))
    inbox: Inbox_co = attrs.field(validator=_can("receive"))
    settings: WebhookSettings = attrs.field(
        factory=WebhookSettings, validator=_checks.one_of(WebhookSettings)
    )


@attrs.frozen
class Intake:
    """The procedures around the inbox of one engine."""

    procedures: Procedures
    webhooks: Webhooks[WebhookInbox]

    def handle(
        self, provider: str, headers: Headers, body: bytes, account: str | None
    ) -> Procedure[WebhookReceipt]:
        """Take a delivery and try to apply it."""
        receipt = yield from self.receive(provider, headers, body, account)
        return (yield from self.apply(receipt))

    def receive(
        self, provider: str, headers: Headers, body: bytes, account: str | None
    ) -> Procedure[WebhookReceipt]:
        """Verify, and store once; the caller may say that it was taken when this returns."""
        try:
            item = self._verified(provider, headers, body, account)
        except WebhookRefusedError as refused:
            self._tell("refused", provider, account, None, refused.problem)
            raise
        lease_s = self.webhooks.settings.lease_s
        kept = attrs.evolve(item, body=self._kept_body(item))
        verdict = yield from ask(lambda: self.webhooks.inbox.receive(kept, lease_s))
        self._tell(verdict, provider, item.account, item.event_id, None)
        match verdict:
            case InboxVerdict.ACCEPTED:
                return receipt_of(item)
            case InboxVerdict.DUPLICATE:
                return attrs.evolve(receipt_of(item), verdict=WebhookVerdict.DUPLICATE, item=None)
            case InboxVerdict.CONFLICT:
                problem = f"event {item.event_id} was here before with another body"
                raise WebhookRefusedError(provider, problem)

    def apply(self, receipt: WebhookReceipt) -> Procedure[WebhookReceipt]:
        """Try to apply what was taken; a fault of ours leaves it for the next try."""
        item = receipt.item
        if item is None:
            return receipt
        try:
            state = yield from self._try(item)
        except _OURS:
            return receipt
        return receipt_of(item, state)

    def apply_due(self, limit: int) -> Procedure[int]:
        """Try everything that is due, at most *limit*; how many were tried."""
        inbox, lease_s = self.webhooks.inbox, self.webhooks.settings.lease_s
        items = yield from ask(lambda: inbox.due(limit, lease_s))
        for kept in items:
            item = attrs.evolve(kept, body=_true_body(kept.body))
            with suppress(*_OURS):
                yield from self._try(item)
        return len(items)

    def _kept_body(self, item: InboxItem) -> bytes:
        """Return the body with card numbers masked, and what its parser calls references kept."""
        if _safe(item.body) == item.body and KEPT.encode() not in item.body:
            return item.body
        references = set[str]()
        with suppress(Exception):  # what cannot be read names nothing
            for news in self._provider(item.provider).parse(item.body).news:
                references |= _references(news)
        return _safe(item.body, references)

    def _verified(
        self, provider: str, headers: Headers, body: bytes, account: str | None
    ) -> InboxItem:
        if len(body) > BODY_LIMIT:
            raise WebhookRefusedError(provider, f"more than {BODY_LIMIT} bytes")
        verifier = self._provider(provider)
        accounts = self.webhooks.accounts.accounts(provider, account)
        delivery = Delivery(provider=provider, headers=joined(headers), body=body)
        refused = WebhookRefusedError(provider, f"no account {account or ''} is known".strip())
        misconfigured: MisconfiguredError | None = None
        for one in accounts:
            try:
                return _item(delivery, one, self._verify(verifier, delivery, one))
            except WebhookRefusedError as error:
                refused = WebhookRefusedError(provider, error.problem)
            except MisconfiguredError as error:  # ours to mend, and no other account's trouble
                misconfigured = error
        raise misconfigured or refused

    def _verify(
        self, verifier: WebhookProvider, delivery: Delivery, account: WebhookAccount
    ) -> VerifiedDelivery:
        try:
            return verifier.verify(delivery, account.secrets, self.procedures.kernel.clock.now())
        except (WebhookRefusedError, MisconfiguredError):
            raise
        except Exception as error:
            problem = f"it could not be verified ({type(error).__name__})"
            raise WebhookRefusedError(delivery.provider, problem) from error

    def _provider(self, name: str) -> WebhookProvider:
        try:
            return self.webhooks.providers[name]
        except KeyError:
            known = tuple(sorted(self.webhooks.providers))
            raise UnknownProviderError(f"webhooks of {name[:64]!r}", known) from None

    def _try(self, item: InboxItem) -> Procedure[InboxState]:
        try:
            settlement = yield from self._applied(item)
        except _OURS as error:
            problem = f"not applied now ({type(error).__name__})"
            self._tell("waiting", item.provider, item.account, item.event_id, problem)
            raise
        except UnknownProviderError:
            settlement = self._settlement(item, _Tried(wait=_NOT_OURS))
        except Exception as error:  # noqa: BLE001 - observed and kept; a person looks at it
            settlement = self._settlement(item, _Tried(fault=_fault(error)))
        yield from ask(lambda: self.webhooks.inbox.settle(item, settlement))
        verdict = receipt_of(item, settlement.state).verdict
        self._tell(verdict, item.provider, item.account, item.event_id, settlement.problem)
        return settlement.state

    def _applied(self, item: InboxItem) -> Procedure[Settlement]:
        """Apply each news by itself; what was applied before does nothing again."""
        provider = self._provider(item.provider)
        tried, ours = _Tried(), None
        for news in provider.parse(item.body).news:
            try:
                tried = yield from self._apply_one(item, news, provider.trust, tried)
            except _OURS as error:
                ours = ours or error
            except UnknownProviderError:
                tried = attrs.evolve(tried, wait=_NOT_OURS)
            except Exception as error:  # noqa: BLE001 - observed and kept; the other news go on
                tried = attrs.evolve(tried, fault=tried.fault or _fault(error))
        if ours is not None:
            raise ours
        if tried.unfound and self._is_over(item) and provider.trust is WebhookTrust.BODY:
            tried = yield from self._note_orphans(item, tried)
        return self._settlement(item, tried)

    def _apply_one(
        self, item: InboxItem, news: WebhookNews, trust: WebhookTrust, tried: "_Tried"
    ) -> Procedure["_Tried"]:
        execution = yield from self._found(item, news)
        if execution is None:
            unfound = (*tried.unfound, news)
            return attrs.evolve(tried, unfound=unfound, wait="its payment is not known here")
        if (yield from self._hear(item, execution, news, trust)):
            return tried
        problem = "the provider, asked again, says nothing definite yet"
        return attrs.evolve(tried, wait=tried.wait or problem)

    def _note_orphans(self, item: InboxItem, tried: "_Tried") -> Procedure["_Tried"]:
        """Note what the provider took for payments that never came, each charge once."""
        account, problem = self._account(item), None
        for news in tried.unfound:
            try:
                for orphan in self._orphans(account, item, news):
                    event = draft_orphan(orphan)
                    yield from ask(partial(self.procedures.store.note_orphan, orphan, event))
                    problem = problem or _ORPHANED
            except _OURS:
                raise
            except Exception as error:  # noqa: BLE001 - a person sees it among what is parked
                problem = f"{_ORPHANED}, and could not be noted ({type(error).__name__})"
        return attrs.evolve(tried, wait=problem or tried.wait)

    def _account(self, item: InboxItem) -> WebhookAccount:
        """Return the account as it is now; without secrets where it is not known any more."""
        with suppress(Exception):
            for one in self.webhooks.accounts.accounts(item.provider, item.account):
                if (one.account, one.tenant_id) == (item.account, item.tenant_id):
                    return one
        return WebhookAccount(account=item.account, secrets=(), tenant_id=item.tenant_id)

    def _orphans(
        self, account: WebhookAccount, item: InboxItem, news: WebhookNews
    ) -> Iterator[Orphan]:
        """
        Yield the charges that *news* tells of.

        Raises:
            LookupError: The provider has several rails, and the news does not say which.
        """
        if news.operation not in _COLLECTING:
            return
        for result in (news.result, *news.result.also):
            reported, provider_ref = result.reported, result.provider_ref
            if result.status is not ResultStatus.SUCCESS or reported is None:
                continue
            if provider_ref is None or MASK in provider_ref:
                continue  # what was masked when it was stored names nothing at the provider
            if reported.amount_minor > 0:
                yield Orphan(
                    tenant_id=item.tenant_id or account.orphan_tenant_id,
                    rail=news.rail or self._only_rail(item.provider),
                    provider=item.provider,
                    account=item.account,
                    mode=account.mode,
                    provider_ref=provider_ref,
                    money=reported,
                )

    def _only_rail(self, provider: str) -> PaymentRail:
        rails = [rail for rail, name in self.procedures.kernel.offered if name == provider]
        if len(rails) != 1:
            raise LookupError(f"{provider} has {len(rails)} rails")
        return rails[0]

    def _found(self, item: InboxItem, news: WebhookNews) -> Procedure[PaymentExecution | None]:
        sought = Sought(
            tenant_id=item.tenant_id,
            provider=item.provider,
            account=item.account,
            provider_key=news.provider_key,
            reference=news.reference,
            provider_ref=news.provider_ref,
        )
        found = yield from ask(lambda: self.procedures.store.find_named(sought))
        if len(found) > 1:
            raise LookupError("several executions have this name at the provider")
        return found[0] if found else None

    def _hear(
        self, item: InboxItem, execution: PaymentExecution, news: WebhookNews, trust: WebhookTrust
    ) -> Procedure[bool]:
        """Fold in what is believed; False when the provider has to be asked again."""
        if trust is WebhookTrust.BODY:
            fact = Fact(
                result=news.result,
                source=FactSource.WEBHOOK,
                phase=execution.phase if news.phase is None else news.phase,
                evidence=item.event_id,
            )
            yield from self.procedures.hear(execution, fact)
            return True
        return (yield from self.procedures.ask_about(execution))

    def _is_over(self, item: InboxItem) -> bool:
        return item.waited_s >= self.webhooks.settings.patience_s

    def _settlement(self, item: InboxItem, tried: "_Tried") -> Settlement:
        """Return what becomes of a try: over, again, or parked when neither part has a try left."""
        settings, problem = self.webhooks.settings, tried.fault or tried.wait
        if problem is None:
            return _APPLIED
        failed = item.faults + (tried.fault is not None)
        waits = tried.wait is not None and not self._is_over(item)
        if not waits and (tried.fault is None or failed >= settings.park_after):
            return Settlement(InboxState.PARKED, None, problem, is_fault=tried.fault is not None)
        retry_s = settings.retry_s(max(1, item.attempts - item.faults) if waits else failed)
        return Settlement(InboxState.RECEIVED, retry_s, problem, is_fault=tried.fault is not None)

    def _tell(
        self,
        verdict: str,
        provider: str,
        account: str | None,
        event_id: str | None,
        problem: str | None,
    ) -> None:
        observed = partial(
            WebhookObserved,
            verdict=str(verdict),
            provider=provider[:64],
            account=account,
            event_id=event_id,
            problem=problem,
        )
        self.procedures.tell(observed)


_NOT_OURS: Final = "its provider is not known to this process"
"""The process is older, or younger, than the one that took the delivery."""

_ORPHANED: Final = "it tells of a charge that nobody here asked for"


@attrs.frozen
class _Tried:
    """What one try came to: what is still waited for, what failed, which news found no payment."""

    wait: str | None = None
    fault: str | None = None
    unfound: tuple[WebhookNews, ...] = ()


def _fault(error: Exception) -> str:
    return f"{type(error).__name__} while it was applied"


def _item(delivery: Delivery, account: WebhookAccount, said: VerifiedDelivery) -> InboxItem:
    digest = hashlib.sha256(said.body).digest()  # a copy may be encrypted anew
    return InboxItem(
        tenant_id=account.tenant_id,
        provider=delivery.provider,
        account=account.account,
        event_id=_event_id(said.event_id, digest),
        body_sha256=digest,
        body=said.body,
        signed_at=said.signed_at,
    )


def _event_id(event_id: str | None, digest: bytes) -> str:
    """Return what the event is stored under; an id that could be a card number is hashed."""
    if event_id is None:
        return f"sha256:{digest.hex()}"
    if kept_reference(event_id) != event_id:
        return f"id-sha256:{hashlib.sha256(event_id.encode()).hexdigest()}"
    return event_id


def _references(news: WebhookNews) -> set[str]:
    """Return what *news* calls things by."""
    results = (news.result, *news.result.also)
    named = (news.provider_key, news.reference, news.provider_ref)
    return {one for one in (*named, *(result.provider_ref for result in results)) if one}


def _safe(body: bytes, references: Collection[str] = ()) -> bytes:
    """
    Return *body* with card numbers masked, all other bytes as they are.

    *references* whose digits could be a card's are kept, for ``_true_body`` to turn back. JSON
    reads the same afterwards, the kept ones aside: references that only look like card numbers
    stay, and so do dates in milliseconds; a number that is masked becomes a text.
    """
    text = _framed(body.decode("latin-1"), references)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return masked(text).encode("latin-1")
    return _TOKEN.sub(_masked_token, text).encode("latin-1")


def _framed(text: str, references: Collection[str]) -> str:
    """Return *text* with references that are not kept as they are in a spelling that is."""
    unsafe = (one for one in references if kept_reference(one) != one)
    spelled = sorted({way for one in unsafe for way in _spellings(one)}, key=len, reverse=True)
    words = "|".join([re.escape(KEPT), *(rf"(?<!\d){re.escape(one)}(?!\d)" for one in spelled)])
    return re.sub(words, lambda found: _frame(found.group()), text)


def _spellings(reference: str) -> Iterator[str]:
    """Yield the ways in which JSON writes *reference*: as it is or escaped, its slashes too."""
    for way in (reference.encode().decode("latin-1"), json.dumps(reference)[1:-1]):
        yield way
        yield way.replace("/", r"\/")


def _frame(word: str) -> str:
    inner = "" if word == KEPT else f"{chunked(word)}~"  # no digits beside it join in
    return f"{KEPT}{len(inner)}:{inner}"


def _true_body(body: bytes) -> bytes:
    """Return *body*, as it was kept, with the references as they came."""
    text, parts, done = body.decode("latin-1"), list[str](), 0
    for found in _FRAME.finditer(text):
        if found.start() >= done:
            size = int(found[1])
            inner = text[found.end() : found.end() + size]
            parts += text[done : found.start()], unchunked(inner[:-1]) if size else KEPT
            done = found.end() + size
    return "".join([*parts, text[done:]]).encode("latin-1")


def _masked_token(found: re.Match[str]) -> str:
    token = found.group()
    if not token.startswith('"'):
        return token if masked(token) == token else f'"{masked(token)}"'
    inner = token[1:-1]
    return f'"{masked_reference(inner) if _WORD.fullmatch(inner) else masked(inner)}"'


def intake_of(procedures: Procedures, webhooks: Webhooks[object] | None) -> Intake:
    """
    Return the procedures around the inbox.

    Raises:
        MisconfiguredError: The engine was made without webhooks.
    """
    if webhooks is None:
        problem = "this engine was made without webhooks"
        raise MisconfiguredError("webhooks", problem, "Give it webhooks=Webhooks(...)")
    return Intake(procedures, cast("Webhooks[WebhookInbox]", webhooks))
