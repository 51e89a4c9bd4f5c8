-- Keep news that contradicts a finished execution: one row of verdict (recorded | duplicate | unknown), seq, at.
-- The execution does not change; its payment's sequence moves by the event that tells.
with h as materialized (
  select p.seq + 1 as seq, x.status, x.rail, x.provider, x.idempotency_key
  from railcore_payment p join railcore_execution x on x.tenant_id = p.tenant_id and x.payment_id = p.payment_id
  where p.tenant_id = :tenant_id::text and p.payment_id = :payment_id::text and x.execution_id = :execution_id::uuid
  for no key update of p
), d as (
  insert into railcore_discrepancy (
    tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail, opened_at)
  select :tenant_id::text, :discrepancy_id::uuid, :execution_id::uuid, :payment_id::text, seq, :kind::text,
    :detail::json, now()
  from h
  on conflict do nothing
  returning seq
), p as (
  update railcore_payment set seq = railcore_payment.seq + 1 from d
  where tenant_id = :tenant_id::text and payment_id = :payment_id::text
  returning tenant_id, railcore_payment.seq
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, :payment_id::text, p.seq, :event_id::uuid, 'payment', :event_type::text, :execution_id::uuid, null,
    status, status, rail, provider, idempotency_key, now(), :payload::json
  from p, h
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, :payment_id::text, seq, now() from p
)
select case when p.seq is not null then 'recorded' when exists (select from h) then 'duplicate' else 'unknown' end as verdict,
  p.seq, now() as at
from (values (1)) one left join p on true
