"""
Record what ``sql/`` makes of a database, for ``railcore_sqlalchemy.doctor`` to compare with.

Run it after a change of the schema or the roles: ``python tests/sqlalchemy/record_catalogue.py``.
"""

import json
from pathlib import Path

import sqlalchemy

import railcore_sqlalchemy
from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema
from railcore_sqlalchemy.doctor.catalogue import Fact
from railcore_sqlalchemy.doctor.looking import ROLES
from railcore_sqlalchemy.statements import read, statement
from railcore_sqlalchemy.tables import metadata

FILE = Path(railcore_sqlalchemy.__file__).parent / "doctor" / "catalogue.json"
_FUNCTION = "create function "


def functions() -> list[str]:
    """Return the names of the functions that ``sql/`` makes."""
    lines = [line for name in schema.CREATE for line in read(name).splitlines()]
    return [
        line.removeprefix(_FUNCTION).partition("(")[0]
        for line in lines
        if line.startswith(_FUNCTION)
    ]


def catalogue(url: str) -> str:
    """Return the file for the database at *url*, which has the schema and the roles."""
    tables = list(metadata.tables)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        facts = connection.exec_driver_sql(
            statement("doctor/catalogue").named, {"tables": tables, "functions": functions()}
        )
        told = sorted(list(_fields(Fact.of_row(*row))) for row in facts)
        rights = connection.exec_driver_sql(
            statement("doctor/rights").named, {"tables": tables, "roles": list(ROLES)}
        )
        given = sorted([row.role, row.of, row.privilege] for row in rights if row.role in ROLES)
    lines = {"facts": told, "rights": given}
    body = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in lines.items()
    )
    return "{\n" + body + "\n}\n"


def _fields(fact: Fact) -> tuple[str, str, str, str]:
    return fact.kind, fact.of, fact.name, fact.definition


if __name__ == "__main__":
    with EmbeddedPostgres(durable=False) as server:
        schema.install(server.url)
        schema.install_roles(server.url)
        FILE.write_text(catalogue(server.url))
