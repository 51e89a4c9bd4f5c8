-- Keep a delivery once, with its body: one row of verdict (accepted | duplicate | conflict), or none when another transaction
-- has just kept it: run it again.
with made as (
  insert into railcore_inbox (
    tenant_id, provider, account, event_id, body_sha256, signed_at, received_at, state, attempts, next_attempt_at)
  values (
    :tenant_id::text, :provider::text, :account::text, :event_id::text, :body_hash::bytea, :signed_at::timestamptz,
    now(), 'received', 1, now() + make_interval(secs => :lease_s::float8))
  on conflict do nothing
  returning tenant_id, provider, account, event_id, received_at
), kept as (
  insert into railcore_inbox_body (tenant_id, provider, account, event_id, received_at, body)
  select tenant_id, provider, account, event_id, received_at, :body::bytea from made
)
select 'accepted' as verdict from made
union all
select case when body_sha256 = :body_hash::bytea then 'duplicate' else 'conflict' end from railcore_inbox
where event_id = :event_id::text and account = :account::text and provider = :provider::text and tenant_id = :tenant_id::text
