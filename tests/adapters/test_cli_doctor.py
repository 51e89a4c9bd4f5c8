"""``railcore doctor``: exit statuses, JSON, settings, and a database in the middle of its work."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from railcore_adapters.cli import demo, main
from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.doctor import Report, diagnose

ROOT = Path(__file__).parents[2]
ROUTES = str(ROOT / "examples" / "routes.toml")
SLOW = ("tok_delay", "tok_slow_drip", "tok_pending")
# The server of the tests does not sync to disk, and the doctor says so.
OF_THE_TESTS = {"commit_not_durable"}


def invoke(url: str, *words: str) -> Result:
    command = ["doctor", "--database-url", url, *words]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def told(url: str, *words: str) -> Mapping[str, Any]:
    result = invoke(url, "--json", *words)
    diagnosis: Mapping[str, Any] = json.loads(result.stdout)
    assert diagnosis["exit_status"] == result.exit_code
    return diagnosis


def codes(diagnosis: Mapping[str, Any]) -> set[str]:
    return {one["code"] for one in diagnosis["findings"]} - OF_THE_TESTS


def run(url: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.fixture
def url(empty_database_url: str) -> str:
    schema.install(empty_database_url)
    schema.install_roles(empty_database_url)
    return empty_database_url


@pytest.mark.durable
def test_it_ends_with_0_when_all_is_well() -> None:
    with EmbeddedPostgres() as server:
        schema.install(server.url)
        schema.install_roles(server.url)
        result = invoke(server.url, "--routes", ROUTES)

    assert result.exit_code == 0, result.output
    assert "All is well" in result.output


def test_it_ends_with_1_and_names_what_is_wrong(url: str) -> None:
    run(url, "alter table railcore_execution drop constraint never_forgotten")

    result = invoke(url)

    assert result.exit_code == 1
    assert "constraint_missing" in result.output
    assert "constraint never_forgotten of railcore_execution" in result.output
    assert "What to do: Put it back" in result.output


def test_the_json_has_the_places_and_what_was_looked_at(url: str) -> None:
    run(url, "alter table railcore_event disable trigger event_change")

    diagnosis = told(url)

    assert diagnosis["exit_status"] == 1
    assert codes(diagnosis) == {"trigger_disabled"}
    (finding,) = [one for one in diagnosis["findings"] if one["code"] == "trigger_disabled"]
    assert finding["count"] == 1
    assert finding["places"] == [
        {
            "subject": "trigger event_change of railcore_event",
            "found": "disabled",
            "tenant_id": None,
        }
    ]
    assert {"journal", "states", "settings"} - set(diagnosis["looked_at"]) == {"settings"}


def test_a_lease_shorter_than_the_providers_timeout_is_told(url: str) -> None:
    assert codes(told(url, "--routes", ROUTES)) == set()

    diagnosis = told(url, "--routes", ROUTES, "--lease-s", "9")

    assert codes(diagnosis) == {"lease_too_short"}
    (finding,) = [one for one in diagnosis["findings"] if one["code"] == "lease_too_short"]
    assert any("card_psp/stub" in place["subject"] for place in finding["places"])


def test_a_configuration_with_which_nothing_starts_is_told(url: str, tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('default_route = "nowhere"\n')

    assert codes(told(url, "--routes", str(routes))) == {"configuration_refused"}


def test_roles_are_left_out_if_wished(database_url: str) -> None:
    assert codes(told(database_url, "--no-roles")) == set()


def test_it_ends_with_2_when_there_is_no_database() -> None:
    result = invoke("postgresql+psycopg://nobody@localhost:1/nothing")

    assert result.exit_code == 2
    assert "The database said" in result.output


def test_a_question_without_an_answer_is_not_healthy(url: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as other:
        other.exec_driver_sql("lock table railcore_wallet_account in access exclusive mode")
        result = invoke(url, "--timeout-s", "0.2")

    assert "not looked at: wallet" in result.output


def test_a_billing_run_has_no_finding_while_it_goes_on_or_after(
    url: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Webhooks, workers, relays and people are at work on the same rows."""

    @contextmanager
    def own(_: str) -> Iterator[str]:
        yield url

    monkeypatch.setattr(demo, "_own", own)
    monkeypatch.setattr(schema, "install", lambda _: None)
    lines = (ROOT / "examples" / "billing-run.jsonl").read_text().splitlines()
    quick = [line for line in lines if not any(one in line for one in SLOW)]
    file = tmp_path / "part.jsonl"
    file.write_text("\n".join(quick[:150]))
    words = ["demo", "--file", str(file), "--database-url", postgres_url]
    played = list[Result]()
    playing = threading.Thread(target=lambda: played.append(CliRunner().invoke(main, words)))
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)

    def look() -> Report:
        with engine.connect() as connection:
            return diagnose(connection)

    playing.start()
    reports = list[Report]()
    while playing.is_alive():
        reports.append(look())
        playing.join(0.2)
    reports.append(look())

    assert len(reports) > 3
    for report in reports:
        assert not report.unseen
        assert {one.code for one in report.findings} <= OF_THE_TESTS, report.findings
    with engine.connect() as connection:
        count = connection.exec_driver_sql("select count(*) from railcore_execution").scalar_one()
    assert count > 50, played[0].output
