-- One execution a key, counted from the rows and not asked of the index.
select 'key_twice' as code, x.tenant_id, 'key ' || x.idempotency_key as subject,
  'executions ' || string_agg(x.execution_id::text, ', ' order by x.execution_id) as found
from railcore_execution x
group by x.idempotency_key, x.tenant_id having count(*) > 1
