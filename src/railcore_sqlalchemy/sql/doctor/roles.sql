-- railcore's roles and whoever logs in as one of them: what they are, and what their sessions in this database begin with.
-- A setting that a role has not for itself is the database's, or the server's.
with g as materialized (
  select oid, rolname from pg_roles where rolname = any(:roles::text[])
), settings as materialized (
  select s.setrole, s.setdatabase, split_part(c, '=', 1) as name, substr(c, strpos(c, '=') + 1) as value
  from pg_db_role_setting s cross join unnest(s.setconfig) c
  where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
)
select m.rolname::text as role, m.rolsuper as superuser, m.rolbypassrls as bypassrls, m.rolcreaterole as createrole,
  exists (select from g where (g.oid = m.oid or pg_has_role(m.oid, g.oid, 'member'))
    and g.rolname in ('railcore_app', 'railcore_relay')) as is_writing,
  n.name, coalesce(
    (select value from settings s where s.name = n.name and s.setrole = m.oid and s.setdatabase <> 0),
    (select value from settings s where s.name = n.name and s.setrole = m.oid and s.setdatabase = 0),
    (select value from settings s where s.name = n.name and s.setrole = 0 and s.setdatabase <> 0),
    (select case when b.source in ('default', 'configuration file', 'command line') then b.reset_val else b.boot_val end
      from pg_settings b where b.name = n.name)) as value
from pg_roles m cross join unnest(:names::text[]) as n (name)
where m.oid in (select oid from g)
  or m.rolcanlogin and not m.rolsuper and exists (select from g where pg_has_role(m.oid, g.oid, 'member'))
order by 1, 7
