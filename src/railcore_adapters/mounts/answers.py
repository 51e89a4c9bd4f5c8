"""
What both applications answer, without any I/O.

2xx means that the delivery is stored. Whatever is our own fault is a 5xx, so that the provider
sends it again. Bodies of answers tell a provider nothing about us.
"""

import logging
import re
from collections.abc import Callable
from typing import Final

import attrs

from railcore.errors import InProgressError, UnknownProviderError, WebhookRefusedError
from railcore.webhooks import BODY_LIMIT

__all__ = [
    "BAD_LENGTH",
    "ENCODED",
    "NOT_FOUND",
    "TAKEN",
    "TOO_LARGE",
    "WRONG_METHOD",
    "Answer",
    "Target",
    "answer_to",
    "check_head",
]

_PATH: Final = re.compile(
    r"(?:/api)?(?:/v1)?(?:/billing)?/webhook/([!-.0-~]{1,64})(?:/([!-.0-~]{1,64}))?/?\Z"
)
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_logger: Final = logging.getLogger("railcore.webhooks")


@attrs.frozen
class Answer:
    """A status and a word about it."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        """The answer as a line of text."""
        return f"{self.reason}\n".encode()

    @property
    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """Every header of the answer."""
        length = ("content-length", str(len(self.body)))
        return (("content-type", "text/plain; charset=utf-8"), length, *self.headers)


TAKEN: Final = Answer(200, "OK")
BAD_LENGTH: Final = Answer(400, "Bad Request")
REFUSED: Final = Answer(401, "Unauthorized")
NOT_FOUND: Final = Answer(404, "Not Found")
WRONG_METHOD: Final = Answer(405, "Method Not Allowed", (("allow", "POST"),))
TOO_LARGE: Final = Answer(413, "Content Too Large", (("connection", "close"),))
ENCODED: Final = Answer(415, "Unsupported Media Type", (("accept-encoding", "identity"),))
BROKEN: Final = Answer(500, "Internal Server Error")
BUSY: Final = Answer(503, "Service Unavailable", (("retry-after", "1"),))


@attrs.frozen
class Target:
    """Whom a delivery is for."""

    provider: str
    account: str | None


def check_head(method: str, path: str, header: Callable[[str], str | None]) -> Target | Answer:
    """
    Return whom a request is for, or the answer that it gets before its body is read.

    Args:
        header: Returns a header by its name in lower case; None when it is not there.
    """
    found = _PATH.search(path)
    if found is None:
        return NOT_FOUND
    if method != "POST":
        return WRONG_METHOD
    if (header("content-encoding") or "identity").strip().lower() != "identity":
        return ENCODED
    said = header("content-length")
    if said is not None and not _LENGTH.fullmatch(said.strip()):
        return BAD_LENGTH
    if said is not None and int(said) > BODY_LIMIT:
        return TOO_LARGE
    return Target(found[1], found[2])


def answer_to(error: Exception) -> Answer:
    """Return what a provider is told when its delivery was not taken."""
    match error:
        case WebhookRefusedError():
            return REFUSED
        case UnknownProviderError():
            return NOT_FOUND
        case InProgressError():
            return BUSY
        case _:
            _logger.error("a webhook could not be taken", exc_info=error)
            return BROKEN
