-- What the catalogue says of the tables in :tables and the functions in :functions: kind, of (the table), name, definition.
with t as materialized (
  select c.oid, c.relname, c.relpersistence from pg_class c
  where c.relname = any(:tables::text[]) and c.relkind in ('r', 'p') and pg_table_is_visible(c.oid)
)
select 'table' as kind, t.relname::text as of, t.relname::text as name,
  case t.relpersistence when 'p' then 'logged' else 'unlogged' end as definition from t
union all
select 'column', t.relname, a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
  case when l.collname is not null then 'collate ' || l.collname end, case when a.attnotnull then 'not null' end,
  'default ' || pg_get_expr(d.adbin, d.adrelid, true))
from t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
  left join pg_collation l on l.oid = a.attcollation
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
union all
select 'constraint', t.relname, c.conname, pg_get_constraintdef(c.oid, true)
from t join pg_constraint c on c.conrelid = t.oid where c.contype <> 'n'
union all
select 'index', t.relname, x.relname,
  pg_get_indexdef(i.indexrelid, 0, true) || case when i.indisvalid and i.indisready then '' else ' not valid' end
from t join pg_index i on i.indrelid = t.oid join pg_class x on x.oid = i.indexrelid
union all
select 'trigger', t.relname, g.tgname, pg_get_triggerdef(g.oid, true) || ' ' || g.tgenabled::text
from t join pg_trigger g on g.tgrelid = t.oid where not g.tgisinternal
union all
select 'check of a foreign key', t.relname, c.conname, g.tgenabled::text
from t join pg_trigger g on g.tgrelid = t.oid join pg_constraint c on c.oid = g.tgconstraint
where g.tgisinternal and g.tgenabled <> 'O'
union all
select 'rule', t.relname, r.rulename, r.ev_enabled::text from t join pg_rewrite r on r.ev_class = t.oid
union all
select 'row security', t.relname, t.relname, 'on' from t join pg_class c on c.oid = t.oid where c.relrowsecurity
union all
select 'function', '', p.proname, concat_ws(' ', pg_get_function_identity_arguments(p.oid), l.lanname,
  case when p.prosecdef then 'security definer' end, p.proconfig::text, p.prosrc)
from pg_proc p join pg_language l on l.oid = p.prolang
where p.proname = any(:functions::text[]) and pg_function_is_visible(p.oid)
