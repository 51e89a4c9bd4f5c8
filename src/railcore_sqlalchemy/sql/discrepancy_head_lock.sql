-- How much of a discrepancy's payment is in doubt, held until the transaction ends: the execution is locked before the head,
-- as a change of state does.
select p.disputed
from railcore_discrepancy d
left join lateral (
  select true as locked from railcore_execution
  where tenant_id = d.tenant_id and execution_id = d.execution_id
  for no key update
) x on true, lateral (
  select disputed from railcore_payment
  where tenant_id = d.tenant_id and payment_id = d.payment_id and (x.locked or d.execution_id is null)
  for no key update
) p
where d.tenant_id = :tenant_id::text and d.discrepancy_id = :discrepancy_id::uuid
