"""
The ledger of truth: what the sandbox really charged, and what it was asked.

No fault touches it. Money that moved is in `Ledger.charges` once for each time it moved, whatever
the caller was told. Writers and readers may be on different threads: a row is added as one step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

Service: TypeAlias = Literal["psp", "bank", "hyperpay"]
Kind: TypeAlias = Literal["authorization", "capture", "void", "refund"]
Row: TypeAlias = "Charge | Movement | SeenRequest | SeenLookup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Money that moved once: a PSP's charge that succeeded, or a bank payment that settled."""

    id: str
    service: Service
    account: str
    reference: str
    idempotency_key: str | None
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """
    An authorization, capture, void or refund that took place once.

    Attributes:
        kind: Which of them.
        of: The id of what it acts on; None for an authorization.
    """

    id: str
    kind: Kind
    of: str | None
    service: Service
    account: str
    reference: str
    idempotency_key: str | None
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """A POST that orders something, as it arrived, whatever became of it; ``kind`` says what."""

    kind: str

    service: Service
    account: str
    reference: str
    idempotency_key: str | None
    amount_minor: int
    currency: str
    fault: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLookup:
    """A GET by id or by reference, as it arrived."""

    service: Service
    account: str
    sought: str
    at: datetime


class Ledger:
    """Every charge, movement, POST and lookup, in the order in which they happened."""

    def __init__(self) -> None:
        self._charges: list[Charge] = []
        self._movements: list[Movement] = []
        self._requests: list[SeenRequest] = []
        self._lookups: list[SeenLookup] = []

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every charge really made."""
        return tuple(self._charges)

    @property
    def movements(self) -> tuple[Movement, ...]:
        """Every authorization, capture, void and refund that really took place."""
        return tuple(self._movements)

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """Every POST that orders something and could be read."""
        return tuple(self._requests)

    @property
    def lookups(self) -> tuple[SeenLookup, ...]:
        """Every GET of a charge or a payment."""
        return tuple(self._lookups)

    def by_reference(self) -> Mapping[str, tuple[Charge, ...]]:
        """Return the charges of each reference, whatever account they were made on."""
        grouped: defaultdict[str, list[Charge]] = defaultdict(list)
        for charge in self.charges:
            grouped[charge.reference].append(charge)
        return {reference: tuple(charges) for reference, charges in grouped.items()}

    def double_charges(self) -> Mapping[str, tuple[Charge, ...]]:
        """Return the references that were charged more than once, with their charges."""
        return {
            reference: charges
            for reference, charges in self.by_reference().items()
            if len(charges) > 1
        }

    def double_movements(self) -> Mapping[str, tuple[Movement, ...]]:
        """Return the references under which something took place more than once."""
        grouped: defaultdict[str, list[Movement]] = defaultdict(list)
        for movement in self.movements:
            grouped[movement.reference].append(movement)
        return {name: tuple(rows) for name, rows in grouped.items() if len(rows) > 1}

    def add(self, row: Row) -> None:
        """Write *row* down; only the sandbox itself does."""
        match row:
            case Charge():
                self._charges.append(row)
            case Movement():
                self._movements.append(row)
            case SeenRequest():
                self._requests.append(row)
            case SeenLookup():
                self._lookups.append(row)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is served at ``GET /ledger``."""
        return {
            "charges": [_plain(row) for row in self.charges],
            "double_charges": sorted(self.double_charges()),
            "movements": [_plain(row) for row in self.movements],
            "double_movements": sorted(self.double_movements()),
            "requests": [_plain(row) for row in self.requests],
            "lookups": [_plain(row) for row in self.lookups],
        }


def now() -> datetime:
    """Return the sandbox's time."""
    return datetime.now(UTC)


def stamp(instant: datetime) -> str:
    """Return *instant* as it goes over the wire, to the microsecond and ending in Z."""
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "at": stamp(row.at)}
