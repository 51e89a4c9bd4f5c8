"""Test a flow as a dialogue: what it asks for, what it is answered, what it makes of that."""

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


class Conversation(Generic[Ask, Reply, Result]):
    """
    A flow that the test answers, step by step.

    >>> def greeting():
    ...     name = yield "your name?"
    ...     return f"hello {name}"
    >>> talk = Conversation(greeting())
    >>> talk.asks
    'your name?'
    >>> talk.answer("Ada")
    >>> talk.result
    'hello Ada'
    """

    def __init__(self, flow: Generator[Ask, Reply, Result]) -> None:
        self._flow = flow
        self._asks = list[Ask]()
        self._results = list[Result]()
        self._go_on(lambda: next(flow))

    @property
    def asks(self) -> Ask:
        """What the flow waits for now; an ``AssertionError`` when it has ended."""
        assert self._asks, f"the flow asks for nothing more; it ended with {self._results}"
        return self._asks[-1]

    @property
    def result(self) -> Result:
        """How the flow ended; an ``AssertionError`` while it still asks."""
        assert self._results, f"the flow has not ended; it asks for {self._asks}"
        return self._results[-1]

    @property
    def is_over(self) -> bool:
        """Whether the flow has ended."""
        return bool(self._results)

    def answer(self, reply: Reply) -> None:
        """Give the flow what it asks for."""
        _ = self.asks
        self._go_on(lambda: self._flow.send(reply))

    def fail(self, error: Exception) -> None:
        """Let what the flow asks for fail with *error*."""
        _ = self.asks
        self._go_on(lambda: self._flow.throw(error))

    def _go_on(self, step: Callable[[], Ask]) -> None:
        self._asks.clear()
        try:
            self._asks.append(step())
        except StopIteration as end:
            self._results.append(end.value)
