"""
Executing the lines of a billing file, many at a time, and settling what they left open.

Lines that share a key or a payment go one after the other in the order of the file, so that the
first of two conflicting lines is the one that counts. Running the same lines again is harmless: a
known key is answered with what it already stands for.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.engine import AsyncPaymentEngine
from railcore.enums import PendingReason
from railcore.errors import (
    ExecutionNotFoundError,
    InProgressError,
    OutcomeUnknownError,
    RailcoreError,
    RefusedError,
    StoreError,
)
from railcore.execution import PaymentExecution
from railcore_adapters.cli.billing_file import Line

T = TypeVar("T")
R = TypeVar("R")

_STORE_TRIES: Final = 4
_BUSY_FOR_S: Final = 15.0
_QUIET_LOOKS: Final = 2
_PAUSES_S: Final = (0.05, 1.0)
_WAITS_FOR_PEOPLE: Final = frozenset({PendingReason.AWAITING_FUNDS, PendingReason.MANUAL_REVIEW})


@attrs.frozen(kw_only=True)
class Answer:
    """
    What became of a line: exactly one of the three.

    Attributes:
        execution: It is, or already was, this execution.
        refusal: It was refused before anything was sent.
        trouble: Nobody knows yet; running the file again finds out. Holds no secret.
    """

    line: Line
    execution: PaymentExecution | None = None
    refusal: RefusedError | ExecutionNotFoundError | None = None
    trouble: str | None = None


async def execute_lines(
    engine: AsyncPaymentEngine,
    lines: Sequence[Line],
    *,
    at_once: int,
    on_answer: Callable[[Answer], None],
) -> list[Answer]:
    """Return the answer to each line, in their order, with *at_once* of them in flight."""
    turns = _Turns()

    async def one(line: Line) -> Answer:
        async with turns.of(line.context):
            answer = await _answer(engine, line)
        on_answer(answer)
        return answer

    return await each(lines, one, at_once=at_once)


async def settle(
    engine: AsyncPaymentEngine,
    executions: Iterable[PaymentExecution],
    *,
    at_once: int,
    patience_s: float,
    on_round: Callable[[int], None],
) -> dict[UUID, PaymentExecution]:
    """
    Return the executions after looking at the open ones until nothing changes any more.

    What is in doubt is looked at until the doubt is over, leases of others are waited out, and both
    end with *patience_s*. What waits for people is left alone.
    """
    known = {one.execution_id: _Watched(one) for one in executions}
    ends_at_s, pause_s = time.monotonic() + patience_s, _PAUSES_S[0]
    while worth_it := [one for one in known.values() if one.is_worth_a_look]:
        on_round(len(worth_it))
        before = [one.execution.version for one in worth_it]
        await each(worth_it, lambda one: one.look(engine), at_once=at_once)
        if time.monotonic() > ends_at_s:
            break
        moved = before != [one.execution.version for one in worth_it]
        pause_s = _PAUSES_S[0] if moved else min(2 * pause_s, _PAUSES_S[1])
        await asyncio.sleep(pause_s)
    return {name: one.execution for name, one in known.items()}


@attrs.define
class _Watched:
    """An execution, and how often it was looked at without news."""

    execution: PaymentExecution
    quiet_looks: int = 0

    @property
    def is_worth_a_look(self) -> bool:
        """Whether asking may tell more now: not people, and not what has just said nothing new."""
        execution = self.execution
        if not execution.is_open or execution.pending_reason in _WAITS_FOR_PEOPLE:
            return False
        return execution.is_in_doubt or self.quiet_looks < _QUIET_LOOKS

    async def look(self, engine: AsyncPaymentEngine) -> None:
        """Look once. What cannot be asked now stays as it is, and due."""
        execution = self.execution
        with suppress(Exception):  # a rail that breaks was observed, and recorded as unknown
            self.execution = await engine.refresh(execution.tenant_id, execution.execution_id)
        is_news = self.execution.version != execution.version
        self.quiet_looks = 0 if is_news else self.quiet_looks + 1


async def each(items: Iterable[T], act: Callable[[T], Awaitable[R]], *, at_once: int) -> list[R]:
    """Return what *act* returns for each item, in their order, with *at_once* of them in flight."""
    waiting, done = iter(enumerate(items)), dict[int, R]()

    async def work() -> None:
        for place, item in waiting:
            done[place] = await act(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return [done[place] for place in sorted(done)]


class _Turns:
    """Lets lines that share a key or a payment go one after the other."""

    def __init__(self) -> None:
        self._last = dict[tuple[str, str, str], asyncio.Event]()

    @asynccontextmanager
    async def of(self, context: PaymentContext) -> AsyncIterator[None]:
        """Wait for the lines before; those after wait until this one is done."""
        names = (
            (context.tenant_id, "key", context.idempotency_key),
            (context.tenant_id, "payment", context.payment_id),
        )
        before = [self._last[name] for name in names if name in self._last]
        mine = asyncio.Event()
        self._last.update(dict.fromkeys(names, mine))
        try:
            for other in before:
                await other.wait()
            yield
        finally:
            mine.set()


async def _answer(engine: AsyncPaymentEngine, line: Line) -> Answer:
    try:
        return Answer(line=line, execution=await _executed(engine, await _whole(engine, line)))
    except (RefusedError, ExecutionNotFoundError) as refusal:
        return Answer(line=line, refusal=refusal)
    except OutcomeUnknownError as error:
        return await _stored(engine, line, str(error))
    except (InProgressError, StoreError) as error:
        return Answer(line=line, trouble=str(error))
    except Exception as error:  # noqa: BLE001 - one broken rail or row never stops the others
        return await _stored(engine, line, _told(error))


async def _whole(engine: AsyncPaymentEngine, line: Line) -> PaymentContext:
    """Return what *line* asks for, with its parent found by key."""
    context, key = line.context, line.parent_key
    if key is None:
        return context
    parent = await engine.find(context.tenant_id, key)
    if parent is None:
        raise ExecutionNotFoundError(context.tenant_id, key)
    return attrs.evolve(context, parent_execution_id=parent.execution_id)


async def _executed(engine: AsyncPaymentEngine, context: PaymentContext) -> PaymentExecution:
    """Execute, patiently: the same key finds out what became of a claim that may have been lost."""
    ends_at_s, tries = time.monotonic() + _BUSY_FOR_S, 0
    while True:
        try:
            return await engine.execute(context)
        except InProgressError as error:
            if time.monotonic() > ends_at_s:
                raise
            await asyncio.sleep(error.retry_after.total_seconds())
        except StoreError:
            tries += 1
            if tries >= _STORE_TRIES:
                raise
            await asyncio.sleep(0.1 * 2**tries)


async def _stored(engine: AsyncPaymentEngine, line: Line, trouble: str) -> Answer:
    """Return the execution that a line left behind when its outcome could not be told."""
    context = line.context
    with suppress(RailcoreError):
        found = await engine.find(context.tenant_id, context.idempotency_key)
        if found is not None:
            return Answer(line=line, execution=found)
    return Answer(line=line, trouble=trouble)


def _told(error: Exception) -> str:
    """Return what may be said of *error*: our own words, and of others only the kind."""
    return str(error) if isinstance(error, RailcoreError) else type(error).__name__
