-- Make deliveries due again, by event or since a date: how many. What has no body any more cannot be read again.
with again as (
  update railcore_inbox item set
    state = 'received', attempts = item.attempts + 1, next_attempt_at = now(), settled_at = null, problem = null,
    faults = 0
  where (item.event_id = :event_id::text or item.received_at >= :since::timestamptz)
    and exists (
      select from railcore_inbox_body kept
      where kept.event_id = item.event_id and kept.account = item.account
        and kept.provider = item.provider and kept.tenant_id = item.tenant_id)
  returning item.event_id
)
select count(*) as again from again
