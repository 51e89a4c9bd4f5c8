-- The executions of an account that have this name at the provider, the time, and by which name they were found: 1 the key
-- that we sent, 2 a short reference, 3 the provider's own id. tenant_id is null where tenants share the account.
select x.*, now() as at, 1 as by from railcore_execution x
where x.provider_key = :provider_key::text and x.provider = :provider::text and x.account = :account::text
  and (:tenant_id::text is null or x.tenant_id = :tenant_id::text)
union all
select x.*, now() as at, 2 as by
from railcore_reference r
join railcore_execution x on x.execution_id = r.execution_id and x.tenant_id = r.tenant_id
where r.reference = :reference::text and r.account = :account::text and r.provider = :provider::text
  and (:tenant_id::text is null or r.tenant_id = :tenant_id::text)
union all
(select x.*, now() as at, 3 as by from railcore_execution x
where x.provider_ref = :provider_ref::text and x.provider = :provider::text and x.account = :account::text
  and (:tenant_id::text is null or x.tenant_id = :tenant_id::text)
limit 2)
