-- Keep that an adopting execution has booked what the provider calls by its reference: a row, unless something else has.
-- A charge and a capture take money alike. Of two resolutions that adopt the same charge at the same time, the unique key lets one through.
insert into railcore_reference (tenant_id, provider, account, reference, execution_id, created_at)
select x.tenant_id, x.provider, x.account, x.provider_ref, x.execution_id, now()
from railcore_execution x
where x.tenant_id = :tenant_id::text and x.execution_id = :execution_id::uuid and not exists (
  select from railcore_execution o
  where o.provider_ref = x.provider_ref and o.provider = x.provider and o.account = x.account and o.tenant_id = x.tenant_id
    and case o.operation when 'capture' then 'charge' else o.operation end
      = case x.operation when 'capture' then 'charge' else x.operation end
    and o.status = 'completed' and o.execution_id <> x.execution_id)
on conflict do nothing
returning execution_id
