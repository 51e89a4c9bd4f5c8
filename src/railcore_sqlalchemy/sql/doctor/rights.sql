-- What railcore's roles, and whoever logs in as one of them, may do with the tables in :tables: role, its railcore roles, table,
-- privilege. A privilege on a column alone names it. Owners and superusers may do all.
with t as materialized (
  select c.oid, c.relname from pg_class c
  where c.relname = any(:tables::text[]) and c.relkind in ('r', 'p') and pg_table_is_visible(c.oid)
), g as materialized (
  select oid, rolname from pg_roles where rolname = any(:roles::text[])
), r as materialized (
  select m.oid, m.rolname, m.rolsuper, array(
    select g.rolname::text from g where g.oid = m.oid or not m.rolsuper and pg_has_role(m.oid, g.oid, 'member')
  ) as groups
  from pg_roles m
  where m.oid in (select oid from g)
    or m.rolcanlogin and not m.rolsuper and exists (select from g where pg_has_role(m.oid, g.oid, 'member'))
), p (privilege) as (values ('select'), ('insert'), ('update'), ('delete'), ('truncate'), ('references'), ('trigger'))
select r.rolname::text as role, r.groups, t.relname::text as of, p.privilege
from r cross join t cross join p where has_table_privilege(r.oid, t.oid, p.privilege)
union all
select r.rolname, r.groups, t.relname, p.privilege || ' (' || a.attname || ')'
from r cross join t cross join p join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
where p.privilege in ('select', 'insert', 'update', 'references') and not has_table_privilege(r.oid, t.oid, p.privilege)
  and has_column_privilege(r.oid, t.oid, a.attnum, p.privilege)
