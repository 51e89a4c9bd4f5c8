"""``railcore events`` shows what is parked, lets it go on, and delivers again."""

import json
from collections.abc import Iterator

import attrs
import pytest
import sqlalchemy
from click.testing import CliRunner

from railcore.delivery import FailedDelivery
from railcore.testing.contracts.execution_store import TENANT
from railcore.testing.contracts.outbox import write
from railcore_adapters.cli.app import main
from railcore_sqlalchemy.outbox import SqlOutbox
from railcore_sqlalchemy.stores import SqlExecutionStore


@attrs.frozen
class Post:
    url: str
    outbox: SqlOutbox

    def call(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["events", *words, "--database-url", self.url])
        return result.exit_code, result.output

    def deliver(self, *, park: bool) -> None:
        lease = self.outbox.lease("me", 60)
        assert lease is not None
        entries = self.outbox.waiting(lease, 10, 10)
        failed = [FailedDelivery(entries[0], "no", 1, is_parked=True)] if park else []
        assert self.outbox.acknowledge(lease, [] if park else entries, failed, 60)
        self.outbox.release(lease)


@pytest.fixture
def post(database_url: str) -> Iterator[Post]:
    engine = sqlalchemy.create_engine(database_url)
    write(SqlExecutionStore(engine), "invoice-1", 1)
    yield Post(database_url, SqlOutbox(engine))
    engine.dispose()


def test_a_parked_payment_is_listed_and_goes_on(post: Post) -> None:
    post.deliver(park=True)

    status, told = post.call("parked")
    assert (status, json.loads(told)["payment_id"]) == (0, "invoice-1")
    assert post.call("unpark", TENANT, "invoice-1") == (0, "It goes on.\n")
    assert post.call("parked") == (0, "")
    assert post.call("unpark", TENANT, "invoice-1")[0] == 1


@pytest.mark.parametrize(("since", "count"), [("2020-01-01", 1), ("2999-01-01T00:00:00+0000", 0)])
def test_events_since_a_date_are_delivered_again(post: Post, since: str, count: int) -> None:
    post.deliver(park=False)
    assert post.outbox.backlog().waiting == 0

    assert post.call("replay", since) == (0, f"{count} events will be delivered again.\n")
    assert post.outbox.backlog().waiting == count
