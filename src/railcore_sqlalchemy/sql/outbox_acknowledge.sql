-- Remove what was delivered and note what was not, if the token still holds the lease: one row of held, gone.
-- Everything joins the bucket's row, which is updated first: where it is not, nothing else is.
-- What is given is filtered by an equality of text, so that one row is expected of it and the outbox is probed by its key,
-- whatever the statistics say: a bucket may hold many thousands of rows.
with held as materialized (
  update railcore_bucket set until = now() + make_interval(secs => :lease_s::float8)
  where bucket = :bucket::smallint and token = :token::bigint and owner = :owner::text
  returning bucket
), delivered as materialized (
  select held.bucket, d.*, 'held' as lease
  from held, json_to_recordset(:delivered::json) as d (tenant_id text, aggregateid text, seq bigint)
), gone as (
  delete from railcore_outbox o using delivered d
  where d.lease = 'held'
    and o.bucket = d.bucket and o.aggregateid = d.aggregateid and o.tenant_id = d.tenant_id and o.seq = d.seq
  returning 1
), failed as materialized (
  select held.bucket, f.*, 'held' as lease
  from held, json_to_recordset(:failed::json) as f (
    tenant_id text, aggregateid text, seq bigint, attempts integer, problem text, is_parked boolean, retry_s float8)
), put_off as (
  update railcore_outbox o set
    attempts = f.attempts, last_error = f.problem,
    parked_at = case when f.is_parked then now() end,
    due_at = case when not f.is_parked then now() + make_interval(secs => f.retry_s) end
  from failed f
  where f.lease = 'held'
    and o.bucket = f.bucket and o.aggregateid = f.aggregateid and o.tenant_id = f.tenant_id and o.seq = f.seq
)
select exists (select from held) as held, (select count(*) from gone) as gone
