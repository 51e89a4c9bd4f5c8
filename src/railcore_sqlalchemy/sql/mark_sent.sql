-- Commit a send mark before the first byte of a request leaves: the time, or nothing for a writer that lost its lease.
update railcore_execution set
  send_count = send_count + 1, last_sent_at = now(), 
  first_sent_at = case when send_count = refused_count then now() else first_sent_at end,
  lease_until = now() + make_interval(secs => :lease_s::float8),
  next_check_at = greatest(next_check_at, now() + make_interval(secs => :lease_s::float8)),
  updated_at = now()
where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid and lease_token = :token::bigint
  and lease_owner = :lease_owner::text and status in ('processing', 'pending')
returning now() as at, send_count, first_sent_at
