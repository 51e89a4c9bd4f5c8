-- Record many answers in one statement: a row of ord, verdict, seq, held, at for each, in no promised order.
-- :items is a JSON array of objects with the parameters of record.sql as members and ord.
-- Verdicts: recorded | stale, and again and busy as in claim_many.sql. The statement skips what others have locked and
-- waits for nobody, so it cannot take part in a deadlock.
with i as materialized (
  select *, row_number() over (partition by tenant_id collate "C", payment_id collate "C" order by ord) = 1 as first
  from json_to_recordset(:items::json) as i (
    ord integer, tenant_id text, execution_id uuid, payment_id text, version integer, from_status text, to_status text,
    pending_reason text, failure_code text, cause_code text, phase smallint, progress bigint,
    provider_ref text, settled_minor bigint, next_action json, expires_at timestamptz, provider_response json, token bigint,
    next_check_s float8, event_id uuid, event_type text, payload json, bucket smallint, fenced boolean)
), o as materialized (
  select i.*, h.seq + 1 as seq, r.operation, r.amount_minor, r.rail, r.provider, r.idempotency_key,
    r.lease_token = i.token as held,
    i.to_status <> 'pending' as over, i.to_status = 'completed' as won,
    case
      when i.first and r.operation is not null and h.seq is not null then 'recorded'
      when (
        select true from railcore_execution s where s.tenant_id = i.tenant_id and s.execution_id = i.execution_id
          and s.payment_id = i.payment_id and s.status = i.from_status and s.version = i.version
          and (s.lease_token = i.token or not i.fenced)) is null then 'stale'
      when i.first then 'busy'
      else 'again'
    end as verdict
  from i left join lateral (
    select operation, amount_minor, rail, provider, idempotency_key, lease_token from railcore_execution e
    where i.first and e.tenant_id = i.tenant_id and e.execution_id = i.execution_id and e.payment_id = i.payment_id
      and e.status = i.from_status and e.version = i.version
      and (e.lease_token = i.token or not i.fenced)
    for no key update skip locked
  ) r on true left join lateral (
    select seq from railcore_payment p
    where r.operation is not null and p.tenant_id = i.tenant_id and p.payment_id = i.payment_id
    for no key update skip locked
  ) h on true
), x as (
  update railcore_execution r set
    status = o.to_status, version = r.version + 1,
    pending_reason = o.pending_reason, failure_code = o.failure_code, cause_code = o.cause_code,
    phase = o.phase, progress = o.progress, provider_ref = o.provider_ref, settled_minor = o.settled_minor,
    next_action = o.next_action, expires_at = o.expires_at,
    provider_response = o.provider_response,
    lease_owner = case when r.lease_token = o.token then null else r.lease_owner end,
    lease_until = case when r.lease_token = o.token then null else r.lease_until end,
    next_check_at = case
      when o.over then null
      when r.lease_token = o.token then now() + make_interval(secs => o.next_check_s)
      else r.next_check_at end,
    updated_at = now()
  from o where o.verdict = 'recorded' and r.tenant_id = o.tenant_id and r.execution_id = o.execution_id
), p as (
  update railcore_payment p set
    seq = p.seq + 1,
    charging = p.charging - case when over and operation in ('charge', 'authorize') then amount_minor else 0 end,
    authorized = p.authorized + case when won and operation in ('charge', 'authorize') then amount_minor else 0 end,
    capturing = p.capturing - case when over and operation = 'capture' then amount_minor else 0 end,
    captured = p.captured + case when won and operation in ('charge', 'capture') then amount_minor else 0 end,
    voiding = p.voiding - case when over and operation = 'void' then amount_minor else 0 end,
    voided = p.voided + case when won and operation = 'void' then amount_minor else 0 end,
    refunding = p.refunding - case when over and operation = 'refund' then amount_minor else 0 end,
    refunded = p.refunded + case when won and operation = 'refund' then amount_minor else 0 end
  from o where o.verdict = 'recorded' and p.tenant_id = o.tenant_id and p.payment_id = o.payment_id
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, payment_id, seq, event_id, 'payment', event_type, execution_id, version + 1, from_status, to_status,
    rail, provider, idempotency_key, now(), payload
  from o where verdict = 'recorded'
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select bucket, tenant_id, payment_id, seq, now() from o where verdict = 'recorded'
)
select ord, verdict, case when verdict = 'recorded' then seq end as seq, held, now() as at from o
