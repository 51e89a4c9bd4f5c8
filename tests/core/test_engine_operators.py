"""Named people decide, at once and against each other; every decision is judged on what stands."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.enums import ExecutionStatus, PaymentRail, PendingReason
from railcore.errors import (
    ApprovalError,
    ExecutionNotFoundError,
    OutcomeUnknownError,
    UnsupportedOperationError,
)
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind
from railcore.money import SAR, Money
from railcore.ports import OperatorDecision
from railcore.rails.bank_transfer import BankAccount, BankTransferRail
from railcore.rails.manual import ManualSettlementRail
from railcore.routing import ConfigDrivenRouteResolver
from tests.core.hosts import COLOURS, Colour, Host, lost, nothing, raises, run
from tests.core.made import ID, context

COMPLETED, FAILED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED
BANK = BankTransferRail({"main": BankAccount(beneficiary="Acme", account_number="12")})
asks_nobody = raises(AssertionError("nothing is sent"))


def desk(colour: Colour, kind: PaymentRail, flows: Any) -> Host:
    """A host whose only rail asks people."""
    host = Host(colour)
    route = {"rail": kind.value, "provider": "desk", "account": "main", "mode": "live"}
    host.restart(
        routes=ConfigDrivenRouteResolver.from_mapping(
            {"routes": {"desk": route}, "default_route": "desk"},
            offered={(kind, "desk"): flows.capabilities},
        ),
        rails={
            (kind, "desk"): (DrivenRail(flows, asks_nobody), AsyncDrivenRail(flows, asks_nobody))
        },
    )
    return host


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    """Return a colour of engine."""
    return "sync" if request.param == "sync" else "async"


def four_eyes(colour: Colour) -> Host:
    return desk(colour, PaymentRail.MANUAL_SETTLEMENT, ManualSettlementRail(approvals_required=2))


def one_pair(colour: Colour) -> Host:
    return desk(colour, PaymentRail.MANUAL_SETTLEMENT, ManualSettlementRail())


def transfers(colour: Colour) -> Host:
    return desk(colour, PaymentRail.BANK_TRANSFER, BANK)


def by(actor: str, evidence: str = "", received: Money | None = None) -> OperatorDecision:
    return OperatorDecision(actor=actor, evidence=evidence or f"slip-{actor}", received=received)


def approvals(execution: PaymentExecution) -> list[str]:
    given: Any = execution.provider_response["approvals"]
    return sorted(one["actor"] for one in given)


def test_two_people_confirm_one_after_the_other(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())

    first = host.confirm(row, by("alice"))
    second = host.confirm(row, by("bob"))

    assert (first.pending_reason, first.progress) == (PendingReason.MANUAL_REVIEW, 1)
    assert (second.status, approvals(second)) == (COMPLETED, ["alice", "bob"])


def test_the_same_person_counts_once(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())
    host.confirm(row, by("alice"))

    with pytest.raises(ApprovalError, match="Somebody else"):
        host.confirm(row, by("alice"))


def test_a_person_whose_number_looks_like_a_card_counts_once_too(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())
    host.confirm(row, by("2026030100012346"))

    with pytest.raises(ApprovalError, match="Somebody else"):
        host.confirm(row, by("2026030100012346", "another-slip"))


def meanwhile(host: Host, story: Callable[[Host], object]) -> None:
    """Have another process do *story* just before the next record of *host*."""

    def interrupt() -> None:
        host.store.before_record = nothing
        story(host.twin())

    host.store.before_record = interrupt


def test_a_second_approver_who_is_quicker_is_counted(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.confirm(row, by("bob")))
    after = host.confirm(row, by("alice"))

    assert (after.status, approvals(after)) == (COMPLETED, ["alice", "bob"])


def test_the_same_person_on_two_screens_counts_once(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.confirm(row, by("alice")))
    with pytest.raises(ApprovalError, match="Somebody else"):
        host.confirm(row, by("alice"))

    assert host.find(context()).progress == 1


def test_who_rejects_after_a_confirmation_is_told_so(colour: Colour) -> None:
    host = one_pair(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.confirm(row, by("alice")))
    with pytest.raises(ApprovalError, match="Refund it instead"):
        host.reject(row, by("bob"))

    assert host.find(context()).status is COMPLETED
    assert not host.store.discrepancies


def test_money_that_is_confirmed_after_a_rejection_is_a_discrepancy(colour: Colour) -> None:
    host = one_pair(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.reject(row, by("bob")))
    after = host.confirm(row, by("alice"))

    assert (after.status, after.failure) == (FAILED, PaymentFailureCode.CANCELLED)
    assert [one.kind for one in host.store.discrepancies] == [DiscrepancyKind.SUCCESS_AFTER_FAILURE]


def test_the_same_confirmation_twice_is_one(colour: Colour) -> None:
    host = one_pair(colour)
    row = host.execute(context())
    first = host.confirm(row, by("alice"))

    assert host.confirm(row, by("alice")) == first
    assert not host.store.discrepancies


def test_twenty_approvers_at_once_are_two_approvals() -> None:
    host = four_eyes("sync")
    row = host.execute(context())
    barrier = threading.Barrier(20)

    def race(number: int) -> str:
        barrier.wait()
        try:
            return str(host.twin().confirm(row, by(f"person-{number}")).status)
        except ApprovalError:
            return "too late"

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(race, range(20)))

    after = host.find(context())
    assert after.status is COMPLETED
    assert len(approvals(after)) == 2
    assert answers.count("too late") == 18
    assert [event.seq for event in host.store.events("acme", "inv-1")] == [1, 2, 3, 4]


def test_receipts_add_up_whoever_is_quicker(colour: Colour) -> None:
    host = transfers(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.confirm(row, by("bob", "line-1", Money(500, SAR))))
    after = host.confirm(row, by("alice", "line-2", Money(750, SAR)))

    assert (after.status, after.settled_minor) == (COMPLETED, 1250)


def test_the_same_receipt_on_two_screens_counts_once(colour: Colour) -> None:
    host = transfers(colour)
    row = host.execute(context())

    meanwhile(host, lambda twin: twin.confirm(row, by("bob", "line-1", Money(625, SAR))))
    after = host.confirm(row, by("alice", "line-1", Money(625, SAR)))

    assert (after.status, after.settled_minor) == (ExecutionStatus.PENDING, 625)


@pytest.mark.parametrize("evidence", ["20260301000005", "4111111111111111", "line 20260301000005"])
def test_evidence_that_looks_like_a_card_counts_once_too(colour: Colour, evidence: str) -> None:
    host = transfers(colour)
    row = host.execute(context())
    evidence = evidence.replace(" ", "-")

    for _ in range(2):
        after = host.confirm(row, by("bob", evidence, Money(625, SAR)))

    assert (after.status, after.settled_minor) == (ExecutionStatus.PENDING, 625)


def test_the_decision_names_who_decided_on_what(colour: Colour) -> None:
    host = one_pair(colour)
    row = host.execute(context())
    host.confirm(row, by("alice", "slip-7"))

    payload = host.store.events("acme", "inv-1")[-1].payload
    assert (payload["source"], payload["actor"], payload["evidence"]) == (
        "operator",
        "alice",
        "slip-7",
    )


def test_a_decision_leaves_the_workers_lease_alone(colour: Colour) -> None:
    host = four_eyes(colour)
    row = host.execute(context())
    host.store.acquire(row.tenant_id, row.execution_id, "worker", 60)
    held = host.find(context())

    after = host.confirm(row, by("alice"))

    assert (after.lease, after.next_check_at) == (held.lease, held.next_check_at)


def test_a_provider_that_knows_itself_takes_no_persons_word(colour: Colour) -> None:
    host = Host(colour)
    row = host.execute(context())

    for decide in (host.confirm, host.reject):
        with pytest.raises(UnsupportedOperationError, match="operator"):
            decide(row, by("alice"))


def test_a_decision_on_nothing_is_refused(colour: Colour) -> None:
    engine: Any = one_pair(colour).engine

    with pytest.raises(ExecutionNotFoundError, match=str(ID)):
        run(engine.confirm("acme", ID, by("alice")))


def test_a_decision_that_could_not_be_recorded_may_be_repeated(colour: Colour) -> None:
    host = one_pair(colour)
    row = host.execute(context())
    host.store.after_record = raises(lost(may_have_committed=True))
    with pytest.raises(OutcomeUnknownError):
        host.confirm(row, by("alice"))
    host.store.after_record = nothing

    assert host.confirm(row, by("alice")).status is COMPLETED
    assert len(host.store.events("acme", "inv-1")) == 3
