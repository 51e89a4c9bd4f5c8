"""
Fake providers over real HTTP, with a ledger of truth and faults on demand.

>>> from railcore_adapters.sandbox import Sandbox
>>> with Sandbox() as sandbox:
...     sandbox.url.startswith("http://127.0.0.1:")
True
"""

from railcore_adapters.sandbox.faults import FAULTS, Fault, Stage
from railcore_adapters.sandbox.ledger import Charge, Ledger, Movement, SeenLookup, SeenRequest
from railcore_adapters.sandbox.sandbox import Sandbox
from railcore_adapters.sandbox.webhooks import SentWebhook, WebhookSender

__all__ = [
    "FAULTS",
    "Charge",
    "Fault",
    "Ledger",
    "Movement",
    "Sandbox",
    "SeenLookup",
    "SeenRequest",
    "SentWebhook",
    "Stage",
    "WebhookSender",
]
