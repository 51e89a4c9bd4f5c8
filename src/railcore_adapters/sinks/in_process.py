"""Sinks of this process: a function of the host's, and a printed line."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import attrs

from railcore.errors import DeliveryError
from railcore.events import JournalEvent


@attrs.frozen
class CallableSink:
    """
    Hands each event to a function.

    The function returns when the event is kept, in a transaction of the host's for instance; it may
    be called again with the same event. What it raises means that the event was not taken, and is
    tried again later. Only the exception's type is told on, for its text may hold anything.

    Attributes:
        call: Takes the event.
        poison: Exceptions that mean that this event can never be taken.
    """

    call: Callable[[JournalEvent], object]
    poison: tuple[type[Exception], ...] = ()

    def deliver(self, event: JournalEvent, /) -> None:
        """Return once the function has returned; raise ``DeliveryError`` when it raised."""
        with _translating(self.poison):
            self.call(event)


@attrs.frozen
class AsyncCallableSink:
    """The same, for a coroutine function."""

    call: Callable[[JournalEvent], Awaitable[object]]
    poison: tuple[type[Exception], ...] = ()

    async def deliver(self, event: JournalEvent, /) -> None:
        """Return once the function has returned; raise ``DeliveryError`` when it raised."""
        with _translating(self.poison):
            await self.call(event)


@attrs.frozen
class PrintedSink:
    """
    Prints one readable line for each event. For demonstrations: a terminal keeps nothing.

    Attributes:
        write: Takes a line without its end; ``print`` by default.
    """

    write: Callable[[str], object] = print

    def deliver(self, event: JournalEvent, /) -> None:
        """Return once the line is written; raise ``DeliveryError`` when writing raised."""
        with _translating(()):
            self.write(line_of(event))


@attrs.frozen
class AsyncPrintedSink:
    """The same, asynchronous; *write* itself is not awaited."""

    write: Callable[[str], object] = print

    async def deliver(self, event: JournalEvent, /) -> None:
        """Return once the line is written; raise ``DeliveryError`` when writing raised."""
        with _translating(()):
            self.write(line_of(event))


def line_of(event: JournalEvent) -> str:
    """Return what happened, in one line for people."""
    told = event.payload
    amount, currency = told.get("amount_minor"), told.get("currency")
    facts = [
        f"{event.tenant_id}/{event.payment_id}",
        f"#{event.seq}",
        event.type.removeprefix("billing.execution."),
        *(str(one) for one in (told.get("operation"),) if one),
        *((f"{amount} {currency} (minor units)",) if amount is not None else ()),
        f"by {event.payment_rail}/{event.payment_provider}",
        *(f"({one})" for one in (_because(event),) if one),
        f"id {event.event_id}",
    ]
    return _in_one_line(" ".join(facts))


def _because(event: JournalEvent) -> object:
    names = ("pending_reason", "failure_code", "kind")
    return next((event.payload[name] for name in names if event.payload.get(name)), None)


def _in_one_line(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


@contextmanager
def _translating(poison: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except DeliveryError:
        raise
    except Exception as error:
        problem = f"the receiver raised {type(error).__name__}"
        raise DeliveryError(problem, is_poison=isinstance(error, poison)) from error
