-- The rows that the schema itself brings: one row of edges and buckets.
select array(select r.from_status || ' ' || r.to_status from railcore_edge r order by 1) as edges,
  (select count(*) from railcore_bucket b where b.bucket between 0 and 63) as buckets
