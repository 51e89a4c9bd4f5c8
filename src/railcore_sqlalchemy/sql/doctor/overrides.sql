-- Who begins sessions in this database with a commit that is not durable, or with foreign keys that are not asked.
select coalesce(r.rolname::text, 'everybody') as role, c as setting
from pg_db_role_setting s cross join unnest(s.setconfig) c left join pg_roles r on r.oid = s.setrole
where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  and c in ('synchronous_commit=off', 'synchronous_commit=false', 'synchronous_commit=0', 'session_replication_role=replica')
order by 1, 2
