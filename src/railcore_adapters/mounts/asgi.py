"""The ASGI application."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

import attrs

from railcore.errors import RailcoreError
from railcore.webhooks import BODY_LIMIT, Headers, WebhookReceipt
from railcore_adapters.mounts.answers import (
    BAD_LENGTH,
    TAKEN,
    TOO_LARGE,
    Answer,
    Target,
    answer_to,
    check_head,
)

__all__ = ["WebhookAsgi"]

Message = MutableMapping[str, Any]
"""What ASGI sends and receives; the specification types its values."""

_logger: Final = logging.getLogger("railcore.webhooks")


class AsyncIntake(Protocol):
    """What is asked of an engine; ``AsyncPaymentEngine`` has it."""

    async def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """Take a delivery."""
        ...

    async def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        """Apply what was taken."""
        ...


@attrs.frozen
class WebhookAsgi:
    """
    Takes deliveries, answers as soon as they are stored, and applies them then.

    Attributes:
        engine: An ``AsyncPaymentEngine`` made with webhooks.
    """

    engine: AsyncIntake

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request; the lifespan protocol is declined, as nothing is opened here."""
        if scope["type"] != "http":
            raise NotImplementedError(f"railcore answers http, not {scope['type']}")
        answer, receipt = await self._take(scope, receive)
        headers = [(name.encode(), value.encode()) for name, value in answer.all_headers]
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})
        if receipt is not None:
            await self._apply(receipt)

    async def _take(
        self, scope: Message, receive: Callable[[], Awaitable[Message]]
    ) -> tuple[Answer, WebhookReceipt | None]:
        headers = [(name.decode("latin-1"), value.decode("latin-1"))
                   for name, value in scope["headers"]]  # fmt: skip
        told = {name.lower(): value for name, value in headers}
        target = check_head(scope["method"], scope["path"], told.get)
        if not isinstance(target, Target):
            return target, None
        body = await _body(receive)
        if isinstance(body, Answer):
            return body, None
        try:
            receipt = await self.engine.receive_webhook(
                target.provider, headers, body, target.account
            )
        except Exception as error:  # noqa: BLE001 - logged; the provider is told a status
            return answer_to(error), None
        return TAKEN, receipt

    async def _apply(self, receipt: WebhookReceipt) -> None:
        try:
            _ = await self.engine.apply_webhook(receipt)
        except RailcoreError:
            _logger.exception("a webhook was taken and waits to be applied")


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes | Answer:
    """Return the whole body, or the answer to one that is too large or never ends."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return BAD_LENGTH
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            return TOO_LARGE
        if not message.get("more_body", False):
            return bytes(body)
