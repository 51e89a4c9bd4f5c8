-- Put payments back into the queue, each from :first_seq to its end: one row of put_back.
-- :items is a JSON array of objects with bucket, aggregateid, tenant_id and first_seq. To the end, because a later event can
-- be dated earlier: its transaction began first and waited for the payment.
-- The buckets' tokens go up in the same statement. Who holds a lease may just have delivered a row that stands above those
-- that come back; were it acknowledged, the payment would go on from them and skip it.
with given as materialized (
  select * from json_to_recordset(:items::json) as g (bucket smallint, aggregateid text, tenant_id text, first_seq bigint)
), fenced as (
  update railcore_bucket b set token = b.token + 1, owner = null, until = now()
  from (
    select bucket from railcore_bucket where bucket in (select bucket from given)
    order by bucket for no key update) l
  where b.bucket = l.bucket
  returning 1
), back as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select given.bucket, e.tenant_id, e.aggregateid, e.seq, now()
  from given cross join lateral (
    select tenant_id, aggregateid, seq from railcore_event e
    where e.tenant_id = given.tenant_id and e.aggregateid = given.aggregateid and e.seq >= given.first_seq
    offset 0) e
  where (select count(*) from fenced) > 0
  on conflict (bucket, aggregateid, tenant_id, seq) do nothing
  returning 1
)
select count(*) as put_back from back
