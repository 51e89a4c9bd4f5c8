"""What is observed becomes one line, structured besides, with nothing secret in it."""

import builtins
import json
import logging
from typing import Any

import attrs
import pytest
from structlog.testing import capture_logs

from railcore.errors import TransportError
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, Money
from railcore.observability import Observed, execution_observed, rail_observed
from railcore.ports import Observer
from railcore.results import RailResult
from railcore_adapters.observers import JsonFormatter, LoggingObserver, StructlogObserver
from tests.core.executions import an_execution

CARD = "4111111111111111"
EXECUTION = an_execution(correlation_id="req-7")
SUCCESS = RailResult.success("ch_1", Money(1250, SAR))
CALLED = rail_observed(EXECUTION, "execute", 0.0123456, SUCCESS)
ANSWERED = execution_observed(EXECUTION, 0.5, is_repeat=True)
EXPECTED = {
    "step": "execute",
    "duration_ms": 12.346,
    "tenant_id": "acme",
    "execution_id": str(EXECUTION.execution_id),
    "operation": "charge",
    "rail": "card_psp",
    "provider": "stub",
    "account": "main",
    "correlation_id": "req-7",
    "status": "success",
}


def failing(code: Any) -> Observed:
    return rail_observed(EXECUTION, "execute", 0.1, RailResult.failed(code))


@pytest.fixture
def observer(caplog: pytest.LogCaptureFixture) -> Observer:
    caplog.set_level(logging.DEBUG, "railcore")
    return LoggingObserver()


def told(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = record.__dict__["railcore"]
    return fields


def test_a_rail_call_is_one_line(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    observer.observe(CALLED)

    (line,) = caplog.messages
    assert line.startswith("billing.rail.execution step=execute duration_ms=12.346 tenant_id=acme")
    assert line.endswith("correlation_id=req-7 status=success")


def test_the_fields_are_there_as_values_too(
    observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    observer.observe(CALLED)

    assert told(caplog.records[0]) == {"event": "billing.rail.execution", **EXPECTED}


def test_an_answer_to_the_host_is_one_line(
    observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    observer.observe(ANSWERED)

    fields = told(caplog.records[0])
    assert fields["event"] == "billing.execution.result"
    assert (fields["status"], fields["is_repeat"]) == ("processing", True)


LEVELS = [
    (CALLED, logging.INFO),
    (ANSWERED, logging.INFO),
    (failing(PaymentFailureCode.DECLINED), logging.INFO),
    (failing(PaymentFailureCode.NETWORK_ERROR), logging.WARNING),
    (failing(PaymentFailureCode.INVALID_CREDENTIALS), logging.ERROR),
    (failing(PaymentFailureCode.INTERNAL_ERROR), logging.ERROR),
    (
        rail_observed(
            EXECUTION, "execute", 0, RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
        ),
        logging.WARNING,
    ),
    (
        rail_observed(
            EXECUTION, "execute", 0, RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)
        ),
        logging.WARNING,
    ),
    (
        rail_observed(EXECUTION, "execute", 0, TransportError("x", may_have_left=True)),
        logging.ERROR,
    ),
]


@pytest.mark.parametrize(("observed", "level"), LEVELS)
def test_the_level_says_who_has_to_look(
    observer: Observer, caplog: pytest.LogCaptureFixture, observed: Observed, level: int
) -> None:
    observer.observe(observed)

    assert [record.levelno for record in caplog.records] == [level]


def test_an_exception_is_told_by_its_type_alone(
    observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    observer.observe(rail_observed(EXECUTION, "execute", 0, ValueError(f"bad {CARD}")))

    assert told(caplog.records[0])["error"] == "ValueError"
    assert CARD not in caplog.text


def test_what_the_logger_does_not_want_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "railcore")

    LoggingObserver().observe(CALLED)

    assert caplog.records == []


leaky = pytest.mark.parametrize("name", ["tenant_id", "provider", "account", "correlation_id"])


def leaking(name: str) -> Observed:
    changed: dict[str, Any] = {name: f"x-{CARD}"}
    return attrs.evolve(CALLED, **changed)


@leaky
def test_a_card_number_never_appears(
    observer: Observer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    observer.observe(leaking(name))

    assert "411111******1111" in caplog.text
    assert CARD not in caplog.text + str(told(caplog.records[0]))


@leaky
def test_a_card_number_never_reaches_structlog(name: str) -> None:
    with capture_logs() as lines:
        StructlogObserver().observe(leaking(name))

    assert CARD not in str(lines)


def test_json_lines_carry_the_fields(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    observer.observe(CALLED)

    line = JsonFormatter().format(caplog.records[0])
    fields = json.loads(line)
    assert "\n" not in line
    assert {name: fields[name] for name in EXPECTED} == EXPECTED
    assert (fields["level"], fields["logger"]) == ("INFO", "railcore")
    assert fields["event"] == "billing.rail.execution"


def test_json_lines_of_others_carry_their_message_masked() -> None:
    record = logging.LogRecord("host", logging.INFO, "", 0, "card %s", (CARD,), None)

    assert json.loads(JsonFormatter().format(record))["message"] == "card 411111******1111"


def test_structlog_gets_event_and_fields() -> None:
    with capture_logs() as lines:
        StructlogObserver().observe(CALLED)

    assert lines == [{"event": "billing.rail.execution", "log_level": "info", **EXPECTED}]


def test_another_structured_logger_can_be_given() -> None:
    lines = list[tuple[int, str, dict[str, object]]]()

    class Kept:
        def log(self, level: int, event: str, **fields: Any) -> None:
            lines.append((level, event, fields))

    observer: Observer = StructlogObserver(Kept())
    observer.observe(CALLED)

    assert lines == [(logging.INFO, "billing.rail.execution", EXPECTED)]


def test_without_structlog_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "structlog":
            raise ImportError(name)
        return load(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(ImportError, match=r"railcore\[structlog\]"):
        StructlogObserver()
