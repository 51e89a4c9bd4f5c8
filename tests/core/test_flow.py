"""The two drivers run any flow alike, and let go of it whatever happens."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest

from railcore.flow import adrive, answered, drive

Flow = Generator[int, int, str]
Driver = Callable[[Generator[Any, Any, Any], Callable[[Any], Any]], Any]


def asynchronously(flow: Generator[Any, Any, Any], answer: Callable[[Any], Any]) -> Any:
    async def answer_later(ask: Any) -> Any:
        await asyncio.sleep(0)
        return answer(ask)

    return asyncio.run(adrive(flow, answer_later))


@pytest.fixture(params=[drive, asynchronously], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Driver:
    driver: Driver = request.param
    return driver


class Broken(Exception):
    pass


def double(ask: int) -> int:
    return 2 * ask


def fail(_: int) -> int:
    raise Broken


def interrupt(_: int) -> int:
    raise KeyboardInterrupt


def end_early(_: int) -> int:
    raise StopIteration


def three_times(log: list[int]) -> Flow:
    log.append((yield 1))
    log.append((yield 2))
    log.append((yield 3))
    return "done"


def careful(log: list[str]) -> Flow:
    try:
        yield 1
    except Broken:
        log.append("told")
        answer = yield 2
        return f"after {answer}"
    finally:
        log.append("closed")
    return "never"


def test_each_ask_is_sent_its_answer(run: Driver) -> None:
    log = list[int]()

    assert run(three_times(log), double) == "done"
    assert log == [2, 4, 6]


def test_a_flow_that_knows_its_answer_asks_nobody(run: Driver) -> None:
    assert run(answered("known"), fail) == "known"


def test_an_error_while_answering_is_the_flows_to_judge(run: Driver) -> None:
    log = list[str]()

    assert run(careful(log), lambda ask: fail(ask) if ask == 1 else double(ask)) == "after 4"
    assert log == ["told", "closed"]


def test_what_a_flow_does_not_know_it_raises_again(run: Driver) -> None:
    with pytest.raises(Broken):
        run(three_times([]), fail)


def test_an_interrupt_closes_the_flow_and_is_not_the_flows_to_judge(run: Driver) -> None:
    log = list[str]()

    with pytest.raises(KeyboardInterrupt):
        run(careful(log), interrupt)

    assert log == ["closed"]


def test_an_answerer_cannot_end_a_flow(run: Driver) -> None:
    with pytest.raises(RuntimeError):
        run(three_times([]), end_early)


def test_a_cancelled_conversation_closes_the_flow() -> None:
    log = list[str]()

    async def story() -> None:
        begun = asyncio.Event()

        async def hang(_: int) -> int:
            begun.set()
            await asyncio.sleep(3600)
            return 0

        task = asyncio.create_task(adrive(careful(log), hang))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())

    assert log == ["closed"]
