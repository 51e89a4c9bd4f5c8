-- Open executions, those due first on top, of one tenant or, where :tenant_id is null, of all.
select *, now() as at from railcore_execution
where next_check_at is not null and (:tenant_id::text is null or tenant_id = :tenant_id::text)
order by next_check_at limit :limit::integer
