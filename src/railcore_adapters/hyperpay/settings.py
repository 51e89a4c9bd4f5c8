"""What HyperPay is told about an account, and what it guarantees about time."""

import re
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import attrs

from railcore.enums import Operation, RouteMode
from railcore.errors import InvalidValueError
from railcore.routing import TimingBounds

TEST_URL: Final = "https://eu-test.oppwa.com"
LIVE_URL: Final = "https://eu-prod.oppwa.com"

HYPERPAY_TIMING: Final = TimingBounds(
    send_deadline_s=5.0,
    latest_arrival_s=120.0,
    read_lag_s=60.0,
    key_window_s=None,
    answer_timeout_s=45.0,
)
"""
D, L, G and W of requests from server to server.

The provider publishes none of them. D is ours; L is two minutes, after which a reference that is
not found has not arrived; G allows for a reporting database that lags; W does not exist, because
nothing makes a repetition harmless. The answer is waited for as long as a lease of a minute allows.
"""

CHECKOUT_LIFE: Final = timedelta(minutes=30)
"""For how long a payer can pay on a checkout (the provider's COPYandPAY guide)."""

CHECKOUT_SLACK: Final = timedelta(minutes=5)
"""How much later nothing can come of it any more: what was begun has ended, and reports show it."""

HOSTS: Final[Mapping[str, RouteMode]] = MappingProxyType(
    {
        "eu-prod.oppwa.com": RouteMode.LIVE,
        "oppwa.com": RouteMode.LIVE,
        "eu-test.oppwa.com": RouteMode.SANDBOX,
        "test.oppwa.com": RouteMode.SANDBOX,
    }
)
"""What the provider's hosts are for, their older names among them."""

_ENTITY: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_BRAND: Final = re.compile(r"[A-Z0-9_]{1,32}")


def _is_an_entity(_: Any, __: Any, entity_id: Any) -> None:
    if not isinstance(entity_id, str) or not _ENTITY.fullmatch(entity_id):
        raise InvalidValueError("entity_id", "1 to 64 letters and digits", repr(entity_id)[:40])


def _are_brands(_: Any, __: Any, brands: Any) -> None:
    if not isinstance(brands, tuple) or not brands:
        raise InvalidValueError("brands", "a tuple of at least one brand", repr(brands)[:40])
    for brand in brands:
        if not isinstance(brand, str) or not _BRAND.fullmatch(brand):
            raise InvalidValueError("brands", "capital letters, as in VISA", repr(brand)[:40])


_MADA_ONLY: Final = frozenset({Operation.CHARGE, Operation.REFUND})


@attrs.frozen(kw_only=True)
class HyperPayAccount:
    """
    One entity at HyperPay: a route's account. MADA has an entity of its own.

    Attributes:
        entity_id: The entity's, from the merchant portal.
        brands: What the widget offers, in the order in which it is shown.
        decimals: How many decimal places the entity is sent: 2 unless its acquirer says otherwise.
        operations: What the acquirer behind it can do; None means all, and charges and refunds
            alone where MADA is the only brand, because its acquirers differ on the rest.
        test_mode: ``EXTERNAL`` or ``INTERNAL`` on the test host; None says nothing.
    """

    entity_id: str = attrs.field(validator=_is_an_entity)
    brands: tuple[str, ...] = attrs.field(default=("VISA", "MASTER"), validator=_are_brands)
    decimals: int = attrs.field(default=2, validator=attrs.validators.in_((0, 2, 3)))
    operations: frozenset[Operation] | None = None
    test_mode: str | None = attrs.field(
        default=None, validator=attrs.validators.in_((None, "EXTERNAL", "INTERNAL"))
    )

    def can(self, operation: Operation) -> bool:
        """Return whether the entity is switched on for *operation*."""
        if self.operations is not None:
            return operation in self.operations
        return self.brands != ("MADA",) or operation in _MADA_ONLY
