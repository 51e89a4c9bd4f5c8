"""
When to leave an account of a provider alone: circuit breakers and pauses, as values.

A breaker counts the calls in a row that the provider did not answer. At the limit it opens: until
its time is over nobody calls, and what would have been sent is definitely not sent. Then one call
is let through, and shuts the door behind itself; if it is answered, the breaker is closed again.

Times are monotonic seconds of one process, which learns for itself.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from railcore import _checks
from railcore.execution import Account
from railcore.failures import PaymentFailureCode
from railcore.results import RailResult

_SILENCES: Final = frozenset(
    {
        PaymentFailureCode.NETWORK_ERROR,
        PaymentFailureCode.PROVIDER_UNAVAILABLE,
        PaymentFailureCode.PROVIDER_TIMEOUT,
        PaymentFailureCode.INVALID_RESPONSE,
        PaymentFailureCode.INTERNAL_ERROR,
    }
)
"""What says that the provider, not the payment, is in trouble."""


@attrs.frozen(kw_only=True)
class BreakerSettings:
    """
    When a breaker opens and for how long.

    Attributes:
        failures: It opens after so many calls in a row without an answer.
        open_s: Until a call is tried again.
    """

    failures: int = attrs.field(default=10, validator=_checks.whole_number(1))
    open_s: float = attrs.field(default=30.0, validator=_checks.seconds)


@attrs.frozen
class Breaker:
    """
    What one process knows of an account.

    Attributes:
        failures: How many calls in a row had no answer.
        open_until_s: When a call may be tried again; None while it is closed.
        paused_until_s: What the provider itself asked for (Retry-After): workers wait, a host's
            own call does not.
    """

    failures: int = 0
    open_until_s: float | None = None
    paused_until_s: float | None = None


CLOSED: Final = Breaker()


def wait_s(breaker: Breaker, at_s: float) -> float:
    """Return for how many seconds nobody may call; 0 when somebody may."""
    return 0.0 if breaker.open_until_s is None else max(0.0, breaker.open_until_s - at_s)


def rest_s(breaker: Breaker, at_s: float) -> float:
    """Return for how many seconds workers leave the account alone, its own wishes included."""
    paused_s = 0.0 if breaker.paused_until_s is None else breaker.paused_until_s - at_s
    return max(0.0, paused_s, wait_s(breaker, at_s))


def entered(breaker: Breaker, settings: BreakerSettings, at_s: float) -> Breaker:
    """Return the breaker once a call is let through; the first after its time shuts it again."""
    if breaker.open_until_s is None:
        return breaker
    return attrs.evolve(breaker, open_until_s=at_s + settings.open_s)


def heard(
    breaker: Breaker, settings: BreakerSettings, answer: RailResult | None, at_s: float
) -> Breaker:
    """Return the breaker after *answer*; None is an exception."""
    retry_after_s = None if answer is None else answer.retry_after_s
    asked = (breaker.paused_until_s, None if retry_after_s is None else at_s + retry_after_s)
    paused_until_s = max((one for one in asked if one is not None), default=None)
    if answer is not None and not is_silence(answer):
        return Breaker(paused_until_s=paused_until_s)
    failures = breaker.failures + 1
    open_until_s = at_s + settings.open_s if failures >= settings.failures else None
    return Breaker(failures, open_until_s, paused_until_s)


def is_silence(answer: RailResult) -> bool:
    """Return whether the provider gave no answer that it stands by."""
    return (answer.failure or answer.cause) in _SILENCES


class Traffic:
    """
    The breakers of one process, by account.

    Threads may share it: a breaker is replaced as a whole, and of two calls that end at the same
    moment one may be counted for both.
    """

    def __init__(self, settings: BreakerSettings | None) -> None:
        self._settings = settings
        self._breakers: dict[Account, Breaker] = {}

    def enter(self, account: Account, at_s: float) -> float:
        """Let a call through, or return for how many seconds it may not be made."""
        breaker = self._breakers.get(account, CLOSED)
        left_s = wait_s(breaker, at_s)
        if self._settings is not None and not left_s and breaker.open_until_s is not None:
            self._breakers[account] = entered(breaker, self._settings, at_s)
        return left_s

    def hear(self, account: Account, answer: RailResult | None, at_s: float) -> None:
        """Learn from the end of a call; None is an exception."""
        if self._settings is None:
            return
        breaker = self._breakers.get(account, CLOSED)
        self._breakers[account] = heard(breaker, self._settings, answer, at_s)

    def resting(self, at_s: float) -> Mapping[Account, float]:
        """Return the accounts that workers leave alone, and for how many seconds more."""
        waits = {one: rest_s(breaker, at_s) for one, breaker in tuple(self._breakers.items())}
        return {one: seconds for one, seconds in waits.items() if seconds}
