-- Each execution by itself: what its guards would refuse, and whether somebody looks at it in time. Who has a lease that has
-- not run out is at work.
select case
    when rule is not null then 'row_unlawful'
    when is_forgotten then 'execution_forgotten'
    when is_leased then 'lease_endless'
    when is_overdue then 'execution_overdue'
    else 'check_far_off' end as code,
  x.tenant_id, 'execution ' || x.execution_id as subject,
  case when rule is not null then format('%s: %s, %s', rule, x.operation, x.status)
    when is_forgotten then format('%s, next look %s', x.status, coalesce(x.next_check_at::text, 'never'))
    when is_leased then format('leased by %s until %s', coalesce(x.lease_owner, 'nobody'), x.lease_until)
    else format('%s%s, next look %s', x.status, coalesce(' (' || x.pending_reason || ')', ''), x.next_check_at) end as found
from railcore_execution x cross join lateral (
  select case
      when x.amount_minor <= 0 then 'amount_is_positive'
      when x.operation not in ('charge', 'authorize', 'capture', 'void', 'refund') then 'operation_is_known'
      when x.status not in ('processing', 'pending', 'completed', 'failed') then 'status_is_known'
      when octet_length(x.fingerprint) <> 32 then 'fingerprint_is_sha256'
      when (x.send_count = 0) <> (x.first_sent_at is null) then 'sends_are_dated'
      when length(x.idempotency_key) not between 1 and 255 or x.idempotency_key ~ '[^\x21-\x7e]' then 'key_is_printable'
      when (x.status = 'pending') <> (x.pending_reason is not null) then 'pending_says_why'
      when (x.status = 'failed') <> (x.failure_code is not null) then 'failed_says_why'
      when x.refused_count > x.send_count then 'sends_are_counted'
    end as rule,
    (x.status in ('processing', 'pending')) <> (x.next_check_at is not null) as is_forgotten,
    coalesce(x.lease_until > now() + make_interval(secs => :ahead_s::float8), false) as is_leased,
    coalesce(x.next_check_at < now() - make_interval(secs => :overdue_s::float8)
      and (x.lease_until is null or x.lease_until < now()), false) as is_overdue
) s
where rule is not null or is_forgotten or is_leased or is_overdue
  or x.next_check_at > now() + make_interval(secs => :ahead_s::float8)
