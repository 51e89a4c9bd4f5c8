-- A discrepancy, held until the transaction ends, so that one person decides at a time.
select *, now() as at from railcore_discrepancy where tenant_id = :tenant_id::text and discrepancy_id = :discrepancy_id::uuid
for no key update
