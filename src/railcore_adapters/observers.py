"""
Observers that write what they are told to a log: one line an event, structured besides.

Nothing in them is secret; card numbers are masked here once more, whoever let them in.
"""

import json
import logging
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol, cast
from uuid import UUID

import attrs
from typing_extensions import override

from railcore.failures import Certainty, FailureCategory, PaymentFailureCode
from railcore.observability import (
    DutyObserved,
    EventParkedObserved,
    Observed,
    RailObserved,
    WebhookObserved,
)
from railcore.redaction import masked

__all__ = ["JsonFormatter", "LoggingObserver", "StructlogObserver", "fields_of", "level_of"]

_ATTRIBUTE: Final = "railcore"


def fields_of(observed: Observed) -> Mapping[str, object]:
    """Return what *observed* tells as plain values, masked; what it does not know is left out."""
    told = {
        field.name: _plain(getattr(observed, field.name)) for field in attrs.fields(type(observed))
    }
    return {name: value for name, value in told.items() if value is not None}


def level_of(observed: Observed) -> int:
    """Return how loud to be: an error wants a person, a warning is a doubt or a waiting payer."""
    if isinstance(observed, RailObserved) and observed.error is not None:
        return logging.ERROR
    if isinstance(observed, DutyObserved | EventParkedObserved):
        return logging.ERROR
    if isinstance(observed, WebhookObserved):
        quiet = logging.WARNING if observed.verdict == "refused" else logging.INFO
        return logging.ERROR if observed.is_alarm else quiet
    code = observed.failure_code
    if code is None:
        return logging.INFO
    return _level_of_code(code)


def _level_of_code(code: PaymentFailureCode) -> int:
    if code.certainty is Certainty.AMBIGUOUS:
        return logging.WARNING
    match code.category:
        case FailureCategory.CONFIGURATION | FailureCategory.INTERNAL:
            return logging.ERROR
        case FailureCategory.TRANSIENT:
            return logging.WARNING
        case FailureCategory.PERMANENT:
            return logging.INFO


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case UUID():
            return str(value)  # never a card number, though its digits may look like one
        case str():
            return masked(value)
        case float():
            return round(value, 3)
        case _:
            return value


class LoggingObserver:
    """
    Writes to the standard library's logging: the name of the event, and ``name=value`` a field.

    The record carries the fields as a mapping in its attribute ``railcore``, the name included as
    ``event``, for handlers that keep structure; ``JsonFormatter`` is such a one.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("railcore")

    def observe(self, observed: Observed, /) -> None:
        """Write one line."""
        level = level_of(observed)
        if not self._logger.isEnabledFor(level):
            return
        fields = fields_of(observed)
        line = " ".join((observed.name, *(f"{name}={value}" for name, value in fields.items())))
        extra = {_ATTRIBUTE: {"event": observed.name, **fields}}
        self._logger.log(level, "%s", line, extra=extra)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with the fields of ``LoggingObserver`` as members."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        told = getattr(record, _ATTRIBUTE, None) or {"message": masked(record.getMessage())}
        line = {"at": self.formatTime(record), "level": record.levelname, "logger": record.name}
        return json.dumps({**line, **told}, default=str)


class StructuredLogger(Protocol):
    """What is asked of a structlog logger."""

    def log(self, level: int, event: str, **fields: Any) -> Any:
        """Write one event."""
        ...


class StructlogObserver:
    """
    Writes to structlog: the event and its fields as key-value pairs.

    Args:
        logger: Default: ``structlog.get_logger("railcore")``.

    Raises:
        ImportError: No logger is given and structlog is not installed.
    """

    def __init__(self, logger: StructuredLogger | None = None) -> None:
        self._logger = logger or _structlog_logger()

    def observe(self, observed: Observed, /) -> None:
        """Write one event."""
        self._logger.log(level_of(observed), observed.name, **fields_of(observed))


def _structlog_logger() -> StructuredLogger:
    try:
        import structlog  # noqa: PLC0415 - an extra: only who asks for it needs it
    except ImportError as error:
        raise ImportError(
            "StructlogObserver needs structlog: pip install 'railcore[structlog]'"
        ) from error
    return cast("StructuredLogger", structlog.get_logger("railcore"))
