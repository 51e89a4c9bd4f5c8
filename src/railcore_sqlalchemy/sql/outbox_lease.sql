-- Take the lease of a free bucket with something to deliver, the one that has waited longest; or nothing.
-- Something to deliver is a payment whose lowest row neither waits nor is parked. The step goes from payment to payment,
-- so that it costs the same whether a parked one has ten rows behind it or a million. One that is held by another
-- transaction is passed by. The range of the buckets says nothing new, but to the planner that they are few: a guess of
-- many makes the plan so dear that it is compiled (jit) each time, which takes far longer than to run it.
update railcore_bucket b set
  owner = :owner::text, token = b.token + 1, until = now() + make_interval(secs => :lease_s::float8)
where b.bucket = (
  select f.bucket from railcore_bucket f
  where f.bucket between 0 and 63 and (f.until is null or f.until <= now()) and exists (
    with recursive head as (
      (select o.aggregateid, o.tenant_id, o.parked_at, o.due_at from railcore_outbox o
        where o.bucket = f.bucket
        order by o.aggregateid, o.tenant_id, o.seq limit 1)
      union all
      select n.aggregateid, n.tenant_id, n.parked_at, n.due_at from head h cross join lateral (
        select o.aggregateid, o.tenant_id, o.parked_at, o.due_at from railcore_outbox o
        where o.bucket = f.bucket and (o.aggregateid, o.tenant_id) > (h.aggregateid, h.tenant_id)
        order by o.aggregateid, o.tenant_id, o.seq limit 1) n
    )
    select from head where parked_at is null and coalesce(due_at <= now(), true))
  order by f.until nulls first, f.bucket limit 1
  for no key update skip locked)
returning b.bucket, b.token
