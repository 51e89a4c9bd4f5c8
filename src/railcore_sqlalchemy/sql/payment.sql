-- The head of a payment: its sequence and its sums, with the time.
select *, now() as at from railcore_payment where tenant_id = :tenant_id::text and payment_id = :payment_id::text
