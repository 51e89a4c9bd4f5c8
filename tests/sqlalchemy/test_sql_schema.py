"""The schema is the same whichever way it came, and says when it is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from railcore.lifecycle import EDGES
from railcore_sqlalchemy import migrations, schema
from railcore_sqlalchemy.tables import metadata

CATALOG = """
select 'column', relname, attname, format_type(atttypid, atttypmod)
  || ' ' || coalesce(collname, '') || ' ' || attnotnull
  || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
from pg_attribute join pg_class on pg_class.oid = attrelid
  left join pg_collation on pg_collation.oid = attcollation
  left join pg_attrdef on adrelid = attrelid and adnum = attnum
where relnamespace = 'public'::regnamespace and relkind = 'r' and attnum > 0
union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
from pg_constraint where connamespace = 'public'::regnamespace
union all select 'index', tablename, indexname, indexdef from pg_indexes
where schemaname = 'public'
union all select 'trigger', tgrelid::regclass::text, tgname,
  tgenabled::text || pg_get_triggerdef(oid)
from pg_trigger where not tgisinternal
union all select 'function', proname, '', pg_get_functiondef(oid)
from pg_proc where pronamespace = 'public'::regnamespace
union all select 'options', relname, '', reloptions::text from pg_class
where relnamespace = 'public'::regnamespace and reloptions is not null
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(empty_database_url)
    yield made
    made.dispose()


def catalog(engine: sa.Engine) -> set[tuple[str, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.text(CATALOG))
        return {tuple(row) for row in rows if row[1] != migrations.VERSION_TABLE}


def execute(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_an_installed_schema_has_nothing_wrong(engine: sa.Engine) -> None:
    assert schema.verify(engine) == ()


def test_an_empty_database_lacks_every_column(empty: sa.Engine) -> None:
    assert len(schema.verify(empty)) == sum(
        len(table.columns) for table in metadata.tables.values()
    )
    schema.install(empty)
    assert schema.verify(empty) == ()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("alter table railcore_execution drop constraint never_forgotten", "never_forgotten"),
        ("alter table railcore_execution drop constraint state_has_event", "state_has_event"),
        ("drop index railcore_execution_due", "railcore_execution_due"),
        ("alter table railcore_event disable trigger event_change", "event_change"),
        ("alter table railcore_event enable trigger event_change", "event_change"),
        ("drop trigger payment_guard on railcore_payment", "payment_guard"),
        ("alter table railcore_payment drop column voided", "railcore_payment.voided"),
        ("delete from railcore_bucket where bucket = 7", "railcore_bucket"),
        ("insert into railcore_edge values ('failed', 'completed')", "railcore_edge"),
    ],
)
def test_damage_is_named(engine: sa.Engine, damage: str, named: str) -> None:
    execute(engine, damage)
    assert any(named in problem for problem in schema.verify(engine))


def test_the_edges_are_those_of_the_core(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(sa.text("select * from railcore_edge"))
        assert {tuple(row) for row in rows} == set(EDGES)


def test_plain_sql_and_alembic_give_one_catalog(engine: sa.Engine, empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    assert catalog(empty) == catalog(engine)


def test_a_downgrade_leaves_nothing(empty: sa.Engine) -> None:
    migrations.upgrade(empty)
    migrations.downgrade(empty)
    assert catalog(empty) == set()


def test_drop_leaves_nothing(engine: sa.Engine) -> None:
    schema.drop(engine)
    assert catalog(engine) == set()


def test_alembic_finds_no_difference_to_the_tables(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_tables_have_the_checks_of_the_schema(engine: sa.Engine) -> None:
    told = {
        (table.name, str(it.name))
        for table in metadata.tables.values()
        for it in table.constraints
        if isinstance(it, sa.CheckConstraint)
    }
    with engine.connect() as connection:
        query = (
            "select conrelid::regclass::text, conname from pg_constraint"
            " where contype = 'c' and conrelid > 0"
        )
        assert {tuple(row) for row in connection.execute(sa.text(query))} == told


def test_db5_no_text_key_depends_on_the_collation_of_the_system(engine: sa.Engine) -> None:
    query = """
    select indexrelid::regclass::text, collname
    from (select indexrelid, unnest(indcollation) as c, indrelid from pg_index) i
      join pg_collation on pg_collation.oid = i.c join pg_class on pg_class.oid = indrelid
    where relnamespace = 'public'::regnamespace and collname <> 'C'
    """
    with engine.connect() as connection:
        assert connection.execute(sa.text(query)).all() == []


def test_a_host_joins_the_migrations_to_its_own(empty_database_url: str, tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    own = tmp_path / "versions"
    own.mkdir()
    (own / "host.py").write_text(
        "revision = 'host_1'\ndown_revision = None\nbranch_labels = ('host',)\n"
        "depends_on = ('railcore_0001',)\n"
        "def upgrade():\n    from alembic import op\n"
        "    op.execute('create table invoice (id text)')\n"
        "def downgrade():\n    pass\n"
    )
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS.parent))
    config.set_main_option("version_locations", f"{schema.MIGRATIONS}:{own}")
    config.set_main_option("path_separator", ":")
    with sa.create_engine(empty_database_url, poolclass=sa.NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
    engine = sa.create_engine(empty_database_url, poolclass=sa.NullPool)
    assert schema.verify(engine) == ()
    assert sa.inspect(engine).has_table("invoice")
