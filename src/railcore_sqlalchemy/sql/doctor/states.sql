-- Each execution against the event of its version, and its version against the number of its events. What the event tells
-- within is compared where it tells a status.
with told as materialized (
  select e.tenant_id, e.execution_id, count(*) as events, max(e.version) as newest
  from railcore_event e where e.version is not null
  group by e.execution_id, e.tenant_id
), compared as (
  select x.tenant_id, x.execution_id, x.version, x.status, coalesce(t.events, 0) as events, t.newest, e.seq,
    concat_ws(', ',
      case when e.to_status <> x.status then format('status %s, its event %s', x.status, e.to_status) end,
      case when e.aggregateid <> x.payment_id then format('payment %s, its event %s', x.payment_id, e.aggregateid) end,
      case when e.payment_rail <> x.rail or e.payment_provider <> x.provider
        then format('at %s/%s, its event %s/%s', x.rail, x.provider, e.payment_rail, e.payment_provider) end,
      case when e.idempotency_key <> x.idempotency_key then 'another idempotency key than its event' end,
      case when p.status <> x.status then format('status %s, told %s', x.status, p.status) end,
      case when p.amount_minor <> x.amount_minor or p.currency <> x.currency
        then format('%s %s, told %s %s', x.amount_minor, x.currency, p.amount_minor, p.currency) end,
      case when p.status is not null and (p.pending_reason, p.failure_code, p.cause_code, p.settled_minor)
          is distinct from (x.pending_reason, x.failure_code, x.cause_code, x.settled_minor)
        then format('%s, told %s',
          concat_ws(' ', x.pending_reason, x.failure_code, x.cause_code, x.settled_minor),
          concat_ws(' ', p.pending_reason, p.failure_code, p.cause_code, p.settled_minor)) end
    ) as differences
  from railcore_execution x
    left join told t on t.tenant_id = x.tenant_id and t.execution_id = x.execution_id
    left join railcore_event e on e.tenant_id = x.tenant_id and e.execution_id = x.execution_id and e.version = x.version
    left join lateral json_to_record(e.payload) as p (
      status text, amount_minor bigint, currency text, pending_reason text, failure_code text, cause_code text,
      settled_minor bigint) on true
)
select case when seq is null then 'state_without_event' when differences <> '' then 'state_disagrees'
    else 'version_disagrees' end as code,
  tenant_id, 'execution ' || execution_id as subject,
  case when seq is null then format('%s at version %s, which no event tells', status, version)
    when differences <> '' then differences || format(' (event %s)', seq)
    else format('version %s, %s events up to version %s', version, events, newest) end as found
from compared
where seq is null or differences <> '' or events <> version or newest <> version
