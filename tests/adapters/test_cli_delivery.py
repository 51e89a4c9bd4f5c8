"""Where a worker delivers events, as its configuration says."""

import asyncio
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from railcore.engine import PaymentEngine
from railcore.errors import DeliveryError, MisconfiguredError
from railcore.testing.contracts.event_sink import event_of
from railcore_adapters.cli.delivery import sink_of
from railcore_adapters.sandbox import Sandbox
from tests.adapters.raw_server import answer_all, raw_server
from tests.adapters.test_cli_worker import COMMAND, ROUTES, engine, enqueue, environment, routes

__all__ = ["engine", "environment", "routes"]  # fixtures

SECRET = {"RAILCORE_EVENTS_SECRET": "whsec_" + "c2VjcmV0" * 4}
NOBODY = "nats://127.0.0.1:1"
REDIS = "redis://127.0.0.1:1"


def work_once(
    environment: Mapping[str, str], routes: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--once", "--routes", routes, *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_worker_posts_events_to_the_configured_endpoint(
    engine: PaymentEngine, environment: Mapping[str, str], routes: Path
) -> None:
    enqueue(engine, 3)
    with raw_server(answer_all) as server:
        routes.write_text(f'{ROUTES}\nevents = {{to = "http", allows_loopback = true}}\n')

        ran = work_once(
            {**environment, **SECRET, "RAILCORE_EVENTS_URL": f"{server.url}/hooks"}, routes
        )

        assert ran.returncode == 0, ran.stderr
        assert server.count(b"POST /hooks") == 6
        assert server.count(b"webhook-signature: v1,") == 6


def test_a_broker_that_is_down_keeps_no_payment_waiting(
    engine: PaymentEngine,
    environment: Mapping[str, str],
    routes: Path,
    railcore_sandbox: Sandbox,
) -> None:
    enqueue(engine, 3)
    routes.write_text(f'{ROUTES}\nevents = {{to = "redis", url = "{REDIS}", stream = "s"}}\n')

    ran = work_once(environment, routes)

    assert ran.returncode == 0, ran.stderr
    assert not engine.open_executions()
    assert len(railcore_sandbox.ledger.charges) == 3


def test_what_a_receiver_waits_for_does_not_go_to_the_terminal(
    environment: Mapping[str, str], routes: Path
) -> None:
    routes.write_text(f'{ROUTES}\nevents = {{to = "redis", url = "{REDIS}", stream = "s"}}\n')

    ran = work_once(environment, routes, "--print-events")

    assert ran.returncode == 2
    assert "--print-events" in ran.stderr


def test_a_receiver_that_cannot_be_reached_is_tried_at_every_delivery() -> None:
    async def deliver() -> None:
        async with sink_of({"to": "redis", "url": REDIS, "stream": "s"}, {}) as sink:
            for _ in range(2):
                with pytest.raises(DeliveryError, match="cannot be reached"):
                    await sink.deliver(event_of())

    asyncio.run(deliver())


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ({}, "events.to"),
        ({"to": "fax"}, "http, kafka, nats, rabbit, redis"),
        ({"to": ["http"]}, "events.to"),
        ({"to": "nats", "url": NOBODY}, "lacks stream, subject"),
        ({"to": "nats", "url": NOBODY, "stream": "s", "subject": "a.*"}, "wildcards"),
        ({"to": "kafka", "url": "h:9092", "topic": 7}, "events.topic"),
        ({"to": "kafka", "url": "h:9092", "topic": "t", "acks": 1}, "knows no acks"),
        ({"to": "redis", "stream": "s"}, "RAILCORE_EVENTS_URL"),
        ({"to": "redis", "stream": "s", "url": 7}, "events.url"),
        ({"to": "redis", "stream": "s", "url": "redis://h:port"}, "is no address"),
        ({"to": "rabbit", "url": "amqp://h"}, "no queue"),
        ({"to": "http", "url": "http://hooks.example/a"}, "plain HTTP"),
        ({"to": "http", "url": "https://hooks.example", "private_networks": ["x"]}, "network"),
        ({"to": "http", "url": "https://hooks.example", "allows_loopback": "no"}, "is no bool"),
    ],
)
def test_a_table_that_names_no_sink_is_refused(events: Mapping[str, Any], said: str) -> None:
    with pytest.raises(MisconfiguredError, match=said):
        sink_of(events, SECRET)


def test_http_is_never_unsigned() -> None:
    with pytest.raises(MisconfiguredError, match="RAILCORE_EVENTS_SECRET"):
        sink_of({"to": "http", "url": "https://hooks.example/a"}, {})


def test_the_environments_address_comes_first() -> None:
    table = {"to": "http", "url": "https://hooks.example/a"}

    with pytest.raises(MisconfiguredError, match="plain HTTP"):
        sink_of(table, {**SECRET, "RAILCORE_EVENTS_URL": "http://10.0.0.1"})


def test_the_table_of_the_guide_is_one() -> None:
    guide = Path(__file__).parents[2] / "docs/howto/event-sinks.md"
    (_, table, *_) = guide.read_text().split("```toml\n")

    sink_of(tomllib.loads(table.split("```")[0])["events"], {})
