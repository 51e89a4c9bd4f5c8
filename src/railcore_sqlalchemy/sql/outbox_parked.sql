-- Payments that wait for a person, the longest parked first: each with the row where it stopped.
select o.tenant_id, o.aggregateid, o.seq, e.id as event_id, o.attempts, o.parked_at, o.last_error
from railcore_outbox o join railcore_event e
  on e.tenant_id = o.tenant_id and e.aggregateid = o.aggregateid and e.seq = o.seq
where o.parked_at is not null and not exists (
  select from railcore_outbox lower
  where lower.bucket = o.bucket and lower.aggregateid = o.aggregateid and lower.tenant_id = o.tenant_id
    and lower.seq < o.seq and lower.parked_at is not null)
order by o.parked_at, o.aggregateid limit :limit::integer
