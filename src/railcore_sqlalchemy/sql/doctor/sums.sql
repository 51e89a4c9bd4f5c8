-- The sums of each payment against its executions, and those against the limits, doubt counted.
with sums as materialized (
  select x.tenant_id, x.payment_id, min(x.currency) as lowest, max(x.currency) as currency,
    coalesce(sum(amount_minor) filter (where operation in ('charge', 'authorize') and is_open), 0) as charging,
    coalesce(sum(amount_minor) filter (where operation in ('charge', 'authorize') and is_done), 0) as authorized,
    coalesce(sum(amount_minor) filter (where operation = 'capture' and is_open), 0) as capturing,
    coalesce(sum(amount_minor) filter (where operation in ('charge', 'capture') and is_done), 0) as captured,
    coalesce(sum(amount_minor) filter (where operation = 'void' and is_open), 0) as voiding,
    coalesce(sum(amount_minor) filter (where operation = 'void' and is_done), 0) as voided,
    coalesce(sum(amount_minor) filter (where operation = 'refund' and is_open), 0) as refunding,
    coalesce(sum(amount_minor) filter (where operation = 'refund' and is_done), 0) as refunded
  from railcore_execution x cross join lateral (
    select x.status in ('processing', 'pending') as is_open, x.status = 'completed' as is_done) s
  group by x.payment_id, x.tenant_id
)
select case
    when p.payment_id is null then 'execution_without_payment'
    when s.lowest <> p.currency or s.currency <> p.currency then 'currency_differs'
    when s.payment_id is null or (p.charging, p.authorized, p.capturing, p.captured, p.voiding, p.voided, p.refunding, p.refunded)
      <> (s.charging, s.authorized, s.capturing, s.captured, s.voiding, s.voided, s.refunding, s.refunded) then 'sums_disagree'
    else 'limit_exceeded' end as code,
  coalesce(p.tenant_id, s.tenant_id) as tenant_id, 'payment ' || coalesce(p.payment_id, s.payment_id) as subject,
  case when p.payment_id is null then 'executions and no head' else format(
    'due %s %s; head/executions: charging %s/%s, authorized %s/%s, capturing %s/%s, captured %s/%s, voiding %s/%s, '
    'voided %s/%s, refunding %s/%s, refunded %s/%s', p.due_minor, p.currency,
    p.charging, coalesce(s.charging, 0), p.authorized, coalesce(s.authorized, 0), p.capturing, coalesce(s.capturing, 0),
    p.captured, coalesce(s.captured, 0), p.voiding, coalesce(s.voiding, 0), p.voided, coalesce(s.voided, 0),
    p.refunding, coalesce(s.refunding, 0), p.refunded, coalesce(s.refunded, 0)) end as found
from railcore_payment p full join sums s on s.tenant_id = p.tenant_id and s.payment_id = p.payment_id
where p.payment_id is null
  or s.payment_id is null and (p.charging, p.authorized, p.capturing, p.captured, p.voiding, p.voided, p.refunding, p.refunded)
    <> (0, 0, 0, 0, 0, 0, 0, 0)
  or s.lowest <> p.currency or s.currency <> p.currency
  or (p.charging, p.authorized, p.capturing, p.captured, p.voiding, p.voided, p.refunding, p.refunded)
    <> (s.charging, s.authorized, s.capturing, s.captured, s.voiding, s.voided, s.refunding, s.refunded)
  or s.charging + s.authorized - s.voided > p.due_minor
  or s.captured + s.capturing + s.voided + s.voiding > s.authorized
  or s.refunded + s.refunding > s.captured
