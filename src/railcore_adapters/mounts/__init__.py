"""
Where providers' webhooks arrive: an ASGI and a WSGI application that need no framework.

Both answer POST at ``/api/v1/billing/webhook/{provider}`` and ``.../{provider}/{account}``; mount
them where the path reaches them whole, or under any part of it.
"""

from railcore_adapters.mounts.asgi import WebhookAsgi
from railcore_adapters.mounts.wsgi import WebhookWsgi

__all__ = ["WebhookAsgi", "WebhookWsgi"]
