"""Sinks that call a function or print a line."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from railcore.errors import DeliveryError
from railcore.events import EventType, JournalEvent
from railcore_adapters.sinks import (
    AsyncCallableSink,
    AsyncPrintedSink,
    CallableSink,
    PrintedSink,
)
from tests.adapters.sinks import delivered_by, event_of


def synchronous(call: Callable[[JournalEvent], object], **settings: Any) -> CallableSink:
    return CallableSink(call, **settings)


def asynchronous(call: Callable[[JournalEvent], object], **settings: Any) -> AsyncCallableSink:
    async def acall(event: JournalEvent) -> object:
        await asyncio.sleep(0)
        return call(event)

    return AsyncCallableSink(acall, **settings)


colours = pytest.mark.parametrize("sink_of", [synchronous, asynchronous])


@colours
def test_the_function_is_given_the_event(sink_of: Any) -> None:
    given: list[JournalEvent] = []

    delivered_by(sink_of(given.append))(event_of())

    assert given == [event_of()]


@colours
def test_what_the_function_raises_is_tried_again(sink_of: Any) -> None:
    def call(_: JournalEvent) -> None:
        raise KeyError("4111111111111111")

    with pytest.raises(DeliveryError) as caught:
        delivered_by(sink_of(call))(event_of())

    assert not caught.value.is_poison
    assert str(caught.value) == "the receiver raised KeyError (try again later)"


@colours
def test_the_host_says_what_is_poison(sink_of: Any) -> None:
    def call(_: JournalEvent) -> None:
        raise UnicodeError("unreadable")

    with pytest.raises(DeliveryError) as caught:
        delivered_by(sink_of(call, poison=(ValueError,)))(event_of())

    assert caught.value.is_poison


@colours
def test_the_function_may_say_it_itself(sink_of: Any) -> None:
    said = DeliveryError("no such customer", is_poison=True)

    def call(_: JournalEvent) -> None:
        raise said

    with pytest.raises(DeliveryError) as caught:
        delivered_by(sink_of(call))(event_of())

    assert caught.value is said


@colours
def test_a_stop_is_no_failure_of_an_event(sink_of: Any) -> None:
    def call(_: JournalEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delivered_by(sink_of(call))(event_of())


@pytest.mark.parametrize("sink", [PrintedSink, AsyncPrintedSink])
def test_an_event_is_one_line(sink: Any) -> None:
    lines: list[str] = []

    delivered_by(sink(lines.append))(event_of())

    told = "acme/inv-1 #1 completed charge 1250 SAR (minor units) by card_psp/stub"
    assert lines == [f"{told} id {event_of().event_id}"]


@pytest.mark.parametrize("sink", [PrintedSink, AsyncPrintedSink])
def test_a_printed_event_says_why(sink: Any, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = event_of(type=EventType.PENDING, payload={"pending_reason": "outcome\n\x1bunknown"})

    delivered_by(sink())(waiting)

    assert capsys.readouterr().out == (
        f"acme/inv-1 #1 pending by card_psp/stub (outcome??unknown) id {waiting.event_id}\n"
    )


def test_a_terminal_that_is_gone_is_tried_again() -> None:
    def write(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(DeliveryError):
        PrintedSink(write).deliver(event_of())
