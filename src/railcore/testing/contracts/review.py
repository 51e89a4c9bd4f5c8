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
from railcore.lifecycle import Fact, FactSource, decide, evolve
from railcore.money import SAR, Money
from railcore.ports import ExecutionStore
from railcore.protocol import Adoption, Claim, Recording, ResolveVerdict, Resolving
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
    failed = record(store, claim(store, asked(key, **changes)), REFUSED)
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


_REFUND: Final = Operation.REFUND


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
        noted = failed_with_news(store)
        paid = claim(store, asked("k2"))
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
        noted = failed_with_news(store)
        claim(store, asked("k2"))
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
