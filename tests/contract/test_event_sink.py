"""Every sink, in both colours, keeps the promises of the port."""

import asyncio
import json
from collections.abc import Iterator
from uuid import UUID

import pytest

from railcore.events import JournalEvent
from railcore.ports import EventSink
from railcore.redaction import Secret
from railcore.testing.contracts.event_sink import EventSinkContract, Received, awaited_sink
from railcore.testing.outbox import AsyncInMemorySink, InMemorySink
from railcore_adapters.sinks import (
    AsyncCallableSink,
    AsyncHttpSink,
    AsyncPrintedSink,
    CallableSink,
    Endpoint,
    HttpSink,
    PrintedSink,
    Targets,
)
from tests.adapters.raw_server import RawServer, answer_all, raw_server

SECRET = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


class TestInMemory(EventSinkContract):
    @pytest.fixture
    def taken(self) -> list[JournalEvent]:
        return []

    @pytest.fixture
    def sink(self, taken: list[JournalEvent]) -> EventSink:
        return InMemorySink(taken)

    @pytest.fixture
    def received(self, taken: list[JournalEvent]) -> Received:
        return lambda: [event.event_id for event in taken]


class TestAsyncInMemory(TestInMemory):
    @pytest.fixture
    def sink(self, taken: list[JournalEvent]) -> EventSink:
        return awaited_sink(AsyncInMemorySink(InMemorySink(taken)), asyncio.run)


class TestCallable(TestInMemory):
    @pytest.fixture
    def sink(self, taken: list[JournalEvent]) -> EventSink:
        return CallableSink(taken.append)


class TestAsyncCallable(TestInMemory):
    @pytest.fixture
    def sink(self, taken: list[JournalEvent]) -> EventSink:
        async def take(event: JournalEvent) -> None:
            await asyncio.sleep(0)
            taken.append(event)

        return awaited_sink(AsyncCallableSink(take), asyncio.run)


class TestPrinted(EventSinkContract):
    @pytest.fixture
    def lines(self) -> list[str]:
        return []

    @pytest.fixture
    def sink(self, lines: list[str]) -> EventSink:
        return PrintedSink(lines.append)

    @pytest.fixture
    def received(self, lines: list[str]) -> Received:
        return lambda: [UUID(line.rpartition(" ")[2]) for line in lines]


class TestAsyncPrinted(TestPrinted):
    @pytest.fixture
    def sink(self, lines: list[str]) -> EventSink:
        return awaited_sink(AsyncPrintedSink(lines.append), asyncio.run)


class TestHttp(EventSinkContract):
    @pytest.fixture
    def server(self) -> Iterator[RawServer]:
        with raw_server(answer_all) as server:
            yield server

    @pytest.fixture
    def sink(self, server: RawServer) -> Iterator[EventSink]:
        targets = Targets(origins=[server.url], allows_loopback=True)
        with HttpSink(Endpoint(server.url, (SECRET,)), targets) as sink:
            yield sink

    @pytest.fixture
    def received(self, server: RawServer) -> Received:
        def told() -> list[UUID]:
            octets = b"".join(server.received)
            bodies = [part for part in octets.split(b"\r\n") if part.startswith(b"{")]
            objects = b"".join(bodies).replace(b"}POST / HTTP/1.1", b"}").decode()
            return [UUID(one["id"]) for one in _objects_in(objects)]

        return told


class TestAsyncHttp(TestHttp):
    @pytest.fixture
    def sink(self, server: RawServer) -> Iterator[EventSink]:
        targets = Targets(origins=[server.url], allows_loopback=True)
        with asyncio.Runner() as runner:
            sink = AsyncHttpSink(Endpoint(server.url, (SECRET,)), targets)
            yield awaited_sink(sink, runner.run)
            runner.run(sink.aclose())


def _objects_in(text: str) -> Iterator[dict[str, str]]:
    read = json.JSONDecoder().raw_decode
    while text:
        one, end = read(text)
        yield one
        text = text[end:]
