-- End a discrepancy, once: one row of verdict (resolved | already), seq, at. Its event takes the next place in its payment.
-- The route and the key in the event are those of the event that announced it. The head counts its money no longer, and
-- again what an adoption has taken off for the time being (:settled_minor).
with h as materialized (
  select p.seq + 1 as seq, o.execution_id, coalesce(x.status, o.to_status) as status,
    o.payment_rail, o.payment_provider, o.idempotency_key
  from railcore_discrepancy d
  join railcore_payment p on p.tenant_id = d.tenant_id and p.payment_id = d.payment_id
  join railcore_event o on o.tenant_id = d.tenant_id and o.aggregateid = d.payment_id and o.seq = d.seq
  left join railcore_execution x on x.tenant_id = d.tenant_id and x.execution_id = d.execution_id
  where d.tenant_id = :tenant_id::text and d.discrepancy_id = :discrepancy_id::uuid and d.resolved_at is null
  for no key update of p
), d as (
  update railcore_discrepancy set
    resolved_at = now(), resolved_by = :actor::text, evidence = :evidence::text, resolution = :resolution::text,
    resolving_execution_id = :resolving_execution_id::uuid, resolved_seq = h.seq
  from h
  where tenant_id = :tenant_id::text and discrepancy_id = :discrepancy_id::uuid and resolved_at is null
  returning tenant_id, payment_id, resolved_seq, disputed_minor
), p as (
  update railcore_payment head set
    seq = head.seq + 1, disputed = head.disputed + :settled_minor::bigint - d.disputed_minor
  from d
  where head.tenant_id = d.tenant_id and head.payment_id = d.payment_id
  returning head.tenant_id, head.payment_id, head.seq
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select p.tenant_id, p.payment_id, p.seq, :event_id::uuid, 'payment', :event_type::text, h.execution_id, null,
    h.status, h.status, h.payment_rail, h.payment_provider, h.idempotency_key, now(), :payload::json
  from p, h
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, payment_id, seq, now() from p
)
select case when p.seq is null then 'already' else 'resolved' end as verdict, p.seq, now() as at
from (values (1)) one left join p on true
