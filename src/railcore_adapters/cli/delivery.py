"""
Where ``railcore worker`` delivers events: the table ``[events]`` of the configuration.

``to`` names the sink, and each has names of its own beside it. The receiver's address may be in the
file as ``url``; one that holds a password belongs into ``RAILCORE_EVENTS_URL``, which comes first.
The secrets that sign HTTP deliveries come from ``RAILCORE_EVENTS_SECRET``: one, or two with a blank
between while one follows the other.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit

import attrs

from railcore.errors import DeliveryError, MisconfiguredError
from railcore.events import JournalEvent
from railcore.ports import AsyncEventSink
from railcore.redaction import Secret
from railcore_adapters.sinks import AsyncHttpSink, Endpoint, FastStreamSink, Targets

__all__ = ["ADDRESS", "SECRET", "ConfiguredSink", "sink_of"]

ADDRESS: Final = "RAILCORE_EVENTS_URL"
SECRET: Final = "RAILCORE_EVENTS_SECRET"  # noqa: S105 - a variable's name

_NEEDED: Final[Mapping[str, frozenset[str]]] = {
    "http": frozenset(),
    "kafka": frozenset({"topic"}),
    "nats": frozenset({"stream", "subject"}),
    "rabbit": frozenset(),
    "redis": frozenset({"stream"}),
}
_POSSIBLE: Final[Mapping[str, frozenset[str]]] = {
    "http": frozenset({"allows_loopback", "private_networks"}),
    "nats": frozenset({"least_window_s"}),
    "rabbit": frozenset({"exchange", "routing_key"}),
}
_ALWAYS: Final = frozenset({"to", "url", "source"})
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "allows_loopback": (bool,),
    "private_networks": (list,),
    "least_window_s": (int, float),
}
"""Everything else is text."""


@attrs.define
class ConfiguredSink:
    """
    A sink that is opened when it can be: a broker that is down must not keep payments waiting.

    Attributes:
        make: Returns a new sink, not yet open.
        sink: The one that is open.
    """

    make: Callable[[], Any]  # sinks with ``async with``: that of HTTP and those to brokers
    sink: Any = None
    _opening: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    async def deliver(self, event: JournalEvent, /) -> None:
        """Return when the receiver has *event*; raise ``DeliveryError`` otherwise."""
        sink = await self._opened()
        await sink.deliver(event)

    async def __aenter__(self) -> Self:
        """
        Open the sink; when its receiver cannot be reached, that is left to the first delivery.

        Raises:
            MisconfiguredError: The receiver would lose what it acknowledges.
        """
        try:
            self.sink = await self.make().__aenter__()
        except DeliveryError:
            self.sink = None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.sink is not None:
            await self.sink.aclose()

    async def _opened(self) -> AsyncEventSink:
        async with self._opening:
            if self.sink is None:
                try:
                    self.sink = await self.make().__aenter__()
                except MisconfiguredError as error:
                    raise DeliveryError(str(error)) from error
            sink: AsyncEventSink = self.sink
            return sink


def sink_of(
    events: Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> ConfiguredSink:
    """
    Return the sink that the table ``[events]`` asks for, to be opened with ``async with``.

    Raises:
        MisconfiguredError: No sink is called so, something is missing or not known, the address
            is not fit, or a secret is not set. No address and no secret is told.
    """
    to = events.get("to")
    if not isinstance(to, str) or to not in _NEEDED:
        raise MisconfiguredError("events.to", f"found {to!r}", f"Sinks are {', '.join(_NEEDED)}")
    options = _options(to, events)
    url = environment.get(ADDRESS) or events.get("url")
    if not isinstance(url, str) or not url:
        raise MisconfiguredError(ADDRESS, "no address", "Set it, or events.url in the file")
    if to != "http":
        make = getattr(FastStreamSink, to)
        try:
            make(url, **options)
        except MisconfiguredError:
            raise
        except ValueError:  # whose text may hold the address
            raise MisconfiguredError(ADDRESS, "is no address", "Correct it") from None
        return ConfiguredSink(lambda: make(url, **options))
    secrets = tuple(map(Secret, environment.get(SECRET, "").split()))
    if not secrets:
        raise MisconfiguredError(SECRET, "no secret to sign with", "Set this environment variable")
    endpoint, parts = Endpoint(url, secrets), urlsplit(url)
    networks, here = options.pop("private_networks", ()), options.pop("allows_loopback", False)
    targets = Targets(
        origins=[f"{parts.scheme}://{parts.netloc}"],
        private_networks=networks,
        allows_loopback=here,
    )
    targets.check(url)
    return ConfiguredSink(lambda: AsyncHttpSink(endpoint, targets, **options))


def _options(to: str, events: Mapping[str, object]) -> dict[str, Any]:
    """Return what *to* is told besides its address, checked."""
    found, needed = set(events), _NEEDED[to]
    if missing := sorted(needed - found):
        remedy = f"{to} needs {', '.join(sorted(needed))}"
        raise MisconfiguredError("events", f"lacks {', '.join(missing)}", remedy)
    allowed = needed | _POSSIBLE.get(to, frozenset()) | _ALWAYS
    if unknown := sorted(found - allowed):
        problem = f"{to} knows no {', '.join(unknown)}"
        raise MisconfiguredError("events", problem, f"Names are {', '.join(sorted(allowed))}")
    for name, value in events.items():
        types = _TYPES.get(name, (str,))
        if type(value) not in types:
            kinds = " or ".join(one.__name__ for one in types)
            raise MisconfiguredError(f"events.{name}", f"is no {kinds}", "Correct the value")
    return {name: value for name, value in events.items() if name not in {"to", "url"}}
