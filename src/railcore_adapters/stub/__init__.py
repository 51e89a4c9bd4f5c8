"""
Clients of the sandbox: a card gateway and an open-banking client, told as flows.

>>> from railcore.rails.card_psp import CardPspRail
>>> from railcore_adapters.stub import StubGateway
>>> rail = CardPspRail(StubGateway("http://127.0.0.1:8000"))
>>> rail.capabilities.supports_refund
True
"""

from railcore_adapters.stub.provider import SANDBOX_TIMING, StubBank, StubGateway
from railcore_adapters.stub.webhooks import StubWebhooks

__all__ = ["SANDBOX_TIMING", "StubBank", "StubGateway", "StubWebhooks"]
