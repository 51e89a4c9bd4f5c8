"""``railcore schema``, and what is said when an extra is missing."""

import subprocess
import sys

import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from railcore_adapters.cli import main


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def test_it_is_installed_and_then_as_it_should_be(empty_database_url: str) -> None:
    installed = invoke("schema", "install", "--database-url", empty_database_url)
    verified = invoke("schema", "verify", "--database-url", empty_database_url)

    assert (installed.exit_code, verified.exit_code) == (0, 0), installed.output + verified.output


def test_a_disabled_guard_is_told_and_ends_it_with_1(database_url: str) -> None:
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        disable = "alter table railcore_event disable trigger event_change"
        connection.execute(sqlalchemy.text(disable))

    result = invoke("schema", "verify", "--database-url", database_url)

    assert result.exit_code == 1
    assert "event_change" in result.output


def test_installing_twice_ends_with_2(database_url: str) -> None:
    result = invoke("schema", "install", "--database-url", database_url)

    assert result.exit_code == 2
    assert "already exists" in result.output


def test_the_sql_is_printed_with_and_without_roles() -> None:
    whole, bare = invoke("schema", "sql"), invoke("schema", "sql", "--no-roles")

    assert "create table railcore_execution" in bare.output
    assert "create table railcore_wallet_transfer" in bare.output
    assert "railcore_relay" in whole.output
    assert "create role" not in bare.output


@pytest.mark.parametrize("missing", ["click", "rich", "sqlalchemy", "httpx", "psycopg"])
def test_a_missing_extra_is_named(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from railcore_adapters.cli import main\n"
        "main(['demo'])"
    )

    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert found.returncode != 0
    assert "pip install 'railcore[" in found.stderr
    assert "Traceback" not in found.stderr or missing == "click"
