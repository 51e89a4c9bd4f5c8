-- Discrepancies, the oldest first, of one tenant or, where :tenant_id is null, of all; with :open only those to be resolved.
select *, now() as at from railcore_discrepancy
where (:tenant_id::text is null or tenant_id = :tenant_id::text) and (resolved_at is null or not :open::boolean)
order by opened_at, discrepancy_id limit :limit::integer
