"""A run from the lines of a file to a summary; ``railcore run`` and ``railcore demo`` share it."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from railcore.execution import PaymentExecution
from railcore.observability import ExecutionObserved, Observed
from railcore.ports import Observer
from railcore_adapters.cli.accounting import (
    Moved,
    Promise,
    check_books,
    check_delivery,
    check_doubt,
    check_lines,
    check_movements,
)
from railcore_adapters.cli.background import Background
from railcore_adapters.cli.billing_file import BillingFile
from railcore_adapters.cli.billing_run import Answer, execute_lines, settle
from railcore_adapters.cli.books import Books, read_books
from railcore_adapters.cli.summary import Summary
from railcore_adapters.cli.wiring import Host

People = Callable[[Sequence[PaymentExecution]], Awaitable[None]]
"""Lets the people around open payments act, in a demonstration."""

Movements = Callable[[Books], Awaitable[Sequence[Moved] | None]]
"""Returns the provider's own list of what it did; None when it shows none."""


@attrs.define
class RepeatCounter:
    """
    Counts the requests that were answered with what their key already stood for.

    Attributes:
        inner: Is told the same.
    """

    inner: Observer | None = None
    repeats: int = 0

    def observe(self, observed: Observed, /) -> None:
        """Count a repeat, and pass everything on."""
        if isinstance(observed, ExecutionObserved) and observed.is_repeat:
            self.repeats += 1
        if self.inner is not None:
            self.inner.observe(observed)


@attrs.frozen(kw_only=True)
class Run:
    """
    One run.

    Attributes:
        repeats: What the host's engine reports to.
        console: Where progress is shown.
        at_once: How many payments are in flight.
        patience_s: For how long what is in doubt is looked at.
        leaves_no_doubt: Whether a doubt that is left at the end breaks a promise.
        background: Settles by itself what is open; without it this run looks it up.
    """

    host: Host
    repeats: RepeatCounter
    console: Console
    at_once: int
    patience_s: float
    leaves_no_doubt: bool = False
    background: Background | None = None

    async def carry_out(
        self, file: BillingFile, *, movements: Movements, people: People | None = None
    ) -> Summary:
        """Execute *file*, settle what can be settled, and account for all of it."""
        started_s = time.monotonic()
        answers = await self._execute(file)
        executions = [one.execution for one in answers if one.execution is not None]
        settled = await self._settle(executions)
        if people is not None:
            self.console.print("People act", style="dim")
            await people([one for one in settled if one.is_open])
            await self._settle(await self._fresh(settled))
        if self.background is not None:
            await self.background.delivered()
        books = await read_books(
            self.host.database,
            [(line.context.tenant_id, line.context.payment_id) for line in file.lines],
        )
        promises = [_lines_answered(file, answers)]
        moved = await movements(books)
        if moved is not None:
            promises += check_movements(books, moved)
        if self.leaves_no_doubt:
            promises.append(check_doubt(books))
        if self.background is not None:
            events = self.background.events
            promises.append(check_delivery(books, events.last, events.skipped))
        return Summary(
            answers=answers,
            bad_lines=file.bad_lines,
            books=books,
            promises=[*promises, *check_books(books)],
            repeats=self.repeats.repeats,
            took_s=time.monotonic() - started_s,
        )

    async def _execute(self, file: BillingFile) -> list[Answer]:
        with _progress(self.console, "Executing", len(file.lines)) as advance:
            return await execute_lines(
                self.host.payments,
                file.lines,
                at_once=self.at_once,
                on_answer=lambda _: advance(),
            )

    async def _settle(self, executions: Sequence[PaymentExecution]) -> list[PaymentExecution]:
        if self.background is not None:
            self._tell_watch(executions)
            return await self.background.settled(executions)
        found = await settle(
            self.host.payments,
            executions,
            at_once=self.at_once,
            patience_s=self.patience_s,
            on_round=self._tell_round,
        )
        return list(found.values())

    async def _fresh(self, executions: Sequence[PaymentExecution]) -> list[PaymentExecution]:
        engine = self.host.payments
        return [
            await engine.get(one.tenant_id, one.execution_id) if one.is_open else one
            for one in executions
        ]

    def _tell_watch(self, executions: Sequence[PaymentExecution]) -> None:
        count = sum(one.is_open for one in executions)
        self.console.print(f"Leaving {count:,} open payments to the worker", style="dim")

    def _tell_round(self, count: int) -> None:
        self.console.print(f"Looking up {count:,} open payments", style="dim")


def _lines_answered(file: BillingFile, answers: Sequence[Answer]) -> Promise:
    counted = Counter(_end_of(answer) for answer in answers)
    return check_lines(
        len(file.lines),
        with_execution=counted["execution"],
        refused=counted["refusal"],
        unanswered=counted["trouble"],
    )


def _end_of(answer: Answer) -> str:
    if answer.execution is not None:
        return "execution"
    return "trouble" if answer.refusal is None else "refusal"


@contextmanager
def _progress(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield what advances a bar in a terminal; a log gets one line."""
    if not console.is_terminal:
        console.print(f"{what} {total:,} lines", style="dim")
        yield lambda: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
