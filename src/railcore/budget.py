"""
How much work at once, and how much a second, a process gives to each account of a provider.

A token bucket: it fills with ``per_second`` up to ``burst``, and every execution that is taken up
costs one token. A backlog is thus worked off at the provider's pace, however large it is. The
budget is that of one process: give each of several its share.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from railcore import _checks
from railcore.execution import Account

_SPARED_S: Final = 0.2
"""Tokens of less time than this are left to grow."""

_NONE: Final[Mapping[Account, "AccountLimits"]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class AccountLimits:
    """
    What one account of a provider is given by one process.

    Attributes:
        at_once: The most executions under way.
        per_second: The most taken up a second, in the long run.
        burst: The most taken up in one moment, after a pause.
    """

    at_once: int = attrs.field(default=16, validator=_checks.whole_number(1))
    per_second: float = attrs.field(default=50.0, validator=_checks.seconds)
    burst: int = attrs.field(default=16, validator=_checks.whole_number(1))


@attrs.frozen
class Bucket:
    """Tokens as they were at a moment of the monotonic clock."""

    tokens: float
    at_s: float


def filled(bucket: Bucket, limits: AccountLimits, at_s: float) -> Bucket:
    """Return *bucket* as it is at *at_s*."""
    grown = bucket.tokens + max(0.0, at_s - bucket.at_s) * limits.per_second
    return Bucket(min(float(limits.burst), grown), at_s)


class Budget:
    """
    The budgets of one process, by account. Its caller keeps threads apart.

    Args:
        limits: Of single accounts.
        default: Of every other one.
    """

    def __init__(
        self,
        limits: Mapping[Account, AccountLimits] = _NONE,
        default: AccountLimits | None = None,
    ) -> None:
        self._limits = limits
        self.default = default or AccountLimits()
        self._buckets: dict[Account, Bucket] = {}
        self._busy = Counter[Account]()

    def most(self, at_s: float) -> Mapping[Account, int]:
        """
        Return how many executions of each known account may be taken up now.

        An account that has used up its tokens gets none until it has some worth taking: meanwhile
        it is passed over, so that its backlog does not fill every look for work.
        """
        known = {*self._limits, *self._buckets}
        return {account: self._room(account, at_s) for account in known}

    def most_each(self) -> int:
        """Return how many of an account that was never heard of."""
        return min(self.default.burst, self.default.at_once)

    def begin(self, account: Account, at_s: float) -> None:
        """Take up one execution."""
        bucket = self._bucket(account, at_s)
        self._buckets[account] = attrs.evolve(bucket, tokens=bucket.tokens - 1.0)
        self._busy[account] += 1

    def end(self, account: Account) -> None:
        """Be done with one."""
        self._busy[account] -= 1

    def _room(self, account: Account, at_s: float) -> int:
        limits = self._limits_of(account)
        tokens = int(self._bucket(account, at_s).tokens)
        if tokens < min(limits.burst, limits.per_second * _SPARED_S):
            return 0
        return max(0, min(tokens, limits.at_once - self._busy[account]))

    def _bucket(self, account: Account, at_s: float) -> Bucket:
        limits = self._limits_of(account)
        full = Bucket(float(limits.burst), at_s)
        return filled(self._buckets.get(account, full), limits, at_s)

    def _limits_of(self, account: Account) -> AccountLimits:
        return self._limits.get(account, self.default)
