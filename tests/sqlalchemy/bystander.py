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


def terminate_who_waits(url: str) -> None:
    """End the first backend that is seen to wait for a lock."""
    with another(url) as watch:
        for _ in range(200):
            if row := watch.execute(WAITING).fetchone():
                watch.execute("select pg_terminate_backend(%s)", row)
                return
            threading.Event().wait(0.02)
    pytest.fail("nobody waited")
