-- The journal of each payment against its head: numbered from 1 without a hole, the head at the last.
with journal as materialized (
  select e.tenant_id, e.aggregateid, count(*) as events, min(e.seq) as lowest, max(e.seq) as newest
  from railcore_event e
  group by e.aggregateid, e.tenant_id
)
select case
    when p.seq is null then 'event_without_head'
    when j.newest is null or p.seq > j.newest then 'head_without_event'
    when p.seq < j.newest then 'head_behind'
    else 'seq_missing' end as code,
  coalesce(p.tenant_id, j.tenant_id) as tenant_id, 'payment ' || coalesce(p.payment_id, j.aggregateid) as subject,
  format('head at %s, %s events from %s to %s', coalesce(p.seq::text, 'nothing'), coalesce(j.events, 0),
    coalesce(j.lowest::text, 'nothing'), coalesce(j.newest::text, 'nothing')) as found
from railcore_payment p full join journal j on j.tenant_id = p.tenant_id and j.aggregateid = p.payment_id
where p.seq is distinct from j.newest or j.lowest <> 1 or j.events <> j.newest
