-- Let a parked payment go on where it stopped; its attempts begin anew. A row for each that was parked.
update railcore_outbox set parked_at = null, due_at = null, attempts = 0
where bucket = :bucket::smallint and aggregateid = :aggregateid::text and tenant_id = :tenant_id::text
  and parked_at is not null
returning seq
