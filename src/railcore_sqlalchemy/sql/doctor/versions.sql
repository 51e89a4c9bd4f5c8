-- The revision of the schema, as migrations noted it.
select version_num from railcore_alembic_version
