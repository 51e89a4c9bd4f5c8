"""``railcore webhooks`` lists what waits for a person, and makes deliveries due again."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy
from click.testing import CliRunner

from railcore.testing.contracts.webhook_inbox import PARKED, item_of
from railcore_adapters.cli.app import main
from railcore_sqlalchemy.inbox import SqlWebhookInbox


@pytest.fixture
def inbox(database_url: str) -> Iterator[SqlWebhookInbox]:
    engine = sqlalchemy.create_engine(database_url)
    yield SqlWebhookInbox(engine)
    engine.dispose()


def call(database_url: str, *arguments: str) -> tuple[int, str]:
    given = ["webhooks", *arguments, "--database-url", database_url]
    result = CliRunner().invoke(main, given)
    return result.exit_code, result.output


def test_a_parked_delivery_is_listed_then_replayed(
    inbox: SqlWebhookInbox, database_url: str
) -> None:
    inbox.receive(item_of(), 60)
    inbox.settle(item_of(), PARKED)

    status, told = call(database_url, "parked")
    assert (status, json.loads(told)["event_id"]) == (0, "evt_1")
    assert call(database_url, "replay", "evt_1") == (0, "1 deliveries are due again.\n")
    assert [one.event_id for one in inbox.due(10, 60)] == ["evt_1"]


@pytest.mark.parametrize(
    ("what", "status"), [("2020-01-01", 0), ("2999-01-01T00:00:00Z", 1), ("evt_2", 1)]
)
def test_what_is_replayed_is_an_event_or_all_since_a_date(
    inbox: SqlWebhookInbox, database_url: str, what: str, status: int
) -> None:
    inbox.receive(item_of(), 60)

    assert call(database_url, "replay", what)[0] == status
