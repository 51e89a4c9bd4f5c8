-- An execution, with the time.
select *, now() as at from railcore_execution where tenant_id = :tenant_id::text and execution_id = :execution_id::uuid
