-- The changes of each execution, one after another: from nothing, along edges, each from where the last one led, and in the
-- order of the payment.
select 'chain_broken' as code, tenant_id, 'execution ' || execution_id as subject,
  format('event %s: version %s from %s to %s%s', seq, version, from_status, to_status,
    case when before is not null then format(', after event %s to %s', seq_before, before) end) as found
from (
  select e.tenant_id, e.execution_id, e.seq, e.version, e.from_status, e.to_status,
    lag(e.to_status) over w as before, lag(e.version) over w as version_before, lag(e.seq) over w as seq_before
  from railcore_event e where e.version is not null
  window w as (partition by e.execution_id, e.tenant_id order by e.version)
) c
where version = 1 and from_status <> 'none'
  or version > 1 and version_before = version - 1 and (before <> from_status or seq_before >= seq)
  or not exists (
    select from railcore_edge g where g.from_status = c.from_status and g.to_status = c.to_status)
union all
select 'event_without_execution', e.tenant_id, format('event %s of payment %s', e.seq, e.aggregateid),
  format('tells of version %s of execution %s, which the payment does not have', e.version, e.execution_id)
from railcore_event e left join railcore_execution x
  on x.tenant_id = e.tenant_id and x.execution_id = e.execution_id and x.payment_id = e.aggregateid
where e.version is not null and x.execution_id is null
