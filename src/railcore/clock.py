"""The one place where the core reads the machine's clocks; everything else is given a ``Clock``."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs

from railcore.errors import InvalidValueError


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


def _is_a_number(_: Any, __: Any, at_s: Any) -> None:
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not math.isfinite(at_s):
        raise InvalidValueError("at_s", "monotonic seconds", type(at_s).__name__)


def _is_a_clock(_: Any, __: Any, monotonic: Any) -> None:
    if not callable(monotonic):
        raise InvalidValueError("monotonic", "a clock to call", type(monotonic).__name__)


@attrs.frozen
class Deadline:
    """
    The last moment at which a request that moves money may leave (rule R2).

    Attributes:
        at_s: Monotonic seconds.
        monotonic: The clock that ``at_s`` was read from.
    """

    at_s: float = attrs.field(validator=_is_a_number)
    monotonic: Callable[[], float] = attrs.field(validator=_is_a_clock, repr=False, eq=False)

    def has_passed(self) -> bool:
        """Whether sending now would be too late."""
        return self.monotonic() > self.at_s
