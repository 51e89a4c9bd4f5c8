"""Alembic runs this: online only, since the files in ``sql/`` are what one would read offline."""

from alembic import context
from sqlalchemy import Connection, NullPool, engine_from_config

from railcore_sqlalchemy.migrations import VERSION_TABLE
from railcore_sqlalchemy.tables import metadata


def migrate(connection: Connection) -> None:
    """Run the migrations in the transaction of *connection*, or in one of their own."""
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Use the connection that a program gave, or the address in alembic.ini."""
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    section = context.config.get_section(context.config.config_ini_section, {})
    with engine_from_config(section, poolclass=NullPool).connect() as connection:
        migrate(connection)


if context.is_offline_mode():
    raise SystemExit("Wanted a connection, found --sql: read railcore_sqlalchemy/sql instead.")
main()
