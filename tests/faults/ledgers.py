"""The ledger at the sink: what was delivered, in a file that outlives whoever delivered it."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import attrs

from railcore.events import JournalEvent


@attrs.frozen
class Delivery:
    """A line of the sink's log."""

    owner: str
    payment_id: str
    seq: int
    event_id: UUID


@attrs.frozen
class FileSink:
    """Appends to a file, a line in one write, so that lines of many processes never mix."""

    path: str
    owner: str
    file: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        object.__setattr__(self, "file", opened)

    def take(self, event: JournalEvent) -> None:
        self.write(f"{event.payment_id} {event.seq} {event.event_id}")

    def write(self, line: str) -> None:
        os.write(self.file, f"{self.owner} {line}\n".encode())


def read_deliveries(log: Path) -> Sequence[Delivery]:
    lines = (line.split() for line in log.read_text().splitlines())
    return [Delivery(owner, name, int(seq), UUID(id_)) for owner, name, seq, id_ in lines]


def check(deliveries: Sequence[Delivery], journal: Mapping[tuple[str, int], UUID]) -> Counter[str]:
    """
    Check that everything came, with its own id, and first 1, 2, 3 ... in each payment.

    Returns how many events and how many repeated deliveries there were.
    """
    highest = defaultdict[str, int](int)
    counted = Counter[str](events=len(journal))
    for one in deliveries:
        assert journal[one.payment_id, one.seq] == one.event_id
        assert one.seq <= highest[one.payment_id] + 1, f"{one} skips {highest[one.payment_id] + 1}"
        counted["repeated"] += one.seq <= highest[one.payment_id]
        highest[one.payment_id] = max(one.seq, highest[one.payment_id])
    assert {(one.payment_id, one.seq) for one in deliveries} == set(journal)
    return counted
