-- A discrepancy, with the time.
select *, now() as at from railcore_discrepancy where tenant_id = :tenant_id::text and discrepancy_id = :discrepancy_id::uuid
