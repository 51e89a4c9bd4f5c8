"""
What every ``ExecutionStore`` promises.

::

    class TestMyStore(ExecutionStoreContract):
        @pytest.fixture
        def store(self) -> ExecutionStore:
            return MyStore(...)  # empty

An asynchronous store takes part through ``awaited``.
"""

import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar, cast
from uuid import UUID, uuid5

import attrs
import pytest

from railcore.context import PaymentContext
from railcore.enums import (
    ExecutionStatus,
    Operation,
    PaymentRail,
    PendingReason,
    RouteMode,
)
from railcore.errors import ExecutionNotFoundError, RailcoreError
from railcore.events import EventType, draft_discrepancy, draft_event
from railcore.execution import Account, Lease, PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import Discrepancy, Fact, FactSource, decide, evolve
from railcore.money import KWD, SAR, USD, Currency, Money
from railcore.ports import AsyncExecutionStore, ExecutionStore
from railcore.protocol import Claim, ClaimOutcome, ClaimVerdict, Due, Recording
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.webhooks import Sought

Result = TypeVar("Result")

TENANT: Final = "tenant-1"
UNKNOWN: Final = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
REFUSED: Final = RailResult.failed(PaymentFailureCode.DECLINED)
WAITING: Final = RailResult.pending(PendingReason.PROVIDER_PROCESSING)
ACCOUNT: Final[Account] = (PaymentRail.CARD_PSP, "stub", "main")
_IDS: Final = UUID("3f0e1c9a-5a0d-4a51-9a39-6f1f8f6c2b7e")


def asked(key: str, amount_minor: int = 100, **changes: Any) -> PaymentContext:
    """Return a charge of *amount_minor* under *key*; *changes* are any other attributes."""
    wanted: dict[str, Any] = {
        "tenant_id": TENANT,
        "payment_id": "invoice-1",
        "idempotency_key": key,
        "money": Money(amount_minor, SAR),
        "payment_option_key": "card.mada",
    }
    return PaymentContext(**{**wanted, **changes})


def claim_of(context: PaymentContext, **changes: Any) -> Claim:
    """Return a claim for *context* by this process; *changes* are any other attributes."""
    execution = PaymentExecution(
        execution_id=uuid5(_IDS, f"{context.tenant_id}/{context.idempotency_key}"),
        context=context,
        rail=PaymentRail.CARD_PSP,
        provider="stub",
        account="main",
        mode=RouteMode.SANDBOX,
    )
    wanted: dict[str, Any] = {
        "execution": execution,
        "event": draft_event(execution, trace=("the default route",)),
        "owner": "me",
        "lease_s": 60.0,
        "is_sent": True,
        "check_after_s": 90.0,
    }
    return Claim(**{**wanted, **changes})


def enqueued(store: ExecutionStore, key: str, **changes: Any) -> PaymentExecution:
    """Claim a payment of its own under *key*, to be sent by a worker, due at once."""
    claim = claim_of(asked(key, payment_id=f"p-{key}"), is_sent=False, check_after_s=0.0)
    execution = attrs.evolve(claim.execution, **changes)
    return the(store.claim(attrs.evolve(claim, execution=execution)).execution)


def due(**changes: Any) -> Due:
    """Return what a worker asks for; *changes* are any other attributes."""
    wanted: dict[str, Any] = {"owner": "worker", "lease_s": 60.0, "limit": 100}
    return Due(**{**wanted, **changes})


def recording_of(
    execution: PaymentExecution, result: RailResult, *, is_fenced: bool = False
) -> Recording:
    """Return the recording of what *result* makes of *execution*."""
    fact = Fact(result=result, source=FactSource.CALL)
    change = decide(execution, fact).change
    assert change is not None, "the result is news to the execution"
    after = evolve(execution, change)
    return Recording(
        before=execution,
        after=after,
        event=draft_event(after, fact),
        next_check_s=30.0 if after.is_open else None,
        is_fenced=is_fenced,
    )


def success_of(execution: PaymentExecution) -> RailResult:
    """Return that the provider moved what was asked."""
    return RailResult.success("ch_1", execution.money, provider_response={"code": "00"})


def contradiction_of(execution: PaymentExecution) -> Discrepancy:
    """Return what a success makes of an execution that failed."""
    fact = Fact(result=success_of(execution), source=FactSource.WEBHOOK)
    found = decide(execution, fact).discrepancy
    assert found is not None, "the execution has failed"
    return found


class ExecutionStoreContract:
    """The promises; each test gets an empty store."""

    @pytest.fixture
    def store(self) -> ExecutionStore:
        """Return an empty store."""
        pytest.fail("give the subclass a fixture named store that returns an empty store")

    # What is claimed is stored -----------------------------------------------------------------

    def test_a_claim_is_read_back_as_it_was_returned(self, store: ExecutionStore) -> None:
        outcome = store.claim(claim_of(asked("k1")))

        claimed = the(outcome.execution)
        assert outcome.verdict is ClaimVerdict.CLAIMED
        assert store.get(TENANT, claimed.execution_id) == claimed
        assert store.find(TENANT, "k1") == claimed

    def test_a_claim_holds_a_lease_and_is_the_send_mark(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))

        assert claimed.created_at is not None
        assert (claimed.lease.owner, claimed.lease.token) == ("me", 1)
        assert claimed.lease.until == claimed.created_at + timedelta(seconds=60)
        assert claimed.next_check_at == claimed.created_at + timedelta(seconds=90)
        assert claimed.first_sent_at == claimed.last_sent_at == claimed.created_at
        assert claimed.send_count == 1

    def test_enqueued_work_is_neither_leased_nor_sent(self, store: ExecutionStore) -> None:
        claimed = the(store.claim(claim_of(asked("k1"), is_sent=False)).execution)

        assert (claimed.lease.owner, claimed.lease.token, claimed.lease.until) == (None, 0, None)
        assert (claimed.send_count, claimed.first_sent_at) == (0, None)
        assert store.get(TENANT, claimed.execution_id) == claimed

    @pytest.mark.parametrize(
        "context",
        [
            pytest.param(asked("k1"), id="only what is required"),
            pytest.param(asked("k1", due=Money(100, SAR)), id="a due as large as the amount"),
            pytest.param(asked("k1", due=Money(300, SAR)), id="a larger due"),
            pytest.param(asked("k1", money=Money(1250, KWD)), id="three decimals"),
            pytest.param(asked("k1", money=Money(1, Currency("SAR", 3))), id="a provider's own"),
            pytest.param(asked("k1", operation=Operation.AUTHORIZE), id="an authorization"),
            pytest.param(asked("k1", merchant_initiated=True), id="without the payer"),
            pytest.param(asked("k1", metadata={"cart": 'a "b" \\ {ü}'}), id="metadata"),
            pytest.param(
                asked(
                    "k1",
                    payer_token="payer_1",
                    instrument_token="tok_visa",
                    contract_id="contract-1",
                    return_url="https://shop.example/back?a=1",
                    correlation_id="trace-1",
                ),
                id="every token",
            ),
        ],
    )
    def test_a_context_survives(self, store: ExecutionStore, context: PaymentContext) -> None:
        claim(store, context)

        stored = the(store.find(TENANT, "k1"))
        assert stored.context == context
        assert stored.context.fingerprint == context.fingerprint
        assert stored.provider_key == context.provider_key

    def test_what_nobody_stored_is_not_found(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))

        assert store.get("tenant-2", claimed.execution_id) is None
        assert store.find("tenant-2", "k1") is None
        assert store.find(TENANT, "k2") is None
        assert store.payment(TENANT, "invoice-2") is None
        assert not store.executions(TENANT, "invoice-2")
        assert not store.events(TENANT, "invoice-2")

    # What an execution is called at its provider ------------------------------------------------

    def test_an_execution_is_found_by_the_key_that_was_sent(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        claim(store, asked("k2", payment_id="invoice-2"))

        sought = Sought(
            tenant_id=None, provider="stub", account="main", provider_key=claimed.provider_key
        )
        assert list(store.find_named(sought)) == [claimed]
        assert list(store.find_named(attrs.evolve(sought, tenant_id=TENANT))) == [claimed]

    def test_an_execution_is_found_by_the_providers_own_id(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        sought = Sought(tenant_id=None, provider="stub", account="main", provider_ref="ch_1")
        assert list(store.find_named(sought)) == []

        recorded = store.record(recording_of(claimed, success_of(claimed)))

        assert list(store.find_named(sought)) == [recorded]
        unknown_key = attrs.evolve(sought, provider_key="never sent")
        assert list(store.find_named(unknown_key)) == [recorded]

    def test_the_key_that_was_sent_decides_before_the_providers_id(
        self, store: ExecutionStore
    ) -> None:
        first = claim(store, asked("k1"))
        store.record(recording_of(first, success_of(first)))
        second = claim(store, asked("k2", payment_id="invoice-2"))

        sought = Sought(
            tenant_id=None,
            provider="stub",
            account="main",
            provider_key=second.provider_key,
            provider_ref="ch_1",
        )
        assert list(store.find_named(sought)) == [second]

    def test_an_id_that_many_have_gives_two(self, store: ExecutionStore) -> None:
        for number in range(3):
            one = claim(store, asked(f"k{number}", payment_id=f"invoice-{number}"))
            store.record(recording_of(one, success_of(one)))

        sought = Sought(tenant_id=None, provider="stub", account="main", provider_ref="ch_1")
        assert len(store.find_named(sought)) == 2

    @pytest.mark.parametrize(
        "changes",
        [{"tenant_id": "tenant-2"}, {"provider": "other"}, {"account": "second"}],
        ids=["tenant", "provider", "account"],
    )
    def test_nothing_of_another_account_is_found(
        self, store: ExecutionStore, changes: dict[str, str]
    ) -> None:
        claimed = claim(store, asked("k1"))
        store.record(recording_of(claimed, success_of(claimed)))

        sought = Sought(
            tenant_id=None,
            provider="stub",
            account="main",
            provider_key=claimed.provider_key,
            provider_ref="ch_1",
        )
        assert list(store.find_named(attrs.evolve(sought, **changes))) == []

    # One key, one execution --------------------------------------------------------------------

    def test_a_known_key_returns_the_first_execution(self, store: ExecutionStore) -> None:
        first = claim(store, asked("k1"))

        again = store.claim(claim_of(asked("k1", 70, payment_id="invoice-2")))

        assert again == ClaimOutcome(ClaimVerdict.DUPLICATE, first)
        assert len(store.events(TENANT, "invoice-1")) == 1

    def test_a_known_key_is_a_duplicate_before_it_is_anything_else(
        self, store: ExecutionStore
    ) -> None:
        claim(store, asked("k1"))

        retried = claim_of(asked("k1", money=Money(100, USD)))

        assert store.claim(retried).verdict is ClaimVerdict.DUPLICATE

    def test_a_finished_execution_keeps_its_key(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)

        assert store.claim(claim_of(asked("k1"))) == ClaimOutcome(ClaimVerdict.DUPLICATE, failed)

    def test_tenants_share_no_keys(self, store: ExecutionStore) -> None:
        claim(store, asked("k1"))

        other = store.claim(claim_of(asked("k1", tenant_id="tenant-2")))

        assert other.verdict is ClaimVerdict.CLAIMED

    def test_of_many_claims_of_one_key_one_is_claimed(self, store: ExecutionStore) -> None:
        outcomes = at_once([partial(store.claim, claim_of(asked("k1")))] * 20)

        verdicts = [outcome.verdict for outcome in outcomes]
        assert verdicts.count(ClaimVerdict.CLAIMED) == 1
        assert verdicts.count(ClaimVerdict.DUPLICATE) == 19
        assert {the(outcome.execution).execution_id for outcome in outcomes} == {
            claim_of(asked("k1")).execution.execution_id
        }

    # One debt is collected once ----------------------------------------------------------------

    def test_a_second_full_charge_is_refused_by_the_first(self, store: ExecutionStore) -> None:
        first = claim(store, asked("k1"))

        assert store.claim(claim_of(asked("k2"))) == ClaimOutcome(ClaimVerdict.LIVE, first)
        assert store.find(TENANT, "k2") is None

    def test_a_collected_debt_is_not_collected_again(self, store: ExecutionStore) -> None:
        done = complete(store, claim(store, asked("k1")))

        assert store.claim(claim_of(asked("k2"))) == ClaimOutcome(ClaimVerdict.LIVE, done)

    def test_doubt_counts_as_collected(self, store: ExecutionStore) -> None:
        record(store, claim(store, asked("k1")), UNKNOWN)

        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.LIVE

    def test_a_definite_failure_makes_room(self, store: ExecutionStore) -> None:
        record(store, claim(store, asked("k1")), REFUSED)

        assert store.claim(claim_of(asked("k2"))).verdict is ClaimVerdict.CLAIMED

    def test_a_debt_may_be_split(self, store: ExecutionStore) -> None:
        due = Money(100, SAR)

        claim(store, asked("k1", 60, due=due))
        claim(store, asked("k2", 40, due=due))

        assert store.claim(claim_of(asked("k3", 1, due=due))).verdict is ClaimVerdict.LIVE

    def test_of_racing_full_charges_one_is_claimed(self, store: ExecutionStore) -> None:
        outcomes = at_once([partial(store.claim, claim_of(asked(key))) for key in "abcdefgh"])

        verdicts = [outcome.verdict for outcome in outcomes]
        assert verdicts.count(ClaimVerdict.CLAIMED) == 1
        assert verdicts.count(ClaimVerdict.LIVE) == 7

    def test_a_payment_keeps_its_currency(self, store: ExecutionStore) -> None:
        claim(store, asked("k1"))

        other = claim_of(asked("k2", money=Money(1, USD)))

        assert store.claim(other) == ClaimOutcome(ClaimVerdict.CURRENCY)

    # What follows a charge ---------------------------------------------------------------------

    def test_nothing_follows_a_payment_that_is_not_there(self, store: ExecutionStore) -> None:
        parent = claim_of(asked("k1")).execution

        refund = claim_of(following("r1", Operation.REFUND, parent))

        assert store.claim(refund) == ClaimOutcome(ClaimVerdict.NO_PAYMENT)

    def test_a_decision_on_a_payment_that_moved_is_refused(self, store: ExecutionStore) -> None:
        parent = complete(store, claim(store, asked("k1")))

        late = claim_of(following("r1", Operation.REFUND, parent), head_seq=1)
        timely = claim_of(following("r1", Operation.REFUND, parent), head_seq=2)

        assert store.claim(late) == ClaimOutcome(ClaimVerdict.MOVED)
        assert store.claim(timely).verdict is ClaimVerdict.CLAIMED

    def test_refunds_stay_within_what_was_captured(self, store: ExecutionStore) -> None:
        parent = complete(store, claim(store, asked("k1")))
        in_doubt = claim(store, following("r1", Operation.REFUND, parent, 60))
        in_doubt = record(store, in_doubt, UNKNOWN)

        assert try_(store, following("r2", Operation.REFUND, parent, 60)) is ClaimVerdict.LIMIT
        assert try_(store, following("r3", Operation.REFUND, parent, 40)) is ClaimVerdict.CLAIMED
        record(store, in_doubt, REFUSED)
        assert try_(store, following("r2", Operation.REFUND, parent, 60)) is ClaimVerdict.CLAIMED

    def test_captures_and_voids_share_what_was_authorized(self, store: ExecutionStore) -> None:
        parent = complete(store, claim(store, asked("k1", operation=Operation.AUTHORIZE)))
        complete(store, claim(store, following("c1", Operation.CAPTURE, parent, 70)))

        assert try_(store, following("c2", Operation.CAPTURE, parent, 31)) is ClaimVerdict.LIMIT
        assert try_(store, following("v1", Operation.VOID, parent, 31)) is ClaimVerdict.LIMIT
        assert try_(store, following("v2", Operation.VOID, parent, 30)) is ClaimVerdict.CLAIMED
        assert try_(store, following("r1", Operation.REFUND, parent, 71)) is ClaimVerdict.LIMIT

    def test_a_retry_of_a_refund_is_a_duplicate_although_it_used_the_limit_up(
        self, store: ExecutionStore
    ) -> None:
        parent = complete(store, claim(store, asked("k1")))
        refund = following("r1", Operation.REFUND, parent, 100)

        outcomes = at_once([partial(store.claim, claim_of(refund))] * 6)

        verdicts = sorted(outcome.verdict for outcome in outcomes)
        assert verdicts == [ClaimVerdict.CLAIMED, *[ClaimVerdict.DUPLICATE] * 5]

    def test_of_racing_refunds_only_those_within_the_limit_are_claimed(
        self, store: ExecutionStore
    ) -> None:
        parent = complete(store, claim(store, asked("k1")))
        refunds = [following(f"r{n}", Operation.REFUND, parent, 60) for n in range(4)]

        verdicts = at_once([partial(try_, store, one) for one in refunds])

        assert sorted(verdicts) == [ClaimVerdict.CLAIMED, *[ClaimVerdict.LIMIT] * 3]

    # The sums ----------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("operation", "open_", "done"),
        [
            (
                Operation.CHARGE,
                {"charging_minor": 40},
                {"authorized_minor": 40, "captured_minor": 40},
            ),
            (Operation.AUTHORIZE, {"charging_minor": 40}, {"authorized_minor": 40}),
            (Operation.CAPTURE, {"capturing_minor": 40}, {"captured_minor": 40}),
            (Operation.VOID, {"voiding_minor": 40}, {"voided_minor": 40}),
            (Operation.REFUND, {"refunding_minor": 40}, {"refunded_minor": 40}),
        ],
    )
    @pytest.mark.parametrize("is_won", [True, False])
    def test_a_payment_adds_up(
        self,
        store: ExecutionStore,
        operation: Operation,
        open_: dict[str, int],
        done: dict[str, int],
        *,
        is_won: bool,
    ) -> None:
        due = Money(1000, SAR)
        parent = complete(store, claim(store, asked("k1", 100, due=due)))
        held = asked("k2", 100, due=due, operation=Operation.AUTHORIZE)
        authorization = complete(store, claim(store, held))
        before = the(store.payment(TENANT, "invoice-1"))
        follows = parent if operation is Operation.REFUND else authorization
        parent_id = follows.execution_id if operation.follows_a_parent else None
        wanted = asked("k3", 40, operation=operation, parent_execution_id=parent_id)

        one = claim(store, wanted)
        assert the(store.payment(TENANT, "invoice-1")) == moved(before, 1, open_)

        record(store, one, success_of(one) if is_won else REFUSED)
        assert the(store.payment(TENANT, "invoice-1")) == moved(before, 2, done if is_won else {})

    # Recording ---------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "result",
        [
            pytest.param(RailResult.success("ch_1", Money(100, SAR)), id="success"),
            pytest.param(REFUSED, id="failed"),
            pytest.param(UNKNOWN, id="unknown"),
            pytest.param(
                RailResult.pending(
                    PendingReason.CUSTOMER_ACTION,
                    provider_ref="pay_1",
                    next_action=NextAction(
                        kind=NextActionKind.FORM,
                        url="https://bank.example/authorize",
                        fields={"token": "abc"},
                    ),
                    expires_at=datetime(2030, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
                    progress=2,
                    provider_response={"state": ["open", 1, None, True]},
                ),
                id="a customer action",
            ),
            pytest.param(
                RailResult.pending(PendingReason.AWAITING_FUNDS, reported=Money(40, SAR)),
                id="a partial receipt",
            ),
        ],
    )
    def test_a_recording_is_read_back_as_it_was_returned(
        self, store: ExecutionStore, result: RailResult
    ) -> None:
        claimed = claim(store, asked("k1"))

        recorded = record(store, claimed, result)

        assert recorded.version == 2
        assert store.get(TENANT, claimed.execution_id) == recorded

    def test_later_news_replaces_all_of_the_earlier(self, store: ExecutionStore) -> None:
        partial = RailResult.pending(PendingReason.AWAITING_FUNDS, reported=Money(40, SAR))
        waiting = record(store, claim(store, asked("k1")), partial)

        failed = record(store, waiting, REFUSED)

        assert (failed.settled_minor, failed.pending_reason) == (None, None)
        assert store.find(TENANT, "k1") == failed

    def test_of_two_answers_to_one_version_the_first_is_recorded(
        self, store: ExecutionStore
    ) -> None:
        claimed = claim(store, asked("k1"))
        first = record(store, claimed, success_of(claimed))

        assert store.record(recording_of(claimed, REFUSED)) is None
        assert store.find(TENANT, "k1") == first
        assert len(store.events(TENANT, "invoice-1")) == 2

    def test_of_racing_answers_one_is_recorded(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        answers = [recording_of(claimed, one) for one in (success_of(claimed), REFUSED, UNKNOWN)]

        recorded = at_once([partial(store.record, one) for one in answers * 3])

        assert sum(one is not None for one in recorded) == 1

    def test_recording_ends_the_lease_and_sets_the_schedule(self, store: ExecutionStore) -> None:
        waiting = record(store, claim(store, asked("k1")), UNKNOWN)

        assert waiting.updated_at is not None
        assert (waiting.lease.owner, waiting.lease.token, waiting.lease.until) == (None, 1, None)
        assert waiting.next_check_at == waiting.updated_at + timedelta(seconds=30)

    def test_what_is_finished_is_never_due(self, store: ExecutionStore) -> None:
        done = complete(store, claim(store, asked("k1")))

        assert done.next_check_at is None
        assert not store.open_executions(10)

    def test_a_change_that_is_no_edge_is_refused(self, store: ExecutionStore) -> None:
        done = complete(store, claim(store, asked("k1")))
        event = draft_event(attrs.evolve(done, version=3))
        failure = PaymentFailureCode.DECLINED
        wrong = attrs.evolve(done, version=3, status=ExecutionStatus.FAILED, failure=failure)

        with pytest.raises(RailcoreError):
            store.record(Recording(before=done, after=wrong, event=event, next_check_s=None))

        assert store.find(TENANT, "k1") == done

    # Leases ------------------------------------------------------------------------------------

    def test_a_held_lease_is_not_acquired(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))

        assert store.acquire(TENANT, claimed.execution_id, "worker", 60.0) is None

    def test_an_expired_lease_is_acquired_with_a_new_token(self, store: ExecutionStore) -> None:
        claimed = abandoned(store, "k1")

        acquired = the(store.acquire(TENANT, claimed.execution_id, "worker", 600.0))

        held = acquired.execution
        assert (held.lease.owner, held.lease.token) == ("worker", 2)
        assert held.lease.until == acquired.at + timedelta(seconds=600)
        assert held.next_check_at == held.lease.until
        assert store.get(TENANT, claimed.execution_id) == held

    def test_a_free_lease_is_acquired_by_one(self, store: ExecutionStore) -> None:
        waiting = record(store, claim(store, asked("k1")), WAITING)

        def take() -> object:
            return store.acquire(TENANT, waiting.execution_id, "worker", 60.0)

        assert sum(one is not None for one in at_once([take] * 8)) == 1

    def test_what_is_finished_or_unknown_is_not_acquired(self, store: ExecutionStore) -> None:
        done = complete(store, claim(store, asked("k1")))
        nobody = claim_of(asked("k2")).execution

        assert store.acquire(TENANT, done.execution_id, "worker", 60.0) is None
        assert store.acquire(TENANT, nobody.execution_id, "worker", 60.0) is None

    def test_the_holder_marks_what_it_sends(self, store: ExecutionStore) -> None:
        claimed = the(store.claim(claim_of(asked("k1"), is_sent=False)).execution)
        held = the(store.acquire(TENANT, claimed.execution_id, "worker", 60.0)).execution

        first = the(store.mark_sent(held, 600.0))
        second = the(store.mark_sent(first, 600.0))

        assert (first.send_count, second.send_count) == (1, 2)
        assert first.first_sent_at == second.first_sent_at == first.last_sent_at
        assert second.last_sent_at is not None
        assert second.lease.until == second.last_sent_at + timedelta(seconds=600)
        assert store.get(TENANT, claimed.execution_id) == second

    def test_who_holds_no_lease_sends_nothing(self, store: ExecutionStore) -> None:
        enqueued = the(store.claim(claim_of(asked("k1"), is_sent=False)).execution)

        assert store.mark_sent(enqueued, 60.0) is None

    def test_the_holder_gives_the_lease_back(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))

        assert store.reschedule(claimed, 5.0) is True

        later = the(store.find(TENANT, "k1"))
        assert later.updated_at is not None
        assert (later.lease.owner, later.lease.token, later.lease.until) == (None, 1, None)
        assert later.next_check_at == later.updated_at + timedelta(seconds=5)
        assert (later.check_count, later.version) == (0, 1)

    # What is due is taken --------------------------------------------------------------------

    def test_what_is_due_is_taken_with_a_lease_and_a_next_look(self, store: ExecutionStore) -> None:
        claimed = enqueued(store, "k1")

        (acquired,) = store.acquire_due(due())

        taken = acquired.execution
        until = acquired.at + timedelta(seconds=60)
        assert (taken.lease.owner, taken.lease.token, taken.lease.until) == ("worker", 1, until)
        assert (taken.next_check_at, taken.check_count) == (until, 1)
        assert (taken.send_count, taken.version, taken.context) == (0, 1, claimed.context)
        assert store.get(TENANT, taken.execution_id) == taken

    def test_what_somebody_holds_is_not_taken(self, store: ExecutionStore) -> None:
        enqueued(store, "k1")
        assert store.acquire_due(due())

        assert not store.acquire_due(due())

    def test_a_lease_is_respected_even_where_a_look_is_due(self, store: ExecutionStore) -> None:
        store.claim(claim_of(asked("k1"), check_after_s=0.0))

        assert not store.acquire_due(due())

    def test_what_is_not_due_is_not_taken(self, store: ExecutionStore) -> None:
        claimed = claim(store, asked("k1"))
        store.reschedule(claimed, 600.0)
        complete(store, claim(store, asked("k2", payment_id="invoice-2")))

        assert not store.acquire_due(due())

    def test_an_expired_lease_is_taken_over_with_a_newer_token(self, store: ExecutionStore) -> None:
        enqueued(store, "k1")
        (crashed,) = store.acquire_due(due(lease_s=0.0))

        (acquired,) = store.acquire_due(due(owner="other"))

        assert acquired.execution.lease.token == crashed.execution.lease.token + 1
        assert acquired.execution.check_count == 2
        assert not store.reschedule(crashed.execution, 5.0)
        assert not store.put_back(crashed.execution, 5.0)
        assert store.mark_sent(crashed.execution, 60.0) is None

    def test_what_is_due_longest_is_taken_first(self, store: ExecutionStore) -> None:
        for key in "bac":
            enqueued(store, key)
        for acquired, wait_s in zip(store.acquire_due(due()), (0.04, 0.0, 0.02), strict=True):
            store.reschedule(acquired.execution, wait_s)
        threading.Event().wait(0.06)

        taken = [*store.acquire_due(due(limit=2)), *store.acquire_due(due(limit=2))]

        assert [one.execution.idempotency_key for one in taken] == ["a", "c", "b"]

    def test_no_account_takes_more_than_its_room(self, store: ExecutionStore) -> None:
        for key in "abcd":
            enqueued(store, key)
        for key in "ef":
            enqueued(store, key, account="other")
        most = {ACCOUNT: 1}

        taken = store.acquire_due(due(most=most, most_each=2))

        assert [one.execution.idempotency_key for one in taken] == ["a", "e", "f"]

    def test_the_backlog_of_a_full_account_is_in_nobodys_way(self, store: ExecutionStore) -> None:
        for key in "abcd":
            enqueued(store, key)
        enqueued(store, "e", account="other")

        taken = store.acquire_due(due(limit=1, most={ACCOUNT: 0}))

        assert [one.execution.idempotency_key for one in taken] == ["e"]

    def test_unsent_work_is_told_from_everything_else(self, store: ExecutionStore) -> None:
        enqueued(store, "unsent")
        store.reschedule(claim(store, asked("sent", payment_id="p-sent")), 0.0)

        sends = store.acquire_due(due(is_unsent=True))
        looks = store.acquire_due(due(is_unsent=False))

        assert [one.execution.idempotency_key for one in sends] == ["unsent"]
        assert [one.execution.idempotency_key for one in looks] == ["sent"]

    def test_of_many_takers_each_execution_has_one(self, store: ExecutionStore) -> None:
        for number in range(40):
            enqueued(store, f"k{number}")

        found = at_once([partial(store.acquire_due, due(limit=5))] * 8)

        taken = [one.execution.execution_id for some in found for one in some]
        assert len(taken) == len(set(taken))

    def test_a_refused_send_does_not_count_as_sent(self, store: ExecutionStore) -> None:
        enqueued(store, "k1")
        (acquired,) = store.acquire_due(due())
        sent = the(store.mark_sent(acquired.execution, 60.0))

        assert store.put_back(sent, 0.0) is True

        again = the(store.find(TENANT, "k1"))
        assert (again.send_count, again.refused_count, again.is_unsent) == (1, 1, True)
        assert (again.lease.owner, again.version) == (None, 1)
        assert not store.put_back(sent, 0.0)
        (acquired,) = store.acquire_due(due(is_unsent=True))
        resent = the(store.mark_sent(acquired.execution, 60.0))
        assert (resent.send_count, resent.tries) == (2, 1)
        assert resent.first_sent_at == resent.last_sent_at
        assert store.get(TENANT, resent.execution_id) == resent

    def test_an_old_token_puts_nothing_back(self, store: ExecutionStore) -> None:
        enqueued(store, "k1")
        (acquired,) = store.acquire_due(due())
        zombie = the(store.mark_sent(acquired.execution, 0.0))
        held = the(
            store.acquire(TENANT, zombie.execution_id, the(zombie.lease.owner), 60.0)
        ).execution

        assert store.put_back(zombie, 0.0) is False
        assert store.get(TENANT, zombie.execution_id) == held

    def test_only_what_was_sent_is_put_back(self, store: ExecutionStore) -> None:
        enqueued(store, "k1")
        (acquired,) = store.acquire_due(due())

        assert store.put_back(acquired.execution, 0.0) is False

    def test_until_when_it_may_be_sent_survives(self, store: ExecutionStore) -> None:
        before = datetime(2030, 1, 1, 12, 30, 0, 250, tzinfo=UTC)

        claimed = enqueued(store, "k1", send_before=before)

        assert claimed.send_before == before
        assert store.get(TENANT, claimed.execution_id) == claimed

    def test_many_claims_have_each_their_outcome(self, store: ExecutionStore) -> None:
        contexts = [
            asked("a"),
            asked("b", payment_id="invoice-2"),
            asked("a"),
            asked("c"),
            asked("d", payment_id="invoice-2", money=Money(1, USD)),
        ]

        outcomes = store.claim_many([claim_of(one, is_sent=False) for one in contexts])

        verdicts = [one.verdict if isinstance(one, ClaimOutcome) else one for one in outcomes]
        assert verdicts == [
            ClaimVerdict.CLAIMED,
            ClaimVerdict.CLAIMED,
            ClaimVerdict.DUPLICATE,
            ClaimVerdict.LIVE,
            ClaimVerdict.CURRENCY,
        ]

    def test_an_old_token_moves_neither_lease_nor_schedule(self, store: ExecutionStore) -> None:
        zombie = abandoned(store, "k1")
        held = the(
            store.acquire(TENANT, zombie.execution_id, the(zombie.lease.owner), 60.0)
        ).execution

        assert store.mark_sent(zombie, 60.0) is None
        assert store.reschedule(zombie, 5.0) is False
        assert store.get(TENANT, zombie.execution_id) == held

    def test_a_token_that_was_given_twice_is_its_owners(self, store: ExecutionStore) -> None:
        """As after a failover that lost commits: the same number, another holder."""
        waiting = abandoned(store, "k1")
        held = the(store.acquire(TENANT, waiting.execution_id, "worker", 60.0)).execution
        other = held.changed(lease=Lease("other", held.lease.token, held.lease.until))

        assert store.mark_sent(other, 60.0) is None
        assert store.reschedule(other, 5.0) is False
        assert store.put_back(other, 0.0) is False
        assert store.get(TENANT, held.execution_id) == held

    def test_an_old_token_brings_news_all_the_same(self, store: ExecutionStore) -> None:
        zombie = abandoned(store, "k1")
        held = the(store.acquire(TENANT, zombie.execution_id, "worker", 60.0)).execution

        told = record(store, zombie, WAITING)

        assert told.pending_reason is PendingReason.PROVIDER_PROCESSING
        assert (told.lease, told.next_check_at) == (held.lease, held.next_check_at)
        assert store.get(TENANT, zombie.execution_id) == told

    def test_an_old_token_ends_an_execution_too(self, store: ExecutionStore) -> None:
        zombie = abandoned(store, "k1")
        the(store.acquire(TENANT, zombie.execution_id, "worker", 60.0))

        told = record(store, zombie, success_of(zombie))

        assert (told.status, told.next_check_at) == (ExecutionStatus.COMPLETED, None)
        assert store.get(TENANT, zombie.execution_id) == told

    def test_what_speaks_for_an_old_try_alone_is_no_news(self, store: ExecutionStore) -> None:
        zombie = abandoned(store, "k1")
        held = the(store.acquire(TENANT, zombie.execution_id, "worker", 60.0)).execution

        assert store.record(recording_of(zombie, REFUSED, is_fenced=True)) is None
        assert store.get(TENANT, zombie.execution_id) == held
        assert store.record(recording_of(held, REFUSED, is_fenced=True)) is not None

    def test_open_executions_come_due_first_first(self, store: ExecutionStore) -> None:
        for key, after_s in (("k1", 30.0), ("k2", 10.0), ("k3", 20.0)):
            store.claim(claim_of(asked(key, payment_id=key), check_after_s=after_s))
        complete(store, claim(store, asked("k4", payment_id="k4")))

        def keys(limit: int) -> list[str]:
            return [one.idempotency_key for one in store.open_executions(limit)]

        assert keys(10) == ["k2", "k3", "k1"]
        assert keys(2) == ["k2", "k3"]

    # Events ------------------------------------------------------------------------------------

    def test_every_change_has_its_event(self, store: ExecutionStore) -> None:
        asking = claim_of(asked("k1", correlation_id="trace-1"))
        claimed = the(store.claim(asking).execution)
        answer = recording_of(claimed, success_of(claimed))
        store.record(answer)

        started, completed = store.events(TENANT, "invoice-1")

        assert (started.seq, started.version, started.type) == (1, 1, EventType.STARTED)
        assert (started.from_status, started.to_status) == ("none", "processing")
        assert (started.event_id, started.payload) == (asking.event.event_id, asking.event.payload)
        assert (completed.seq, completed.version, completed.type) == (2, 2, EventType.COMPLETED)
        assert (completed.from_status, completed.to_status) == ("processing", "completed")
        assert completed.payload == answer.event.payload
        assert completed.payment_rail == "card_psp"
        assert completed.payment_provider == "stub"
        assert completed.idempotency_key == "k1"

    def test_a_payment_lists_its_executions_in_order(self, store: ExecutionStore) -> None:
        due = Money(100, SAR)
        first = claim(store, asked("z", 10, due=due))
        second = claim(store, asked("a", 10, due=due))
        first = complete(store, first)

        assert list(store.executions(TENANT, "invoice-1")) == [first, second]

    def test_events_of_a_payment_are_numbered_without_a_gap(self, store: ExecutionStore) -> None:
        due = Money(1000, SAR)

        def one(key: str) -> None:
            complete(store, record(store, claim(store, asked(key, 10, due=due)), UNKNOWN))

        at_once([partial(one, f"k{n}") for n in range(8)])

        events = store.events(TENANT, "invoice-1")
        assert [event.seq for event in events] == list(range(1, 25))
        assert len({event.event_id for event in events}) == 24
        assert the(store.payment(TENANT, "invoice-1")).seq == 24

    # Contradictions ----------------------------------------------------------------------------

    def test_a_contradiction_is_noted_once(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        found = contradiction_of(failed)
        event = draft_discrepancy(failed, found)

        assert store.note(failed, found, event) is True
        assert store.note(failed, found, event) is False

        told = store.events(TENANT, "invoice-1")[-1]
        assert len(store.events(TENANT, "invoice-1")) == 3
        assert (told.seq, told.type, told.version) == (3, EventType.DISCREPANCY, None)
        assert (told.from_status, told.to_status) == ("failed", "failed")
        assert told.payload == event.payload

    def test_a_contradiction_changes_no_execution(self, store: ExecutionStore) -> None:
        failed = record(store, claim(store, asked("k1")), REFUSED)
        found = contradiction_of(failed)

        store.note(failed, found, draft_discrepancy(failed, found))

        assert store.find(TENANT, "k1") == failed
        assert the(store.payment(TENANT, "invoice-1")).seq == 3

    def test_a_contradiction_of_nothing_is_refused(self, store: ExecutionStore) -> None:
        stored = record(store, claim(store, asked("k1")), REFUSED)
        found = contradiction_of(stored)
        stranger = attrs.evolve(stored, execution_id=UUID(int=1))

        with pytest.raises(ExecutionNotFoundError):
            store.note(stranger, found, draft_discrepancy(stranger, found))


def awaited(
    store: AsyncExecutionStore, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> ExecutionStore:
    """Return *store* with methods that block; *run* awaits a coroutine, from any thread."""
    return cast(ExecutionStore, _Awaited(store, run))


@attrs.frozen
class _Awaited:
    store: AsyncExecutionStore
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.store, name)
        return lambda *args, **named: self.run(method(*args, **named))


def the(value: Result | None) -> Result:
    """Return *value*, which is there."""
    assert value is not None
    return value


def claim(store: ExecutionStore, context: PaymentContext) -> PaymentExecution:
    """Return the execution claimed for *context*."""
    outcome = store.claim(claim_of(context))
    assert outcome.verdict is ClaimVerdict.CLAIMED
    return the(outcome.execution)


def try_(store: ExecutionStore, context: PaymentContext) -> ClaimVerdict:
    """Return what becomes of a claim for *context*."""
    return store.claim(claim_of(context)).verdict


def record(
    store: ExecutionStore, execution: PaymentExecution, result: RailResult
) -> PaymentExecution:
    """Return *execution* with *result* recorded."""
    return the(store.record(recording_of(execution, result)))


def complete(store: ExecutionStore, execution: PaymentExecution) -> PaymentExecution:
    """Return *execution*, completed."""
    return record(store, execution, success_of(execution))


def following(
    key: str, operation: Operation, parent: PaymentExecution, amount_minor: int = 100
) -> PaymentContext:
    """Return a capture, void or refund of *parent*."""
    return asked(key, amount_minor, operation=operation, parent_execution_id=parent.execution_id)


def abandoned(store: ExecutionStore, key: str) -> PaymentExecution:
    """Return an execution whose lease has expired."""
    claimed = the(store.claim(claim_of(asked(key), lease_s=0.05)).execution)
    threading.Event().wait(0.1)
    return claimed


def moved(payment: PaymentView, steps: int, by: dict[str, int]) -> PaymentView:
    """Return *payment* after *steps* events, with its sums moved *by*."""
    sums: dict[str, Any] = {name: getattr(payment, name) + amount for name, amount in by.items()}
    return attrs.evolve(payment, seq=payment.seq + steps, **sums)


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Return what *calls* return when each has a thread and all start together."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Result]) -> Result:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
