-- What the head of each payment holds back against what its open discrepancies tell.
select 'dispute_disagrees' as code, p.tenant_id, 'payment ' || p.payment_id as subject,
  format('disputed %s, by its open discrepancies %s', p.disputed, coalesce(d.disputed_minor, 0)) as found
from railcore_payment p left join (
  select o.tenant_id, o.payment_id, sum(o.disputed_minor) as disputed_minor
  from railcore_discrepancy o where o.resolved_at is null group by o.payment_id, o.tenant_id
) d on d.tenant_id = p.tenant_id and d.payment_id = p.payment_id
where p.disputed <> coalesce(d.disputed_minor, 0)
