-- Transactions in this database that were begun long ago: prepared ones, and those whose session does nothing.
select 'transaction_forgotten' as code, null as tenant_id, 'prepared transaction ' || gid as subject,
  format('of %s, since %s', owner, prepared) as found
from pg_prepared_xacts
where database = current_database() and prepared < now() - make_interval(secs => :overdue_s::float8)
union all
select 'transaction_forgotten', null, 'session ' || pid, format('of %s, %s since %s', usename, state, state_change)
from pg_stat_activity
where datname = current_database() and state like 'idle in transaction%'
  and state_change < now() - make_interval(secs => :idle_s::float8)
