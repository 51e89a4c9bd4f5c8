-- The events of a payment after a sequence number (0 for all), in order.
select * from railcore_event
where tenant_id = :tenant_id::text and aggregateid = :payment_id::text and seq > :after_seq::bigint
order by seq limit :limit::integer
