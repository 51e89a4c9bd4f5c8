-- Captures, voids and refunds against what they follow: it is there, of the same payment, done, and large enough for all of
-- them together, doubt counted.
with asked as materialized (
  select x.tenant_id, x.execution_id, x.payment_id, x.operation, x.currency, x.amount_minor, x.parent_execution_id, x.status
  from railcore_execution x where x.operation in ('capture', 'void', 'refund')
)
select 'parent_missing' as code, a.tenant_id, 'execution ' || a.execution_id as subject,
  format('%s of %s, which is %s', a.operation, coalesce(a.parent_execution_id::text, 'nothing'),
    case when p.execution_id is null then 'not there' when p.payment_id <> a.payment_id then 'of another payment'
      when p.currency <> a.currency then 'in another currency' else p.operation || ' ' || p.status end) as found
from asked a left join railcore_execution p on p.tenant_id = a.tenant_id and p.execution_id = a.parent_execution_id
where p.execution_id is null or p.payment_id <> a.payment_id or p.currency <> a.currency or p.status <> 'completed'
  or p.operation not in ('charge', 'authorize', 'capture') or a.operation <> 'refund' and p.operation <> 'authorize'
union all
select 'limit_exceeded', p.tenant_id, 'execution ' || p.execution_id,
  format('%s of %s %s, %s of %s', p.operation, p.amount_minor, p.currency, a.kind, a.amount_minor)
from (
  select tenant_id, parent_execution_id, case operation when 'refund' then 'refunds' else 'captures and voids' end as kind,
    sum(amount_minor) as amount_minor
  from asked where status <> 'failed' group by 1, 2, 3
) a join railcore_execution p on p.tenant_id = a.tenant_id and p.execution_id = a.parent_execution_id
where a.amount_minor > p.amount_minor
