"""
The people around the payments of the demo, who do what the file's stories say.

Payers approve or reject at their bank, the provider ends what it left pending, treasury finds
receipts, and named persons at the counter confirm or reject: at some counters it takes two.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from railcore.engine import AsyncPaymentEngine
from railcore.enums import PendingReason
from railcore.errors import ApprovalError
from railcore.execution import PaymentExecution
from railcore.money import Money
from railcore.ports import AsyncWalletRepository, OperatorDecision
from railcore.wallet import (
    WalletAccount,
    WalletAccountKind,
    WalletTransfer,
    transfer_id,
)
from railcore_adapters.cli.billing_file import Line
from railcore_adapters.sandbox import Sandbox

OPENING_MINOR = 5_000_000
"""What each wallet of the demo begins with, in minor units of its currency."""

NO_WALLET = "no such wallet"
_HOUSE, _TREASURY = "house", "treasury"
_COUNTER, _AUDIT, _DESK = "omar.counter", "huda.audit", "layla.treasury"


def story_of(execution: PaymentExecution) -> str:
    """Return what the file tells about the people around a payment; empty when nothing."""
    return execution.context.metadata.get("story", "")


async def fill_wallets(wallet: AsyncWalletRepository, lines: Sequence[Line]) -> int:
    """Open and fill the wallets that *lines* pay from, and the house's; return how many."""
    contexts = [one.context for one in lines if one.context.payment_option_key == "wallet.balance"]
    accounts = {
        (context.tenant_id, context.payer_token, context.money.currency)
        for context in contexts
        if context.payer_token and context.metadata.get("story") != NO_WALLET
    }
    for tenant_id, name, currency in sorted(accounts, key=str):
        for house in (_HOUSE, _TREASURY):
            kind = WalletAccountKind.HOUSE
            await wallet.open_account(
                WalletAccount(tenant_id=tenant_id, account_id=house, currency=currency, kind=kind)
            )
        account = WalletAccount(tenant_id=tenant_id, account_id=str(name), currency=currency)
        await wallet.open_account(account)
        await wallet.transfer(_opening(account))
    return len(accounts)


def _opening(account: WalletAccount) -> WalletTransfer:
    name = f"{account.tenant_id}/{account.account_id}/{account.currency}"
    return WalletTransfer(
        transfer_id=transfer_id(name, "opening"),
        tenant_id=account.tenant_id,
        debit_account=_TREASURY,
        credit_account=account.account_id,
        amount=Money(OPENING_MINOR, account.currency),
    )


@attrs.define
class People:
    """
    Everybody around the demo's payments.

    Attributes:
        deeds: What was done, and how often.
    """

    engine: AsyncPaymentEngine
    sandbox: Sandbox
    deeds: Counter[str] = attrs.field(factory=Counter)

    async def act(self, executions: Sequence[PaymentExecution]) -> None:
        """Let everybody act on the payments that wait for them."""
        for execution in executions:
            await self._act(execution, story_of(execution))

    async def _act(self, execution: PaymentExecution, story: str) -> None:
        match execution.pending_reason:
            case PendingReason.CUSTOMER_ACTION:
                await asyncio.to_thread(self._pay, execution, story)
            case PendingReason.PROVIDER_PROCESSING:
                await asyncio.to_thread(self._process, execution, story)
            case PendingReason.AWAITING_FUNDS:
                await self._receive(execution, story)
            case PendingReason.MANUAL_REVIEW:
                await self._count(execution, story)
            case _:
                pass

    def _pay(self, execution: PaymentExecution, story: str) -> None:
        payment = str(execution.provider_ref)
        match story:
            case "the payer approves":
                self.sandbox.bank.approve(payment)
                self.sandbox.bank.settle(payment)
                self.deeds["payers approved at their bank"] += 1
            case "the payer rejects":
                self.sandbox.bank.reject(payment)
                self.deeds["payers rejected"] += 1
            case _:
                pass

    def _process(self, execution: PaymentExecution, story: str) -> None:
        charge = str(execution.provider_ref)
        match story:
            case "the provider settles":
                self.sandbox.psp.settle(charge)
                self.deeds["pending charges were settled by the provider"] += 1
            case "the provider declines":
                self.sandbox.psp.decline(charge)
                self.deeds["pending charges were declined by the provider"] += 1
            case _:
                pass

    async def _receive(self, execution: PaymentExecution, story: str) -> None:
        statement = f"statement-{execution.payment_id}"
        match story:
            case "the funds arrive":
                await self._confirm(execution, OperatorDecision(actor=_DESK, evidence=statement))
                self.deeds[f"transfers were found by {_DESK}"] += 1
            case "the funds arrive in part":
                part = Money(execution.money.amount_minor * 2 // 5, execution.money.currency)
                received = OperatorDecision(actor=_DESK, evidence=statement, received=part)
                await self._confirm(execution, received)
                self.deeds[f"transfers came in part, says {_DESK}"] += 1
            case _:
                pass

    async def _count(self, execution: PaymentExecution, story: str) -> None:
        decision = OperatorDecision(actor=_COUNTER, evidence=f"receipt-{execution.payment_id}")
        match story:
            case "the counter confirms":
                await self._confirm_twice_where_asked(execution, decision)
            case "the counter rejects":
                await self.engine.reject(execution.tenant_id, execution.execution_id, decision)
                self.deeds[f"cash payments were rejected by {_COUNTER}"] += 1
            case _:
                pass

    async def _confirm_twice_where_asked(
        self, execution: PaymentExecution, decision: OperatorDecision
    ) -> None:
        first = await self._confirm(execution, decision)
        if first.is_open:
            try:
                await self._confirm(first, attrs.evolve(decision, evidence="the-same-again"))
            except ApprovalError:
                self.deeds[f"second approvals by {_COUNTER} himself were refused"] += 1
            await self._confirm(first, attrs.evolve(decision, actor=_AUDIT))
            self.deeds[f"cash payments were confirmed by {_COUNTER} and {_AUDIT}"] += 1
        else:
            self.deeds[f"cash payments were confirmed by {_COUNTER}"] += 1

    async def _confirm(
        self, execution: PaymentExecution, decision: OperatorDecision
    ) -> PaymentExecution:
        return await self.engine.confirm(execution.tenant_id, execution.execution_id, decision)


def told(deeds: Mapping[str, int]) -> list[str]:
    """Return *deeds* as lines for people."""
    return [f"{count:,} {deed}" for deed, count in sorted(deeds.items(), key=lambda it: -it[1])]
