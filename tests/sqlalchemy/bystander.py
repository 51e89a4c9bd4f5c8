"""Somebody else on the same database: holds locks, and ends the connections of those who wait."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import conninfo

WAITING = (
    "select pid from pg_stat_activity "
    "where wait_event_type = 'Lock' and datname = current_database()"
)


@contextmanager
def another(url: str, statement: str | None = None) -> Iterator[psycopg.Connection[Any]]:
    """A connection of somebody else, in a transaction that begins with *statement*."""
    with psycopg.connect(conninfo(url), autocommit=statement is None) as connection:
        if statement is not None:
            connection.execute(statement)
        yield connection
        connection.rollback()


def await_who_waits(url: str) -> None:
    """Return once a backend is seen to wait for a lock."""
    with another(url) as watch:
        _who_waits(watch)


def terminate_who_waits(url: str) -> None:
    """End the first backend that is seen to wait for a lock."""
    with another(url) as watch:
        watch.execute("select pg_terminate_backend(%s)", _who_waits(watch))


def _who_waits(watch: psycopg.Connection[Any]) -> Any:
    for _ in range(200):
        if row := watch.execute(WAITING).fetchone():
            return row
        threading.Event().wait(0.02)
    pytest.fail("nobody waited")
