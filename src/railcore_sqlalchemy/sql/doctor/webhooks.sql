-- Deliveries that nobody could apply, and those that nobody tries to.
select case i.state when 'parked' then 'webhook_parked' else 'webhook_overdue' end as code,
  i.tenant_id, format('event %s of %s/%s', i.event_id, i.provider, i.account) as subject,
  case i.state when 'parked' then format('after %s attempts: %s', i.attempts, i.problem)
    else format('received at %s, to be tried at %s', i.received_at, i.next_attempt_at) end as found
from railcore_inbox i
where i.state = 'parked' or i.next_attempt_at < now() - make_interval(secs => :overdue_s::float8)
