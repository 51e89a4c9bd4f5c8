"""
What can go wrong on demand, as one table: name, when it acts, what it does.

The server, the documentation and the tests all read `FAULTS`. An outcome (a decline, a pending
charge) belongs to the instrument and holds for every charge with it. Every other fault hits only
the first POST of a reference, so that a lawful resend goes through or gets the stored answer.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from railcore_adapters.sandbox.wire import Response, error_response, invalid


class Stage(Enum):
    """When a fault acts."""

    BEFORE = "before charging"
    CHARGING = "while charging"
    AFTER = "after charging"


class Delivery(Enum):
    """How the bytes of an answer leave."""

    WHOLE = "whole"
    LATE = "late"
    NOTHING = "nothing"
    GARBAGE = "garbage"
    TRUNCATED = "truncated"
    DRIP = "drip"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The charge ends so."""

    status: Literal["succeeded", "declined", "pending"]
    decline_code: str | None = None
    settles_on_lookup: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """The answer is true, and leaves the sandbox so."""

    how: Delivery


@dataclass(frozen=True, slots=True)
class SayError:
    """The answer is an error."""

    status: int
    code: str
    retry_after: bool = False


@dataclass(frozen=True, slots=True)
class Misreport:
    """The answer has another value in one field than what was charged."""

    field: Literal["amount_minor", "currency"]


Effect: TypeAlias = Outcome | Deliver | SayError | Misreport
When: TypeAlias = Literal["create", "lookup"]
"""Which requests a fault ordered by `Sandbox.fail_next` waits for."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    stage: Stage
    effect: Effect
    amount_ending: int | None
    summary: str

    @property
    def token(self) -> str:
        """The instrument that asks for it."""
        return f"tok_{self.name}"


_ROWS: Final = (
    Fault("visa", Stage.CHARGING, Outcome("succeeded"), None, "Charges."),
    Fault("declined", Stage.CHARGING, Outcome("declined", "declined"), 951, "Declines."),
    Fault(
        "insufficient_funds",
        Stage.CHARGING,
        Outcome("declined", "insufficient_funds"),
        952,
        "Declines for lack of funds.",
    ),
    Fault(
        "expired_card",
        Stage.CHARGING,
        Outcome("declined", "expired_card"),
        953,
        "Declines because the instrument is not valid.",
    ),
    Fault(
        "authentication_failed",
        Stage.CHARGING,
        Outcome("declined", "authentication_failed"),
        954,
        "Declines because the payer was not authenticated.",
    ),
    Fault("risk", Stage.CHARGING, Outcome("declined", "risk"), 955, "Declines as too risky."),
    Fault(
        "pending",
        Stage.CHARGING,
        Outcome("pending"),
        956,
        "Stays pending until `psp.settle()` or `psp.decline()`.",
    ),
    Fault(
        "slow",
        Stage.CHARGING,
        Outcome("pending", settles_on_lookup=True),
        957,
        "Is pending, and charged at lookup number `lookups_to_settle`.",
    ),
    Fault(
        "drop",
        Stage.BEFORE,
        Deliver(Delivery.NOTHING),
        961,
        "Closes the connection; nothing was charged.",
    ),
    Fault("503", Stage.BEFORE, SayError(503, "unavailable"), 962, "Answers 503; nothing charged."),
    Fault(
        "429",
        Stage.BEFORE,
        SayError(429, "rate_limited", retry_after=True),
        963,
        "Answers 429 with `Retry-After`; nothing charged.",
    ),
    Fault(
        "401",
        Stage.BEFORE,
        SayError(401, "invalid_api_key"),
        964,
        "Answers 401 as if the key were wrong; nothing charged.",
    ),
    Fault(
        "lose_answer",
        Stage.AFTER,
        Deliver(Delivery.NOTHING),
        965,
        "Charges, then closes the connection without an answer.",
    ),
    Fault(
        "delay",
        Stage.AFTER,
        Deliver(Delivery.LATE),
        966,
        "Charges, and answers after `delay_s`.",
    ),
    Fault("500_after", Stage.AFTER, SayError(500, "internal"), 967, "Charges, and answers 500."),
    Fault(
        "garbage",
        Stage.AFTER,
        Deliver(Delivery.GARBAGE),
        968,
        "Charges, and answers 200 with bytes that are no JSON.",
    ),
    Fault(
        "truncated",
        Stage.AFTER,
        Deliver(Delivery.TRUNCATED),
        969,
        "Charges, and closes the connection in the middle of the body.",
    ),
    Fault(
        "slow_drip",
        Stage.AFTER,
        Deliver(Delivery.DRIP),
        970,
        "Charges, and answers one byte every `drip_interval_s`.",
    ),
    Fault(
        "wrong_amount",
        Stage.AFTER,
        Misreport("amount_minor"),
        971,
        "Charges the right amount, and reports one minor unit more.",
    ),
    Fault(
        "wrong_currency",
        Stage.AFTER,
        Misreport("currency"),
        972,
        "Charges in the right currency, and reports another one.",
    ),
    Fault(
        "duplicate",
        Stage.AFTER,
        SayError(409, "duplicate_transaction"),
        973,
        "Charges, and answers 409 as if it had been charged before.",
    ),
)

FAULTS: Final[Mapping[str, Fault]] = {fault.name: fault for fault in _ROWS}
BY_AMOUNT: Final[Mapping[int, Fault]] = {
    fault.amount_ending: fault for fault in _ROWS if fault.amount_ending is not None
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and when and how it leaves."""

    response: Response
    how: Delivery = Delivery.WHOLE
    hold_s: float = 0.0


class FaultQueue:
    """Faults that a test ordered for the next requests. Safe to use from any thread."""

    def __init__(self) -> None:
        self._waiting: defaultdict[When, deque[Fault]] = defaultdict(deque)

    def put(self, count: int, fault: Fault, when: When) -> None:
        """Order *fault* for the next *count* requests."""
        if when == "lookup" and isinstance(fault.effect, Outcome):
            raise ValueError(f"A lookup has no outcome of its own, so {fault.name} cannot hit one.")
        self._waiting[when].extend([fault] * count)

    def take(self, when: When) -> Fault | None:
        """Return the next ordered fault, which is then used up."""
        waiting = self._waiting[when]
        return waiting.popleft() if waiting else None


def find_fault(name: str) -> Fault:
    """
    Return the fault called *name*, with or without ``tok_``.

    Raises:
        Refusal: There is none; the message lists them all.
    """
    fault = FAULTS.get(name.removeprefix("tok_"))
    if fault is None:
        known = ", ".join(FAULTS)
        raise invalid(f"There is no fault or test instrument {name[:64]!r}. There are: {known}.")
    return fault


def apply(fault: Fault, response: Response, retry_after_s: int) -> Answer:
    """Return what *fault* makes of the true *response*."""
    match fault.effect:
        case Outcome():
            return Answer(response)
        case Deliver(how):
            return Answer(response, how)
        case SayError(status, code, retry_after):
            headers = [("Retry-After", str(retry_after_s))] if retry_after else []
            said = f"The sandbox was asked for the fault {fault.name}."
            return Answer(error_response(status, code, said, headers))
        case Misreport(field):
            return Answer(replace(response, body=_misreport(field, response.body)))


def faults_as_markdown() -> str:
    """Return the table of the reference page."""
    head = ("Token", "Header", "Amount ends in", "Acts", "What it does")
    rows = [_cells(fault) for fault in _ROWS]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def _cells(fault: Fault) -> Sequence[str]:
    ending = "" if fault.amount_ending is None else str(fault.amount_ending)
    return f"`{fault.token}`", f"`{fault.name}`", ending, fault.stage.value, fault.summary


def _misreport(field: Literal["amount_minor", "currency"], body: bytes) -> bytes:
    value: dict[str, Any] = json.loads(body)
    for item in value.get("data", [value]):
        if field in item:
            item[field] = _another(item[field])
    return json.dumps(value, separators=(",", ":")).encode()


def _another(value: int | str) -> int | str:
    if isinstance(value, int):
        return value + 1
    return "EUR" if value == "USD" else "USD"
