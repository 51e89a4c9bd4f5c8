-- What waits for a person too long.
select 'discrepancy_waiting' as code, d.tenant_id, 'discrepancy ' || d.discrepancy_id as subject,
  format('%s of payment %s, open since %s', d.kind, d.payment_id, d.opened_at) as found
from railcore_discrepancy d
where d.resolved_at is null and d.opened_at < now() - make_interval(secs => :review_s::float8)
