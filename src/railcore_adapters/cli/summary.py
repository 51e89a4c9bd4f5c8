"""What a run came to, as values: counted once, shown as tables or as JSON."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from railcore.enums import ExecutionStatus, Operation, PendingReason
from railcore.errors import (
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    InDoubtError,
    LimitExceededError,
    LiveExecutionExists,
    RouteNotFoundError,
    UnsupportedOperationError,
)
from railcore.failures import PaymentFailureCode
from railcore.money import Currency, Money
from railcore_adapters.cli.accounting import Promise
from railcore_adapters.cli.billing_file import BadLine
from railcore_adapters.cli.billing_run import Answer
from railcore_adapters.cli.books import Books, ExecutionRow

SETTLED: Final = 0
"""Exit status: every line is settled, or waits for the payer, an operator or the provider."""

NEEDS_ATTENTION: Final = 1
"""Exit status: a bad line, a refused one, or a payment whose outcome is still in doubt."""

BROKEN: Final = 3
"""Exit status: a promise of railcore is broken."""

_KINDS: Final[Mapping[type[Exception], str]] = {
    IdempotencyConflict: "idempotency_conflict",
    RouteNotFoundError: "route_not_found",
    UnsupportedOperationError: "unsupported_operation",
    LiveExecutionExists: "live_execution_exists",
    InDoubtError: "in_doubt",
    LimitExceededError: "limit_exceeded",
    CurrencyMismatchError: "currency_mismatch",
    ExecutionNotFoundError: "execution_not_found",
}


@attrs.frozen(kw_only=True)
class Group:
    """
    Executions that are alike: same rail, operation, status and reason to wait.

    Attributes:
        amounts: Minor units by currency.
        next_check_at: When the first and the last of them are looked at again.
    """

    rail: str
    operation: Operation
    status: ExecutionStatus
    reason: PendingReason | None
    count: int
    amounts: Mapping[str, int]
    next_check_at: tuple[datetime, datetime] | None

    @property
    def money(self) -> Mapping[str, Money]:
        """The same as money."""
        return {code: Money(minor, Currency.of(code)) for code, minor in self.amounts.items()}


@attrs.frozen(kw_only=True)
class Summary:
    """
    What a run came to.

    Attributes:
        answers: One for each line that could be read, in their order.
        books: What the tables say of the file's payments.
        repeats: How many lines were answered with what their key already stood for.
        took_s: From the first line to the last promise.
    """

    answers: Sequence[Answer]
    bad_lines: Sequence[BadLine]
    books: Books
    promises: Sequence[Promise]
    repeats: int
    took_s: float

    @property
    def groups(self) -> list[Group]:
        """The executions by rail, operation and status."""
        grouped: defaultdict[tuple[str, int, int, str], list[ExecutionRow]] = defaultdict(list)
        for one in self.books.executions:
            step = list(Operation).index(Operation(one.operation))
            place = list(ExecutionStatus).index(one.status)
            grouped[one.rail.value, step, -place, one.pending_reason or ""].append(one)
        return [_group(rows) for _, rows in sorted(grouped.items())]

    @property
    def open_groups(self) -> list[Group]:
        """Those that are still open."""
        return [group for group in self.groups if not group.status.is_terminal]

    @property
    def failures(self) -> Mapping[PaymentFailureCode, int]:
        """How many executions failed, by code."""
        codes = Counter(one.failure_code for one in self.books.executions if one.failure_code)
        return {PaymentFailureCode(code): count for code, count in codes.most_common()}

    @property
    def refusals(self) -> Mapping[str, Sequence[Answer]]:
        """The lines that were refused before anything was sent, by kind."""
        grouped: defaultdict[str, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            if answer.refusal is not None:
                grouped[kind_of(answer)].append(answer)
        return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))

    @property
    def in_doubt(self) -> int:
        """How many executions are open without anybody to wait for."""
        return sum(one.is_in_doubt for one in self.books.executions)

    @property
    def exit_status(self) -> int:
        """What the command ends with."""
        if not all(promise.is_kept for promise in self.promises):
            return BROKEN
        needs_attention = self.bad_lines or self.refusals or self.in_doubt
        return NEEDS_ATTENTION if needs_attention else SETTLED


def kind_of(answer: Answer) -> str:
    """Return the kind of a refusal, in one word."""
    return next(
        (word for kind, word in _KINDS.items() if isinstance(answer.refusal, kind)), "refused"
    )


def as_json(summary: Summary, exit_status: int) -> dict[str, object]:
    """Return *summary* for programs, with what the command ends with."""
    return {
        "lines": len(summary.answers) + len(summary.bad_lines),
        "bad_lines": [attrs.asdict(bad) for bad in summary.bad_lines],
        "repeats": summary.repeats,
        "executions": [_group_as_json(group) for group in summary.groups],
        "failures": {code.value: count for code, count in summary.failures.items()},
        "refused_lines": [
            {"number": answer.line.number, "kind": kind, "reason": str(answer.refusal)}
            for kind, answers in summary.refusals.items()
            for answer in answers
        ],
        "unanswered_lines": [
            {"number": answer.line.number, "reason": answer.trouble}
            for answer in summary.answers
            if answer.trouble is not None
        ],
        "in_doubt": summary.in_doubt,
        "discrepancies": summary.books.discrepancies,
        "promises": [
            {**attrs.asdict(promise), "is_kept": promise.is_kept} for promise in summary.promises
        ],
        "took_s": round(summary.took_s, 3),
        "exit_status": exit_status,
    }


def _group(rows: Sequence[ExecutionRow]) -> Group:
    amounts = Counter[str]()
    for one in rows:
        amounts[one.currency] += one.amount_minor
    due = [one.next_check_at for one in rows if one.next_check_at is not None]
    return Group(
        rail=rows[0].rail.value,
        operation=Operation(rows[0].operation),
        status=rows[0].status,
        reason=rows[0].pending_reason,
        count=len(rows),
        amounts=dict(sorted(amounts.items())),
        next_check_at=(min(due), max(due)) if due else None,
    )


def _group_as_json(group: Group) -> dict[str, object]:
    due = group.next_check_at
    return {
        "rail": group.rail,
        "operation": group.operation.value,
        "status": group.status.value,
        "pending_reason": group.reason,
        "count": group.count,
        "amounts": {code: f"{money.to_major():f}" for code, money in group.money.items()},
        "next_check_at": None if due is None else due[0].isoformat(),
    }
