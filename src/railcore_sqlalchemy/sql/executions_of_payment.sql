-- The executions of a payment, in the order in which they were claimed; the journal knows them.
select x.*, now() as at
from railcore_event e join railcore_execution x on x.tenant_id = e.tenant_id and x.execution_id = e.execution_id
where e.tenant_id = :tenant_id::text and e.aggregateid = :payment_id::text and e.version = 1
order by e.seq
