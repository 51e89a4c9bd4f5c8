-- Keep a charge at a provider that no execution asked for: one row of verdict (recorded | duplicate), seq, at.
-- It has a payment of its own, whose sequence orders its events and which an adoption is booked on.
with p as (
  insert into railcore_payment (tenant_id, payment_id, seq, currency, due_minor)
  values (:tenant_id::text, :payment_id::text, 1, :currency::text, :amount_minor::bigint)
  on conflict do nothing
  returning tenant_id, payment_id, seq
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, payment_id, seq, :event_id::uuid, 'payment', :event_type::text, :adopting_id::uuid, null,
    'none', 'none', :rail::text, :provider::text, :adopting_key::text, now(), :payload::json
  from p
), d as (
  insert into railcore_discrepancy (
    tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail, opened_at)
  select tenant_id, :discrepancy_id::uuid, null, payment_id, seq, :kind::text, :detail::json, now() from p
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, payment_id, seq, now() from p
)
select case when p.seq is null then 'duplicate' else 'recorded' end as verdict, p.seq, now() as at
from (values (1)) one left join p on true
