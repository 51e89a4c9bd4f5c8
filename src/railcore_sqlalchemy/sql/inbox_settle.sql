-- Note how a try ended, unless a later one has begun: a row, or none.
update railcore_inbox set
  state = :state::text,
  next_attempt_at = case when :state::text = 'received' then now() + make_interval(secs => :retry_s::float8) end,
  settled_at = case when :state::text <> 'received' then now() end,
  problem = :problem::text,
  faults = faults + :is_fault::boolean::integer
where event_id = :event_id::text and account = :account::text and provider = :provider::text
  and tenant_id = :tenant_id::text and state = 'received' and attempts = :attempts::integer
returning event_id
