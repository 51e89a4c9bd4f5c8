-- A try was refused for certain before anything was done: count it out, give the lease back, say when to try again.
-- The time, or nothing for a writer that lost its lease.
update railcore_execution set
  refused_count = refused_count + 1, lease_owner = null, lease_until = null,
  next_check_at = now() + make_interval(secs => :next_check_s::float8), updated_at = now()
where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid and lease_token = :token::bigint
  and lease_owner = :lease_owner::text and status = 'processing' and refused_count < send_count
returning now() as at, refused_count
