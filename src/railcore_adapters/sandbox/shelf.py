"""What a provider remembers: found by id or by reference, after its read lag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from railcore_adapters.sandbox.orders import Order


@dataclass(slots=True, kw_only=True)
class Kept:
    """
    What can be kept on a shelf.

    Attributes:
        id: The provider's own name for it.
        order: What was asked for.
        created_at: When it was made.
        made_at_s: The same on the monotonic clock.
        of: The id of what it acts on, for a capture, a void or a refund.
    """

    id: str
    order: Order
    created_at: datetime
    made_at_s: float
    of: str | None = None

    @property
    def account(self) -> str:
        """Whose it is; another account does not see it."""
        return self.order.account

    @property
    def reference(self) -> str:
        """The caller's name for it, which need not be unique."""
        return self.order.reference


K = TypeVar("K", bound=Kept)


class Shelf(Generic[K]):
    """Objects in the order in which they were made."""

    def __init__(self) -> None:
        self._by_id: dict[str, K] = {}
        self._by_reference: defaultdict[str, list[K]] = defaultdict(list)
        self._by_parent: defaultdict[str, list[K]] = defaultdict(list)

    def put(self, item: K) -> None:
        """Keep *item*."""
        self._by_id[item.id] = item
        self._by_reference[item.reference].append(item)
        if item.of is not None:
            self._by_parent[item.of].append(item)

    def by_id(self, account: str, item_id: str, *, before_s: float) -> K | None:
        """Return the account's object with that id if it was made by *before_s*."""
        item = self._by_id.get(item_id)
        if item is None or item.account != account or item.made_at_s > before_s:
            return None
        return item

    def by_reference(self, account: str, reference: str, *, before_s: float) -> Sequence[K]:
        """Return the account's objects of that reference made by *before_s*."""
        return [
            item
            for item in self._by_reference.get(reference, ())
            if item.account == account and item.made_at_s <= before_s
        ]

    def acting_on(self, item_id: str) -> Sequence[K]:
        """Return what was ordered of the object with that id, oldest first."""
        return self._by_parent.get(item_id, ())

    def with_id(self, item_id: str) -> K | None:
        """Return the object with that id, whoever owns it and however young it is."""
        return self._by_id.get(item_id)

    def latest(self, name: str) -> K:
        """
        Return the object with that id, or the latest one with that reference.

        Raises:
            LookupError: There is none.
        """
        named = self._by_id.get(name)
        if named is not None:
            return named
        referring = self._by_reference.get(name)
        if not referring:
            raise LookupError(f"The sandbox knows no id or reference {name!r}.")
        return referring[-1]
