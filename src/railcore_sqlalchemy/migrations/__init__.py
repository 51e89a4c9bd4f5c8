"""
The Alembic environment, and two ways to use it.

Alone: `upgrade` and `downgrade` below, or ``alembic`` with a ``script_location`` of
``railcore_sqlalchemy:migrations``. Versions are kept in ``railcore_alembic_version``, apart from
the host's.

Within a host's own environment: add `railcore_sqlalchemy.schema.MIGRATIONS` to
``version_locations`` and upgrade to ``heads``; the revisions form a branch of their own, labelled
``railcore``.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from railcore_sqlalchemy.schema import Target, connected

__all__ = ["VERSION_TABLE", "config", "downgrade", "upgrade"]

VERSION_TABLE: Final = "railcore_alembic_version"


def config(connection: Connection) -> Config:
    """Return Alembic's configuration for this environment, bound to *connection*."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made


def upgrade(target: Target, revision: str = "head") -> None:
    """Bring the schema of *target* up to *revision*."""
    with connected(target) as connection:
        command.upgrade(config(connection), revision)


def downgrade(target: Target, revision: str = "base") -> None:
    """Take the schema of *target* back to *revision*; ``base`` removes it, and all data with it."""
    with connected(target) as connection:
        command.downgrade(config(connection), revision)
