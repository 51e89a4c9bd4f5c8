"""
HyperPay: cards of MADA, VISA and Mastercard over the Open Payment Platform.

>>> from railcore.rails.card_psp import CardPspRail
>>> from railcore_adapters.hyperpay import HyperPayAccount, HyperPayGateway, classify
>>> accounts = {"mada": HyperPayAccount(entity_id="8ac7a4c7", brands=("MADA",))}
>>> rail = CardPspRail(HyperPayGateway(accounts=accounts))
>>> rail.capabilities.most_decimals
2
>>> classify("000.200.100").outcome.value
'pending'
"""

from railcore_adapters.hyperpay.codes import Meaning, Outcome, classify
from railcore_adapters.hyperpay.provider import (
    HYPERPAY_TIMING,
    LIVE_URL,
    TEST_URL,
    HyperPayAccount,
    HyperPayGateway,
)
from railcore_adapters.hyperpay.webhooks import HyperPayWebhooks

__all__ = [
    "HYPERPAY_TIMING",
    "LIVE_URL",
    "TEST_URL",
    "HyperPayAccount",
    "HyperPayGateway",
    "HyperPayWebhooks",
    "Meaning",
    "Outcome",
    "classify",
]
