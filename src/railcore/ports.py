"""
Every port. Adapters satisfy these by shape and import only values.

A port with two colours of caller comes twice, as ``Name`` and ``AsyncName``, with the same method
names. Stores raise ``StoreError`` (which says whether the change may have been committed) and
``InProgressError``; transports raise ``TransportError``.
"""

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, runtime_checkable
from uuid import UUID

import attrs

from railcore import _checks
from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.delivery import Backlog, BucketLease, FailedDelivery, OutboxEntry, ParkedPayment
from railcore.errors import RailcoreError
from railcore.events import EventDraft, JournalEvent
from railcore.execution import PaymentExecution, PaymentView
from railcore.http import Exchange, HttpRequest, HttpResponse
from railcore.lifecycle import Discrepancy
from railcore.money import Currency, Money
from railcore.observability import Observed
from railcore.protocol import (
    Acquired,
    Claim,
    ClaimOutcome,
    Due,
    Recording,
    ResolveOutcome,
    Resolving,
)
from railcore.redaction import Secret, masked
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, Orphan
from railcore.routing import PaymentRoute, Resolution, RouteCapabilities
from railcore.wallet import (
    TransferOutcome,
    WalletAccount,
    WalletAsk,
    WalletBalance,
    WalletTransfer,
)
from railcore.webhooks import (
    Delivery,
    InboxItem,
    InboxVerdict,
    ParkedDelivery,
    Settlement,
    Sought,
    VerifiedDelivery,
    WebhookAccount,
    WebhookEvent,
    WebhookTrust,
)

Ask_co = TypeVar("Ask_co", covariant=True)
Reply_contra = TypeVar("Reply_contra", contravariant=True)


class Clock(Protocol):
    """Time, injected. Leases and due times are the store's time instead."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that is never set back and goes on during suspend."""
        ...


class RouteResolver(Protocol):
    """Finds the route of a payment. Pure or cached: it is asked once for each new execution."""

    def resolve(self, context: PaymentContext, /) -> Resolution:
        """
        Return the route and why.

        Raise ``RouteNotFoundError`` with the trace when there is none.
        """
        ...


@runtime_checkable
class KnowsRoutes(Protocol):
    """
    An optional power of a resolver: to name all its routes.

    A follow-up whose parent would go elsewhere today is then still held to what the routes to its
    account allow.
    """

    @property
    def known_routes(self) -> Sequence[PaymentRoute]:
        """Every configured route."""
        ...


class Observer(Protocol):
    """
    Is told what happened. Must be quick.

    What it raises is ignored, for no log line may break a payment.
    """

    def observe(self, observed: Observed, /) -> None:
        """Take note of *observed*."""
        ...


class CredentialSource(Protocol):
    """Knows the credentials of an account. They are never stored by railcore."""

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """
        Return the credential.

        Raise ``MisconfiguredError`` naming the account when there is none.
        """
        ...


class Rail(Protocol):
    """
    One rail at one provider, synchronous.

    Implement it directly around a vendor's SDK; otherwise write flows. Every method is total: a
    refusal is ``failed``, an answer that cannot be read is ``unknown``. It never repeats by itself
    a request that moves money. An exception is taken as an unknown outcome.
    """

    @property
    def capabilities(self) -> RouteCapabilities:
        """What it can do, and the provider's timing bounds."""
        ...

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Start the operation. No request that moves money may leave after *send_by*."""
        ...

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Go on after a customer action. A rail of one step answers as ``check_status`` does."""
        ...

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Ask what became of it. Only reads; idempotent."""
        ...


class AsyncRail(Protocol):
    """The same, asynchronous."""

    @property
    def capabilities(self) -> RouteCapabilities:
        """What it can do, and the provider's timing bounds."""
        ...

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Start the operation. No request that moves money may leave after *send_by*."""
        ...

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        """Go on after a customer action. A rail of one step answers as ``check_status`` does."""
        ...

    async def check_status(self, execution: PaymentExecution, /) -> RailResult:
        """Ask what became of it. Only reads; idempotent."""
        ...


class FlowRail(Protocol[Ask_co, Reply_contra]):
    """
    A rail written once for both colours: each method returns a flow.

    ``DrivenRail`` and ``AsyncDrivenRail`` run it.
    """

    @property
    def capabilities(self) -> RouteCapabilities:
        """What it can do, and the provider's timing bounds."""
        ...

    def execute(
        self, execution: PaymentExecution, /
    ) -> Generator[Ask_co, Reply_contra, RailResult]:
        """Return the flow that starts the operation."""
        ...

    def advance(
        self, execution: PaymentExecution, /
    ) -> Generator[Ask_co, Reply_contra, RailResult]:
        """Return the flow that goes on after a customer action."""
        ...

    def check_status(
        self, execution: PaymentExecution, /
    ) -> Generator[Ask_co, Reply_contra, RailResult]:
        """Return the flow that asks what became of it; no request of it moves money."""
        ...


class CardGateway(Protocol):
    """
    The client of one card provider behind ``CardPspRail``, as flows.

    Adding one changes no rail code.
    """

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the provider can do, and its timing bounds."""
        ...

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that asks the provider to do it, carrying ``execution.provider_key``."""
        ...

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that goes on after a customer action."""
        ...

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """
        Return the flow that reads back by ``provider_ref`` or ``provider_key``.

        ``RailResult.absent()`` when not found.
        """
        ...


class OpenBankingClient(Protocol):
    """The client of one open-banking provider behind ``OpenBankingPaymentRail``, as flows."""

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the provider can do, and its timing bounds."""
        ...

    def initiate(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that creates the payment order and answers with the redirect."""
        ...

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads the order back; ``RailResult.absent()`` when not found."""
        ...


def _without_cards(said: Any) -> Any:
    return masked(said) if isinstance(said, str) else said


@attrs.frozen(kw_only=True)
class OperatorDecision:
    """
    What a named person decided, and on what evidence.

    Attributes:
        actor: Who; 1 to 128 visible ASCII characters.
        evidence: An opaque reference to what it rests on (receipt, statement line); becomes the
            provider reference. Card numbers are masked here, in both, as they are where they are
            stored, so that the same person and the same evidence stay the same.
        received: What was received; None means the amount asked.
    """

    actor: str = attrs.field(converter=_without_cards, validator=_checks.text(128))
    evidence: str = attrs.field(converter=_without_cards, validator=_checks.text(255))
    received: Money | None = attrs.field(
        default=None, validator=_checks.one_of(Money, optional=True)
    )


@runtime_checkable
class OperatorDecided(Protocol):
    """An optional power of a rail: a person may say what became of an execution. Pure; no I/O."""

    def confirm(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return what the confirmation means.

        Raise ``ApprovalError`` when this person may not give it.
        """
        ...

    def reject(self, execution: PaymentExecution, decision: OperatorDecision, /) -> RailResult:
        """
        Return what the rejection means.

        Raise ``ApprovalError`` when this person may not give it.
        """
        ...


class Transport(Protocol):
    """
    Sends one HTTP request, once.

    Raises ``TransportError``, which says whether it may have left.
    """

    def send(self, request: HttpRequest, send_by: Deadline | None, /) -> HttpResponse:
        """
        Return the answer.

        A request that moves money leaves before *send_by*, read after connecting, or not at all.
        """
        ...


class AsyncTransport(Protocol):
    """The same, asynchronous."""

    async def send(self, request: HttpRequest, send_by: Deadline | None, /) -> HttpResponse:
        """
        Return the answer.

        A request that moves money leaves before *send_by*, read after connecting, or not at all.
        """
        ...


class ReviewStore(Protocol):
    """
    Where what people have to look at is kept.

    Every writing method is one atomic, durable step that has happened when it returns.
    """

    def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        ...

    def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        ...

    def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        ...

    def discrepancies_of(self, tenant_id: str, payment_id: str, /) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        ...

    def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        ...

    def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """
        Store how an open discrepancy ends, with its event and its executions, all or nothing.

        It never changes again: who comes second is told how it ended.
        """
        ...


class ExecutionStore(ReviewStore, Protocol):
    """
    Where executions live.

    Every writing method is one atomic, durable step that has happened when it returns. The store's
    own clock dates everything; durations are given in seconds. Events of one payment are numbered
    1, 2, 3 ...
    """

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless its key or a limit is in the way."""
        ...

    def claim_many(self, claims: Sequence[Claim], /) -> Sequence[ClaimOutcome | RailcoreError]:
        """Claim many: for each what ``claim`` would have returned or raised."""
        ...

    def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change and its event; None where status, version or a fence no longer hold."""
        ...

    def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take the free or expired lease of an open execution, with a new token; else None."""
        ...

    def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """
        Take leases of due executions that nobody holds, those due longest first.

        Each is counted as a look, and its next one is set to the end of the lease in the same step.
        """
        ...

    def mark_sent(self, execution: PaymentExecution, lease_s: float, /) -> PaymentExecution | None:
        """
        Commit a send mark and extend the lease, if ``execution.lease.token`` still holds it.

        Else None.
        """
        ...

    def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """
        Give the lease back and look again later, if ``execution.lease.token`` still holds it.

        Whether it did.
        """
        ...

    def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """
        Count out a send that was refused for certain, and let it be sent anew later.

        Gives the lease back, if ``execution.lease.token`` still holds it. Whether it did.
        """
        ...

    def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        ...

    def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        ...

    def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        ...

    def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        ...

    def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        ...

    def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        ...

    def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        ...

    def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        ...


class AsyncReviewStore(Protocol):
    """The same, asynchronous."""

    async def note_orphan(self, orphan: Orphan, event: EventDraft, /) -> bool:
        """Store a charge that nobody asked for, and its event, once; whether it was new."""
        ...

    async def discrepancy(self, tenant_id: str, discrepancy_id: UUID, /) -> NotedDiscrepancy | None:
        """Return a discrepancy by its id."""
        ...

    async def list_discrepancies(
        self, tenant_id: str | None, limit: int, /, *, open_only: bool = True
    ) -> Sequence[NotedDiscrepancy]:
        """Return discrepancies of one tenant or, for None, of all, the oldest first."""
        ...

    async def discrepancies_of(
        self, tenant_id: str, payment_id: str, /
    ) -> Sequence[NotedDiscrepancy]:
        """Return the discrepancies of a payment, the oldest first."""
        ...

    async def waiting_for_review(
        self, tenant_id: str | None, limit: int, /
    ) -> Sequence[PaymentExecution]:
        """Return executions that are pending with ``manual_review``, the oldest first."""
        ...

    async def resolve(self, resolving: Resolving, /) -> ResolveOutcome:
        """
        Store how an open discrepancy ends, with its event and its executions, all or nothing.

        It never changes again: who comes second is told how it ended.
        """
        ...


class AsyncExecutionStore(AsyncReviewStore, Protocol):
    """The same, asynchronous."""

    async def claim(self, claim: Claim, /) -> ClaimOutcome:
        """Store a new execution and its event, unless its key or a limit is in the way."""
        ...

    async def claim_many(
        self, claims: Sequence[Claim], /
    ) -> Sequence[ClaimOutcome | RailcoreError]:
        """Claim many: for each what ``claim`` would have returned or raised."""
        ...

    async def record(self, recording: Recording, /) -> PaymentExecution | None:
        """Store a change and its event; None where status, version or a fence no longer hold."""
        ...

    async def acquire(
        self, tenant_id: str, execution_id: UUID, owner: str, lease_s: float, /
    ) -> Acquired | None:
        """Take the free or expired lease of an open execution, with a new token; else None."""
        ...

    async def acquire_due(self, due: Due, /) -> Sequence[Acquired]:
        """
        Take leases of due executions that nobody holds, those due longest first.

        Each is counted as a look, and its next one is set to the end of the lease in the same step.
        """
        ...

    async def mark_sent(
        self, execution: PaymentExecution, lease_s: float, /
    ) -> PaymentExecution | None:
        """
        Commit a send mark and extend the lease, if ``execution.lease.token`` still holds it.

        Else None.
        """
        ...

    async def reschedule(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """
        Give the lease back and look again later, if ``execution.lease.token`` still holds it.

        Whether it did.
        """
        ...

    async def put_back(self, execution: PaymentExecution, next_check_s: float, /) -> bool:
        """
        Count out a send that was refused for certain, and let it be sent anew later.

        Gives the lease back, if ``execution.lease.token`` still holds it. Whether it did.
        """
        ...

    async def note(
        self, execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft, /
    ) -> bool:
        """Store a contradiction and its event, once; whether it was new."""
        ...

    async def get(self, tenant_id: str, execution_id: UUID, /) -> PaymentExecution | None:
        """Return an execution by its id."""
        ...

    async def find(self, tenant_id: str, idempotency_key: str, /) -> PaymentExecution | None:
        """Return the execution that holds a key."""
        ...

    async def find_named(self, sought: Sought, /) -> Sequence[PaymentExecution]:
        """Return the executions of an account that have this name at the provider; at most two."""
        ...

    async def executions(self, tenant_id: str, payment_id: str, /) -> Sequence[PaymentExecution]:
        """Return the executions of a payment, oldest first."""
        ...

    async def open_executions(self, limit: int, /) -> Sequence[PaymentExecution]:
        """Return open executions, the one due first first."""
        ...

    async def payment(self, tenant_id: str, payment_id: str, /) -> PaymentView | None:
        """Return the payment's sums."""
        ...

    async def events(self, tenant_id: str, payment_id: str, /) -> Sequence[JournalEvent]:
        """Return the payment's events in order."""
        ...


@runtime_checkable
class Joinable(Protocol):
    """An optional power of a store: to write inside a host's own transaction."""

    def within(self, connection: Any, /) -> Any:
        """Return the same store, in the open transaction of *connection*."""
        ...


class WalletRepository(Protocol):
    """
    The books of a wallet: a provider like others, with its own commit.

    Every transfer is one atomic, durable step that has happened when it returns, and is visible to
    lookups from then on. A customer's available balance never falls below zero, and a hold is
    resolved once, whoever races for it. ``StoreError`` says whether a transfer may have been
    committed; the same transfer again finds out.
    """

    def open_account(self, account: WalletAccount, /) -> bool:
        """
        Open an account; whether it is new.

        Raises:
            MisconfiguredError: It is open as an account of another kind.
        """
        ...

    def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once; the same again is ``known``, a refusal a verdict."""
        ...

    def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it: ``known``, or ``absent``."""
        ...

    def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one: ``known``, or ``absent``."""
        ...

    def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none. A house account is summed."""
        ...

    def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over, each by a transfer; how many."""
        ...

    def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """
        Answer one thing that a flow of ``WalletRail`` asks for; what ``DrivenRail`` is given.

        Raises:
            SendDeadlinePassed: A transfer came too late, and was not made.
        """
        ...


class AsyncWalletRepository(Protocol):
    """The same, asynchronous."""

    async def open_account(self, account: WalletAccount, /) -> bool:
        """
        Open an account; whether it is new.

        Raises:
            MisconfiguredError: It is open as an account of another kind.
        """
        ...

    async def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once; the same again is ``known``, a refusal a verdict."""
        ...

    async def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it: ``known``, or ``absent``."""
        ...

    async def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one: ``known``, or ``absent``."""
        ...

    async def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none. A house account is summed."""
        ...

    async def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over, each by a transfer; how many."""
        ...

    async def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """
        Answer one thing that a flow of ``WalletRail`` asks for; what ``DrivenRail`` is given.

        Raises:
            SendDeadlinePassed: A transfer came too late, and was not made.
        """
        ...


class EventSink(Protocol):
    """Where events go."""

    def deliver(self, event: JournalEvent, /) -> None:
        """
        Return once the receiver has *event* durably; it may have come before.

        Give up in good time: what takes longer than half a relay's lease may be repeated by
        another. Raise ``DeliveryError``, which says whether this event can never be taken.
        """
        ...


class Outbox(Protocol):
    """
    The queue of undelivered events: a narrow table beside the journal, in 64 buckets.

    Whoever holds a bucket's lease delivers it. What is not acknowledged under a valid token stays.
    """

    def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """
        Take the free or expired lease of a bucket with something to deliver; else None.

        The bucket that has waited longest comes first.
        """
        ...

    def waiting(self, lease: BucketLease, limit: int, per_payment: int, /) -> Sequence[OutboxEntry]:
        """
        Return up to *limit* entries of the bucket, at most *per_payment* of each payment.

        Those of a payment are in order, from its lowest undelivered one on; a payment that is
        parked or waits for its next try is left out.
        """
        ...

    def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """
        Remove what was delivered, note what failed, and extend the lease, all or nothing.

        False when the token no longer holds the lease: nothing was changed.
        """
        ...

    def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        ...

    def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        ...

    def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        ...

    def replay(self, since: datetime, /) -> int:
        """
        Put every event since *since* back into the queue, from the journal; how many.

        Of each payment the first of them and all that follow, so that nothing is skipped; what a
        relay delivers meanwhile is not acknowledged, and comes again.
        """
        ...

    def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        ...


class AsyncEventSink(Protocol):
    """The same, asynchronous."""

    async def deliver(self, event: JournalEvent, /) -> None:
        """
        Return once the receiver has *event* durably; it may have come before.

        Give up in good time: what takes longer than half a relay's lease may be repeated by
        another. Raise ``DeliveryError``, which says whether this event can never be taken.
        """
        ...


class AsyncOutbox(Protocol):
    """The same, asynchronous."""

    async def lease(self, owner: str, lease_s: float, /) -> BucketLease | None:
        """
        Take the free or expired lease of a bucket with something to deliver; else None.

        The bucket that has waited longest comes first.
        """
        ...

    async def waiting(
        self, lease: BucketLease, limit: int, per_payment: int, /
    ) -> Sequence[OutboxEntry]:
        """
        Return up to *limit* entries of the bucket, at most *per_payment* of each payment.

        Those of a payment are in order, from its lowest undelivered one on; a payment that is
        parked or waits for its next try is left out.
        """
        ...

    async def acknowledge(
        self,
        lease: BucketLease,
        delivered: Sequence[OutboxEntry],
        failed: Sequence[FailedDelivery],
        lease_s: float,
        /,
    ) -> bool:
        """
        Remove what was delivered, note what failed, and extend the lease, all or nothing.

        False when the token no longer holds the lease: nothing was changed.
        """
        ...

    async def release(self, lease: BucketLease, /) -> None:
        """Give the lease back, if the token still holds it."""
        ...

    async def parked(self, limit: int, /) -> Sequence[ParkedPayment]:
        """Return payments that wait for a person, the longest parked first."""
        ...

    async def unpark(self, tenant_id: str, payment_id: str, /) -> bool:
        """Let a parked payment go on at the event where it stopped; whether it was parked."""
        ...

    async def replay(self, since: datetime, /) -> int:
        """
        Put every event since *since* back into the queue, from the journal; how many.

        Of each payment the first of them and all that follow, so that nothing is skipped; what a
        relay delivers meanwhile is not acknowledged, and comes again.
        """
        ...

    async def backlog(self) -> Backlog:
        """Return how much is still to be delivered."""
        ...


class WebhookProvider(Protocol):
    """
    A provider's part of hearing its webhooks. Pure: it reads what it is given, and no clock.

    Nothing that arrives may break it: whatever ``verify`` raises is a refusal, and whatever
    ``parse`` raises keeps the delivery in the inbox.
    """

    @property
    def trust(self) -> WebhookTrust:
        """Whether what is parsed is believed, or only a reason to look up."""
        ...

    def verify(
        self, delivery: Delivery, secrets: Sequence[Secret], now: datetime, /
    ) -> VerifiedDelivery:
        """
        Return what to keep of a delivery that one of *secrets* proves, on its raw bytes.

        Compares in constant time, and refuses what is too old where the provider says when it
        signed. Raise ``WebhookRefusedError`` for everything else.
        """
        ...

    def parse(self, body: bytes, /) -> WebhookEvent:
        """Return what a verified body says; no news for an event that is not about payments."""
        ...


class WebhookAccounts(Protocol):
    """Knows which accounts deliveries come for, and their secrets of just now."""

    def accounts(self, provider: str, account: str | None, /) -> Sequence[WebhookAccount]:
        """
        Return the account, or every account of the provider where the address names none.

        Nothing for what is not known.
        """
        ...


class WebhookInbox(Protocol):
    """
    Where verified deliveries are kept, each under its account and event id.

    Every method is one atomic, durable step that has happened when it returns. The inbox's own
    clock dates everything.
    """

    def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """
        Store a delivery once; its first try has begun, and another is due after *lease_s*.

        ``conflict`` when the event is here with another body, and nothing is changed.
        """
        ...

    def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first; nobody else does before *lease_s*."""
        ...

    def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun; whether it was noted."""
        ...

    def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        ...

    def replay(self, event_id: str, /) -> int:
        """Make an event due again, on whatever account it came; how many were made due."""
        ...

    def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        ...


class AsyncWebhookInbox(Protocol):
    """The same, asynchronous."""

    async def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """
        Store a delivery once; its first try has begun, and another is due after *lease_s*.

        ``conflict`` when the event is here with another body, and nothing is changed.
        """
        ...

    async def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first; nobody else does before *lease_s*."""
        ...

    async def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun; whether it was noted."""
        ...

    async def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        ...

    async def replay(self, event_id: str, /) -> int:
        """Make an event due again, on whatever account it came; how many were made due."""
        ...

    async def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        ...
