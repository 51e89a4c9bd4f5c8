-- What a bucket's holder delivers next: whole events, with how often each was tried. Of each payment the rows from its
-- lowest on, in order, up to :per_payment and up to the first that waits or is parked.
-- There is no cursor: the lowest row is always read first, so nothing that commits late is skipped.
with recursive head as (
  (select o.aggregateid, o.tenant_id, o.parked_at, o.due_at from railcore_outbox o
    where o.bucket = :bucket::smallint
    order by o.aggregateid, o.tenant_id, o.seq limit 1)
  union all
  select n.aggregateid, n.tenant_id, n.parked_at, n.due_at from head h cross join lateral (
    select o.aggregateid, o.tenant_id, o.parked_at, o.due_at from railcore_outbox o
    where o.bucket = :bucket::smallint and (o.aggregateid, o.tenant_id) > (h.aggregateid, h.tenant_id)
    order by o.aggregateid, o.tenant_id, o.seq limit 1) n
), picked as materialized (
  select q.aggregateid, q.tenant_id, q.seq, q.attempts
  from head h cross join lateral (
    select o.aggregateid, o.tenant_id, o.seq, o.attempts,
      bool_or(o.parked_at is not null or coalesce(o.due_at > now(), false)) over (order by o.seq) as waits
    from railcore_outbox o
    where o.bucket = :bucket::smallint and o.aggregateid = h.aggregateid and o.tenant_id = h.tenant_id
    order by o.seq limit :per_payment::integer) q
  where h.parked_at is null and coalesce(h.due_at <= now(), true) and not q.waits
  limit :limit::integer
)
select e.*, picked.attempts
from picked cross join lateral (
  select * from railcore_event e
  where e.tenant_id = picked.tenant_id and e.aggregateid = picked.aggregateid and e.seq = picked.seq
  offset 0) e
order by e.aggregateid, e.tenant_id, e.seq
