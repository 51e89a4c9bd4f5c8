"""What the page configures exists: Debezium itself is not run."""

import json
import re
from pathlib import Path

import sqlalchemy

from railcore_sqlalchemy import schema
from railcore_sqlalchemy.tables import event

PAGE = (Path(__file__).parents[2] / "docs/howto/debezium.md").read_text(encoding="utf-8")
ROUTER = "transforms.outbox."


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_router_is_given_columns_that_exist() -> None:
    config = json.loads(block("json"))["config"]
    fields = [value for name, value in config.items() if name.startswith(f"{ROUTER}table.field.")]
    placed = config[f"{ROUTER}table.fields.additional.placement"].split(",")
    columns = [*fields, config[f"{ROUTER}route.by.field"], *(it.split(":")[0] for it in placed)]

    assert set(columns) <= set(event.columns.keys())
    assert {it.split(":")[1] for it in placed} == {"header"}
    assert len({it.split(":")[2] for it in placed}) == len(placed)
    assert config["table.include.list"] == f"public.{event.name}"


def test_the_publication_and_the_login_can_be_made(database_url: str) -> None:
    schema.install_roles(database_url)
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    config = json.loads(block("json"))["config"]
    with engine.connect() as connection, connection.begin() as transaction:
        for statement in block("sql").split(";\n"):
            connection.exec_driver_sql(statement)
        published = "select pubname, tablename from pg_publication_tables"
        found = connection.exec_driver_sql(published).all()
        connection.exec_driver_sql(f"set local role {config['database.user']}")
        connection.exec_driver_sql("select * from railcore_event")
        transaction.rollback()

    assert found == [(config["publication.name"], event.name)]
