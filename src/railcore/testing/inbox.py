"""A webhook inbox that lives in memory, for tests and first steps: nothing survives the process."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import attrs

from railcore.ports import Clock
from railcore.webhooks import (
    InboxItem,
    InboxState,
    InboxVerdict,
    ParkedDelivery,
    Settlement,
)

__all__ = ["AsyncInMemoryWebhookInbox", "InMemoryWebhookInbox"]

_Name = tuple[str | None, str, str, str]


@attrs.frozen
class _Kept:
    item: InboxItem
    received_at: datetime
    due_at: datetime | None
    state: InboxState = InboxState.RECEIVED
    problem: str | None = None


class InMemoryWebhookInbox:
    """A ``WebhookInbox`` in memory, safe between threads; *clock* dates what is stored."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._kept: dict[_Name, _Kept] = {}

    def __len__(self) -> int:
        """How many deliveries are here."""
        return len(self._kept)

    def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """Store a delivery once, its first try begun."""
        with self._lock:
            stored = self._kept.get(_name(item))
            if stored is not None:
                same = stored.item.body_sha256 == item.body_sha256
                return InboxVerdict.DUPLICATE if same else InboxVerdict.CONFLICT
            now = self._clock.now()
            self._kept[_name(item)] = _Kept(item, now, now + timedelta(seconds=lease_s))
            return InboxVerdict.ACCEPTED

    def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first."""
        with self._lock:
            now = self._clock.now()
            dated = [(one.due_at, one) for one in self._kept.values()]
            waiting = [(at, one) for at, one in dated if at is not None and at <= now]
            taken = sorted(waiting, key=lambda pair: pair[0])[:limit]
            return [self._begin(one, now, lease_s) for _, one in taken]

    def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun."""
        with self._lock:
            stored = self._kept.get(_name(item))
            if stored is None or stored.state is not InboxState.RECEIVED:
                return False
            if stored.item.attempts != item.attempts:
                return False
            retry_s = settlement.retry_s
            due_at = None if retry_s is None else self._clock.now() + timedelta(seconds=retry_s)
            tried = attrs.evolve(stored.item, faults=stored.item.faults + settlement.is_fault)
            self._kept[_name(item)] = _Kept(
                tried, stored.received_at, due_at, settlement.state, settlement.problem
            )
            return True

    def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        with self._lock:
            found = [one for one in self._kept.values() if one.state is InboxState.PARKED]
        return [_parked(one) for one in found[:limit]]

    def replay(self, event_id: str, /) -> int:
        """Make an event due again; how many were made due."""
        return self._again(lambda one: one.item.event_id == event_id)

    def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        return self._again(lambda one: one.received_at >= since)

    def _begin(self, kept: _Kept, now: datetime, lease_s: float) -> InboxItem:
        waited_s = (now - kept.received_at).total_seconds()
        begun = attrs.evolve(kept.item, attempts=kept.item.attempts + 1, waited_s=waited_s)
        due_at = now + timedelta(seconds=lease_s)
        self._kept[_name(begun)] = attrs.evolve(kept, item=begun, due_at=due_at)
        return begun

    def _again(self, is_meant: Callable[[_Kept], bool]) -> int:
        with self._lock:
            meant = [name for name, one in self._kept.items() if is_meant(one)]
            for name in meant:
                stored = self._kept[name]
                item = attrs.evolve(stored.item, attempts=stored.item.attempts + 1, faults=0)
                self._kept[name] = _Kept(item, stored.received_at, self._clock.now())
            return len(meant)


class AsyncInMemoryWebhookInbox:
    """The same, asynchronous; over what the synchronous inbox *shared* holds, when given."""

    def __init__(self, clock: Clock, *, shared: InMemoryWebhookInbox | None = None) -> None:
        self._inbox = InMemoryWebhookInbox(clock) if shared is None else shared

    def __len__(self) -> int:
        """How many deliveries are here."""
        return len(self._inbox)

    async def receive(self, item: InboxItem, lease_s: float, /) -> InboxVerdict:
        """Store a delivery once, its first try begun."""
        return self._inbox.receive(item, lease_s)

    async def due(self, limit: int, lease_s: float, /) -> Sequence[InboxItem]:
        """Begin a try of what is due, the oldest first."""
        return self._inbox.due(limit, lease_s)

    async def settle(self, item: InboxItem, settlement: Settlement, /) -> bool:
        """Note how a try ended, unless a later one has begun."""
        return self._inbox.settle(item, settlement)

    async def parked(self, limit: int, /) -> Sequence[ParkedDelivery]:
        """Return what waits for a person, the oldest first."""
        return self._inbox.parked(limit)

    async def replay(self, event_id: str, /) -> int:
        """Make an event due again; how many were made due."""
        return self._inbox.replay(event_id)

    async def replay_since(self, since: datetime, /) -> int:
        """Make everything due again that came at *since* or later; how many."""
        return self._inbox.replay_since(since)


def _name(item: InboxItem) -> _Name:
    return item.tenant_id, item.provider, item.account, item.event_id


def _parked(kept: _Kept) -> ParkedDelivery:
    item = kept.item
    return ParkedDelivery(
        tenant_id=item.tenant_id,
        provider=item.provider,
        account=item.account,
        event_id=item.event_id,
        received_at=kept.received_at,
        attempts=item.attempts,
        problem=kept.problem or "",
    )
