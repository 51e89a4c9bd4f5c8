"""The five rails, written once as flows, and the two drivers that run them."""

from railcore.driven import AsyncDrivenRail, DrivenRail
from railcore.rails.bank_transfer import BankAccount, BankTransferRail
from railcore.rails.card_psp import CardPspRail
from railcore.rails.manual import ManualSettlementRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.rails.wallet import WalletRail

__all__ = [
    "AsyncDrivenRail",
    "BankAccount",
    "BankTransferRail",
    "CardPspRail",
    "DrivenRail",
    "ManualSettlementRail",
    "OpenBankingPaymentRail",
    "WalletRail",
]
