"""
How webhooks are taken, step by step, written once for both colours.

Taking a delivery is one step that is committed before anybody is told that it was taken: verify,
then store under the event's id. Applying it is another: read it, find its executions, and fold what
it says like any other news. Whatever keeps it from being applied leaves it in the inbox, with the
date of the next try.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from railcore import _checks
from railcore.errors import (
    InProgressError,
    InvalidValueError,
    MisconfiguredError,
    OutcomeUnknownError,
    StoreError,
    UnknownProviderError,
    WebhookRefusedError,
)
from railcore.execution import PaymentExecution
from railcore.lifecycle import Fact, FactSource
from railcore.observability import WebhookObserved
from railcore.ports import WebhookAccounts, WebhookInbox, WebhookProvider
from railcore.procedures import Procedure, Procedures, ask
from railcore.redaction import masked, masked_reference
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
        kept = attrs.evolve(item, body=_safe(item.body))
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
        for item in items:
            with suppress(*_OURS):
                yield from self._try(item)
        return len(items)

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
        except UnknownProviderError:  # this process is older, or younger, than the one that took it
            settlement = self._wait(item, "its provider is not known to this process")
        except Exception as error:  # noqa: BLE001 - observed and kept; a person looks at it
            settlement = self._troubled(item, f"{type(error).__name__} while it was applied")
        yield from ask(lambda: self.webhooks.inbox.settle(item, settlement))
        verdict = receipt_of(item, settlement.state).verdict
        self._tell(verdict, item.provider, item.account, item.event_id, settlement.problem)
        return settlement.state

    def _applied(self, item: InboxItem) -> Procedure[Settlement]:
        provider = self._provider(item.provider)
        event = provider.parse(item.body)
        problem: str | None = None
        for news in event.news:
            execution = yield from self._found(item, news)
            if execution is None:
                problem = "its payment is not known here"
            elif not (yield from self._hear(item, execution, news, provider.trust)):
                problem = problem or "the provider, asked again, says nothing definite yet"
        return _APPLIED if problem is None else self._wait(item, problem)

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

    def _wait(self, item: InboxItem, problem: str) -> Settlement:
        settings = self.webhooks.settings
        if item.waited_s >= settings.patience_s:
            return Settlement(InboxState.PARKED, None, problem)
        return Settlement(InboxState.RECEIVED, settings.retry_s(item.attempts), problem)

    def _troubled(self, item: InboxItem, problem: str) -> Settlement:
        settings = self.webhooks.settings
        if item.attempts >= settings.park_after:
            return Settlement(InboxState.PARKED, None, problem)
        return Settlement(InboxState.RECEIVED, settings.retry_s(item.attempts), problem)

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


def _item(delivery: Delivery, account: WebhookAccount, said: VerifiedDelivery) -> InboxItem:
    digest = hashlib.sha256(delivery.body).digest()
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
    if masked_reference(event_id) != event_id:
        return f"id-sha256:{hashlib.sha256(event_id.encode()).hexdigest()}"
    return event_id


def _safe(body: bytes) -> bytes:
    """
    Return *body* with card numbers masked, all other bytes as they are.

    JSON reads the same afterwards: references that only look like card numbers stay, and so do
    dates in milliseconds; a number that is masked becomes a text.
    """
    text = body.decode("latin-1")
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return masked(text).encode("latin-1")
    return _TOKEN.sub(_masked_token, text).encode("latin-1")


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
