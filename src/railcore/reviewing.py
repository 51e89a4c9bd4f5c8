"""
How a discrepancy is resolved: the decision, and its procedure for both colours of engine.

Money that is at the provider already is *adopted*: booked as an execution of its own that is stored
and completed in one step, and never sent. The debt that it was meant for takes it where it has
room; otherwise it becomes a payment of its own, money on account. A refund acts on that execution
and goes the usual way; it is claimed together with the resolution, so that no crash forgets it.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation, PaymentRail, RouteMode
from railcore.errors import (
    AlreadyResolvedError,
    DiscrepancyNotFoundError,
    InProgressError,
    NoRemedyError,
    UnsupportedOperationError,
)
from railcore.events import draft_discrepancy, draft_event, draft_orphan, draft_resolution
from railcore.execution import Lease, PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.kernel import EngineSettings, Kernel, Record
from railcore.lifecycle import DiscrepancyKind, Fact, FactSource, decide, evolve, missing
from railcore.money import Money
from railcore.ports import OperatorDecision
from railcore.procedures import Procedure, Procedures, ask
from railcore.protocol import Adoption, Claim, Recording, ResolveVerdict, Resolving
from railcore.redaction import kept_reference, true_reference
from railcore.results import RailResult
from railcore.review import (
    NotedDiscrepancy,
    Orphan,
    Remedy,
    Review,
    adopting_id,
    adopting_key,
    refunding_id,
    refunding_key,
)
from railcore.story import Sources, Story, tell

_DECISIONS: Final = 5
_SOON: Final = timedelta(milliseconds=50)
_NO_LEASE: Final = Lease(None, 0, None)
_OPTION: Final = "orphan"


@attrs.frozen
class Reviews(Procedures):
    """The procedures of one engine, those for what people look at among them."""

    def review(self, tenant_id: str | None, limit: int) -> Procedure[Review]:
        """Return what people have to look at."""
        found = yield from ask(lambda: self.store.list_discrepancies(tenant_id, limit))
        waiting = yield from ask(lambda: self.store.waiting_for_review(tenant_id, limit))
        return Review(discrepancies=found, waiting=waiting)

    def note_orphan(self, orphan: Orphan) -> Procedure[NotedDiscrepancy]:
        """Note a charge that nobody asked for, once, and return it as stored."""
        yield from ask(lambda: self.store.note_orphan(orphan, draft_orphan(orphan)))
        return (yield from self._noted(orphan.tenant_id, orphan.discrepancy.discrepancy_id))

    def note_missing(
        self, tenant_id: str, execution_id: UUID, evidence: str
    ) -> Procedure[NotedDiscrepancy]:
        """Note that a statement lacks what was completed, once, and return it as stored."""
        execution = yield from self.get(tenant_id, execution_id)
        found = missing(execution, evidence)
        event = draft_discrepancy(execution, found)
        yield from ask(lambda: self.store.note(execution, found, event))
        return (yield from self._noted(tenant_id, found.discrepancy_id))

    def recheck(self, tenant_id: str, execution_id: UUID) -> Procedure[PaymentExecution]:
        """Ask the provider again, also about a finished execution, and note what contradicts it."""
        execution = yield from self.get(tenant_id, execution_id)
        if execution.is_open:
            return (yield from self.refresh(tenant_id, execution_id))
        result = yield from self._look_up(execution)
        match self.kernel.after_lookup(execution, result, self.kernel.clock.now()):
            case Record(fact):
                return (yield from self._fold(execution, lambda _: fact))
            case _:
                return execution

    def explain(self, tenant_id: str, execution_id: UUID) -> Procedure[Story]:
        """Return the story of an execution."""
        execution = yield from self.get(tenant_id, execution_id)
        payment_id = execution.payment_id
        events = yield from ask(lambda: self.store.events(tenant_id, payment_id))
        payment = yield from ask(lambda: self.store.payment(tenant_id, payment_id))
        noted = yield from ask(lambda: self.store.discrepancies_of(tenant_id, payment_id))
        return tell(
            Sources(
                execution=execution,
                events=events,
                payment=payment,
                discrepancies=noted,
                can=self.kernel.offered.get((execution.rail, execution.provider)),
                at=self.kernel.clock.now(),
            )
        )

    def resolve(
        self, tenant_id: str, discrepancy_id: UUID, remedy: Remedy, decision: OperatorDecision
    ) -> Procedure[NotedDiscrepancy]:
        """End a discrepancy, once; decided again whenever the execution has moved meanwhile."""
        for _ in range(_DECISIONS):
            noted = yield from self._noted(tenant_id, discrepancy_id)
            if not noted.is_open:
                return (yield from self._already(noted, remedy, decision))
            execution = yield from self._contradicted(noted)
            resolving = resolution(self.kernel, noted, execution, remedy, decision)
            outcome = yield from ask(lambda: self.store.resolve(resolving))  # noqa: B023 - called at once
            match outcome.verdict, outcome.noted:
                case ResolveVerdict.RESOLVED, NotedDiscrepancy() as stored:
                    yield from self._follow_up(stored)
                    return stored
                case ResolveVerdict.ALREADY, NotedDiscrepancy() as stored:
                    return (yield from self._already(stored, remedy, decision))
                case ResolveVerdict.REFUSED, _:
                    problem = "the payment has no room for it, money in doubt counted"
                    raise NoRemedyError(discrepancy_id, remedy, problem)
                case ResolveVerdict.BOOKED, _:
                    problem = "what the provider calls by that reference is booked already"
                    raise NoRemedyError(discrepancy_id, remedy, problem)
                case _:
                    continue
        raise InProgressError(f"discrepancy {discrepancy_id}", _SOON)

    def _noted(self, tenant_id: str, discrepancy_id: UUID) -> Procedure[NotedDiscrepancy]:
        noted = yield from ask(lambda: self.store.discrepancy(tenant_id, discrepancy_id))
        if noted is None:
            raise DiscrepancyNotFoundError(tenant_id, discrepancy_id)
        return noted

    def _contradicted(self, noted: NotedDiscrepancy) -> Procedure[PaymentExecution | None]:
        if noted.execution_id is None:
            return None
        return (yield from self.get(noted.tenant_id, noted.execution_id))

    def _already(
        self, noted: NotedDiscrepancy, remedy: Remedy, decision: OperatorDecision
    ) -> Procedure[NotedDiscrepancy]:
        """Return how it ended, if that is what is asked for; a refund goes on where it stopped."""
        done = noted.resolved
        if done is None:
            raise InProgressError(f"discrepancy {noted.discrepancy_id}", _SOON)
        if (done.remedy, done.actor, done.evidence) != (remedy, decision.actor, decision.evidence):
            raise AlreadyResolvedError(noted.discrepancy_id, done.remedy, done.actor)
        yield from self._follow_up(noted)
        return noted

    def _follow_up(self, noted: NotedDiscrepancy) -> Procedure[None]:
        """Send the refund, if it waits to be sent; a worker would do the same."""
        done = noted.resolved
        if done is None or done.remedy is not Remedy.REFUND or done.execution_id is None:
            return
        refund = yield from self.get(noted.tenant_id, done.execution_id)
        if refund.is_open:
            yield from self.refresh(noted.tenant_id, done.execution_id)


def resolution(
    kernel: Kernel,
    noted: NotedDiscrepancy,
    execution: PaymentExecution | None,
    remedy: Remedy,
    decision: OperatorDecision,
) -> Resolving:
    """
    Return how *noted* is to end.

    Args:
        execution: What it contradicts, as it is now; None for an orphan.

    Raises:
        NoRemedyError: The remedy does not mend it; says why.
        UnsupportedOperationError: The route cannot refund.
        UnknownProviderError: Nothing is registered for its provider any more.
    """
    resolving_id: UUID | None = None
    ends: Recording | None = None
    adoptions: tuple[Adoption, ...] = ()
    refund: Claim | None = None
    if remedy is Remedy.ACCEPTED:
        _check_is_known(noted, execution)
    else:
        desk = _Desk(kernel, noted, execution, remedy, decision)
        resolving_id = desk.resolving_id
        if noted.discrepancy.kind is DiscrepancyKind.REFUND_FAILED:
            refund = desk.refund_again()
        else:
            ends, adoptions = desk.ends(), desk.adoptions()
    actor, evidence = decision.actor, decision.evidence
    return Resolving(
        noted=noted,
        remedy=remedy,
        actor=actor,
        evidence=evidence,
        execution_id=resolving_id,
        event=draft_resolution(noted, remedy, actor, evidence, resolving_id),
        ends=ends,
        adoptions=adoptions,
        refund=refund,
    )


def _check_is_known(noted: NotedDiscrepancy, execution: PaymentExecution | None) -> None:
    """Refuse to close the only list that shows an execution which is in doubt for its sake."""
    if execution is not None and execution.is_in_doubt:
        problem = f"execution {execution.execution_id} is in doubt; adopt or refund what came"
        raise NoRemedyError(noted.discrepancy_id, Remedy.ACCEPTED, problem)


@attrs.frozen
class _Desk:
    """Where the money of one discrepancy is booked."""

    kernel: Kernel
    noted: NotedDiscrepancy
    execution: PaymentExecution | None
    remedy: Remedy
    decision: OperatorDecision

    @property
    def resolving_id(self) -> UUID:
        is_refund = self.remedy is Remedy.REFUND
        discrepancy_id = self.noted.discrepancy_id
        return refunding_id(discrepancy_id) if is_refund else adopting_id(discrepancy_id)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the execution never ends by itself: the provider tells of another amount."""
        return self.execution is not None and self.execution.is_open

    def ends(self) -> Recording | None:
        """Return the end of an execution that is still open: what was asked never came."""
        if self.execution is None or not self.is_in_doubt:
            return None
        unheld = self.execution.changed(lease=_NO_LEASE)
        fact = self._fact(RailResult.failed(PaymentFailureCode.CANCELLED))
        return self.kernel.recording(unheld, fact, decide(unheld, fact))

    def refund_again(self) -> Claim:
        """Return what gives back, under a new key, what a refund that failed was to give back."""
        failed = self.execution
        assert failed is not None, "a refund is no orphan"  # noqa: S101 - narrows the type
        if self.remedy is not Remedy.REFUND:
            parent_id = failed.context.parent_execution_id
            raise self._no(f"it is booked already, as execution {parent_id}; accepted leaves it so")
        self._wants(failed, ExecutionStatus.FAILED)
        return self._refund_claim(failed.context, failed.parent_ref)

    def adoptions(self) -> tuple[Adoption, ...]:
        """Return the places where it may be booked, the debt itself first."""
        reference, money = self._money()
        if reference is None and self.remedy is Remedy.REFUND:
            raise self._no("the provider has not said what it calls the charge; adopt it")
        return tuple(self._adoption(one, reference) for one in self._contexts(money))

    def _money(self) -> tuple[str | None, Money]:
        """Return what the provider calls the money, if it says, and how much it is."""
        found, received = self.noted.discrepancy, self.decision.received
        reference, money = self._claimed()
        if money is None and received is None:
            raise self._no("how much came is not known; say what was received")
        if money is not None and received is not None and received != money:
            raise self._no(f"the provider tells of {money}, not of {received}")
        taken = money or received
        if taken is None or taken.amount_minor <= 0:
            raise self._no("no money came")
        if self.execution is not None and found.kind is not DiscrepancyKind.CURRENCY_DIFFERS:
            self._same_currency(taken, self.execution)
        return reference, taken

    def _same_currency(self, money: Money, execution: PaymentExecution) -> None:
        if money.currency != execution.money.currency:
            raise self._no(f"it was asked in {execution.money.currency.code}")

    def _claimed(self) -> tuple[str | None, Money | None]:
        found, execution = self.noted.discrepancy, self.execution
        if execution is None:
            return found.provider_ref, found.reported
        match found.kind:
            case DiscrepancyKind.SUCCESS_AFTER_FAILURE:
                self._wants(execution, ExecutionStatus.FAILED)
                return found.provider_ref, execution.money if found.provider_ref else None
            case DiscrepancyKind.SECOND_REFERENCE:
                self._wants(execution, ExecutionStatus.COMPLETED)
                return self._other_reference(execution), execution.money
            case DiscrepancyKind.AMOUNT_DIFFERS | DiscrepancyKind.CURRENCY_DIFFERS:
                is_booked = execution.status is ExecutionStatus.COMPLETED
                if is_booked and found.provider_ref == execution.provider_ref:
                    raise self._no(f"it is booked as execution {execution.execution_id} already")
                return found.provider_ref, found.reported
            case _:
                raise self._no("no money came, so only accepted is left")

    def _wants(self, execution: PaymentExecution, status: ExecutionStatus) -> None:
        if execution.status is status:
            return
        if execution.is_open:
            raise self._no(f"execution {execution.execution_id} is still open; look it up first")
        raise self._no(
            f"execution {execution.execution_id} is {execution.status} and can be refunded as it is"
            if execution.status is ExecutionStatus.COMPLETED
            else f"execution {execution.execution_id} is {execution.status}"
        )

    def _other_reference(self, execution: PaymentExecution) -> str:
        booked = kept_reference(execution.provider_ref or "")
        others = [one for one in self.noted.discrepancy.sides if one != booked]
        if len(others) != 1:
            raise self._no("neither of the two references is the one that is booked")
        return true_reference(others[0])

    def _contexts(self, money: Money) -> list[PaymentContext]:
        key = adopting_key(self.noted.discrepancy_id)
        orphan, execution = self.noted.orphan, self.execution
        if execution is None:
            assert orphan is not None, "what contradicts no execution is an orphan"  # noqa: S101 - narrows the type
            return [
                PaymentContext(
                    tenant_id=orphan.tenant_id,
                    payment_id=orphan.payment_id,
                    idempotency_key=key,
                    money=money,
                    payment_option_key=_OPTION,
                )
            ]
        asked = attrs.evolve(execution.context, idempotency_key=key, money=money, due=None)
        is_capture = asked.operation is Operation.CAPTURE
        if asked.operation.follows_a_parent and not is_capture:
            return [asked]
        own_id = f"unapplied-{self.noted.discrepancy_id.hex}"
        on_account = attrs.evolve(asked, payment_id=own_id)
        if is_capture:  # what the authorization does not hold was taken all the same
            on_account = attrs.evolve(
                on_account, operation=Operation.CHARGE, parent_execution_id=None
            )
        fits = money.currency == execution.money.currency
        return [asked, on_account] if fits else [on_account]

    def _adoption(self, context: PaymentContext, reference: str | None) -> Adoption:
        why = f"adopted by {self.decision.actor}, for discrepancy {self.noted.discrepancy_id}"
        follows = context.operation.follows_a_parent
        parent_ref = self.execution.parent_ref if self.execution and follows else None
        name = adopting_id(self.noted.discrepancy_id)
        claim = self._claim(context, name, why, parent_ref, send_before=None)
        named = reference or self.decision.evidence
        fact = self._fact(RailResult.success(named, context.money))
        change = decide(claim.execution, fact).change
        assert change is not None, "a success completes what is processing"  # noqa: S101 - narrows the type
        after = evolve(claim.execution, change)
        recording = Recording(
            before=claim.execution, after=after, event=draft_event(after, fact), next_check_s=None
        )
        is_refund = self.remedy is Remedy.REFUND
        return Adoption(
            claim=claim,
            recording=recording,
            refund=self._refund(after) if is_refund else None,
            is_named=reference is not None,
        )

    def _refund(self, adopted: PaymentExecution) -> Claim:
        if adopted.operation not in {Operation.CHARGE, Operation.CAPTURE}:
            raise self._no(f"a {adopted.operation} cannot be given back by itself; adopt it")
        can = self.kernel.capabilities(adopted)
        if Operation.REFUND not in can.operations:
            offered = ", ".join(sorted(can.operations))
            raise UnsupportedOperationError(adopted.provider, Operation.REFUND, offered)
        context = attrs.evolve(
            adopted.context,
            operation=Operation.REFUND,
            parent_execution_id=adopted.execution_id,
        )
        return self._refund_claim(context, adopted.provider_ref)

    def _refund_claim(self, context: PaymentContext, parent_ref: str | None) -> Claim:
        key = refunding_key(self.noted.discrepancy_id)
        context = attrs.evolve(context, idempotency_key=key)
        refund_id, why = refunding_id(self.noted.discrepancy_id), "the parent's route"
        send_before = self.kernel.send_before()
        return self._claim(context, refund_id, why, parent_ref, send_before=send_before)

    def _claim(
        self,
        context: PaymentContext,
        execution_id: UUID,
        why: str,
        parent_ref: str | None,
        *,
        send_before: datetime | None,
    ) -> Claim:
        rail, provider, account, mode = self._route()
        execution = PaymentExecution(
            execution_id=execution_id,
            context=context,
            rail=rail,
            provider=provider,
            account=account,
            mode=mode,
            parent_ref=parent_ref,
            send_before=send_before,
        )
        settings: EngineSettings = self.kernel.settings
        return Claim(
            execution=execution,
            event=draft_event(execution, trace=(why,)),
            owner=settings.owner,
            lease_s=settings.lease_s,
            is_sent=False,
            check_after_s=0.0,
        )

    def _route(self) -> tuple[PaymentRail, str, str, RouteMode]:
        found = self.noted.orphan or self.execution
        assert found is not None, "what contradicts no execution is an orphan"  # noqa: S101 - narrows the type
        return found.rail, found.provider, found.account, found.mode

    def _fact(self, result: RailResult) -> Fact:
        return Fact(
            result=result,
            source=FactSource.OPERATOR,
            actor=self.decision.actor,
            evidence=self.decision.evidence,
            phase=0 if self.execution is None else self.execution.phase,
        )

    def _no(self, problem: str) -> NoRemedyError:
        return NoRemedyError(self.noted.discrepancy_id, self.remedy, problem)
