-- Take the lease of an open execution that nobody holds: the whole row and the time, or nothing (held, or finished).
update railcore_execution set
  lease_owner = :lease_owner::text, lease_token = lease_token + 1, check_count = check_count + 1,
  lease_until = now() + make_interval(secs => :lease_s::float8),
  next_check_at = greatest(next_check_at, now() + make_interval(secs => :lease_s::float8)),
  updated_at = now()
where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid
  and status in ('processing', 'pending') and (lease_until is null or lease_until <= now())
returning *, now() as at
