"""What a test may turn while the sandbox runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False, kw_only=True)
class Settings:
    """
    Times and counts of the fake providers. All may be changed at any moment.

    Attributes:
        read_lag_s: How long a new charge or payment stays invisible to lookups.
        delay_s: How long the fault ``delay`` holds the answer back.
        latency_s: How long every answer of both providers takes.
        drip_interval_s: The pause between two bytes of the fault ``slow_drip``.
        retry_after_s: What the fault ``429`` says in ``Retry-After``.
        lookups_to_settle: At which lookup a ``tok_slow`` charge is charged.
        payment_expires_after_s: How long a customer has to authorize a bank payment.
        settle_at_once: Whether a bank payment settles when it is approved.
        amount_faults: Whether the last three digits of an amount ask for a fault.
    """

    read_lag_s: float = 0.0
    delay_s: float = 1.0
    latency_s: float = 0.0
    drip_interval_s: float = 1.0
    retry_after_s: int = 1
    lookups_to_settle: int = 2
    payment_expires_after_s: float = 900.0
    settle_at_once: bool = False
    amount_faults: bool = True
