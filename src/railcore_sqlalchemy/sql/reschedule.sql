-- Nothing new: give the lease back and say when to look again. The time, or nothing for a writer that lost its lease.
update railcore_execution set
  lease_owner = null, lease_until = null,
  next_check_at = now() + make_interval(secs => :next_check_s::float8), updated_at = now()
where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid and lease_token = :token::bigint
  and lease_owner = :lease_owner::text and status in ('processing', 'pending')
returning now() as at, check_count
