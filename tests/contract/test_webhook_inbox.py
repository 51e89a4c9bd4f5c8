"""Both inboxes, in both colours, keep the promises of the port."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from railcore.clock import SystemClock
from railcore.ports import WebhookInbox
from railcore.testing.contracts.webhook_inbox import WebhookInboxContract, awaited
from railcore.testing.inbox import AsyncInMemoryWebhookInbox, InMemoryWebhookInbox
from railcore_sqlalchemy.inbox import AsyncSqlWebhookInbox, SqlWebhookInbox
from tests.contract.loops import Blocking, event_loop, rest


class TestInMemory(WebhookInboxContract):
    @pytest.fixture
    def inbox(self) -> WebhookInbox:
        return InMemoryWebhookInbox(SystemClock())


class TestAsyncInMemory(WebhookInboxContract):
    @pytest.fixture
    def inbox(self) -> Iterator[WebhookInbox]:
        with event_loop() as loop:
            yield awaited(AsyncInMemoryWebhookInbox(SystemClock()), Blocking(loop))


class TestPostgres(WebhookInboxContract):
    @pytest.fixture
    def inbox(self, database_url: str) -> Iterator[WebhookInbox]:
        engine = sqlalchemy.create_engine(database_url, pool_size=20)
        yield SqlWebhookInbox(engine)
        engine.dispose()


class TestAsyncPostgres(WebhookInboxContract):
    @pytest.fixture
    def inbox(self, database_url: str) -> Iterator[WebhookInbox]:
        with event_loop() as loop:
            run = Blocking(loop)
            engine = create_async_engine(database_url, pool_size=10)
            yield awaited(AsyncSqlWebhookInbox(engine), run)
            run(rest())
            run(engine.dispose())
