"""
The judge: says what broke, from the database, the provider's own ledger and what was delivered.

A finding is one sentence about one case. None of it depends on what befell the case.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.faults.wire.operations import PURSE, Case
from tests.faults.wire.providers import KINDS, Moved

OPEN: Final = frozenset({"processing", "pending"})
FOR_PEOPLE: Final = frozenset({"manual_review", "awaiting_funds", "customer_action"})
"""Why an execution may stay open: somebody has to act."""

_ROWS: Final = {
    "executions": (
        "select tenant_id, execution_id, payment_id, operation, amount_minor, currency, rail,"
        " provider_key, status, pending_reason, failure_code, version, settled_minor,"
        " lease_until > now() as is_held from railcore_execution where tenant_id = any(:tenants)"
    ),
    "heads": (
        "select tenant_id, payment_id, seq from railcore_payment where tenant_id = any(:tenants)"
    ),
    "events": (
        "select tenant_id, aggregateid as payment_id, seq, execution_id, version, to_status"
        " from railcore_event where tenant_id = any(:tenants) order by seq"
    ),
    "discrepancies": (
        "select tenant_id, execution_id, kind from railcore_discrepancy"
        " where tenant_id = any(:tenants) and resolved_at is null"
    ),
    "waiting": "select tenant_id, seq from railcore_outbox where tenant_id = any(:tenants)",
    "inbox": (
        "select tenant_id, state from railcore_inbox"
        " where tenant_id = any(:tenants) and state <> 'applied'"
    ),
    "transfers": (
        "select tenant_id, kind, amount_minor, transfer_id, pending_id"
        " from railcore_wallet_transfer where tenant_id = any(:tenants)"
        " and debit_account = 'purse'"
    ),
    "purses": (
        "select tenant_id, debits_posted, debits_pending from railcore_wallet_account"
        " where tenant_id = any(:tenants) and account_id = 'purse'"
    ),
}
_UNSETTLED: Final = sqlalchemy.text(
    "select (select count(*) from railcore_execution where next_check_at is not null"
    " and tenant_id = any(:tenants)) as open,"
    " (select count(*) from railcore_outbox where tenant_id = any(:tenants)) as waiting,"
    " (select count(*) from railcore_inbox where next_attempt_at is not null"
    " and tenant_id = any(:tenants)) as inbox,"
    " (select count(*) from railcore_wallet_hold where resolved_at is null"
    " and tenant_id = any(:tenants)) as holds"
)

Row = Mapping[str, Any]


@attrs.frozen
class Finding:
    """
    Something that must not be.

    Attributes:
        kind: ``double charge``, ``false failure``, ``gap``, ``open``, ``ledger``, ``caller``.
        tenant: Of which case.
        said: What exactly.
    """

    kind: str
    tenant: str
    said: str


@attrs.define
class Evidence:
    """Everything there is about some cases, by tenant."""

    rows: Mapping[str, Mapping[str, Sequence[Row]]]
    moved: Mapping[str, Sequence[Moved]]
    delivered: Mapping[str, Sequence[tuple[str, int]]]

    def of(self, name: str, tenant: str) -> Sequence[Row]:
        """Return the rows of one kind."""
        return self.rows[name].get(tenant, ())


async def unsettled(database: AsyncEngine, tenants: Sequence[str]) -> Mapping[str, int]:
    """Return how much of each kind still waits to be done."""
    async with database.connect() as connection:
        found = (await connection.execute(_UNSETTLED, {"tenants": list(tenants)})).mappings().one()
        return dict(found)


async def torn(database: AsyncEngine, tenants: Sequence[str]) -> list[Finding]:
    """Return the invoices without their payments, and the payments without their invoices."""
    query = (
        "select coalesce(i.tenant_id, x.tenant_id) as tenant, i.tenant_id is null as has_none"
        " from (select * from host_invoice where tenant_id = any(:tenants)) i full join"
        " (select * from railcore_execution where tenant_id = any(:tenants)) x"
        " on i.tenant_id = x.tenant_id where i.tenant_id is null or x.tenant_id is null"
    )
    async with database.connect() as connection:
        rows = await connection.execute(sqlalchemy.text(query), {"tenants": list(tenants)})
        return [
            Finding("ledger", row.tenant, "a payment without its invoice, or the reverse")
            for row in rows
        ]


async def pending_keys(database: AsyncEngine, tenants: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Return account and key of what the provider holds pending."""
    query = (
        "select account, provider_key from railcore_execution where status = 'pending'"
        " and pending_reason <> 'outcome_unknown' and tenant_id = any(:tenants)"
    )
    async with database.connect() as connection:
        rows = await connection.execute(sqlalchemy.text(query), {"tenants": list(tenants)})
        return [(row.account, row.provider_key) for row in rows]


async def gathered(
    database: AsyncEngine,
    tenants: Sequence[str],
    moved: Sequence[Moved],
    delivered: Sequence[tuple[str, str, int]],
) -> Evidence:
    """Return the evidence about *tenants*."""
    rows: dict[str, Mapping[str, Sequence[Row]]] = {}
    async with database.connect() as connection:
        for name, query in _ROWS.items():
            found = await connection.execute(sqlalchemy.text(query), {"tenants": list(tenants)})
            grouped: defaultdict[str, list[Row]] = defaultdict(list)
            for row in found.mappings():
                grouped[row["tenant_id"]].append(dict(row))
            rows[name] = grouped
    by_account: defaultdict[str, list[Moved]] = defaultdict(list)
    for one in moved:
        by_account[one.account].append(one)
    by_tenant: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for tenant, payment_id, seq in delivered:
        by_tenant[tenant].append((payment_id, seq))
    return Evidence(rows, by_account, by_tenant)


def findings(case: Case, evidence: Evidence) -> list[Finding]:
    """Return everything that is wrong with *case*."""
    said = [
        *_ends(case, evidence),
        *_money(case, evidence),
        *_wallet(case, evidence),
        *_journal(case, evidence),
        *_deliveries(case, evidence),
        *_caller(case, evidence),
    ]
    return [Finding(kind, case.tenant, text) for kind, text in said]


Said = list[tuple[str, str]]


def _ends(case: Case, evidence: Evidence) -> Said:
    """Every execution is terminal, or waits for a person; nothing is left to do."""
    said: Said = []
    executions = evidence.of("executions", case.tenant)
    if not executions:
        said.append(("open", "the request has left no execution"))
    for one in executions:
        if one["status"] in OPEN and one["pending_reason"] not in FOR_PEOPLE:
            said.append(("open", f"{one['operation']} is {one['status']}/{one['pending_reason']}"))
    said += [("open", f"a webhook is {one['state']}") for one in evidence.of("inbox", case.tenant)]
    return said


def _money(case: Case, evidence: Evidence) -> Said:
    """What the provider did is what we say it did: once a key, in amount and direction."""
    said: Said = []
    moved = evidence.moved.get(case.tenant, ())
    contradicted = {one["execution_id"] for one in evidence.of("discrepancies", case.tenant)}
    of_key: defaultdict[str, list[Moved]] = defaultdict(list)
    for one in moved:
        of_key[one.key].append(one)
    for key, ones in of_key.items():
        if len(ones) > 1:
            said.append(("double charge", f"{len(ones)} movements under one key {key}"))
    ours = {
        one["provider_key"]: one
        for one in evidence.of("executions", case.tenant)
        if one["rail"] != "wallet"
    }
    for key in of_key.keys() - ours.keys():
        said.append(("double charge", f"a {of_key[key][0].kind} that we know nothing of"))
    for key, execution in ours.items():
        theirs = of_key.get(key, [])
        if execution["execution_id"] in contradicted:
            continue  # told, and on the list of a person
        said += _agreement(execution, theirs)
    return said


def _agreement(ours: Row, theirs: Sequence[Moved]) -> Said:
    asked = f"{ours['operation']} of {ours['amount_minor']} {ours['currency']}"
    match ours["status"], len(theirs):
        case "completed", 0:
            return [("ledger", f"{asked} is completed here, and never took place")]
        case "failed", 0:
            return []
        case "failed", _:
            code = ours["failure_code"]
            return [("false failure", f"{asked} is failed ({code}) here, and took place")]
        case "completed", _:
            one = theirs[0]
            wanted = (KINDS[ours["operation"]], ours["amount_minor"], ours["currency"])
            if (one.kind, one.amount_minor, one.currency) != wanted:
                return [("ledger", f"{asked} was {one.kind} of {one.amount_minor} {one.currency}")]
    return []


def _wallet(case: Case, evidence: Evidence) -> Said:
    """The purse lost what is completed, once, and nothing is held any more."""
    said: Said = []
    purses = evidence.of("purses", case.tenant)
    if not purses:
        return said
    completed = [
        one
        for one in evidence.of("executions", case.tenant)
        if one["rail"] == "wallet" and one["status"] == "completed"
    ]
    wanted = sum(one["amount_minor"] for one in completed)
    purse = purses[0]
    if purse["debits_posted"] != wanted:
        kind = "double charge" if purse["debits_posted"] > wanted else "ledger"
        said.append((kind, f"{PURSE} paid {purse['debits_posted']}, and {wanted} is completed"))
    if purse["debits_pending"]:
        said.append(("open", f"{purse['debits_pending']} are still held in the {PURSE}"))
    resolutions: defaultdict[Any, int] = defaultdict(int)
    for one in evidence.of("transfers", case.tenant):
        if one["pending_id"] is not None:
            resolutions[one["pending_id"]] += 1
    if any(count > 1 for count in resolutions.values()):
        said.append(("double charge", "a hold was resolved twice"))
    return said


def _journal(case: Case, evidence: Evidence) -> Said:
    """No gap, a head that is the last event, and states that are their own last event's."""
    said: Said = []
    events = evidence.of("events", case.tenant)
    for head in evidence.of("heads", case.tenant):
        found = [one["seq"] for one in events if one["payment_id"] == head["payment_id"]]
        if found != list(range(1, len(found) + 1)) or head["seq"] != len(found):
            said.append(("gap", f"the journal is {found}, its head {head['seq']}"))
    for execution in evidence.of("executions", case.tenant):
        own = [
            one
            for one in events
            if one["execution_id"] == execution["execution_id"] and one["version"] is not None
        ]
        versions = [one["version"] for one in own]
        if versions != list(range(1, execution["version"] + 1)):
            said.append(("gap", f"version {execution['version']} with events of {versions}"))
        elif own[-1]["to_status"] != execution["status"]:
            said.append(("gap", f"{execution['status']}, told as {own[-1]['to_status']}"))
    return said


def _deliveries(case: Case, evidence: Evidence) -> Said:
    """Every event was delivered, first in order, and never one before those below it."""
    said: Said = []
    seen: dict[str, int] = {}
    for payment_id, seq in evidence.delivered.get(case.tenant, ()):
        if seq > seen.get(payment_id, 0) + 1:
            said.append(("gap", f"{seq} was delivered after {seen.get(payment_id, 0)}"))
        seen[payment_id] = max(seq, seen.get(payment_id, 0))
    for head in evidence.of("heads", case.tenant):
        last = seen.get(head["payment_id"], 0)
        if last != head["seq"]:
            said.append(("gap", f"delivered up to {last} of {head['seq']}"))
    if evidence.of("waiting", case.tenant):
        said.append(("open", "events still wait to be delivered"))
    return said


def _caller(case: Case, evidence: Evidence) -> Said:
    """What the caller was told is not what turned out to be false."""
    said: Said = []
    statuses = {one["status"] for one in evidence.of("executions", case.tenant)}
    if case.failure and "failed" not in statuses:
        said.append(("false failure", f"the caller was told that it failed: {case.outcome}"))
    if case.outcome.startswith("raised untyped"):
        said.append(("caller", case.outcome))
    if case.outcome == "hangs":
        said.append(("caller", "the caller was never answered"))
    return said
