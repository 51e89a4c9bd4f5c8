-- Begin a try of deliveries that are due, the oldest first: their rows with bodies and how long they have waited. The next
-- try has its date already, so that a crash forgets nothing.
with due as materialized (
  select tenant_id, provider, account, event_id from railcore_inbox
  where next_attempt_at <= now()
  order by next_attempt_at
  limit :limit::integer
  for no key update skip locked
), begun as (
  update railcore_inbox item set
    attempts = item.attempts + 1, next_attempt_at = now() + make_interval(secs => :lease_s::float8)
  from due
  where item.event_id = due.event_id and item.account = due.account
    and item.provider = due.provider and item.tenant_id = due.tenant_id
  returning item.tenant_id, item.provider, item.account, item.event_id, item.body_sha256, item.signed_at,
    item.attempts, item.faults, item.received_at, extract(epoch from now() - item.received_at)::float8 as waited_s
)
select begun.*, kept.body from begun left join railcore_inbox_body kept
  on kept.event_id = begun.event_id and kept.account = begun.account
    and kept.provider = begun.provider and kept.tenant_id = begun.tenant_id
order by begun.received_at
