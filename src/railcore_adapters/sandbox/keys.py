"""Idempotency keys: the first answer is kept, and given again to the same body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from railcore_adapters.sandbox.orders import Order
from railcore_adapters.sandbox.wire import Refusal, Response


@dataclass(frozen=True, slots=True)
class _Kept:
    kind: str
    fields: Mapping[str, Any]
    response: Response
    ready_at_s: float


class KeyedAnswers:
    """The answers given to keyed orders. Keys belong to an account and never expire."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}

    def recall(self, order: Order, at_s: float) -> Response | None:
        """
        Return the answer that the order's key already has.

        Raises:
            Refusal: 409; the key came with another body, or its first answer is still under way.
        """
        if order.idempotency_key is None:
            return None
        kept = self._kept.get((order.account, order.idempotency_key))
        if kept is None:
            return None
        if (kept.kind, kept.fields) != (order.kind, order.fields):
            raise Refusal(409, "idempotency_key_reuse", "This key was used with another body.")
        if at_s < kept.ready_at_s:
            raise Refusal(409, "in_progress", "The first request with this key is in flight.")
        replayed = (*kept.response.headers, ("Idempotent-Replay", "true"))
        return replace(kept.response, headers=replayed)

    def keep(self, order: Order, response: Response, ready_at_s: float) -> None:
        """Keep the first answer; until *ready_at_s* it counts as in flight."""
        if order.idempotency_key is not None:
            kept = _Kept(order.kind, order.fields, response, ready_at_s)
            self._kept[order.account, order.idempotency_key] = kept
