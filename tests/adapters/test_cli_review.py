"""``railcore review`` and ``railcore explain``: what a person at a desk sees and does."""

import json
from collections.abc import Iterator
from uuid import uuid4

import attrs
import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from railcore.enums import PendingReason
from railcore.events import draft_discrepancy, draft_orphan
from railcore.lifecycle import Fact, FactSource, decide
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, adopting_id
from railcore.testing.contracts.execution_store import (
    TENANT,
    asked,
    claim,
    claim_of,
    record,
    the,
)
from railcore.testing.contracts.review import ORPHAN, failed_with_news
from railcore_adapters.cli import main
from railcore_adapters.cli.example_files import example
from railcore_sqlalchemy.stores import SqlExecutionStore

WHO = ("--actor", "alice", "--evidence", "ticket-7")


@pytest.fixture
def store(database_url: str) -> Iterator[SqlExecutionStore]:
    engine = sqlalchemy.create_engine(database_url)
    yield SqlExecutionStore(engine)
    engine.dispose()


@pytest.fixture
def noted(store: SqlExecutionStore) -> NotedDiscrepancy:
    return failed_with_news(store)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def resolve(url: str, noted: NotedDiscrepancy, *words: str) -> Result:
    routes = ("--routes", str(example("routes.toml")))
    return invoke(
        "review", "resolve", str(noted.discrepancy_id), "--database-url", url, *routes, *words
    )


def explain(url: str, execution_id: object, *words: str) -> Result:
    routes = ("--routes", str(example("routes.toml")))
    return invoke("explain", str(execution_id), "--database-url", url, *routes, *words)


def test_a_clean_desk_is_said(database_url: str) -> None:
    result = invoke("review", "list", "--database-url", database_url)

    assert (result.exit_code, result.output) == (0, "Nobody has to look at anything.\n")


def test_what_people_have_to_look_at_is_listed(
    database_url: str, store: SqlExecutionStore, noted: NotedDiscrepancy
) -> None:
    store.note_orphan(ORPHAN, draft_orphan(ORPHAN))
    waits = RailResult.pending(PendingReason.MANUAL_REVIEW)
    waiting = record(store, claim(store, asked("k2", payment_id="invoice-2")), waits)

    result = invoke("review", "list", "--database-url", database_url, "--json")

    told = json.loads(result.output)
    kinds = [one["kind"] for one in told["discrepancies"]]
    assert kinds == ["success_after_failure", "orphan_charge"]
    assert told["discrepancies"][0]["discrepancy_id"] == str(noted.discrepancy_id)
    assert [one["execution_id"] for one in told["waiting"]] == [str(waiting.execution_id)]


@pytest.mark.usefixtures("noted")
def test_the_list_can_be_read(database_url: str, store: SqlExecutionStore) -> None:
    waits = RailResult.pending(PendingReason.MANUAL_REVIEW)
    record(store, claim(store, asked("k2", payment_id="invoice-2")), waits)

    output = invoke("review", "list", "--database-url", database_url).output

    assert "invoice-1" in output
    assert "wait for a person" in output


@pytest.mark.usefixtures("noted")
def test_another_tenant_has_a_clean_desk(database_url: str) -> None:
    result = invoke("review", "list", "--database-url", database_url, "--tenant", "tenant-2")

    assert "Nobody has to look" in result.output


def test_an_accepted_discrepancy_leaves_the_list(
    database_url: str, noted: NotedDiscrepancy
) -> None:
    result = resolve(database_url, noted, "--as", "accepted", *WHO)

    assert (result.exit_code, result.output) == (0, "Resolved: accepted by alice.\n")
    listed = invoke("review", "list", "--database-url", database_url)
    assert "Nobody has to look" in listed.output
    every = invoke("review", "list", "--database-url", database_url, "--all", "--json")
    (one,) = json.loads(every.output)["discrepancies"]
    assert (one["resolution"], one["resolved_by"], one["evidence"]) == (
        "accepted",
        "alice",
        "ticket-7",
    )


def test_adopted_money_is_named(
    database_url: str, store: SqlExecutionStore, noted: NotedDiscrepancy
) -> None:
    result = resolve(database_url, noted, "--as", "adopt", *WHO, "--json")

    adopted_id = adopting_id(noted.discrepancy_id)
    assert json.loads(result.output)["resolving_execution_id"] == str(adopted_id)
    assert the(store.get(TENANT, adopted_id)).provider_ref == "ch_1"
    again = resolve(database_url, noted, "--as", "adopt", *WHO)
    assert again.output == f"Resolved: adopt by alice. See execution {adopted_id}.\n"


def test_who_comes_second_is_told(database_url: str, noted: NotedDiscrepancy) -> None:
    resolve(database_url, noted, "--as", "accepted", *WHO)

    result = resolve(database_url, noted, "--as", "adopt", "--actor", "bob", "--evidence", "x")

    assert result.exit_code == 2
    assert "was resolved as accepted by alice" in result.output


def test_a_refund_wants_the_providers_credentials(
    database_url: str, noted: NotedDiscrepancy
) -> None:
    result = resolve(
        database_url, noted, "--as", "refund", *WHO, "--stub-url", "http://127.0.0.1:9"
    )

    assert result.exit_code == 2
    assert "RAILCORE_SECRET_STUB" in result.output


def test_what_came_in_part_is_said(database_url: str, store: SqlExecutionStore) -> None:
    waits = RailResult.pending(PendingReason.AWAITING_FUNDS, reported=asked("x", 40).money)
    failed = the(store.get(TENANT, the(failed_with_news(store).execution_id)))
    found = the(decide(failed, Fact(result=waits, source=FactSource.WEBHOOK)).discrepancy)
    store.note(failed, found, draft_discrepancy(failed, found))
    part = the(store.discrepancy(TENANT, found.discrepancy_id))

    unsaid = resolve(database_url, part, "--as", "adopt", *WHO)
    badly = resolve(database_url, part, "--as", "adopt", *WHO, "--received", "forty")
    said = resolve(database_url, part, "--as", "adopt", *WHO, "--received", "0.40 SAR")

    assert "say what was received" in unsaid.output
    assert 'wanted an amount such as "12.50 SAR"' in badly.output
    assert (said.exit_code, unsaid.exit_code, badly.exit_code) == (0, 2, 2)
    assert the(store.get(TENANT, adopting_id(part.discrepancy_id))).money == asked("x", 40).money


def test_an_id_that_nobody_has_is_said(database_url: str) -> None:
    result = explain(database_url, uuid4())

    assert result.exit_code == 2
    assert "nobody has" in result.output


def test_an_id_of_two_tenants_wants_a_name(database_url: str, store: SqlExecutionStore) -> None:
    first = claim_of(asked("k1"))
    store.claim(first)
    other = claim_of(asked("k1", tenant_id="tenant-2"))
    same = attrs.evolve(other.execution, execution_id=first.execution.execution_id)
    store.claim(attrs.evolve(other, execution=same))

    unnamed = explain(database_url, same.execution_id)
    named = explain(database_url, same.execution_id, "--tenant", "tenant-2")

    assert "Name the tenant" in unnamed.output
    assert "Tenant tenant-2 asked" in named.output


def test_a_payment_is_explained(database_url: str, noted: NotedDiscrepancy) -> None:
    told = explain(database_url, noted.execution_id)
    for_programs = explain(database_url, noted.execution_id, "--json")

    assert "one says that it failed, the other that money came" in told.output
    assert json.loads(for_programs.output)["status"] == "failed"


def test_a_doubt_is_explained_with_what_the_provider_can_do(
    database_url: str, store: SqlExecutionStore
) -> None:
    claimed = claim(store, asked("k1"))

    output = explain(database_url, claimed.execution_id).output

    assert "It is sent again only after a look-up" in output
    assert "Nothing is registered" not in output
