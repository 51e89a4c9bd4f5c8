-- Executions that wait for a person to confirm or reject them, the oldest first, of one tenant or of all.
select *, now() as at from railcore_execution
where next_check_at is not null and pending_reason = 'manual_review'
  and (:tenant_id::text is null or tenant_id = :tenant_id::text)
order by created_at limit :limit::integer
