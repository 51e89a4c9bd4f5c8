-- What is to be delivered: rows of the journal, of each payment all from the first that waits to its last, and in time.
with waiting as materialized (
  select o.tenant_id, o.aggregateid, count(*) as events, min(o.seq) as lowest, min(o.enqueued_at) as since, bool_or(o.parked_at is not null) as is_parked, min(o.due_at) as due_at
  from railcore_outbox o group by o.aggregateid, o.tenant_id
)
select 'outbox_gap' as code, w.tenant_id, 'payment ' || w.aggregateid as subject,
  format('waits from event %s, without %s', w.lowest, string_agg(e.seq::text, ', ' order by e.seq)) as found
from waiting w
  join railcore_event e on e.tenant_id = w.tenant_id and e.aggregateid = w.aggregateid and e.seq > w.lowest
  left join railcore_outbox o on o.tenant_id = e.tenant_id and o.aggregateid = e.aggregateid and o.seq = e.seq
where o.seq is null
group by w.tenant_id, w.aggregateid, w.lowest
union all
select 'outbox_without_event', o.tenant_id, 'payment ' || o.aggregateid, format('event %s is not in the journal', o.seq)
from railcore_outbox o
  left join railcore_event e on e.tenant_id = o.tenant_id and e.aggregateid = o.aggregateid and e.seq = o.seq
where e.seq is null
union all
select 'event_parked', o.tenant_id, 'payment ' || o.aggregateid,
  format('event %s parked at %s after %s attempts: %s', o.seq, o.parked_at, o.attempts, o.last_error)
from railcore_outbox o where o.parked_at is not null
union all
select 'event_overdue', w.tenant_id, 'payment ' || w.aggregateid, format('%s events wait since %s', w.events, w.since)
from waiting w
where not w.is_parked and w.since < now() - make_interval(secs => :overdue_s::float8)
  and coalesce(w.due_at, w.since) < now() - make_interval(secs => :overdue_s::float8)
