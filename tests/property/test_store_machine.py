"""
Any steps in any order: stores in memory and on PostgreSQL do what a plain list of rows does.

Each step goes to every store and to the model, and all answers are compared: verdicts, rows, sums,
events, what is open. The model knows no SQL and no indexes: it keeps rows and events in lists and
adds them up anew for every question. Times are compared as far as they are there or not.

What a step of the lease's holder returns is compared whole where the holder knew the row as it
stood; a store may answer an outdated holder with what it believed and what it changed, since the
rows that stand are compared after every step.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

import attrs
import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason, RouteMode
from railcore.errors import RailcoreError
from railcore.events import draft_discrepancy, draft_event, draft_resolution
from railcore.execution import PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import (
    Change,
    Discrepancy,
    DiscrepancyKind,
    Fact,
    FactSource,
    decide,
    evolve,
)
from railcore.money import SAR, USD, Currency, Money
from railcore.ports import ExecutionStore
from railcore.protocol import (
    Claim,
    ClaimOutcome,
    ClaimVerdict,
    Due,
    Recording,
    ResolveVerdict,
    Resolving,
)
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.review import Remedy
from railcore.testing.memory import InMemoryExecutionStore
from railcore_sqlalchemy.stores import SqlExecutionStore

LONG_S: Final = 3600.0
OVER_S: Final = 0.0
"""A lease this short is over before the next step begins."""

PAYMENTS: Final = ("inv-1", "inv-2")
KEYS: Final = tuple(f"key-{number}" for number in range(10))
DUE: Final = 100
FIRST: Final = (Operation.CHARGE, Operation.AUTHORIZE)
FOLLOW_UPS: Final = (Operation.CAPTURE, Operation.VOID, Operation.REFUND)
COMPARED: Final = (
    "execution_id",
    "context",
    "rail",
    "provider",
    "account",
    "mode",
    "status",
    "pending_reason",
    "failure",
    "cause",
    "version",
    "phase",
    "progress",
    "provider_ref",
    "settled_minor",
    "next_action",
    "expires_at",
    "provider_response",
    "send_count",
    "refused_count",
    "check_count",
)
DATED: Final = ("first_sent_at", "last_sent_at", "next_check_at", "created_at", "updated_at")

leases_s = st.sampled_from([LONG_S, OVER_S])
amounts = st.sampled_from([1, 30, 40, 60, 100])
parts = st.sampled_from([1, 1, 20, 40])


def seen(execution: PaymentExecution | None) -> dict[str, object] | None:
    """What there is to compare of an execution."""
    if execution is None:
        return None
    found = {name: getattr(execution, name) for name in COMPARED}
    found["dated"] = {name for name in DATED if getattr(execution, name) is not None}
    found["lease"] = (
        execution.lease.owner,
        execution.lease.token,
        execution.lease.until is not None,
    )
    return found


def may_follow(operation: Operation, parent: "Row") -> bool:
    """Whether *parent* is completed, and of a kind that is followed so."""
    of_refunds = {Operation.CHARGE, Operation.AUTHORIZE, Operation.CAPTURE}
    kinds = of_refunds if operation is Operation.REFUND else {Operation.AUTHORIZE}
    return parent.status is ExecutionStatus.COMPLETED and parent.context.operation in kinds


def asked_of(rows: "list[Row]", operations: set[Operation], parents: set[UUID | None]) -> int:
    """What was asked of *parents* and has not failed."""
    return sum(
        one.amount
        for one in rows
        if one.context.operation in operations
        and one.context.parent_execution_id in parents
        and one.status is not ExecutionStatus.FAILED
    )


def seen_outcome(outcome: ClaimOutcome) -> tuple[ClaimVerdict, object]:
    return outcome.verdict, seen(outcome.execution)


@attrs.define
class Row:
    """An execution, as the model keeps it."""

    values: dict[str, object]
    context: PaymentContext
    owner: str | None
    token: int
    is_held: bool
    is_sent: bool
    is_due: bool = False

    @property
    def execution_id(self) -> UUID:
        execution_id = self.values["execution_id"]
        assert isinstance(execution_id, UUID)
        return execution_id

    @property
    def status(self) -> ExecutionStatus:
        status = self.values["status"]
        assert isinstance(status, ExecutionStatus)
        return status

    @property
    def version(self) -> int:
        version = self.values["version"]
        assert isinstance(version, int)
        return version

    @property
    def amount(self) -> int:
        return self.context.money.amount_minor

    @property
    def is_open(self) -> bool:
        return self.status in {ExecutionStatus.PROCESSING, ExecutionStatus.PENDING}

    @property
    def is_unsent(self) -> bool:
        is_even = self.values["send_count"] == self.values["refused_count"]
        return self.status is ExecutionStatus.PROCESSING and is_even

    def count(self, name: str) -> None:
        number = self.values[name]
        assert isinstance(number, int)
        self.values[name] = number + 1

    def seen(self) -> dict[str, object]:
        dated = {"created_at", "updated_at"}
        dated |= {"first_sent_at", "last_sent_at"} if self.is_sent else set()
        dated |= {"next_check_at"} if self.is_open else set()
        has_until = self.owner is not None
        return {**self.values, "dated": dated, "lease": (self.owner, self.token, has_until)}


@attrs.define
class Noted:
    """A discrepancy, as the model keeps it."""

    row: Row
    kind: DiscrepancyKind
    counted: int
    is_open: bool = True


@attrs.define
class Model:
    """Rows and events in lists, in the order in which they came."""

    rows: list[Row] = attrs.field(factory=list)
    events: list[tuple[str, str, UUID, int | None, str, str]] = attrs.field(factory=list)
    noted: dict[UUID, Noted] = attrs.field(factory=dict)

    def find(self, key: str) -> Row | None:
        return next((row for row in self.rows if row.context.idempotency_key == key), None)

    def row(self, execution_id: UUID) -> Row:
        return next(row for row in self.rows if row.execution_id == execution_id)

    def of(self, payment_id: str) -> list[Row]:
        return [row for row in self.rows if row.context.payment_id == payment_id]

    def told(self, payment_id: str) -> list[tuple[str, str, UUID, int | None, str, str]]:
        return [event for event in self.events if event[0] == payment_id]

    def sum(self, payment_id: str, *operations: Operation, done: bool) -> int:
        wanted = (
            {ExecutionStatus.COMPLETED}
            if done
            else {
                ExecutionStatus.PROCESSING,
                ExecutionStatus.PENDING,
            }
        )
        return sum(
            row.amount
            for row in self.of(payment_id)
            if row.context.operation in operations and row.status in wanted
        )

    def sums(self, payment_id: str) -> dict[str, int]:
        """Replay a payment."""
        charge, authorize, capture, void, refund = Operation
        return {
            "charging_minor": self.sum(payment_id, charge, authorize, done=False),
            "authorized_minor": self.sum(payment_id, charge, authorize, done=True),
            "capturing_minor": self.sum(payment_id, capture, done=False),
            "captured_minor": self.sum(payment_id, charge, capture, done=True),
            "voiding_minor": self.sum(payment_id, void, done=False),
            "voided_minor": self.sum(payment_id, void, done=True),
            "refunding_minor": self.sum(payment_id, refund, done=False),
            "refunded_minor": self.sum(payment_id, refund, done=True),
            "disputed_minor": sum(
                one.counted
                for one in self.noted.values()
                if one.is_open and one.row.context.payment_id == payment_id
            ),
        }

    def has_a_doubtful_follow_up(self, payment_id: str) -> bool:
        """Whether one that failed may have moved money after all."""
        return any(
            one.is_open
            and one.kind is not DiscrepancyKind.FAILURE_DIFFERS
            and one.row.context.payment_id == payment_id
            and one.row.context.operation in FOLLOW_UPS
            and one.row.status is ExecutionStatus.FAILED
            for one in self.noted.values()
        )

    def verdict(self, context: PaymentContext, head_seq: int | None) -> ClaimVerdict:
        if self.find(context.idempotency_key) is not None:
            return ClaimVerdict.DUPLICATE
        others = self.of(context.payment_id)
        is_first = context.operation in FIRST
        if not others:
            return ClaimVerdict.CLAIMED if is_first else ClaimVerdict.NO_PAYMENT
        if others[0].context.money.currency != context.money.currency:
            return ClaimVerdict.CURRENCY
        if head_seq not in {None, len(self.told(context.payment_id))}:
            return ClaimVerdict.MOVED
        asked, room = context.money.amount_minor, self.room(context)
        if is_first:
            disputed = self.sums(context.payment_id)["disputed_minor"]
            if asked > room:
                return ClaimVerdict.LIVE
            is_free = asked <= room - disputed
            return ClaimVerdict.CLAIMED if is_free else ClaimVerdict.IN_DOUBT
        if asked > room:
            return ClaimVerdict.LIMIT
        if self.has_a_doubtful_follow_up(context.payment_id):
            return ClaimVerdict.IN_DOUBT
        is_free = asked <= self.room_of_parent(context)
        return ClaimVerdict.CLAIMED if is_free else ClaimVerdict.LIMIT

    def room_of_parent(self, context: PaymentContext) -> int:
        """What the followed execution itself still gives, whatever the payment has left."""
        rows = self.of(context.payment_id)
        if context.operation in FIRST:
            return context.money.amount_minor
        parent = next(one for one in rows if one.execution_id == context.parent_execution_id)
        if context.operation is not Operation.REFUND:
            ends = {Operation.CAPTURE, Operation.VOID}
            return parent.amount - asked_of(rows, ends, {parent.execution_id})
        own = parent.amount - asked_of(rows, {Operation.REFUND}, {parent.execution_id})
        if parent.context.operation is Operation.CHARGE:
            return own
        is_root = parent.context.operation is Operation.AUTHORIZE
        root = parent.execution_id if is_root else parent.context.parent_execution_id
        captures = [
            one
            for one in rows
            if one.context.operation is Operation.CAPTURE
            and one.context.parent_execution_id == root
            and one.status is ExecutionStatus.COMPLETED
        ]
        family = {root, *(one.execution_id for one in captures)}
        captured = sum(one.amount for one in captures)
        return min(own, captured - asked_of(rows, {Operation.REFUND}, family))

    def room(self, context: PaymentContext) -> int:
        sums = self.sums(context.payment_id)
        due = self.of(context.payment_id)[0].context.due_minor
        if context.operation in FIRST:
            return due - sums["charging_minor"] - sums["authorized_minor"] + sums["voided_minor"]
        if context.operation is Operation.REFUND:
            return sums["captured_minor"] - sums["refunding_minor"] - sums["refunded_minor"]
        taken = ("capturing_minor", "captured_minor", "voiding_minor", "voided_minor")
        return sums["authorized_minor"] - sum(sums[name] for name in taken)

    def claim(self, claim: Claim) -> tuple[ClaimVerdict, object]:
        context = claim.execution.context
        verdict = self.verdict(context, claim.head_seq)
        match verdict:
            case ClaimVerdict.DUPLICATE:
                known = self.find(context.idempotency_key)
                assert known is not None
                return verdict, known.seen()
            case ClaimVerdict.LIVE:
                in_the_way = self.in_the_way(context.payment_id)
                return verdict, None if in_the_way is None else in_the_way.seen()
            case ClaimVerdict.CLAIMED:
                return verdict, self.begin(claim).seen()
            case _:
                return verdict, None

    def in_the_way(self, payment_id: str) -> Row | None:
        first = [row for row in self.of(payment_id) if row.context.operation in FIRST]
        still_open = [row for row in first if row.is_open]
        completed = [row for row in first if row.status is ExecutionStatus.COMPLETED]
        return next(iter([*still_open, *completed]), None)

    def begin(self, claim: Claim) -> Row:
        execution = claim.execution
        values = {name: getattr(execution, name) for name in COMPARED}
        row = Row(
            values={**values, "send_count": int(claim.is_sent)},
            context=execution.context,
            owner=claim.owner if claim.is_sent else None,
            token=int(claim.is_sent),
            is_held=claim.is_sent and claim.lease_s == LONG_S,
            is_sent=claim.is_sent,
        )
        self.rows.append(row)
        self.tell(row, "billing.execution.started", "none", 1)
        return row

    def tell(self, row: Row, kind: str, before: str, version: int | None) -> None:
        told = (row.context.payment_id, kind, row.execution_id, version, before, str(row.status))
        self.events.append(told)

    def record(self, recording: Recording) -> object:
        before, after = recording.before, recording.after
        row = self.row(before.execution_id)
        is_newest = row.token == before.lease.token
        if (row.status, row.version) != (before.status, before.version):
            return None
        if recording.is_fenced and not is_newest:
            return None
        came_from = str(row.status)
        row.values |= {field.name: getattr(after, field.name) for field in attrs.fields(Change)}
        row.count("version")
        if is_newest:
            row.owner, row.is_held, row.is_due = None, False, False
        self.tell(row, f"billing.execution.{row.status}", came_from, row.version)
        return row.seen()

    def acquire(self, execution_id: UUID, owner: str, lease_s: float) -> object:
        row = self.row(execution_id)
        if not row.is_open or row.is_held:
            return None
        row.owner, row.token, row.is_held = owner, row.token + 1, lease_s == LONG_S
        row.count("check_count")
        row.is_due = row.is_due and lease_s == OVER_S
        return row.seen()

    def acquire_due(self, due: Due) -> list[object]:
        """Take what is due and free, each account up to its limit; none is due before another."""
        taken = [row for row in self.rows if row.is_due and row.is_open and not row.is_held]
        if due.is_unsent is not None:
            taken = [row for row in taken if row.is_unsent is due.is_unsent]
        return [self.acquire(row.execution_id, due.owner, due.lease_s) for row in taken]

    def put_back(self, snapshot: PaymentExecution) -> bool:
        row = self.holds(snapshot)
        if row is None or row.status is not ExecutionStatus.PROCESSING or row.is_unsent:
            return False
        row.count("refused_count")
        row.owner, row.is_held, row.is_due = None, False, False
        return True

    def holds(self, snapshot: PaymentExecution) -> Row | None:
        row = self.row(snapshot.execution_id)
        is_holder = row.owner is not None and row.token == snapshot.lease.token
        return row if row.is_open and is_holder else None

    def mark_sent(self, snapshot: PaymentExecution, lease_s: float) -> object:
        row = self.holds(snapshot)
        if row is None:
            return None
        row.count("send_count")
        row.is_sent, row.is_held = True, lease_s == LONG_S
        row.is_due = row.is_due and lease_s == OVER_S
        return row.seen()

    def reschedule(self, snapshot: PaymentExecution, next_check_s: float) -> bool:
        row = self.holds(snapshot)
        if row is None:
            return False
        row.owner, row.is_held, row.is_due = None, False, next_check_s == 0.0
        return True

    def note(self, snapshot: PaymentExecution, discrepancy: Discrepancy) -> bool:
        if discrepancy.discrepancy_id in self.noted:
            return False
        row = self.row(snapshot.execution_id)
        is_counted = row.context.operation in FIRST and row.status is not ExecutionStatus.COMPLETED
        due = self.of(row.context.payment_id)[0].context.due_minor
        counts = discrepancy.kind is DiscrepancyKind.AMOUNT_DIFFERS and is_counted
        counted = min(row.amount, due) if counts else 0
        self.noted[discrepancy.discrepancy_id] = Noted(row, discrepancy.kind, counted)
        self.tell(row, "billing.execution.discrepancy", str(row.status), None)
        return True

    def accept(self, discrepancy_id: UUID) -> ResolveVerdict:
        noted = self.noted[discrepancy_id]
        if not noted.is_open:
            return ResolveVerdict.ALREADY
        noted.is_open = False
        self.tell(noted.row, "billing.discrepancy.resolved", str(noted.row.status), None)
        return ResolveVerdict.RESOLVED


ANSWERS: Final[dict[str, Any]] = {
    "success": lambda money: RailResult.success("ch_1", money, provider_response={"code": "00"}),
    "declined": lambda _: RailResult.failed(PaymentFailureCode.DECLINED, provider_ref="ch_1"),
    "cancelled": lambda _: RailResult.failed(PaymentFailureCode.CANCELLED),
    "unknown": lambda _: RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT),
    "garbage": lambda _: RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE),
    "processing": lambda _: RailResult.pending(
        PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1", provider_response={"n": [1, None]}
    ),
    "redirect": lambda _: RailResult.pending(
        PendingReason.CUSTOMER_ACTION,
        next_action=NextAction(
            kind=NextActionKind.REDIRECT, url="https://bank.example/1", fields={"ü": '"'}
        ),
    ),
    "receipt": lambda money: RailResult.pending(
        PendingReason.AWAITING_FUNDS, reported=Money(1, money.currency), progress=1
    ),
    "review": lambda _: RailResult.pending(PendingReason.MANUAL_REVIEW, progress=1),
}
answers = st.sampled_from(sorted(ANSWERS))
waits = st.sampled_from(["unknown", "garbage", "redirect", "receipt", "processing", "review"])


Snapshot = tuple[PaymentExecution, ...]
"""What some process believed an execution to be, once: one for each store."""


def by_id(told: Any) -> str:
    return str(told["execution_id"])


def has_rows(machine: "StoreMachine") -> bool:
    return bool(machine.model.rows)


class StoreMachine(RuleBasedStateMachine):
    """Steps of hosts, workers and zombies, on every store and on the model."""

    def __init__(self, stores: Sequence[ExecutionStore]) -> None:
        super().__init__()
        self.stores = stores
        self.model = Model()
        self.tenant = ""
        self.ids: Iterator[UUID] = iter(())
        self.history: dict[UUID, list[Snapshot]] = {}

    @initialize()
    def start(self) -> None:
        self.tenant = f"tenant-{uuid4().hex}"
        namespace = uuid4()
        self.ids = (uuid5(namespace, str(number)) for number in itertools.count())

    # Steps

    @rule(
        key=st.sampled_from(KEYS),
        payment_id=st.sampled_from(PAYMENTS),
        operation=st.sampled_from(FIRST),
        amount=amounts,
        currency=st.sampled_from([*[SAR] * 9, USD]),
        lease_s=leases_s,
        is_sent=st.sampled_from([True, True, False]),
    )
    def claim(
        self,
        *,
        key: str,
        payment_id: str,
        operation: Operation,
        amount: int,
        currency: Currency,
        lease_s: float,
        is_sent: bool,
    ) -> None:
        money, due = Money(amount, currency), Money(DUE, currency)
        context = self.context(key, payment_id, operation, money, due=due)
        self.claimed(context, lease_s=lease_s, is_sent=is_sent)

    @rule(
        key=st.sampled_from(KEYS),
        payment_id=st.sampled_from(PAYMENTS),
        operation=st.sampled_from(FIRST),
        amount=amounts,
    )
    def pay(self, *, key: str, payment_id: str, operation: Operation, amount: int) -> None:
        """Claim and complete: follow-ups need parents."""
        money, due = Money(amount, SAR), Money(DUE, SAR)
        context = self.context(key, payment_id, operation, money, due=due)
        snapshot = self.claimed(context, lease_s=LONG_S, is_sent=True)
        if snapshot is not None:
            self.recorded(snapshot, "success", is_fenced=False)

    @precondition(has_rows)
    @rule(
        data=st.data(),
        key=st.sampled_from(KEYS),
        operation=st.sampled_from(FOLLOW_UPS),
        amount=parts,
        is_late=st.sampled_from([False, False, False, True]),
        is_completed=st.booleans(),
        lease_s=leases_s,
    )
    def follow_up(
        self,
        *,
        data: st.DataObject,
        key: str,
        operation: Operation,
        amount: int,
        is_late: bool,
        is_completed: bool,
        lease_s: float,
    ) -> None:
        lawful = [one for one in self.model.rows if may_follow(operation, one)]
        if not lawful:
            return
        parent = data.draw(st.sampled_from(lawful))
        payment_id, currency = parent.context.payment_id, parent.context.money.currency
        context = self.context(
            key,
            payment_id,
            operation,
            Money(amount, currency),
            parent_execution_id=parent.execution_id,
        )
        seq = len(self.model.told(payment_id)) - int(is_late)
        snapshot = self.claimed(context, lease_s=lease_s, is_sent=True, head_seq=seq)
        if snapshot is not None and is_completed:
            self.recorded(snapshot, "success", is_fenced=False)

    @precondition(has_rows)
    @rule(data=st.data(), answer=answers)
    def record_what_stands(self, data: st.DataObject, answer: str) -> None:
        self.recorded(self.current(self.row(data)), answer, is_fenced=False)

    @precondition(has_rows)
    @rule(data=st.data(), answer=answers, is_fenced=st.booleans())
    def record(self, *, data: st.DataObject, answer: str, is_fenced: bool) -> None:
        self.recorded(self.believed(data), answer, is_fenced=is_fenced)

    @precondition(has_rows)
    @rule(data=st.data(), first=waits, second=waits, third=answers)
    def record_at_once(self, *, data: st.DataObject, first: str, second: str, third: str) -> None:
        """Two writers believe the same of what is pending; one of them is slower."""
        row = self.row(data)
        self.recorded(self.current(row), first, is_fenced=False)
        snapshot = self.current(row)
        self.recorded(snapshot, second, is_fenced=False)
        self.recorded(snapshot, third, is_fenced=False)

    @precondition(has_rows)
    @rule(
        data=st.data(),
        step=st.sampled_from(["record", "mark_sent", "reschedule"]),
        answer=answers,
        is_fenced=st.sampled_from([True, True, False]),
    )
    def wake_up(self, *, data: st.DataObject, step: str, answer: str, is_fenced: bool) -> None:
        """A holder freezes, its lease runs out, another takes it, and then it goes on."""
        row = self.row(data)
        self.acquired(row.execution_id, "frozen", OVER_S)
        snapshot = self.current(row)
        self.acquired(row.execution_id, "other", LONG_S)
        if step == "record":
            self.recorded(snapshot, answer, is_fenced=is_fenced)
        elif step == "mark_sent":
            self.marked(snapshot, LONG_S)
        else:
            self.rescheduled(snapshot)

    @precondition(has_rows)
    @rule(data=st.data(), owner=st.sampled_from("ab"), lease_s=leases_s)
    def acquire(self, data: st.DataObject, owner: str, lease_s: float) -> None:
        self.acquired(self.row(data).execution_id, owner, lease_s)

    def acquired(self, execution_id: UUID, owner: str, lease_s: float) -> None:
        acquired = [
            store.acquire(self.tenant, execution_id, owner, lease_s) for store in self.stores
        ]
        expected = self.model.acquire(execution_id, owner, lease_s)

        self.compare(expected, [None if one is None else one.execution for one in acquired])

    @precondition(has_rows)
    @rule(data=st.data(), lease_s=leases_s)
    def mark_sent(self, data: st.DataObject, lease_s: float) -> None:
        self.marked(self.believed(data), lease_s)

    def marked(self, snapshot: Snapshot, lease_s: float) -> None:
        is_current = self.is_current(snapshot)
        expected = self.model.mark_sent(snapshot[0], lease_s)
        found = [
            store.mark_sent(one, lease_s) for store, one in zip(self.stores, snapshot, strict=True)
        ]

        self.compare(expected, found, is_whole=is_current)

    @precondition(has_rows)
    @rule(data=st.data())
    def reschedule(self, data: st.DataObject) -> None:
        self.rescheduled(self.believed(data))

    def rescheduled(self, snapshot: Snapshot, next_check_s: float = 30.0) -> None:
        expected = self.model.reschedule(snapshot[0], next_check_s)
        found = [
            store.reschedule(one, next_check_s)
            for store, one in zip(self.stores, snapshot, strict=True)
        ]

        assert found == [expected] * len(self.stores)

    @precondition(has_rows)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        """A try was refused for certain; perhaps a zombie's."""
        snapshot = self.believed(data)
        expected = self.model.put_back(snapshot[0])
        found = [
            store.put_back(one, 30.0) for store, one in zip(self.stores, snapshot, strict=True)
        ]

        assert found == [expected] * len(self.stores)

    @precondition(has_rows)
    @rule(data=st.data(), is_unsent=st.sampled_from([None, True, False]))
    def work(self, data: st.DataObject, is_unsent: bool | None) -> None:
        """A worker takes what is due: what somebody has just given back, at least."""
        row = self.row(data)
        self.acquired(row.execution_id, "other", LONG_S)
        self.rescheduled(self.current(row), 0.0)
        due = Due(owner="worker", lease_s=LONG_S, limit=10**6, is_unsent=is_unsent)
        expected = self.model.acquire_due(due)
        for store in self.stores:
            taken = [one.execution for one in store.acquire_due(due)]
            found = [seen(one) for one in taken if one.tenant_id == self.tenant]
            assert sorted(found, key=by_id) == sorted(expected, key=by_id)

    @precondition(has_rows)
    @rule(
        data=st.data(),
        kind=st.sampled_from(
            [
                DiscrepancyKind.AMOUNT_DIFFERS,
                DiscrepancyKind.SECOND_REFERENCE,
                DiscrepancyKind.FAILURE_DIFFERS,
            ]
        ),
    )
    def note(self, data: st.DataObject, kind: DiscrepancyKind) -> None:
        self.noted(self.believed(data), kind)

    def noted(self, snapshot: Snapshot, kind: DiscrepancyKind) -> None:
        discrepancy = Discrepancy(
            discrepancy_id=uuid5(snapshot[0].execution_id, kind),
            execution_id=snapshot[0].execution_id,
            kind=kind,
            sides=("one", "other"),
        )
        expected = self.model.note(snapshot[0], discrepancy)
        found = [
            store.note(one, discrepancy, draft_discrepancy(one, discrepancy))
            for store, one in zip(self.stores, snapshot, strict=True)
        ]

        assert found == [expected] * len(self.stores)

    @precondition(has_rows)
    @rule(data=st.data(), key=st.sampled_from(KEYS), is_charge=st.booleans())
    def contradict(self, *, data: st.DataObject, key: str, is_charge: bool) -> None:
        """What failed may have moved money after all, and somebody asks for the same again."""
        row = self.row(data)
        first = row.context.operation in FIRST
        if is_charge is not first:
            return
        self.recorded(self.current(row), "declined", is_fenced=False)
        snapshot = self.current(row)
        self.noted(snapshot, DiscrepancyKind.AMOUNT_DIFFERS)
        again = attrs.evolve(row.context, idempotency_key=key)
        seq = None if first else len(self.model.told(row.context.payment_id))
        self.claimed(again, lease_s=LONG_S, is_sent=True, head_seq=seq)

    @precondition(lambda machine: bool(machine.model.noted))
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        """A person resolves what was noted: the room comes back once."""
        name = data.draw(st.sampled_from(list(self.model.noted)))
        found = [store.discrepancy(self.tenant, name) for store in self.stores]
        expected = self.model.accept(name)
        for store, noted in zip(self.stores, found, strict=True):
            assert noted is not None
            resolving = Resolving(
                noted=noted,
                remedy=Remedy.ACCEPTED,
                actor="alice",
                evidence="slip",
                execution_id=None,
                event=draft_resolution(noted, Remedy.ACCEPTED, "alice", "slip", None),
            )
            assert store.resolve(resolving).verdict is expected

    # Who believes what

    def row(self, data: st.DataObject) -> Row:
        """Draw a row, rather an open one."""
        still_open = [row for row in self.model.rows if row.is_open]
        return data.draw(st.sampled_from([*still_open * 3, *self.model.rows]))

    def current(self, row: Row) -> Snapshot:
        """What the stores say now, which is what the model says."""
        found = [store.get(self.tenant, row.execution_id) for store in self.stores]
        self.compare(row.seen(), found)
        return self.remember(found)

    def believed(self, data: st.DataObject) -> Snapshot:
        """Draw what somebody once knew of a row: a zombie, perhaps."""
        row = self.row(data)
        self.current(row)
        return data.draw(st.sampled_from(self.history[row.execution_id]))

    def remember(self, found: Sequence[PaymentExecution | None]) -> Snapshot:
        snapshot = tuple(one for one in found if one is not None)
        self.history.setdefault(snapshot[0].execution_id, []).append(snapshot)
        return snapshot

    def is_current(self, snapshot: Snapshot) -> bool:
        return seen(snapshot[0]) == self.model.row(snapshot[0].execution_id).seen()

    # What always holds

    @invariant()
    def rows_are_the_models(self) -> None:
        for store, payment_id in itertools.product(self.stores, PAYMENTS):
            found = store.executions(self.tenant, payment_id)
            assert [seen(one) for one in found] == [row.seen() for row in self.model.of(payment_id)]

    @invariant()
    def sums_are_a_replay(self) -> None:
        for store, payment_id in itertools.product(self.stores, PAYMENTS):
            assert store.payment(self.tenant, payment_id) == self.expected_payment(payment_id)

    @invariant()
    def events_are_contiguous(self) -> None:
        for store, payment_id in itertools.product(self.stores, PAYMENTS):
            events = store.events(self.tenant, payment_id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [
                (
                    event.payment_id,
                    event.type.value,
                    event.execution_id,
                    event.version,
                    event.from_status,
                    event.to_status,
                )
                for event in events
            ] == self.model.told(payment_id)

    @invariant()
    def a_version_is_an_event(self) -> None:
        for row in self.model.rows:
            versions = [event[3] for event in self.model.events if event[2] == row.execution_id]
            assert [one for one in versions if one is not None] == list(range(1, row.version + 1))

    @rule()
    def look_for_what_is_due(self) -> None:
        expected = {row.execution_id for row in self.model.rows if row.is_open}
        for store in self.stores:
            found = [one for one in store.open_executions(10**6) if one.tenant_id == self.tenant]
            assert {one.execution_id for one in found} == expected
            assert all(one.next_check_at is not None for one in found)

    # Doing

    def context(
        self, key: str, payment_id: str, operation: Operation, money: Money, **more: Any
    ) -> PaymentContext:
        return PaymentContext(
            tenant_id=self.tenant,
            payment_id=payment_id,
            idempotency_key=key,
            money=money,
            payment_option_key="card",
            operation=operation,
            **more,
        )

    def claimed(
        self, context: PaymentContext, *, lease_s: float, is_sent: bool, head_seq: int | None = None
    ) -> Snapshot | None:
        execution = PaymentExecution(
            execution_id=next(self.ids),
            context=context,
            rail=PaymentRail.CARD_PSP,
            provider="stub",
            account="main",
            mode=RouteMode.SANDBOX,
        )
        claim = Claim(
            execution=execution,
            event=draft_event(execution),
            owner="host",
            lease_s=lease_s,
            is_sent=is_sent,
            check_after_s=90.0,
            head_seq=head_seq,
        )
        outcomes = [store.claim(claim) for store in self.stores]
        expected = self.model.claim(claim)

        assert [seen_outcome(one) for one in outcomes] == [expected] * len(outcomes)
        is_claimed = expected[0] is ClaimVerdict.CLAIMED
        return self.remember([one.execution for one in outcomes]) if is_claimed else None

    def recorded(self, snapshot: Snapshot, answer: str, *, is_fenced: bool) -> None:
        recordings = [recording_of(one, answer, is_fenced=is_fenced) for one in snapshot]
        if recordings[0] is None:
            return
        is_current = self.is_current(snapshot)
        expected = self.model.record(recordings[0])
        found = [
            store.record(one)
            for store, one in zip(self.stores, recordings, strict=True)
            if one is not None
        ]

        self.compare(expected, found, is_whole=is_current)

    def compare(
        self,
        expected: object,
        found: Sequence[PaymentExecution | None],
        *,
        is_whole: bool = True,
    ) -> None:
        if is_whole:
            assert [seen(one) for one in found] == [expected] * len(self.stores)
        else:
            assert [one is None for one in found] == [expected is None] * len(self.stores)

    def expected_payment(self, payment_id: str) -> PaymentView | None:
        rows = self.model.of(payment_id)
        if not rows:
            return None
        return PaymentView(
            tenant_id=self.tenant,
            payment_id=payment_id,
            currency=rows[0].context.money.currency,
            seq=len(self.model.told(payment_id)),
            due_minor=rows[0].context.due_minor,
            **self.model.sums(payment_id),
        )


def recording_of(before: PaymentExecution, answer: str, *, is_fenced: bool) -> Recording | None:
    """The recording of what *answer* makes of *before*, if it is news."""
    fact = Fact(result=ANSWERS[answer](before.money), source=FactSource.CALL)
    change = decide(before, fact).change
    if change is None:
        return None
    after = evolve(before, change)
    return Recording(
        before=before,
        after=after,
        event=draft_event(after, fact),
        next_check_s=30.0 if after.is_open else None,
        is_fenced=is_fenced,
    )


def machine_on(*stores: ExecutionStore) -> type[StoreMachine]:
    class MachineOnStores(StoreMachine):
        def __init__(self) -> None:
            super().__init__(stores)

    return MachineOnStores


SETTINGS = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class InBulk(SqlExecutionStore):
    """Claims and records by the set-based statements, beside another tenant's payment."""

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        _, outcome = self.claim_many([beside(), claim])
        assert isinstance(outcome, ClaimOutcome)
        return outcome

    def record(self, recording: Recording, /) -> PaymentExecution | None:
        other = super().claim(beside()).execution
        assert other is not None
        other_recording = recording_of(other, "success", is_fenced=False)
        assert other_recording is not None
        other_stored, stored = self.record_many([other_recording, recording])
        assert isinstance(other_stored, PaymentExecution)
        assert not isinstance(stored, RailcoreError)
        return stored


def beside() -> Claim:
    """A claim that is nobody's but its own."""
    name = uuid4()
    execution = PaymentExecution(
        execution_id=name,
        context=PaymentContext(
            tenant_id="beside",
            payment_id=name.hex,
            idempotency_key=name.hex,
            money=Money(1, SAR),
            payment_option_key="card",
        ),
        rail=PaymentRail.CARD_PSP,
        provider="stub",
        account="main",
        mode=RouteMode.SANDBOX,
    )
    return Claim(
        execution=execution,
        event=draft_event(execution),
        owner="host",
        lease_s=LONG_S,
        is_sent=True,
        check_after_s=90.0,
    )


@pytest.fixture(params=[SqlExecutionStore, InBulk])
def store_on_postgres(
    request: pytest.FixtureRequest, database_url: str
) -> Iterator[SqlExecutionStore]:
    engine = sqlalchemy.create_engine(database_url)
    yield request.param(engine)
    engine.dispose()


@pytest.mark.slow
def test_a_store_in_memory_does_what_the_model_does() -> None:
    store = InMemoryExecutionStore(SystemClock())

    run_state_machine_as_test(machine_on(store), settings=SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_stores_in_memory_and_on_postgres_do_what_the_model_does(
    store_on_postgres: SqlExecutionStore,
) -> None:
    both = machine_on(InMemoryExecutionStore(SystemClock()), store_on_postgres)
    # Shrinking takes minutes there; a mistake of all is shrunk in memory.
    few = settings(SETTINGS, max_examples=40, phases=[Phase.reuse, Phase.generate])

    run_state_machine_as_test(both, settings=few)
