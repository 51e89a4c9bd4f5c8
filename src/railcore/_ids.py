"""
Chance, and ids made by the client: UUID version 7 (RFC 9562, section 5.7), for index locality.

They mean nothing and order nothing.
"""

import os
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

_VERSION_AND_VARIANT = (7 << 76) | (2 << 62)
_RANDOM_BITS = (1 << 74) - 1

text_of: Final = lru_cache(maxsize=4096)(str)
"""The usual spelling of a UUID: each is written several times while its payment is under way."""


def any_share() -> float:
    """Return a number from 0 to 1, by chance."""
    return int.from_bytes(os.urandom(7)) / (256**7 - 1)


def uuid7_maker(now: Callable[[], datetime]) -> Callable[[], UUID]:
    """Return a maker of ids that are dated by *now* and otherwise random."""

    def make() -> UUID:
        noise = int.from_bytes(os.urandom(10)) & _RANDOM_BITS
        high, low = noise >> 62, noise & ((1 << 62) - 1)
        milliseconds = int(now().timestamp() * 1000)
        return UUID(int=(milliseconds << 80) | (high << 64) | _VERSION_AND_VARIANT | low)

    return make
