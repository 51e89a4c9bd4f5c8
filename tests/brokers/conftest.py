"""Real brokers, where their servers can be had."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.servers import free_port, nats_config, program, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a NATS server with JetStream, which syncs every message."""
    server, port = program("nats-server"), free_port()
    folder = tmp_path_factory.mktemp("nats")
    config = folder / "nats.conf"
    config.write_text(nats_config(port, folder))
    with running([server, "-c", str(config)], port, folder / "log"):
        yield f"nats://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis that syncs every command."""
    server, port = program("redis-server"), free_port()
    folder = tmp_path_factory.mktemp("redis")
    settings = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": ""}
    durable = {"appendonly": "yes", "appendfsync": "always"}
    options = [f"--{name} {value}" for name, value in {**settings, **durable}.items()]
    command = [server, *(word for option in options for word in option.split(" ", 1))]
    with running(command, port, folder / "log"):
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def rabbit_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a RabbitMQ node of its own, with a port mapper of its own."""
    server, mapper = program("rabbitmq-server"), program("epmd")
    port, mapper_port = free_port(), free_port()
    folder = tmp_path_factory.mktemp("rabbit")
    config = folder / "rabbitmq.conf"
    config.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    (folder / "plugins").write_text("[].\n")
    mapping = {"ERL_EPMD_PORT": str(mapper_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
    node = {
        **mapping,
        "HOME": str(folder),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": "railcore@localhost",
    }
    with (
        running([mapper], mapper_port, folder / "mapper", **mapping),
        running([server], port, folder / "log", **node),
    ):
        yield f"amqp://guest:guest@127.0.0.1:{port}/"


class Streams:
    """Makes streams, and reads them."""

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self, name: str, **settings: Any) -> str:
        """Make the stream *name*, with one subject of the same name."""

        async def made(js: Any) -> None:
            with suppress(Exception):
                await js.delete_stream(name)
            await js.add_stream(name=name, subjects=[name], **settings)

        self.run(made)
        return name

    def count(self, name: str) -> int:
        """How many messages the stream holds."""

        async def counted(js: Any) -> int:
            found: int = (await js.stream_info(name)).state.messages
            return found

        held: int = self.run(counted)
        return held

    def messages(self, name: str) -> list[Any]:
        """Every message of the stream, in its order."""

        async def read(js: Any) -> list[Any]:
            from nats.js.api import AckPolicy, ConsumerConfig

            left = (await js.stream_info(name)).state.messages
            config = ConsumerConfig(ack_policy=AckPolicy.NONE)
            consumer = await js.pull_subscribe(name, stream=name, config=config)
            found: list[Any] = []
            while len(found) < left:
                found += await consumer.fetch(min(1000, left - len(found)), timeout=10)
            return found

        messages: list[Any] = self.run(read)
        return messages

    def run(self, ask: Any) -> Any:
        async def asked() -> Any:
            import nats

            client = await nats.connect(self.url)
            try:
                return await ask(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(asked())


@pytest.fixture
def streams(nats_url: str) -> Streams:
    return Streams(nats_url)
