"""A desk for tests that speak to the SQL files directly: sensible parameters, one connection."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row

from railcore_sqlalchemy.statements import statement
from tests.conftest import conninfo

Row = dict[str, Any]

CLAIM: Mapping[str, object] = {
    "tenant_id": "acme",
    "operation": "charge",
    "amount_minor": 100,
    "currency": "SAR",
    "due_minor": None,
    "fingerprint": b"f" * 32,
    "provider_key": "rc_1",
    "rail": "card_psp",
    "provider": "stub",
    "account": "main",
    "mode": "sandbox",
    "payment_option_key": None,
    "parent_execution_id": None,
    "request": '{"asked": "for"}',
    "lease_owner": "desk",
    "lease_s": 30,
    "sent": True,
    "check_after_s": 60,
    "head_seq": None,
    "settles_minor": 0,
    "event_type": "payment.execution.started",
    "payload": '{"told": "once"}',
    "bucket": 7,
}
RECORD: Mapping[str, object] = {
    "version": 1,
    "from_status": "processing",
    "pending_reason": None,
    "failure_code": None,
    "cause_code": None,
    "phase": 0,
    "progress": 0,
    "provider_ref": "ch_1",
    "settled_minor": None,
    "next_action": None,
    "expires_at": None,
    "provider_response": None,
    "token": 1,
    "fenced": False,
    "next_check_s": None,
    "event_type": "payment.execution.recorded",
}
WHY: Mapping[str, Mapping[str, object]] = {
    "pending": {"pending_reason": "provider_processing", "next_check_s": 60},
    "completed": {},
    "failed": {"failure_code": "declined"},
    "processing": {},
}


def claim_row(operation: str = "charge", **given: object) -> Row:
    """Return the parameters of a claim; ids, key and payment are new unless given."""
    fresh = {
        "execution_id": uuid4(),
        "event_id": uuid4(),
        "payment_id": f"inv-{uuid4()}",
        "idempotency_key": f"key-{uuid4()}",
        "operation": operation,
    }
    return {**CLAIM, **fresh, **given}


def record_row(claimed: Row, to_status: str, **given: object) -> Row:
    """Return the parameters that record *to_status* for what was *claimed*."""
    fresh = {"event_id": uuid4(), "to_status": to_status, **WHY[to_status]}
    return {**claimed, **RECORD, **fresh, **given}


def late_row(row: Row, kind: str = "success_after_failure", **given: object) -> Row:
    """Return the parameters that note news of *kind* about what was claimed as *row*."""
    noted_id = uuid4()
    told = {"discrepancy_id": noted_id, "event_id": noted_id, "kind": kind, "detail": "{}"}
    return {**row, **told, "disputed_minor": row["amount_minor"], **given}


class Desk:
    """One connection in autocommit, and the statements on it."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(conninfo(url), autocommit=True, row_factory=dict_row)

    def sql(self, query: str, *parameters: object) -> list[DictRow]:
        """Run SQL typed by hand; *parameters* fill its %s."""
        cursor = self.connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def run(self, name: str, parameters: Row) -> list[DictRow]:
        """Run one of the SQL files."""
        ready = statement(name)
        wanted = {it: parameters[it] for it in ready.names}
        return self.connection.execute(ready.named.encode(), wanted).fetchall()

    def claim(self, row: Row) -> str:
        """Claim in the single form and return the verdict."""
        return str(self.run(f"claim{_follow(row)}", row)[0]["verdict"])

    def record(self, row: Row) -> str:
        """Record in the single form and return the verdict."""
        return str(self.run(f"record{_follow(row)}", row)[0]["verdict"])

    def claim_many(self, rows: Sequence[Row]) -> list[str]:
        """Claim in one statement and return the verdicts, in the order of *rows*."""
        return self._many("claim_many", rows)

    def record_many(self, rows: Sequence[Row]) -> list[str]:
        """Record in one statement and return the verdicts, in the order of *rows*."""
        return self._many("record_many", rows)

    def done(self, operation: str = "charge", to_status: str = "completed", **given: object) -> Row:
        """Claim and record one execution, and return its claim."""
        row = claim_row(operation, **given)
        assert self.claim(row) == "claimed"
        assert self.record(record_row(row, to_status)) == "recorded"
        return row

    def late(self, row: Row, kind: str = "success_after_failure", **given: object) -> Row:
        """Note news that contradicts an execution, and return its parameters."""
        noted = late_row(row, kind, **given)
        assert self.run("discrepancy", noted)[0]["verdict"] == "recorded"
        return noted

    def execution(self, row: Row) -> DictRow:
        """Return the stored execution of a claim."""
        return self.run("execution_by_id", row)[0]

    def head(self, row: Row) -> DictRow:
        """Return the head of a claim's payment."""
        return self.run("payment", row)[0]

    def events(self, row: Row) -> list[DictRow]:
        """Return the journal of a claim's payment."""
        return self.run("events_of_payment", {**row, "after_seq": 0, "limit": 1000})

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _many(self, name: str, rows: Sequence[Row]) -> list[str]:
        items = json.dumps([{**_plain(row), "ord": n} for n, row in enumerate(rows)])
        answers = {row["ord"]: str(row["verdict"]) for row in self.run(name, {"items": items})}
        return [answers[n] for n in range(len(rows))]


def _follow(row: Row) -> str:
    return "" if row["operation"] in {"charge", "authorize"} else "_followup"


NESTED = frozenset({"payload", "request", "next_action", "provider_response"})


def _plain(row: Row) -> dict[str, object]:
    return {name: _json(name, value) for name, value in row.items()}


def _json(name: str, value: object) -> object:
    match value:
        case str() if name in NESTED:
            return json.loads(value)
        case bytes():
            return value.hex()
        case UUID():
            return str(value)
        case _:
            return value
