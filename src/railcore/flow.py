"""
Running flows.

A *flow* is a generator that asks for something (an HTTP request, a wallet transfer), is sent the
answer, and returns a result. It knows no clock, no connection and no concurrency; ``drive`` and
``adrive`` bring those. An exception raised while answering is thrown into the flow at its
``yield``, where the flow says what it means for the money.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Never, TypeVar

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


def drive(flow: Generator[Ask, Reply, Result], answer: Callable[[Ask], Reply]) -> Result:
    """Return the result of *flow*, answering each thing that it asks for with *answer*."""
    try:
        ask = next(flow)
        while True:
            try:
                reply = answer(ask)
            except Exception as error:  # noqa: BLE001 - the flow decides; what it does not know it raises again
                ask = flow.throw(error)
            else:
                ask = flow.send(reply)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        flow.close()


async def adrive(
    flow: Generator[Ask, Reply, Result], answer: Callable[[Ask], Awaitable[Reply]]
) -> Result:
    """
    Return the result of *flow*, awaiting *answer* for each thing that it asks for.

    Cancellation closes the flow.
    """
    try:
        ask = next(flow)
        while True:
            try:
                reply = await answer(ask)
            except Exception as error:  # noqa: BLE001 - the flow decides; what it does not know it raises again
                ask = flow.throw(error)
            else:
                ask = flow.send(reply)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        flow.close()


def answered(result: Result) -> Generator[Never, object, Result]:
    """Return a flow that knows its result without asking anybody."""
    yield from ()
    return result
