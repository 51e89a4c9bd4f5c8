-- A page of the journal in the order of its key, after (:aggregateid, :seq, :tenant_id): a row for each payment, with its
-- first event since :since, if any, and its last one on the page.
select aggregateid, tenant_id, min(seq) filter (where occurred_at >= :since::timestamptz) as first_seq, max(seq) as last_seq
from (
  select aggregateid, seq, tenant_id, occurred_at from railcore_event
  where (aggregateid, seq, tenant_id) > (:aggregateid::text, :seq::bigint, :tenant_id::text)
  order by aggregateid, seq, tenant_id limit :limit::integer) page
group by aggregateid, tenant_id
