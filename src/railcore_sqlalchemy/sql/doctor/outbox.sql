-- What is to be delivered: rows of the journal, of each payment all from the first that waits to its last, and in time.
with waiting as materialized (
  select o.tenant_id, o.aggregateid, count(*) as events, min(o.seq) as lowest, max(o.seq) as newest,
    min(o.enqueued_at) as since, bool_or(o.parked_at is not null) as is_parked, min(o.due_at) as due_at
  from railcore_outbox o group by o.aggregateid, o.tenant_id
)
select 'outbox_gap' as code, w.tenant_id, 'payment ' || w.aggregateid as subject,
  format('%s of the events %s to %s wait', w.events, w.lowest, p.seq) as found
from waiting w join railcore_payment p on p.tenant_id = w.tenant_id and p.payment_id = w.aggregateid
where w.newest <= p.seq and w.events <> p.seq - w.lowest + 1
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
