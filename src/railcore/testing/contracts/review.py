"""
What every ``ReviewStore`` promises; it is an ``ExecutionStore`` too.

::

    class TestMyStore(ReviewStoreContract):
        @pytest.fixture
        def store(self) -> ExecutionStore:
            return MyStore(...)  # empty
"""

from functools import partial
from typing import Any, Final
from uuid import UUID

import attrs
import pytest

from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.events import (
    EventType,
    draft_discrepancy,
    draft_event,
    draft_orphan,
    draft_resolution,
)
from railcore.execution import PaymentExecution
from railcore.lifecycle import DiscrepancyKind, Fact, FactSource, decide, evolve
from railcore.money import SAR, Money
from railcore.ports import ExecutionStore
from railcore.protocol import (
    Adoption,
    Claim,
    ClaimOutcome,
    ClaimVerdict,
    Recording,
    ResolveVerdict,
    Resolving,
)
from railcore.results import RailResult
from railcore.review import (
    NotedDiscrepancy,
    Orphan,
    Remedy,
    adopting_id,
    adopting_key,
    refunding_id,
    refunding_key,
)
from railcore.testing.contracts.execution_store import (
    REFUSED,
    TENANT,
    asked,
    at_once,
    claim,
    claim_of,
    contradiction_of,
    following,
    record,
    recording_of,
    success_of,
    the,
)

ORPHAN: Final = Orphan(
    tenant_id=TENANT,
    rail=PaymentRail.CARD_PSP,
    provider="stub",
    account="main",
    mode=RouteMode.SANDBOX,
    provider_ref="ch_9",
    money=Money(700, SAR),
)


def failed_with_news(store: ExecutionStore, key: str = "k1", **changes: Any) -> NotedDiscrepancy:
    """Return the discrepancy of a late success of an execution that had failed."""
    return noted_of(store, record(store, claim(store, asked(key, **changes)), REFUSED))


def noted_of(store: ExecutionStore, failed: PaymentExecution) -> NotedDiscrepancy:
    """Note a late success of what has *failed*."""
    found = contradiction_of(failed)
    assert store.note(failed, found, draft_discrepancy(failed, found))
    return the(store.discrepancy(failed.tenant_id, found.discrepancy_id))


def resolving_of(
    noted: NotedDiscrepancy,
    remedy: Remedy = Remedy.ACCEPTED,
    actor: str = "alice",
    adoptions: tuple[Adoption, ...] = (),
    ends: Recording | None = None,
) -> Resolving:
    """Return a resolution by *actor*."""
    ids = {Remedy.ADOPT: adopting_id, Remedy.REFUND: refunding_id}
    execution_id = None if remedy is Remedy.ACCEPTED else ids[remedy](noted.discrepancy_id)
    return Resolving(
        noted=noted,
        remedy=remedy,
        actor=actor,
        evidence="statement-7",
        execution_id=execution_id,
        event=draft_resolution(noted, remedy, actor, "statement-7", execution_id),
        ends=ends,
        adoptions=adoptions,
    )


def adoption_of(
    noted: NotedDiscrepancy, payment_id: str = "invoice-1", *, refunded: bool = False
) -> Adoption:
    """Return what books 1.00 SAR on *payment_id*, and gives it back if wanted."""
    context = asked(adopting_key(noted.discrepancy_id), payment_id=payment_id)
    claimed = _unsent(claim_of(context), adopting_id(noted.discrepancy_id))
    fact = Fact(result=RailResult.success("ch_1", context.money), source=FactSource.OPERATOR)
    after = evolve(claimed.execution, the(decide(claimed.execution, fact).change))
    booked = Recording(
        before=claimed.execution, after=after, event=draft_event(after, fact), next_check_s=None
    )
    key = refunding_key(noted.discrepancy_id)
    back = attrs.evolve(following(key, _REFUND, after), payment_id=payment_id, money=context.money)
    refund = _unsent(claim_of(back), refunding_id(noted.discrepancy_id))
    return Adoption(claim=claimed, recording=booked, refund=refund if refunded else None)


def _unsent(claimed: Claim, execution_id: Any) -> Claim:
    execution = attrs.evolve(claimed.execution, execution_id=execution_id)
    return attrs.evolve(
        claimed, execution=execution, event=draft_event(execution), is_sent=False, check_after_s=0.0
    )


def _adopted_refund(noted: NotedDiscrepancy, charged: PaymentExecution) -> Adoption:
    """Return what books a refund of 0.01 SAR of *charged* that was made after all."""
    context = following(adopting_key(noted.discrepancy_id), _REFUND, charged)
    context = attrs.evolve(context, money=Money(1, SAR))
    claimed = _unsent(claim_of(context), adopting_id(noted.discrepancy_id))
    named = RailResult.success(str(noted.discrepancy_id), context.money)
    fact = Fact(result=named, source=FactSource.OPERATOR)
    after = evolve(claimed.execution, the(decide(claimed.execution, fact).change))
    booked = Recording(
        before=claimed.execution, after=after, event=draft_event(after, fact), next_check_s=None
    )
    return Adoption(claim=claimed, recording=booked)


_REFUND: Final = Operation.REFUND
_RESOLVED: Final = ResolveVerdict.RESOLVED
_AGAIN: Final = (("k2", "invoice-1"), ("k3", "invoice-2"))
"""Another charge of a debt, and one of another."""


class ReviewStoreContract:
    """The promises; each test gets an empty store."""

    @pytest.fixture
    def store(self) -> ExecutionStore:
        """Return an empty store."""
        pytest.fail("give the subclass a fixture named store that returns an empty store")

    # What is noted is listed -------------------------------------------------------------------

    def test_a_contradiction_is_listed_with_all_it_says(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        failed = the(store.get(TENANT, the(noted.execution_id)))

        assert noted.discrepancy == contradiction_of(failed)
        assert (noted.payment_id, noted.orphan, noted.resolved) == ("invoice-1", None, None)
        assert noted.opened_at.utcoffset() is not None
        assert list(store.list_discrepancies(None, 10)) == [noted]
        assert list(store.discrepancies_of(TENANT, "invoice-1")) == [noted]

    def test_another_amount_survives(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        wrong = RailResult.success("ch_1", Money(99, SAR))
        found = the(decide(claimed, Fact(result=wrong, source=FactSource.LOOKUP)).discrepancy)
        store.note(claimed, found, draft_discrepancy(claimed, found))

        assert the(store.discrepancy(TENANT, found.discrepancy_id)).discrepancy == found

    def test_another_tenant_sees_nothing(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)

        assert not store.list_discrepancies("tenant-2", 10)
        assert not store.discrepancies_of("tenant-2", "invoice-1")
        assert store.discrepancy("tenant-2", noted.discrepancy_id) is None

    def test_the_oldest_come_first(self, store: ExecutionStore) -> None:
        noted = [failed_with_news(store, f"k{n}", payment_id=f"invoice-{n}") for n in range(3)]

        assert list(store.list_discrepancies(TENANT, 2)) == noted[:2]

    def test_what_waits_for_a_person_is_listed(self, store: ExecutionStore) -> None:
        waits = RailResult.pending(PendingReason.MANUAL_REVIEW)
        waiting = record(store, claim(store, asked("k1")), waits)
        claim(store, asked("k2", payment_id="invoice-2"))

        assert list(store.waiting_for_review(None, 10)) == [waiting]
        assert list(store.waiting_for_review(TENANT, 10)) == [waiting]
        assert not store.waiting_for_review("tenant-2", 10)

    # Orphans -----------------------------------------------------------------------------------

    def test_an_orphan_is_stored_once_and_read_back(self, store: ExecutionStore) -> None:
        event = draft_orphan(ORPHAN)

        assert [store.note_orphan(ORPHAN, event) for _ in range(2)] == [True, False]

        noted = the(store.discrepancy(TENANT, ORPHAN.discrepancy.discrepancy_id))
        assert (noted.orphan, noted.discrepancy) == (ORPHAN, ORPHAN.discrepancy)
        assert (noted.payment_id, noted.execution_id) == (ORPHAN.payment_id, None)
        assert list(store.list_discrepancies(TENANT, 10)) == [noted]

    def test_an_orphan_is_announced_on_a_payment_of_its_own(self, store: ExecutionStore) -> None:
        store.note_orphan(ORPHAN, draft_orphan(ORPHAN))

        (event,) = store.events(TENANT, ORPHAN.payment_id)
        assert (event.type, event.seq, event.version) == (EventType.ORPHAN, 1, None)
        assert event.event_id == ORPHAN.discrepancy.discrepancy_id
        assert event.payload["provider_ref"] == "ch_9"
        payment = the(store.payment(TENANT, ORPHAN.payment_id))
        assert (payment.seq, payment.captured_minor, payment.due_minor) == (1, 0, 700)

    def test_an_orphan_found_by_many_at_once_is_one(self, store: ExecutionStore) -> None:
        event = draft_orphan(ORPHAN)

        found = at_once([partial(store.note_orphan, ORPHAN, event)] * 6)

        assert sorted(found) == [False] * 5 + [True]
        assert len(store.events(TENANT, ORPHAN.payment_id)) == 1

    # What may have come is in doubt ------------------------------------------------------------

    @pytest.mark.parametrize("in_bulk", [False, True])
    def test_a_late_success_takes_the_room_of_another_charge(
        self, store: ExecutionStore, *, in_bulk: bool
    ) -> None:
        noted = failed_with_news(store)
        before = store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")
        again = [claim_of(asked(key, payment_id=on)) for key, on in _AGAIN]

        outcomes = store.claim_many(again) if in_bulk else [store.claim(one) for one in again]

        verdicts = [outcome.verdict for outcome in outcomes if isinstance(outcome, ClaimOutcome)]
        assert verdicts == [ClaimVerdict.IN_DOUBT, ClaimVerdict.CLAIMED]
        assert store.find(TENANT, "k2") is None
        assert (store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")) == before
        assert (noted.disputed_minor, the(before[1]).disputed_minor) == (100, 100)

    def test_an_authorization_is_held_back_as_well(self, store: ExecutionStore) -> None:
        failed_with_news(store, operation=Operation.AUTHORIZE)

        outcome = store.claim(claim_of(asked("k2", operation=Operation.AUTHORIZE)))

        assert outcome.verdict is ClaimVerdict.IN_DOUBT

    def test_room_beside_it_can_be_had(self, store: ExecutionStore) -> None:
        part, due = Money(40, SAR), Money(100, SAR)
        failed_with_news(store, money=part, due=due)

        outcomes = [store.claim(claim_of(asked(f"k{n}", money=part, due=due))) for n in (2, 3)]

        verdicts = [outcome.verdict for outcome in outcomes]
        assert verdicts == [ClaimVerdict.CLAIMED, ClaimVerdict.IN_DOUBT]

    def test_a_debt_that_is_taken_already_says_so_first(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        other = claim(store, asked("k2"))
        noted_of(store, failed)

        outcome = store.claim(claim_of(asked("k3")))

        assert (outcome.verdict, outcome.execution) == (ClaimVerdict.LIVE, other)
        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 100

    def test_the_key_that_is_held_already_says_so_first(self, store: ExecutionStore) -> None:
        failed_with_news(store)

        assert store.claim(claim_of(asked("k1"))).verdict is ClaimVerdict.DUPLICATE

    def test_what_is_noted_twice_counts_once(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        failed = the(store.find(TENANT, "k1"))

        assert not store.note(
            failed, noted.discrepancy, draft_discrepancy(failed, noted.discrepancy)
        )

        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 100

    @pytest.mark.parametrize(
        "kind", [DiscrepancyKind.FAILURE_DIFFERS, DiscrepancyKind.REFUND_FAILED]
    )
    def test_what_tells_of_no_money_takes_no_room(
        self, store: ExecutionStore, kind: DiscrepancyKind
    ) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        found = attrs.evolve(contradiction_of(failed), kind=kind)
        store.note(failed, found, draft_discrepancy(failed, found))

        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.CLAIMED

    def test_what_is_booked_is_not_counted_again(self, store: ExecutionStore) -> None:
        due = Money(200, SAR)
        claimed = claim(store, asked("k1", due=due))
        done = record(store, claimed, success_of(claimed))
        found = the(decide(done, Fact(result=REFUSED, source=FactSource.LOOKUP)).discrepancy)
        store.note(done, found, draft_discrepancy(done, found))

        assert store.claim(claim_of(asked("k2", due=due))).verdict is ClaimVerdict.CLAIMED

    def test_the_larger_amount_counts_up_to_the_debt(self, store: ExecutionStore) -> None:
        part, due = Money(40, SAR), Money(100, SAR)
        failed = record(store, claim(store, asked("k1", money=part, due=due)), REFUSED)
        counted = []
        for told in (60, 500):
            result = RailResult.success(f"ch_{told}", Money(told, SAR))
            fact = Fact(result=result, source=FactSource.LOOKUP)
            found = the(decide(failed, fact).discrepancy)
            store.note(failed, found, draft_discrepancy(failed, found))
            counted.append(the(store.payment(TENANT, "invoice-1")).disputed_minor)

        assert counted == [60, 160]

    def test_a_failure_after_the_news_leaves_it_counted(self, store: ExecutionStore) -> None:
        noted, claimed = self._doubt(store)

        record(store, claimed, REFUSED)

        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.IN_DOUBT
        assert noted.disputed_minor == 100

    def test_what_is_accepted_gives_its_room_back(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)

        store.resolve(resolving_of(noted))
        store.resolve(resolving_of(noted))

        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 0
        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.CLAIMED

    @pytest.mark.parametrize("refunded", [False, True])
    def test_what_is_adopted_takes_its_own_room(
        self, store: ExecutionStore, *, refunded: bool
    ) -> None:
        noted = failed_with_news(store)
        remedy = Remedy.REFUND if refunded else Remedy.ADOPT
        places = (adoption_of(noted, refunded=refunded),)

        assert store.resolve(resolving_of(noted, remedy, adoptions=places)).verdict is _RESOLVED

        payment = the(store.payment(TENANT, "invoice-1"))
        assert (payment.captured_minor, payment.disputed_minor) == (100, 0)
        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.LIVE

    def test_what_goes_on_account_gives_its_room_back(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        places = (adoption_of(noted, "on-account"),)

        store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places))

        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 0
        assert the(store.payment(TENANT, "on-account")).captured_minor == 100
        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.CLAIMED

    def test_other_doubt_takes_no_room_of_what_is_adopted_and_stays(
        self, store: ExecutionStore
    ) -> None:
        noted = failed_with_news(store)
        failed = the(store.find(TENANT, "k1"))
        other = attrs.evolve(noted.discrepancy, discrepancy_id=UUID(int=9))
        store.note(failed, other, draft_discrepancy(failed, other))
        places = (adoption_of(noted), adoption_of(noted, "on-account"))

        store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places))

        payment = the(store.payment(TENANT, "invoice-1"))
        assert (payment.captured_minor, payment.disputed_minor) == (100, 100)
        store.resolve(resolving_of(the(store.discrepancy(TENANT, other.discrepancy_id))))
        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 0

    def test_a_refused_resolution_leaves_the_doubt(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        claim(store, asked(adopting_key(noted.discrepancy_id), payment_id="invoice-2"))

        outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted),)))

        assert outcome.verdict is ResolveVerdict.REFUSED
        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.IN_DOUBT

    def test_news_while_others_claim_is_counted(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        found = contradiction_of(failed)
        event = draft_discrepancy(failed, found)
        steps: list[Any] = [partial(store.note, failed, found, event)]
        steps += [partial(store.claim, claim_of(asked(f"k{n}"))) for n in range(2, 8)]

        noted, *outcomes = at_once(steps)

        verdicts = [outcome.verdict for outcome in outcomes]
        assert noted is True
        assert verdicts.count(ClaimVerdict.CLAIMED) <= 1
        assert set(verdicts) <= {ClaimVerdict.CLAIMED, ClaimVerdict.LIVE, ClaimVerdict.IN_DOUBT}
        assert the(store.payment(TENANT, "invoice-1")).disputed_minor == 100

    def test_a_failed_refund_that_may_have_run_holds_back_the_next(
        self, store: ExecutionStore
    ) -> None:
        charged, noted = self._contradicted_refund(store)

        outcome = store.claim(claim_of(following("r2", Operation.REFUND, charged)))

        assert outcome.verdict is ClaimVerdict.IN_DOUBT
        store.resolve(resolving_of(noted))
        outcome = store.claim(claim_of(following("r2", Operation.REFUND, charged)))
        assert outcome.verdict is ClaimVerdict.CLAIMED

    def test_two_failed_refunds_that_ran_can_both_be_adopted(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        charged = record(store, claimed, success_of(claimed))
        failed = [self._failed_refund(store, charged, key) for key in ("r1", "r2")]
        for noted in [noted_of(store, one) for one in failed]:
            places = (_adopted_refund(noted, charged),)

            outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places))

            assert outcome.verdict is ResolveVerdict.RESOLVED
        assert the(store.payment(TENANT, "invoice-1")).refunded_minor == 2

    def test_money_that_is_booked_is_given_back_by_a_resolution(
        self, store: ExecutionStore
    ) -> None:
        noted, again = self._refund_to_repeat(store)
        resolving = attrs.evolve(resolving_of(noted, Remedy.REFUND), refund=again)

        assert store.resolve(resolving).verdict is ResolveVerdict.RESOLVED

        refund = the(store.get(TENANT, refunding_id(noted.discrepancy_id)))
        assert (refund.status, refund.send_count) == (ExecutionStatus.PROCESSING, 0)
        assert list(store.open_executions(10)) == [refund]

    def test_what_is_given_back_already_is_not_given_back_again(
        self, store: ExecutionStore
    ) -> None:
        noted, again = self._refund_to_repeat(store)
        charged = the(store.find(TENANT, "k1"))
        claim(store, following("r2", Operation.REFUND, charged))
        resolving = attrs.evolve(resolving_of(noted, Remedy.REFUND), refund=again)

        assert store.resolve(resolving).verdict is ResolveVerdict.REFUSED
        assert the(store.discrepancy(TENANT, noted.discrepancy_id)).is_open

    def _failed_refund(
        self, store: ExecutionStore, charged: PaymentExecution, key: str
    ) -> PaymentExecution:
        asked_for = attrs.evolve(following(key, Operation.REFUND, charged), money=Money(1, SAR))
        return record(store, claim(store, asked_for), REFUSED)

    def _contradicted_refund(
        self, store: ExecutionStore
    ) -> tuple[PaymentExecution, NotedDiscrepancy]:
        claimed = claim(store, asked("k1"))
        charged = record(store, claimed, success_of(claimed))
        return charged, noted_of(store, self._failed_refund(store, charged, "r1"))

    def _refund_to_repeat(self, store: ExecutionStore) -> tuple[NotedDiscrepancy, Claim]:
        claimed = claim(store, asked("k1"))
        charged = record(store, claimed, success_of(claimed))
        asked_for = following("r1", Operation.REFUND, charged)
        failed = record(store, claim(store, asked_for), REFUSED)
        found = attrs.evolve(contradiction_of(failed), kind=DiscrepancyKind.REFUND_FAILED)
        store.note(failed, found, draft_discrepancy(failed, found))
        noted = the(store.discrepancy(TENANT, found.discrepancy_id))
        key = refunding_key(noted.discrepancy_id)
        again = claim_of(attrs.evolve(asked_for, idempotency_key=key))
        return noted, _unsent(again, refunding_id(noted.discrepancy_id))

    # A resolution is one and for ever ----------------------------------------------------------

    def test_an_accepted_discrepancy_is_written_down(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)

        outcome = store.resolve(resolving_of(noted))

        stored = the(outcome.noted)
        done = the(stored.resolved)
        assert outcome.verdict is ResolveVerdict.RESOLVED
        assert (done.remedy, done.actor, done.evidence) == (
            Remedy.ACCEPTED,
            "alice",
            "statement-7",
        )
        assert (done.execution_id, attrs.evolve(stored, resolved=None)) == (None, noted)
        assert store.discrepancy(TENANT, noted.discrepancy_id) == stored
        assert not store.list_discrepancies(TENANT, 10)
        assert list(store.list_discrepancies(TENANT, 10, open_only=False)) == [stored]

    def test_a_resolution_has_an_event_of_its_own(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        resolving = resolving_of(noted)
        store.resolve(resolving)

        *_, last = store.events(TENANT, "invoice-1")
        assert (last.type, last.seq, last.version) == (EventType.RESOLVED, 4, None)
        assert (last.event_id, last.payload) == (resolving.event.event_id, resolving.event.payload)
        assert (last.from_status, last.to_status) == ("failed", "failed")
        assert the(store.payment(TENANT, "invoice-1")).seq == 4

    def test_the_second_resolution_is_told_of_the_first(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        first = store.resolve(resolving_of(noted))

        second = store.resolve(resolving_of(noted, actor="bob"))

        assert (second.verdict, second.noted) == (ResolveVerdict.ALREADY, first.noted)
        assert len(store.events(TENANT, "invoice-1")) == 4

    def test_what_nobody_noted_cannot_be_resolved(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        stranger = attrs.evolve(noted, tenant_id="tenant-2")

        assert store.resolve(resolving_of(stranger)).verdict is ResolveVerdict.UNKNOWN

    def test_of_many_resolutions_at_once_one_counts(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        adopt = resolving_of(noted, Remedy.ADOPT, "carol", (adoption_of(noted),))
        others = [resolving_of(noted, actor=f"person-{n}") for n in range(4)]

        outcomes = at_once([partial(store.resolve, one) for one in (adopt, *others)])

        verdicts = [outcome.verdict for outcome in outcomes]
        assert verdicts.count(ResolveVerdict.RESOLVED) == 1
        assert verdicts.count(ResolveVerdict.ALREADY) == 4
        assert len({the(the(one.noted).resolved).actor for one in outcomes}) == 1
        adopted = store.get(TENANT, adopting_id(noted.discrepancy_id))
        assert (adopted is not None) is (verdicts[0] is ResolveVerdict.RESOLVED)
        seqs = [event.seq for event in store.events(TENANT, "invoice-1")]
        assert seqs == list(range(1, len(seqs) + 1))

    # Adopting ----------------------------------------------------------------------------------

    def test_adopted_money_is_a_completed_execution(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)

        outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted),)))

        adopted = the(store.get(TENANT, adopting_id(noted.discrepancy_id)))
        assert the(the(outcome.noted).resolved).execution_id == adopted.execution_id
        assert (adopted.status, adopted.provider_ref) == (ExecutionStatus.COMPLETED, "ch_1")
        assert (adopted.send_count, adopted.version) == (0, 2)
        assert the(store.payment(TENANT, "invoice-1")).refundable_minor == 100
        assert [event.type for event in store.events(TENANT, "invoice-1")][3:] == [
            EventType.STARTED,
            EventType.COMPLETED,
            EventType.RESOLVED,
        ]
        assert not store.open_executions(10)

    def test_where_the_debt_has_no_room_the_next_place_is_taken(
        self, store: ExecutionStore
    ) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        paid = claim(store, asked("k2"))
        noted = noted_of(store, failed)
        places = (adoption_of(noted), adoption_of(noted, "on-account"))

        outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places))

        assert outcome.verdict is ResolveVerdict.RESOLVED
        assert the(store.get(TENANT, adopting_id(noted.discrepancy_id))).payment_id == "on-account"
        assert the(store.payment(TENANT, "on-account")).captured_minor == 100
        assert store.get(TENANT, paid.execution_id) == paid

    def test_a_refund_is_claimed_with_the_resolution(self, store: ExecutionStore) -> None:
        noted = failed_with_news(store)
        places = (adoption_of(noted, refunded=True),)

        store.resolve(resolving_of(noted, Remedy.REFUND, adoptions=places))

        refund = the(store.get(TENANT, refunding_id(noted.discrepancy_id)))
        assert (refund.status, refund.send_count) == (ExecutionStatus.PROCESSING, 0)
        assert refund.context.parent_execution_id == adopting_id(noted.discrepancy_id)
        assert list(store.open_executions(10)) == [refund]
        assert the(store.payment(TENANT, "invoice-1")).refunding_minor == 100

    def test_without_room_nothing_is_changed(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        claim(store, asked("k2"))
        noted = noted_of(store, failed)
        before = store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")

        outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted),)))

        assert outcome.verdict is ResolveVerdict.REFUSED
        assert store.get(TENANT, adopting_id(noted.discrepancy_id)) is None
        assert (store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")) == before
        assert list(store.list_discrepancies(TENANT, 10)) == [noted]

    def test_what_is_in_doubt_ends_with_the_resolution(self, store: ExecutionStore) -> None:
        noted, claimed = self._doubt(store)
        ends = recording_of(claimed, REFUSED)
        places = (adoption_of(noted),)

        store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places, ends=ends))

        ended = the(store.get(TENANT, claimed.execution_id))
        assert ended.status is ExecutionStatus.FAILED
        assert the(store.payment(TENANT, "invoice-1")).captured_minor == 100

    def test_an_end_without_room_does_not_happen(self, store: ExecutionStore) -> None:
        noted, claimed = self._doubt(store)
        claim(store, asked(adopting_key(noted.discrepancy_id), payment_id="invoice-2"))
        ends = recording_of(claimed, REFUSED)
        before = store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")

        outcome = store.resolve(
            resolving_of(noted, Remedy.ADOPT, adoptions=(adoption_of(noted),), ends=ends)
        )

        assert outcome.verdict is ResolveVerdict.REFUSED
        assert store.get(TENANT, claimed.execution_id) == claimed
        assert (store.events(TENANT, "invoice-1"), store.payment(TENANT, "invoice-1")) == before

    def test_an_execution_that_has_moved_is_decided_again(self, store: ExecutionStore) -> None:
        noted, claimed = self._doubt(store)
        ends = recording_of(claimed, REFUSED)
        record(store, claimed, RailResult.pending(PendingReason.PROVIDER_PROCESSING))

        outcome = store.resolve(resolving_of(noted, Remedy.ACCEPTED, ends=ends))

        assert outcome.verdict is ResolveVerdict.MOVED
        assert list(store.list_discrepancies(TENANT, 10)) == [noted]

    def test_an_orphan_is_adopted_on_its_own_payment(self, store: ExecutionStore) -> None:
        store.note_orphan(ORPHAN, draft_orphan(ORPHAN))
        noted = the(store.discrepancy(TENANT, ORPHAN.discrepancy.discrepancy_id))
        places = (adoption_of(noted, ORPHAN.payment_id),)

        outcome = store.resolve(resolving_of(noted, Remedy.ADOPT, adoptions=places))

        assert outcome.verdict is ResolveVerdict.RESOLVED
        types = [event.type for event in store.events(TENANT, ORPHAN.payment_id)]
        assert types == [
            EventType.ORPHAN,
            EventType.STARTED,
            EventType.COMPLETED,
            EventType.RESOLVED,
        ]
        assert the(store.payment(TENANT, ORPHAN.payment_id)).captured_minor == 100

    def _doubt(self, store: ExecutionStore) -> tuple[NotedDiscrepancy, PaymentExecution]:
        claimed = claim(store, asked("k1"))
        wrong = RailResult.success("ch_1", Money(99, SAR))
        found = the(decide(claimed, Fact(result=wrong, source=FactSource.LOOKUP)).discrepancy)
        store.note(claimed, found, draft_discrepancy(claimed, found))
        return the(store.discrepancy(TENANT, found.discrepancy_id)), claimed
