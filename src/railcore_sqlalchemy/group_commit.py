"""
Group commit: what is in flight in one process shares statements.

There is no timer. A request is written at once when a connection is free; what arrives meanwhile
waits and is written together, so a lone caller pays nothing and many callers share. Each caller
goes on only after the shared commit, and one that is cancelled takes nobody along. The connection
is borrowed *before* the batch is taken, so that a pool of any size serves any number of callers.

Callers of one statement are told a few at a time. The first have then asked for their next
statement before the last go on, so that the server works while this process does; told all at once
they would march in step, each side waiting for the other.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

import attrs

from railcore.errors import RailcoreError, StoreError
from railcore.flow import adrive
from railcore_sqlalchemy.queries import Member, Request, Sharing, same, share, take
from railcore_sqlalchemy.sessions import AsyncSessions

__all__ = ["GroupCommit"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_TOLD_AT_ONCE: Final = 32
_STATEMENTS_IN_A_ROW: Final = 4
"""On one borrowed connection: then others have their turn at a small pool."""
_ENDED: Final = "the shared statement ended without an answer"


@attrs.define(eq=False)
class GroupCommit(Generic[Item, Result]):
    """
    Writes requests of one kind together.

    Attributes:
        sharing: How they share a statement.
        sessions: Where the statements run.
        size: The most requests in one statement.
        writers: How many statements run at the same time at most; each needs a connection.
    """

    sharing: Sharing[Item, Result]
    sessions: AsyncSessions
    size: int
    writers: int
    _waiting: deque[Member[Item, Result]] = attrs.field(factory=deque, init=False)
    _at_work: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False)
    _told: int = attrs.field(default=0, init=False)

    async def submit(self, request: Request[Item]) -> Result:
        """Return what became of *request*, once it is committed or refused."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        member: Member[Item, Result] = Member(request, _Reply(future, self._turn))
        self._hire(loop)
        self._waiting.append(member)
        try:
            return await future
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(member)
            raise

    def _turn(self) -> int:
        """Return after how many steps of the loop the next caller is told."""
        self._told += 1
        return (self._told - 1) // _TOLD_AT_ONCE

    def _hire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have one more write, up to ``writers``; one is done in the step in which it leaves."""
        if loop is not self._loop:  # one that is gone took its callers along
            self._loop = loop
            self._at_work.clear()
            self._waiting.clear()
        self._at_work = [task for task in self._at_work if not task.done()]
        if len(self._at_work) < self.writers:
            self._at_work.append(loop.create_task(self._work()))

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._write()
        except StoreError as error:
            if self._is_last():
                self._fail(error)
        except BaseException:
            self._fail(StoreError(_ENDED, may_have_committed=False))
            raise

    def _is_last(self) -> bool:
        return sum(not task.done() for task in self._at_work) == 1

    async def _write(self) -> None:
        batch: Sequence[Member[Item, Result]] = ()
        try:
            async with self.sessions.open() as ask:
                for _ in range(_STATEMENTS_IN_A_ROW):
                    self._told = 0
                    batch = take(self._waiting, self.size)
                    if not batch:
                        break
                    again = await adrive(share(self.sharing, batch), ask)
                    self._waiting.extendleft(reversed(again))
                    batch = [member for member in batch if member not in again]
        except BaseException:  # leave nobody waiting for ever, whatever ended the statement
            for member in batch:
                member.deliver(StoreError(_ENDED, may_have_committed=True))
            raise

    def _fail(self, error: StoreError) -> None:
        while self._waiting:
            self._waiting.popleft().deliver(same(error))


@attrs.define(eq=False)
class _Reply(Generic[Result]):
    future: "asyncio.Future[Result]"
    turn: Callable[[], int]
    is_given: bool = False

    def __call__(self, outcome: Result | RailcoreError) -> None:
        if not self.is_given:
            self.is_given = True
            self._tell(outcome, self.turn())

    def _tell(self, outcome: Result | RailcoreError, steps: int) -> None:
        if self.future.done():
            return
        if steps:
            self.future.get_loop().call_soon(self._tell, outcome, steps - 1)
        elif isinstance(outcome, RailcoreError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
