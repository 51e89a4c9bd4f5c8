"""
A PostgreSQL for the tests that ask for one, and a database of its own for each of them.

The server is private and dies with the tests, unless ``RAILCORE_TEST_DATABASE_URL`` names one.
With ``RAILCORE_TEST_POOLER`` set, ``database_url`` leads through a PgBouncer of our own.
It does not sync to disk: a test that kills a server starts its own ``EmbeddedPostgres()``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from psycopg import sql

from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema
from tests.pooler import pooler

URL_VARIABLE = "RAILCORE_TEST_DATABASE_URL"
POOLER_VARIABLE = "RAILCORE_TEST_POOLER"
# Races hold one connection a thread; planning gains nothing from many workers on two cores.
SETTINGS = {"max_connections": "300", "max_parallel_workers_per_gather": "0", "jit": "off"}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of a server on which tests may create databases, as SQLAlchemy reads it."""
    if configured := os.environ.get(URL_VARIABLE):
        yield configured
    else:
        with EmbeddedPostgres(SETTINGS, durable=False) as server:
            yield server.url


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> Iterator[str]:
    """The name of a database with the schema installed, from which others are copied."""
    with fresh_database(postgres_url, template="template0") as url:
        schema.install(url)
        yield name_in(url)


@pytest.fixture(scope="session")
def pooler_url(postgres_url: str) -> Iterator[sqlalchemy.URL | None]:
    """The address of a PgBouncer in front of the server, if the tests are to go through one."""
    if not os.environ.get(POOLER_VARIABLE):
        yield None
        return
    with pooler(postgres_url) as url:
        yield url


@pytest.fixture
def own_sessions(pooler_url: sqlalchemy.URL | None) -> None:
    """Asked for by tests that hold or kill sessions of the server, which a pooler hides."""
    if pooler_url is not None:
        pytest.skip("it needs sessions of its own, and PgBouncer gives it two between them all")


@pytest.fixture
def database_url(
    postgres_url: str, template_database: str, pooler_url: sqlalchemy.URL | None
) -> Iterator[str]:
    """The address of a fresh database with the schema installed, as SQLAlchemy reads it."""
    with fresh_database(postgres_url, template=template_database) as url:
        if pooler_url is None:
            yield url
        else:
            yield pooler_url.set(database=name_in(url)).render_as_string(hide_password=False)


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """The address of a fresh database with nothing in it, as SQLAlchemy reads it."""
    with fresh_database(postgres_url, template="template0") as url:
        yield url


@contextmanager
def fresh_database(server: str, *, template: str) -> Iterator[str]:
    """Create a database as a copy of *template*, yield its address, drop it."""
    name = sql.Identifier(f"railcore_test_{uuid4().hex}")
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template))
    with psycopg.connect(conninfo(server), autocommit=True) as connection:
        connection.execute(create)
        try:
            url = sqlalchemy.make_url(server).set(database=name.as_string().strip('"'))
            yield url.render_as_string(hide_password=False)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def conninfo(url: str) -> str:
    """Return what SQLAlchemy calls *url* as libpq reads it."""
    parsed = sqlalchemy.make_url(url)
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def name_in(url: str) -> str:
    """Return the name of the database that *url* names."""
    name = sqlalchemy.make_url(url).database
    assert name
    return name
