"""The WSGI application."""

import logging
from collections.abc import Callable, Iterable, Iterator
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

__all__ = ["WebhookWsgi"]

Environ = dict[str, Any]
"""What WSGI hands in; the specification types its values."""

_logger: Final = logging.getLogger("railcore.webhooks")
_CHUNK: Final = 16_384


class SyncIntake(Protocol):
    """What is asked of an engine; ``PaymentEngine`` has it."""

    def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        """Take a delivery."""
        ...

    def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        """Apply what was taken."""
        ...


@attrs.frozen
class WebhookWsgi:
    """
    Takes deliveries, answers as soon as they are stored, and applies them then.

    They are applied when the server closes the answer, which it does after having sent it.

    Attributes:
        engine: A ``PaymentEngine`` made with webhooks.
    """

    engine: SyncIntake

    def __call__(self, environ: Environ, start_response: Callable[..., Any], /) -> Iterable[bytes]:
        """Answer one request."""
        answer, receipt = self._take(environ)
        start_response(f"{answer.status} {answer.reason}", list(answer.all_headers))
        return _Closing(answer.body, self.engine, receipt)

    def _take(self, environ: Environ) -> tuple[Answer, WebhookReceipt | None]:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        headers = dict(_headers(environ))
        target = check_head(environ["REQUEST_METHOD"], path, headers.get)
        if not isinstance(target, Target):
            return target, None
        body = _body(environ, headers.get("content-length"))
        if not isinstance(body, bytes):
            return body, None
        try:
            receipt = self.engine.receive_webhook(target.provider, headers, body, target.account)
        except Exception as error:  # noqa: BLE001 - logged; the provider is told a status
            return answer_to(error), None
        return TAKEN, receipt


@attrs.define
class _Closing:
    body: bytes
    engine: SyncIntake
    receipt: WebhookReceipt | None

    def __iter__(self) -> Iterator[bytes]:
        yield self.body

    def close(self) -> None:
        receipt, self.receipt = self.receipt, None
        if receipt is None:
            return
        try:
            _ = self.engine.apply_webhook(receipt)
        except RailcoreError:
            _logger.exception("a webhook was taken and waits to be applied")


def _headers(environ: Environ) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-").lower(), value
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            yield name.replace("_", "-").lower(), environ[name]


def _body(environ: Environ, length: str | None) -> bytes | Answer:
    """
    Return the body, or the answer to one that is too large or ends early.

    Without a length (a chunked body) it is read to its end, where the server says that it marks it.
    """
    if length is None and not environ.get("wsgi.input_terminated", False):
        if "HTTP_TRANSFER_ENCODING" in environ:
            return Answer(411, "Length Required")
        return b""
    wanted = BODY_LIMIT + 1 if length is None else int(length)
    body = bytearray()
    while len(body) < wanted:
        chunk = environ["wsgi.input"].read(min(_CHUNK, wanted - len(body)))
        if not chunk:
            break
        body += chunk
    if len(body) > BODY_LIMIT:
        return TOO_LARGE
    if length is not None and len(body) < wanted:
        return BAD_LENGTH
    return bytes(body)
