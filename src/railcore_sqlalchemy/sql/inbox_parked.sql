-- Deliveries that wait for a person, the oldest first.
select tenant_id, provider, account, event_id, received_at, attempts, problem from railcore_inbox
where state = 'parked' order by received_at limit :limit::integer
