"""
Do the books add up? Each promise of railcore as one question to the rows, with a count.

Everything here is pure: rows and the provider's own list of charges in, promises out. A promise
that is broken names the payments concerned.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar
from uuid import UUID

import attrs

from railcore.enums import ExecutionStatus, Operation, PaymentRail
from railcore.money import Currency, Money
from railcore_adapters.cli.books import (
    Books,
    EventRow,
    ExecutionRow,
    HeadRow,
    PaymentName,
    TransferRow,
)

T = TypeVar("T")
K = TypeVar("K")

_CONFIRMED_BY_PEOPLE: Final = frozenset({PaymentRail.MANUAL_SETTLEMENT, PaymentRail.BANK_TRANSFER})
_AT_THE_PROVIDER: Final = frozenset({PaymentRail.CARD_PSP, PaymentRail.OPEN_BANKING_PIS})


class Moved(Protocol):
    """A charge, an authorization, a capture, a void or a refund in the provider's own list."""

    @property
    def id(self) -> str:
        """The provider's name of it."""
        ...

    @property
    def reference(self) -> str:
        """The key that it was asked with."""
        ...

    @property
    def amount_minor(self) -> int:
        """How much."""
        ...

    @property
    def currency(self) -> str:
        """Of what."""
        ...


@attrs.frozen(kw_only=True)
class Promise:
    """
    One promise, and whether it was kept.

    Attributes:
        text: The promise, for people.
        count: How much was looked at.
        unit: Of what.
        broken: What breaks it, one short sentence each.
    """

    text: str
    count: int
    unit: str
    broken: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether nothing breaks it."""
        return not self.broken


def check_books(books: Books) -> list[Promise]:
    """Return the promises that our own tables can keep or break by themselves."""
    return [
        _one_execution_a_key(books),
        _contiguous(books),
        _one_event_a_change(books),
        _sums_follow(books),
        _wallets_balance(books),
        _wallet_payments_moved_once(books),
        _named_people(books),
        _nothing_forgotten(books),
    ]


def check_lines(lines: int, *, with_execution: int, refused: int, unanswered: int) -> Promise:
    """Return whether each line of the file ended in an execution or a typed refusal."""
    lost = lines - with_execution - refused - unanswered
    broken = (f"{lost} lines have no answer at all",) if lost else ()
    if unanswered:
        broken = (*broken, f"{unanswered} lines could not be answered; run the file again")
    text = "Every line was answered: a payment, or a refusal before anything was sent"
    return Promise(text=text, count=lines, unit="lines", broken=broken)


def check_movements(books: Books, movements: Sequence[Moved]) -> list[Promise]:
    """Return whether our executions and the provider's own list of *movements* tell the same."""
    ours = {one.provider_key: one for one in books.executions if one.rail in _AT_THE_PROVIDER}
    moved = _by(movements, lambda movement: movement.reference)
    completed = [one for one in ours.values() if one.status is ExecutionStatus.COMPLETED]
    never = [one for one in completed if one.provider_key not in moved]
    return [
        Promise(
            text="Nothing was charged, captured or refunded twice",
            count=len(moved),
            unit="references",
            broken=tuple(_twice(moved)),
        ),
        Promise(
            text="Nothing was lost: what the provider did is a payment here, of that amount",
            count=len(movements),
            unit="movements",
            broken=tuple(_unknown(ours, movements)),
        ),
        Promise(
            text="Nothing was made up: what is completed here took place at the provider",
            count=len(completed),
            unit="payments",
            broken=tuple(f"{_named(one)} is completed and never took place" for one in never),
        ),
    ]


def check_doubt(books: Books) -> Promise:
    """Return whether every outcome is known, as it must be once all doubt had its time."""
    in_doubt = [one for one in books.executions if one.is_in_doubt]
    return Promise(
        text="No doubt is left: every lost answer was found again",
        count=len(books.executions),
        unit="payments",
        broken=tuple(f"the outcome of {_named(one)} is unknown" for one in in_doubt),
    )


def check_delivery(
    books: Books, delivered: Mapping[PaymentName, int], skipped: Sequence[str]
) -> Promise:
    """
    Return whether every event came to the sink, each payment's in order from the first.

    Late news may have come after the books were read, so that more was delivered than they tell.
    """
    newest = {head.name: head.seq for head in books.heads}
    missing = (
        f"{'/'.join(name)}: {delivered.get(name, 0)} of {seq} events came"
        for name, seq in sorted(newest.items())
        if delivered.get(name, 0) < seq
    )
    return Promise(
        text="Every event was delivered, and those of each payment in order",
        count=sum(newest.values()),
        unit="events",
        broken=(*skipped, *missing),
    )


def _twice(moved: Mapping[str, Sequence[Moved]]) -> Iterator[str]:
    for reference, movements in moved.items():
        if len(movements) > 1:
            ids = ", ".join(movement.id for movement in movements)
            yield f"reference {reference} took place {len(movements)} times: {ids}"


def _unknown(ours: Mapping[str, ExecutionRow], movements: Iterable[Moved]) -> Iterator[str]:
    for moved in movements:
        known = ours.get(moved.reference)
        if known is None:
            yield f"{moved.id} at the provider belongs to no execution"
        elif known.status is ExecutionStatus.FAILED:
            yield f"{_named(known)} is called failed, but took place as {moved.id}"
        elif (moved.amount_minor, moved.currency) != (known.amount_minor, known.currency):
            asked = _money(known.amount_minor, known.currency)
            taken = _money(moved.amount_minor, moved.currency)
            yield f"{_named(known)} is {asked}, but {taken} took place as {moved.id}"


def _one_execution_a_key(books: Books) -> Promise:
    keys = Counter((one.tenant_id, one.idempotency_key) for one in books.executions)
    broken = [f"key {key} of {tenant} stands for {n}" for (tenant, key), n in keys.items() if n > 1]
    return Promise(
        text="Every key stands for one execution, however often it came",
        count=len(keys),
        unit="keys",
        broken=tuple(broken),
    )


def _contiguous(books: Books) -> Promise:
    journals = _by(books.events, lambda event: event.name)
    heads = {head.name: head.seq for head in books.heads}
    wrong = [name for name, last in heads.items() if not _counts_to(journals.get(name, ()), last)]
    wrong += [name for name in journals if name not in heads]
    return Promise(
        text="Every payment's journal is numbered 1, 2, 3 ... without a gap",
        count=len(heads),
        unit="payments",
        broken=tuple(f"{_payment(name)} has gaps in its journal" for name in wrong),
    )


def _counts_to(events: Sequence[EventRow], last: int) -> bool:
    return [event.seq for event in events] == list(range(1, last + 1))


def _one_event_a_change(books: Books) -> Promise:
    changes = [event for event in books.events if event.version is not None]
    told = _by(changes, lambda event: event.execution_id)
    wrong = [one for one in books.executions if not _tells(told.get(one.execution_id, ()), one)]
    return Promise(
        text="Every change has exactly one event, and together they tell the whole story",
        count=len(changes),
        unit="events",
        broken=tuple(f"the events of {_named(one)} do not lead to what it is" for one in wrong),
    )


def _tells(events: Sequence[EventRow], execution: ExecutionRow) -> bool:
    """Return whether the events step from nothing to what the execution is, version by version."""
    versions = [event.version for event in events]
    states = ["none", *(event.to_status for event in events)]
    return (
        versions == list(range(1, execution.version + 1))
        and [event.from_status for event in events] == states[:-1]
        and states[-1] == execution.status
    )


@attrs.define
class _Sums:
    """What the sums of a payment have to be, by its executions."""

    charging: int = 0
    authorized: int = 0
    capturing: int = 0
    captured: int = 0
    voiding: int = 0
    voided: int = 0
    refunding: int = 0
    refunded: int = 0

    def add(self, execution: ExecutionRow) -> None:
        """Count *execution* in."""
        doing, done = _COUNTS[Operation(execution.operation)]
        match execution.status:
            case ExecutionStatus.COMPLETED:
                names: tuple[str, ...] = done
            case ExecutionStatus.FAILED:
                names = ()
            case _:
                names = (doing,)
        for name in names:
            setattr(self, name, getattr(self, name) + execution.amount_minor)


_COUNTS: Final[Mapping[Operation, tuple[str, tuple[str, ...]]]] = {
    Operation.CHARGE: ("charging", ("authorized", "captured")),
    Operation.AUTHORIZE: ("charging", ("authorized",)),
    Operation.CAPTURE: ("capturing", ("captured",)),
    Operation.VOID: ("voiding", ("voided",)),
    Operation.REFUND: ("refunding", ("refunded",)),
}


def _sums_follow(books: Books) -> Promise:
    sums: defaultdict[PaymentName, _Sums] = defaultdict(_Sums)
    for execution in books.executions:
        sums[execution.name].add(execution)
    wrong = [head.name for head in books.heads if _sums_of(head) != attrs.asdict(sums[head.name])]
    return Promise(
        text="Every payment's sums follow from its executions, and none exceeds what is due",
        count=len(books.heads),
        unit="payments",
        broken=(
            *(f"the sums of {_payment(name)} do not follow from its executions" for name in wrong),
            *(f"{_payment(head.name)} exceeds what is due" for head in books.heads if _over(head)),
        ),
    )


def _sums_of(head: HeadRow) -> Mapping[str, int]:
    return {field.name: getattr(head, field.name) for field in attrs.fields(_Sums)}


def _over(head: HeadRow) -> bool:
    return head.charging + head.authorized - head.voided > head.due_minor


def _wallets_balance(books: Books) -> Promise:
    broken, totals = list[str](), Counter[str]()
    for row in books.wallets:
        totals[row.currency] += row.credits - row.debits
        mine = (row.credits_posted, row.debits_posted, row.debits_pending)
        if row.kind == "customer" and mine != (row.credits, row.debits, row.held):
            broken.append(f"wallet {row.account_id} does not have what its transfers made")
        if row.kind == "customer" and row.credits < row.debits + row.held:
            broken.append(f"wallet {row.account_id} is overdrawn")
    broken += [f"{_money(rest, code)} is left over" for code, rest in totals.items() if rest]
    return Promise(
        text="Wallet debits equal credits in every currency, and no wallet is below zero",
        count=len(books.wallets),
        unit="accounts",
        broken=tuple(broken),
    )


def _wallet_payments_moved_once(books: Books) -> Promise:
    made = _by(books.transfers, lambda transfer: transfer.reference)
    payments = [one for one in books.executions if one.rail is PaymentRail.WALLET]
    wrong = [one for one in payments if not _moved_as_told(one, made)]
    return Promise(
        text="Every wallet payment moved its amount once if completed, and nothing if failed",
        count=len(payments),
        unit="payments",
        broken=tuple(f"the transfers of {_named(one)} are not what it says" for one in wrong),
    )


def _moved_as_told(execution: ExecutionRow, made: Mapping[UUID, Sequence[TransferRow]]) -> bool:
    transfers = made.get(execution.execution_id, ())
    moved = [one.amount_minor for one in transfers if one.kind in _MOVES]
    if execution.status is ExecutionStatus.COMPLETED and execution.operation in _MOVING:
        return moved == [execution.amount_minor]
    return execution.is_open or not moved


_MOVES: Final = frozenset({"single", "post"})
_MOVING: Final = frozenset({Operation.CHARGE, Operation.CAPTURE, Operation.REFUND})


def _named_people(books: Books) -> Promise:
    confirmed = {
        one.execution_id: one
        for one in books.executions
        if one.rail in _CONFIRMED_BY_PEOPLE and one.status is ExecutionStatus.COMPLETED
    }
    signed = {
        event.execution_id
        for event in books.events
        if event.to_status == ExecutionStatus.COMPLETED and event.actor and event.evidence
    }
    unsigned = [one for name, one in confirmed.items() if name not in signed]
    return Promise(
        text="Money that people confirmed names who did it, and on what evidence",
        count=len(confirmed),
        unit="confirmations",
        broken=tuple(f"nobody signed for {_named(one)}" for one in unsigned),
    )


def _nothing_forgotten(books: Books) -> Promise:
    still_open = [one for one in books.executions if one.is_open]
    forgotten = [one for one in still_open if not isinstance(one.next_check_at, datetime)]
    return Promise(
        text="No open payment is forgotten: each has a date at which it is looked at again",
        count=len(still_open),
        unit="payments",
        broken=tuple(f"nobody will look at {_named(one)}" for one in forgotten),
    )


def _by(rows: Iterable[T], key: Callable[[T], K]) -> Mapping[K, Sequence[T]]:
    grouped: defaultdict[K, list[T]] = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row)
    return grouped


def _named(execution: ExecutionRow) -> str:
    return f"{_payment(execution.name)} (key {execution.idempotency_key})"


def _payment(name: PaymentName) -> str:
    return f"payment {name[1]} of {name[0]}"


def _money(amount_minor: int, code: str) -> str:
    return str(Money(amount_minor, Currency.of(code)))
