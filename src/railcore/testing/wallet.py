"""
A wallet that lives in memory, for tests and first steps: nothing survives the process.

It keeps the promises of the port, each method under one lock, and passes the same contract class as
the wallet on Postgres.
"""

import threading
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import attrs

from railcore.clock import Deadline
from railcore.errors import SendDeadlinePassed, StoreError
from railcore.money import Currency
from railcore.ports import Clock
from railcore.wallet import (
    FindReferenced,
    FindTransfer,
    PostTransfer,
    TransferKind,
    TransferOutcome,
    TransferVerdict,
    WalletAccount,
    WalletAccountKind,
    WalletAsk,
    WalletBalance,
    WalletTransfer,
    expiry_of,
    other_kind,
)

_MOST: Final = 2**63 - 1
_ABSENT: Final = TransferOutcome(verdict=TransferVerdict.ABSENT)


@attrs.frozen
class _Sums:
    credits_posted: int = 0
    debits_posted: int = 0
    debits_pending: int = 0

    @property
    def balance(self) -> WalletBalance:
        posted = self.credits_posted - self.debits_posted
        return WalletBalance(posted=posted, held=self.debits_pending)


class InMemoryWalletRepository:
    """A ``WalletRepository`` in memory, safe between threads; *clock* says when holds expire."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._accounts: dict[tuple[str, str, str], WalletAccount] = {}
        self._sums: dict[WalletAccount, _Sums] = {}
        self._transfers: dict[tuple[str, UUID], WalletTransfer] = {}
        self._expiries: dict[tuple[str, UUID], datetime] = {}
        self._resolutions: dict[tuple[str, UUID], WalletTransfer] = {}
        self._references: dict[tuple[str, UUID], dict[UUID, WalletTransfer]] = {}

    @property
    def transfers(self) -> tuple[WalletTransfer, ...]:
        """All transfers in the order in which they were made."""
        with self._lock:
            return tuple(self._transfers.values())

    def open_account(self, account: WalletAccount, /) -> bool:
        """Open an account; whether it is new."""
        key = (account.tenant_id, account.account_id, account.currency.code)
        with self._lock:
            stored = self._accounts.setdefault(key, account)
            if stored.kind is not account.kind:
                raise other_kind(account)
            is_new = stored not in self._sums
            self._sums.setdefault(stored, _Sums())
            return is_new

    def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once."""
        with self._lock:
            outcome = self._judge(transfer)
            if outcome.verdict is TransferVerdict.APPLIED:
                self._apply(transfer)
            if outcome.verdict.stands and transfer.reference is not None:
                key = (transfer.tenant_id, transfer.reference)
                self._references.setdefault(key, {})[transfer.transfer_id] = transfer
            return outcome

    def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it."""
        with self._lock:
            return self._found(self._transfers.get((tenant_id, transfer_id)))

    def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one."""
        with self._lock:
            named = self._references.get((tenant_id, reference), {})
            return self._found(min(named.values(), key=_place, default=None))

    def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none."""
        with self._lock:
            account = self._accounts.get((tenant_id, account_id, currency.code))
            return None if account is None else self._sums[account].balance

    def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over."""
        with self._lock:
            now = self._clock.now()
            over = [key for key, until in self._expiries.items() if until <= now]
            open_ = sorted(over, key=self._expiries.__getitem__)[:limit]
            for key in open_:
                self.transfer(expiry_of(self._transfers[key]))
            return len(open_)

    def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """Answer one thing that a flow asks for."""
        match ask:
            case PostTransfer(transfer):
                with self._lock:
                    if send_by is not None and send_by.has_passed():
                        raise SendDeadlinePassed("too late for a transfer", may_have_left=False)
                    return self.transfer(transfer)
            case FindTransfer(tenant_id, transfer_id):
                return self.find(tenant_id, transfer_id)
            case FindReferenced(tenant_id, reference):
                return self.find_referenced(tenant_id, reference)

    def _judge(self, transfer: WalletTransfer) -> TransferOutcome:
        stored = self._transfers.get((transfer.tenant_id, transfer.transfer_id))
        if stored is not None:
            same = stored == transfer
            verdict = TransferVerdict.KNOWN if same else TransferVerdict.DIFFERS
            return TransferOutcome(verdict=verdict, transfer=stored if same else None)
        missing = self._missing(transfer)
        if missing is not None:
            return missing
        refusal = self._refusal_by_hold(transfer) or self._refusal_by_funds(transfer)
        if refusal is not None:
            return TransferOutcome(verdict=refusal)
        return TransferOutcome(verdict=TransferVerdict.APPLIED, transfer=transfer)

    def _missing(self, transfer: WalletTransfer) -> TransferOutcome | None:
        tenant_id, code = transfer.tenant_id, transfer.amount.currency.code
        for account_id in (transfer.debit_account, transfer.credit_account):
            if (tenant_id, account_id, code) not in self._accounts:
                elsewhere = any(key[:2] == (tenant_id, account_id) for key in self._accounts)
                verdict = (
                    TransferVerdict.WRONG_CURRENCY if elsewhere else TransferVerdict.NO_ACCOUNT
                )
                return TransferOutcome(verdict=verdict, account_id=account_id)
        return None

    def _refusal_by_hold(self, transfer: WalletTransfer) -> TransferVerdict | None:
        if transfer.pending_id is None:
            return None
        key = (transfer.tenant_id, transfer.pending_id)
        hold = self._transfers.get(key)
        if hold is None or hold.kind is not TransferKind.PENDING:
            return TransferVerdict.HOLD_NOT_FOUND
        if not _resolves(transfer, hold):
            return TransferVerdict.HOLD_MISMATCH
        if key in self._resolutions:
            return TransferVerdict.HOLD_RESOLVED
        if transfer.kind is TransferKind.VOID:
            return None
        if transfer.amount > hold.amount:
            return TransferVerdict.AMOUNT_EXCEEDS_HOLD
        is_over = self._expiries[key] <= self._clock.now()
        return TransferVerdict.HOLD_EXPIRED if is_over else None

    def _refusal_by_funds(self, transfer: WalletTransfer) -> TransferVerdict | None:
        payer = self._account(transfer, transfer.debit_account)
        if transfer.kind.resolves_a_hold or payer.kind is WalletAccountKind.HOUSE:
            return None
        if transfer.amount.amount_minor <= self._sums[payer].balance.available:
            return None
        return TransferVerdict.INSUFFICIENT_FUNDS

    def _apply(self, transfer: WalletTransfer) -> None:
        amount = transfer.amount.amount_minor
        payer = self._account(transfer, transfer.debit_account)
        payee = self._account(transfer, transfer.credit_account)
        debits, credits_ = self._sums[payer], self._sums[payee]
        if transfer.kind.moves:
            debits = attrs.evolve(debits, debits_posted=debits.debits_posted + amount)
            credits_ = attrs.evolve(credits_, credits_posted=credits_.credits_posted + amount)
        pending = debits.debits_pending + self._reserved(transfer)
        if payee.kind is WalletAccountKind.CUSTOMER and credits_.credits_posted > _MOST:
            raise StoreError("a balance above 63 bits", may_have_committed=False)
        self._sums[payer] = attrs.evolve(debits, debits_pending=pending)
        self._sums[payee] = credits_
        self._keep(transfer)

    def _reserved(self, transfer: WalletTransfer) -> int:
        if transfer.kind is TransferKind.PENDING:
            return transfer.amount.amount_minor
        if transfer.pending_id is None:
            return 0
        return -self._transfers[transfer.tenant_id, transfer.pending_id].amount.amount_minor

    def _keep(self, transfer: WalletTransfer) -> None:
        key = (transfer.tenant_id, transfer.transfer_id)
        self._transfers[key] = transfer
        if transfer.hold_s is not None:
            self._expiries[key] = self._clock.now() + timedelta(seconds=transfer.hold_s)
        if transfer.pending_id is not None:
            hold = (transfer.tenant_id, transfer.pending_id)
            self._resolutions[hold] = transfer
            del self._expiries[hold]

    def _account(self, transfer: WalletTransfer, account_id: str) -> WalletAccount:
        return self._accounts[transfer.tenant_id, account_id, transfer.amount.currency.code]

    def _found(self, transfer: WalletTransfer | None) -> TransferOutcome:
        if transfer is None:
            return _ABSENT
        resolution = self._resolutions.get((transfer.tenant_id, transfer.transfer_id))
        return TransferOutcome(
            verdict=TransferVerdict.KNOWN, transfer=transfer, resolution=resolution
        )


class AsyncInMemoryWalletRepository:
    """The same, asynchronous."""

    def __init__(self, clock: Clock) -> None:
        self._wallet = InMemoryWalletRepository(clock)

    @property
    def transfers(self) -> tuple[WalletTransfer, ...]:
        """All transfers in the order in which they were made."""
        return self._wallet.transfers

    async def open_account(self, account: WalletAccount, /) -> bool:
        """Open an account; whether it is new."""
        return self._wallet.open_account(account)

    async def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once."""
        return self._wallet.transfer(transfer)

    async def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id, with what resolved it."""
        return self._wallet.find(tenant_id, transfer_id)

    async def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution, its hold if it has one."""
        return self._wallet.find_referenced(tenant_id, reference)

    async def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has, or None when there is none."""
        return self._wallet.balance(tenant_id, account_id, currency)

    async def expire_holds(self, limit: int, /) -> int:
        """Release at most *limit* holds whose time is over."""
        return self._wallet.expire_holds(limit)

    async def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """Answer one thing that a flow asks for."""
        return self._wallet.answer(ask, send_by)


def _place(transfer: WalletTransfer) -> tuple[bool, UUID]:
    """Order what was done for one execution: what opened first, so that it has a first one."""
    return transfer.pending_id is not None, transfer.transfer_id


def _resolves(transfer: WalletTransfer, hold: WalletTransfer) -> bool:
    """Whether *transfer* names the accounts of *hold* and, to release it, all that is held."""
    asked = (transfer.debit_account, transfer.credit_account, transfer.amount.currency)
    if asked != (hold.debit_account, hold.credit_account, hold.amount.currency):
        return False
    return transfer.kind is TransferKind.POST or transfer.amount == hold.amount
