-- Record what became of a charge or an authorization: one row of verdict (recorded | stale), seq, held, at.
-- held says whether :token was the newest. The values are stored as they are given.
-- The guard is status and version, not the lease: the answer of a writer that lost its lease is news like any other.
-- What speaks only for tries that the writer knew of (never left, never seen) is fenced: the holder alone may say it.
-- Only the holder's token clears the lease and moves the schedule; a finished execution is never due.
with x as (
  update railcore_execution set
    status = w.to_status, version = version + 1,
    pending_reason = :pending_reason::text, failure_code = :failure_code::text, cause_code = :cause_code::text,
    phase = :phase::smallint, progress = :progress::bigint,
    provider_ref = :provider_ref::text, settled_minor = :settled_minor::bigint,
    next_action = :next_action::json, expires_at = :expires_at::timestamptz,
    provider_response = :provider_response::json,
    lease_owner = case when lease_token = w.token then null else lease_owner end,
    lease_until = case when lease_token = w.token then null else lease_until end,
    next_check_at = case
      when w.to_status in ('completed', 'failed') then null
      when lease_token = w.token then now() + make_interval(secs => :next_check_s::float8)
      else next_check_at end,
    updated_at = now()
  from (select :token::bigint as token, :to_status::text as to_status) w
  where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid and payment_id = :payment_id::text
    and status = :from_status::text and version = :version::integer
    and (lease_token = w.token or not :fenced::boolean)
    and operation in ('charge', 'authorize')
  returning tenant_id, operation, amount_minor, rail, provider, idempotency_key,
    status <> 'pending' as over, status = 'completed' as won, lease_token = w.token as held
), p as (
  update railcore_payment head set
    seq = head.seq + 1,
    charging = head.charging - case when over then amount_minor else 0 end,
    authorized = head.authorized + case when won then amount_minor else 0 end,
    captured = head.captured + case when won and operation = 'charge' then amount_minor else 0 end
  from x where head.tenant_id = :tenant_id::text and head.payment_id = :payment_id::text
  returning head.tenant_id, head.seq, x.rail, x.provider, x.idempotency_key, x.held
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, :payment_id::text, seq, :event_id::uuid, 'payment', :event_type::text, :execution_id::uuid,
    :version::integer + 1, :from_status::text, :to_status::text, rail, provider, idempotency_key, now(), :payload::json
  from p
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, :payment_id::text, seq, now() from p
)
select case when p.seq is null then 'stale' else 'recorded' end as verdict, p.seq, p.held, now() as at
from (values (1)) one left join p on true
