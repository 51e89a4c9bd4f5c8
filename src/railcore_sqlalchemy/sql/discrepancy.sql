-- Keep news that contradicts a finished execution: one row of verdict (recorded | duplicate | unknown), seq, at.
-- The execution does not change; its payment's sequence moves by the event that tells.
-- Of a charge or an authorization that is not completed the head counts :disputed_minor until somebody resolves it, the
-- whole debt at most, which holds back everything.
-- The execution is locked before the head, as a change of state does, so that the event tells its status as it then is.
with x as materialized (
  select tenant_id, payment_id, status, operation, rail, provider, idempotency_key from railcore_execution
  where tenant_id = :tenant_id::text and payment_id = :payment_id::text and execution_id = :execution_id::uuid
  for no key update
), h as materialized (
  select p.seq + 1 as seq, x.status, x.rail, x.provider, x.idempotency_key,
    case when x.status <> 'completed' and x.operation in ('charge', 'authorize')
      then least(:disputed_minor::bigint, p.due_minor) else 0 end as disputed_minor
  from x join railcore_payment p on p.tenant_id = x.tenant_id and p.payment_id = x.payment_id
  for no key update of p
), d as (
  insert into railcore_discrepancy (
    tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail, opened_at, disputed_minor)
  select :tenant_id::text, :discrepancy_id::uuid, :execution_id::uuid, :payment_id::text, seq, :kind::text,
    :detail::json, now(), disputed_minor
  from h
  on conflict do nothing
  returning seq, disputed_minor
), p as (
  update railcore_payment set seq = railcore_payment.seq + 1, disputed = disputed + d.disputed_minor from d
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
