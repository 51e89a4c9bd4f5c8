"""
What every ``WebhookInbox`` promises.

::

    class TestMyInbox(WebhookInboxContract):
        @pytest.fixture
        def inbox(self) -> WebhookInbox:
            return MyInbox(...)  # empty

An asynchronous inbox takes part through ``awaited``.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any, Final, cast

import attrs
import pytest

from railcore.ports import AsyncWebhookInbox, WebhookInbox
from railcore.webhooks import InboxItem, InboxState, InboxVerdict, Settlement

APPLIED: Final = Settlement(InboxState.APPLIED)
PARKED: Final = Settlement(InboxState.PARKED, None, "nobody can read it")
AT_ONCE: Final = Settlement(InboxState.RECEIVED, 0.0, "not known yet")
FAILED: Final = Settlement(InboxState.RECEIVED, 0.0, "nobody can read it", is_fault=True)
LATER: Final = Settlement(InboxState.RECEIVED, 600.0, "not known yet")
SIGNED_AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


def item_of(event_id: str = "evt_1", body: bytes = b'{"a":1}', **changes: Any) -> InboxItem:
    """Return a delivery; *changes* are any other attributes."""
    wanted: dict[str, Any] = {
        "tenant_id": None,
        "provider": "stub",
        "account": "main",
        "event_id": event_id,
        "body_sha256": hashlib.sha256(body).digest(),
        "body": body,
        "signed_at": SIGNED_AT,
    }
    return InboxItem(**{**wanted, **changes})


class WebhookInboxContract:
    """The promises; each test gets an empty inbox."""

    @pytest.fixture
    def inbox(self) -> WebhookInbox:
        """Return an empty inbox."""
        pytest.fail("give the subclass a fixture named inbox that returns an empty inbox")

    def test_a_delivery_is_kept_once(self, inbox: WebhookInbox) -> None:
        assert inbox.receive(item_of(), 60) is InboxVerdict.ACCEPTED
        assert inbox.receive(item_of(), 60) is InboxVerdict.DUPLICATE

    def test_another_body_under_the_same_event_is_refused(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(), 0)

        assert inbox.receive(item_of(body=b"{}"), 60) is InboxVerdict.CONFLICT
        assert [one.body for one in inbox.due(10, 60)] == [b'{"a":1}']

    @pytest.mark.parametrize(
        "changes",
        [{"tenant_id": "acme"}, {"provider": "other"}, {"account": "second"}],
        ids=["tenant", "provider", "account"],
    )
    def test_events_of_another_account_are_others(
        self, inbox: WebhookInbox, changes: dict[str, str]
    ) -> None:
        inbox.receive(item_of(), 60)

        assert inbox.receive(item_of(body=b"{}", **changes), 60) is InboxVerdict.ACCEPTED

    def test_the_first_try_is_nobody_elses_while_its_lease_lasts(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(), 60)

        assert list(inbox.due(10, 60)) == []

    def test_a_try_that_never_ended_is_begun_again(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(body=b"\x00\xff"), 0)

        (first,) = inbox.due(10, 0)
        (second,) = inbox.due(10, 60)

        assert (first.attempts, second.attempts) == (2, 3)
        assert attrs.evolve(first, attempts=1, waited_s=0.0) == item_of(body=b"\x00\xff")
        assert list(inbox.due(10, 60)) == []

    def test_what_is_due_is_taken_oldest_first(self, inbox: WebhookInbox) -> None:
        for number in range(4):
            inbox.receive(item_of(f"evt_{number}"), 0)

        assert [one.event_id for one in inbox.due(3, 60)] == ["evt_0", "evt_1", "evt_2"]
        assert [one.event_id for one in inbox.due(3, 60)] == ["evt_3"]

    @pytest.mark.parametrize("ending", [APPLIED, PARKED], ids=["applied", "parked"])
    def test_what_is_over_is_not_due(self, inbox: WebhookInbox, ending: Settlement) -> None:
        item = item_of()
        inbox.receive(item, 0)

        assert inbox.settle(item, ending)
        assert list(inbox.due(10, 60)) == []
        assert inbox.receive(item, 60) is InboxVerdict.DUPLICATE

    def test_what_is_put_off_is_due_in_its_time(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of("evt_1"), 60)
        inbox.receive(item_of("evt_2"), 60)

        inbox.settle(item_of("evt_1"), AT_ONCE)
        inbox.settle(item_of("evt_2"), LATER)

        assert [one.event_id for one in inbox.due(10, 60)] == ["evt_1"]

    def test_an_earlier_try_settles_nothing(self, inbox: WebhookInbox) -> None:
        item = item_of()
        inbox.receive(item, 0)
        (later,) = inbox.due(10, 60)

        assert not inbox.settle(item, PARKED)
        assert inbox.settle(later, APPLIED)
        assert not inbox.settle(later, PARKED)
        assert not inbox.settle(item_of("evt_2"), APPLIED)
        assert list(inbox.parked(10)) == []

    def test_what_is_parked_says_why(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(tenant_id="acme"), 60)
        inbox.receive(item_of("evt_2"), 60)
        inbox.settle(item_of(tenant_id="acme"), PARKED)

        (parked,) = inbox.parked(10)
        assert (parked.tenant_id, parked.event_id, parked.problem) == (
            "acme",
            "evt_1",
            "nobody can read it",
        )

    def test_an_event_is_replayed(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(), 60)
        inbox.settle(item_of(), PARKED)

        assert inbox.replay("evt_2") == 0
        assert inbox.replay("evt_1") == 1
        assert [one.event_id for one in inbox.due(10, 60)] == ["evt_1"]
        assert list(inbox.parked(10)) == []

    def test_what_failed_is_counted_and_what_waited_is_not(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(), 60)
        inbox.settle(item_of(), FAILED)
        (second,) = inbox.due(10, 60)
        inbox.settle(second, AT_ONCE)
        (third,) = inbox.due(10, 60)
        inbox.settle(third, FAILED)
        (fourth,) = inbox.due(10, 60)
        inbox.settle(fourth, Settlement(InboxState.PARKED, None, "enough", is_fault=True))

        assert [one.faults for one in (second, third, fourth)] == [1, 1, 2]
        inbox.replay("evt_1")
        assert [one.faults for one in inbox.due(10, 60)] == [0]

    def test_a_replay_fences_the_try_before_it(self, inbox: WebhookInbox) -> None:
        inbox.receive(item_of(), 60)

        inbox.replay("evt_1")

        assert not inbox.settle(item_of(), APPLIED)

    def test_everything_since_a_date_is_replayed(self, inbox: WebhookInbox) -> None:
        for number in range(3):
            inbox.receive(item_of(f"evt_{number}"), 60)
            inbox.settle(item_of(f"evt_{number}"), APPLIED)

        assert inbox.replay_since(datetime.now(UTC) + timedelta(hours=2)) == 0
        assert inbox.replay_since(datetime.now(UTC) - timedelta(hours=2)) == 3
        assert len(inbox.due(10, 60)) == 3

    def test_of_many_deliveries_at_once_one_is_new(self, inbox: WebhookInbox) -> None:
        with ThreadPoolExecutor(16) as pool:
            verdicts = list(pool.map(lambda _: inbox.receive(item_of(), 60), range(64)))

        assert Counter(verdicts) == {InboxVerdict.ACCEPTED: 1, InboxVerdict.DUPLICATE: 63}

    def test_no_two_take_the_same(self, inbox: WebhookInbox) -> None:
        together = Barrier(8)

        def due(_: int) -> Sequence[InboxItem]:
            together.wait(30)
            return inbox.due(10, 60)

        with ThreadPoolExecutor(8) as pool:
            for round_ in range(10):  # a missing lock shows in some of them only
                for number in range(40):
                    inbox.receive(item_of(f"evt_{round_}_{number}"), 0)
                names = [one.event_id for part in pool.map(due, range(8)) for one in part]
                assert len(names) == len(set(names)) == 40


def awaited(
    inbox: AsyncWebhookInbox, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> WebhookInbox:
    """Return *inbox* with methods that block; *run* awaits a coroutine, from any thread."""
    return cast(WebhookInbox, _Awaited(inbox, run))


@attrs.frozen
class _Awaited:
    inbox: AsyncWebhookInbox
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inbox, name)
        return lambda *args: self.run(method(*args))
