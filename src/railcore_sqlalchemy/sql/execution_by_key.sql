-- The execution stored under an idempotency key, with the time.
select *, now() as at from railcore_execution where tenant_id = :tenant_id::text and idempotency_key = :idempotency_key::text
