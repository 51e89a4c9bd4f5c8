"""
What is searched exhaustively: small times, so that every edge is a whole second.

D = 1 s to leave, L = 1 s on the road, G = 1 s of read lag, 1 s until an answer is given up, a lease
of 3 s. "Not found" proves something from more than 3 s after the last send on, a key may be used
again for less than W - 2 s.
"""

from typing import Final

import attrs

from railcore.routing import TimingBounds
from tests.simulation.search import Allowed, Scenario
from tests.simulation.steps import Provider

KEYED: Final = Provider(
    timing=TimingBounds(
        send_deadline_s=1, latest_arrival_s=1, read_lag_s=1, key_window_s=7, answer_timeout_s=1
    )
)
PLAIN: Final = Provider(
    timing=TimingBounds(
        send_deadline_s=1, latest_arrival_s=1, read_lag_s=1, key_window_s=None, answer_timeout_s=1
    ),
    is_idempotent=False,
)
FORGETFUL: Final = Provider(
    timing=TimingBounds(
        send_deadline_s=0, latest_arrival_s=1, read_lag_s=1, key_window_s=3, answer_timeout_s=1
    )
)
EXECUTED: Final = Scenario(name="a host executes, workers check", provider=KEYED, until_s=8)
EXECUTED_FORGETFUL: Final = Scenario(
    name="a host executes, workers check, the provider forgets keys soon",
    provider=FORGETFUL,
    workers=1,
    until_s=7,
)
EXECUTED_PLAIN: Final = Scenario(
    name="a host executes, workers check, the provider knows no keys",
    provider=PLAIN,
    until_s=8,
)
ENQUEUED: Final = Scenario(
    name="a host enqueues, workers send and check",
    provider=KEYED,
    is_enqueued=True,
    until_s=8,
)
ENQUEUED_PLAIN: Final = attrs.evolve(
    ENQUEUED,
    name="a host enqueues, workers send and check, the provider knows no keys",
    provider=PLAIN,
)
TOLD: Final = Scenario(
    name="a host executes, workers check, webhooks come in any order",
    provider=KEYED,
    workers=1,
    receivers=1,
    until_s=3,
)
TWO_HOSTS: Final = Scenario(
    name="two hosts execute with one key, workers check",
    provider=KEYED,
    hosts=2,
    workers=1,
    until_s=4,
)


def bounded(scenario: Scenario, *, until_s: int, workers: int = 2, **allowed: int) -> Scenario:
    """Return *scenario* with the faults that may happen, told in its name."""
    told = ", ".join(f"{name} {number}" for name, number in allowed.items())
    return attrs.evolve(
        scenario,
        name=f"{scenario.name} [{workers} workers, {until_s} s; {told}]",
        until_s=until_s,
        workers=workers,
        allowed=Allowed(**allowed),
    )


SHORT: Final = (
    bounded(EXECUTED, until_s=5, calls=1, lost=1),
    bounded(EXECUTED, until_s=4, workers=1, calls=1, store=1, crashes=1),
    bounded(ENQUEUED_PLAIN, until_s=5, calls=1, refused=1, crashes=1),
    bounded(TOLD, until_s=1, workers=1, calls=1, deliveries=2),
)
"""For every run: all that can happen within narrow bounds."""

LONG: Final = (
    bounded(EXECUTED, until_s=8, calls=1),
    bounded(EXECUTED, until_s=6, calls=1, lost=1, crashes=1),
    bounded(EXECUTED, until_s=7, workers=1, calls=1, lost=1, slow=1),
    bounded(EXECUTED, until_s=6, workers=1, calls=1, lost=1, refused=1, declined=1, errors=1),
    bounded(EXECUTED, until_s=6, workers=1, calls=2, store=1, crashes=1, mute=1),
    bounded(EXECUTED_FORGETFUL, until_s=8, workers=1, calls=1, lost=1, slow=1, mute=1),
    bounded(EXECUTED_PLAIN, until_s=8, calls=1, lost=1, crashes=1),
    bounded(ENQUEUED, until_s=7, calls=1, lost=1, crashes=1),
    bounded(ENQUEUED_PLAIN, until_s=8, calls=1, lost=1, refused=1, crashes=1),
    bounded(ENQUEUED_PLAIN, until_s=7, workers=1, calls=1, lost=1, store=1, slow=1),
    bounded(TOLD, until_s=3, workers=1, calls=1, deliveries=2, crashes=1),
    bounded(TWO_HOSTS, until_s=4, workers=1, calls=2, lost=1, crashes=1),
)
"""For the long run: wider bounds, some of them wider than the time allows."""
