-- The discrepancies of a payment, in the order of their events; the journal knows them.
select d.*, now() as at
from railcore_event e join railcore_discrepancy d on d.tenant_id = e.tenant_id and d.discrepancy_id = e.id
where e.tenant_id = :tenant_id::text and e.aggregateid = :payment_id::text and e.version is null
order by e.seq
