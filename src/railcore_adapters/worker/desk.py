"""What workers of both colours decide: what to take up next, and how long to wait for more."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import attrs

from railcore.budget import AccountLimits, Budget
from railcore.clock import SystemClock
from railcore.errors import InvalidValueError
from railcore.execution import Account
from railcore.kernel import EngineSettings
from railcore.observability import DutyObserved, Observed
from railcore.ports import Clock, Observer
from railcore.protocol import Due

_NO_LIMITS: Final[Mapping[Account, AccountLimits]] = MappingProxyType({})


class Duty(StrEnum):
    """What a worker may do."""

    SEND = "send"
    CHECK = "check"
    APPLY = "apply"
    RELAY = "relay"
    EXPIRE = "expire"


IS_UNSENT: Final[Mapping[Duty, bool]] = MappingProxyType({Duty.SEND: True, Duty.CHECK: False})
"""The duties that take up executions, and which ones."""


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """
    How much a worker does at once, and how often it looks for more.

    Attributes:
        at_once: The most executions under way, for each of the duties ``send`` and ``check``.
        limits: What single accounts of providers are given by this worker.
        default_limits: What every other account is given.
        shortest_pause_s, longest_pause_s: Between two looks for work; it doubles while there is
            none.
    """

    at_once: int = 32
    limits: Mapping[Account, AccountLimits] = attrs.field(default=_NO_LIMITS, hash=False)
    default_limits: AccountLimits = attrs.field(factory=AccountLimits)
    shortest_pause_s: float = 0.02
    longest_pause_s: float = 1.0

    def __attrs_post_init__(self) -> None:
        if self.at_once < 1:
            raise InvalidValueError("at_once", "at least 1", f"{self.at_once}")
        if not 0 < self.shortest_pause_s <= self.longest_pause_s:
            wanted = "above zero, at most longest_pause_s"
            raise InvalidValueError("shortest_pause_s", wanted, f"{self.shortest_pause_s:g} s")


class Pace:
    """
    How long to wait for more work: longer and longer while there is none.

    Deliveries and events are taken up in portions, so where there was one there may be more; what
    is due of executions has all been taken up, as far as there is room.
    """

    def __init__(self, settings: WorkerSettings, duty: Duty) -> None:
        self._settings = settings
        self._after_work_s = settings.shortest_pause_s if duty in IS_UNSENT else 0.0
        self._pause_s = settings.shortest_pause_s

    def after(self, found: int) -> float:
        """Return how long to wait after *found* pieces of work."""
        settings = self._settings
        if found:
            self._pause_s = settings.shortest_pause_s
            return self._after_work_s
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, settings.longest_pause_s)
        return pause_s


class Desk:
    """
    What one worker has under way. Its caller keeps threads apart.

    Args:
        engine: Leases.
        settings: Limits.
        resting: Tells which accounts are left alone.
        clock: Monotonic time; the machine's by default.
        observer: Is told of what went wrong.
    """

    def __init__(
        self,
        engine: EngineSettings,
        settings: WorkerSettings,
        resting: Callable[[], Mapping[Account, float]],
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._engine = engine
        self._resting = resting
        self._clock = clock or SystemClock()
        self._budget = Budget(settings.limits, settings.default_limits)
        self._observer = observer

    def now_s(self) -> float:
        """Return the monotonic time."""
        return self._clock.monotonic()

    def due(self, duty: Duty, free: int) -> Due:
        """Return what to ask the store for, with room for *free* executions."""
        most = dict(self._budget.most(self.now_s()))
        most.update(dict.fromkeys(self._resting(), 0))
        return Due(
            owner=self._engine.owner,
            lease_s=self._engine.lease_s,
            limit=free,
            is_unsent=IS_UNSENT[duty],
            most=most,
            most_each=self._budget.most_each(),
        )

    def is_held_up(self) -> bool:
        """Whether an account has no budget just now, so that its work may be waiting."""
        resting = self._resting()
        rooms = self._budget.most(self.now_s())
        return any(not room and account not in resting for account, room in rooms.items())

    def begin(self, account: Account) -> None:
        """Take up one execution."""
        self._budget.begin(account, self.now_s())

    def end(self, account: Account) -> None:
        """Be done with one."""
        self._budget.end(account)

    def tell(self, duty: Duty, error: BaseException) -> None:
        """Tell the observer that something went wrong; the type of the error, never its text."""
        if self._observer is not None:
            observed: Observed = DutyObserved(duty=duty.value, error=type(error).__name__)
            with suppress(Exception):
                self._observer.observe(observed)
