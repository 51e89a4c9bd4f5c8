"""
What a wallet does, as flows that ask for statements and receive rows.

A transfer is one statement. What it refuses for want of funds or time may be the transfer itself,
made by somebody quicker between the statement's snapshot and its locks: it is looked for before the
refusal is believed. What lost a race is run again, since nothing of it was committed.
"""

from collections.abc import Generator, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

from railcore.errors import InProgressError, StoreError
from railcore.money import Currency, Money
from railcore.wallet import (
    FindReferenced,
    FindTransfer,
    PostTransfer,
    TransferKind,
    TransferOutcome,
    TransferVerdict,
    WalletAccount,
    WalletAsk,
    WalletBalance,
    WalletTransfer,
    expiry_of,
    other_kind,
)
from railcore_sqlalchemy.driver import Query, StatementFailed, Template, template
from railcore_sqlalchemy.rows import Parameters, Row, seconds

Result = TypeVar("Result")
Flow = Generator[Query, Sequence[Row], Result]
"""A conversation with the database."""

ATTEMPTS: Final = 5
RETRY_AFTER: Final = timedelta(milliseconds=250)

_TRANSFER: Final = template("wallet_transfer", writes=True, prepared=True)
_OPEN: Final = template("wallet_open", writes=True)
_FIND: Final = template("wallet_find", prepared=True)
_REFERENCED: Final = template("wallet_referenced", prepared=True)
_BALANCE: Final = template("wallet_balance")
_EXPIRED: Final = template("wallet_expired")

_AGAIN: Final = "again"
_LOCKED: Final = "55P03"
_LOST_A_RACE: Final = frozenset({"40001", "40P01"})
_JUDGED_ON_AN_OLD_SNAPSHOT: Final = frozenset(
    {TransferVerdict.INSUFFICIENT_FUNDS, TransferVerdict.HOLD_EXPIRED}
)


def open_account(account: WalletAccount) -> Flow[bool]:
    """Open an account; whether it is new. Raises MisconfiguredError for one of another kind."""
    parameters: Parameters = {
        "tenant_id": account.tenant_id,
        "account_id": account.account_id,
        "currency": account.currency.code,
        "kind": account.kind.value,
    }
    row = yield from _persist(_OPEN, parameters, f"account {account.account_id!r}")
    if row["kind"] != account.kind:
        raise other_kind(account)
    return bool(row["is_new"])


def transfer(asked: WalletTransfer) -> Flow[TransferOutcome]:
    """Make a transfer, once."""
    row = yield from _persist(_TRANSFER, _parameters(asked), f"transfer {asked.transfer_id}")
    verdict = TransferVerdict(row["verdict"])
    if verdict in _JUDGED_ON_AN_OLD_SNAPSHOT:
        stored = (yield from find(asked.tenant_id, asked.transfer_id)).transfer
        if stored is not None:
            verdict = TransferVerdict.KNOWN if stored == asked else TransferVerdict.DIFFERS
    return TransferOutcome(
        verdict=verdict,
        transfer=asked if verdict.stands else None,
        account_id=row["account_id"],
    )


def find(tenant_id: str, transfer_id: UUID) -> Flow[TransferOutcome]:
    """Read a transfer by its id."""
    found = yield _FIND({"tenant_id": tenant_id, "transfer_id": str(transfer_id)})
    return _found(found)


def find_referenced(tenant_id: str, reference: UUID) -> Flow[TransferOutcome]:
    """Read the transfer of an execution, its hold if it has one."""
    found = yield _REFERENCED({"tenant_id": tenant_id, "reference": str(reference)})
    return _found(found)


def balance(tenant_id: str, account_id: str, currency: Currency) -> Flow[WalletBalance | None]:
    """Read what an account has."""
    key = {"tenant_id": tenant_id, "account_id": account_id, "currency": currency.code}
    found = yield _BALANCE(key)
    return (
        WalletBalance(posted=int(found[0]["posted"]), held=int(found[0]["held"])) if found else None
    )


def expire_holds(limit: int) -> Flow[int]:
    """Release holds whose time is over; how many."""
    found = yield _EXPIRED({"limit": str(limit)})
    released = 0
    for row in found:
        outcome = yield from transfer(expiry_of(_transfer_of(row)))
        released += outcome.verdict is TransferVerdict.APPLIED
    return released


def answer(ask: WalletAsk) -> Flow[TransferOutcome]:
    """Answer one thing that a flow of the rail asks for."""
    match ask:
        case PostTransfer(asked):
            return transfer(asked)
        case FindTransfer(tenant_id, transfer_id):
            return find(tenant_id, transfer_id)
        case FindReferenced(tenant_id, reference):
            return find_referenced(tenant_id, reference)


def _persist(statement: Template, parameters: Parameters, what: str) -> Flow[Row]:
    """Run a statement until it neither loses a race nor finds half of one."""
    for _ in range(ATTEMPTS):
        try:
            found = yield statement(parameters)
        except StatementFailed as failed:
            if failed.sqlstate == _LOCKED:
                raise InProgressError(what, RETRY_AFTER) from failed
            if failed.sqlstate not in _LOST_A_RACE:
                raise
        else:
            if found and found[0].get("verdict") != _AGAIN:
                return found[0]
    problem = f"{what}: lost {ATTEMPTS} races in a row"
    raise StoreError(problem, may_have_committed=False)


def _parameters(asked: WalletTransfer) -> Parameters:
    return {
        "tenant_id": asked.tenant_id,
        "transfer_id": str(asked.transfer_id),
        "debit_account": asked.debit_account,
        "credit_account": asked.credit_account,
        "currency": asked.amount.currency.code,
        "amount_minor": str(asked.amount.amount_minor),
        "kind": asked.kind.value,
        "pending_id": None if asked.pending_id is None else str(asked.pending_id),
        "hold_s": None if asked.hold_s is None else seconds(asked.hold_s),
        "reference": None if asked.reference is None else str(asked.reference),
    }


def _found(found: Sequence[Row]) -> TransferOutcome:
    if not found:
        return TransferOutcome(verdict=TransferVerdict.ABSENT)
    stored = _transfer_of(found[0])
    return TransferOutcome(
        verdict=TransferVerdict.KNOWN,
        transfer=stored,
        resolution=_resolution_of(found[0], stored),
    )


def _transfer_of(row: Row) -> WalletTransfer:
    return WalletTransfer(
        transfer_id=row["transfer_id"],
        tenant_id=row["tenant_id"],
        debit_account=row["debit_account"],
        credit_account=row["credit_account"],
        amount=Money(row["amount_minor"], Currency.of(row["currency"])),
        kind=TransferKind(row["kind"]),
        pending_id=row["pending_id"],
        hold_s=row["hold_s"],
    )


def _resolution_of(row: Row, hold: WalletTransfer) -> WalletTransfer | None:
    if row["resolved_by"] is None:
        return None
    return WalletTransfer(
        transfer_id=row["resolved_by"],
        tenant_id=hold.tenant_id,
        debit_account=hold.debit_account,
        credit_account=hold.credit_account,
        amount=Money(row["resolved_minor"], hold.amount.currency),
        kind=TransferKind(row["resolved_kind"]),
        pending_id=hold.transfer_id,
    )
