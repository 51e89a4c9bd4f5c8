"""The one place where the core reads the machine's clocks; everything else is given a ``Clock``."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs


class SystemClock:
    """
    The machine's clocks.

    The monotonic one goes on during suspend where the system has such a clock.
    """

    def now(self) -> datetime:
        """Return the current instant, aware and in UTC."""
        return datetime.fromtimestamp(time.time(), UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that is never set back."""
        return _monotonic()


def _suspend_aware() -> Callable[[], float]:
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    number = boottime
    return lambda: time.clock_gettime(number)


_monotonic = _suspend_aware()


@attrs.frozen
class Deadline:
    """
    The last moment at which a request that moves money may leave (rule R2).

    Attributes:
        at_s: Monotonic seconds.
        monotonic: The clock that ``at_s`` was read from.
    """

    at_s: float
    monotonic: Callable[[], float] = attrs.field(repr=False, eq=False)

    def has_passed(self) -> bool:
        """Whether sending now would be too late."""
        return self.monotonic() > self.at_s
