-- Each customer's account against its transfers; each hold against what resolved it; each payment from a wallet against what
-- it moved.
with resolved as materialized (
  select t.tenant_id, t.pending_id, count(*) as times, max(t.amount_minor) as amount_minor
  from railcore_wallet_transfer t where t.pending_id is not null group by t.pending_id, t.tenant_id
), moved as (
  select t.tenant_id, t.debit_account as account_id, t.currency, 0 as credit,
    case when t.kind in ('single', 'post') then t.amount_minor else 0 end as debit,
    case when t.kind = 'pending' and r.times is null then t.amount_minor else 0 end as held
  from railcore_wallet_transfer t
    left join resolved r on r.tenant_id = t.tenant_id and r.pending_id = t.transfer_id
  union all
  select t.tenant_id, t.credit_account, t.currency, t.amount_minor, 0, 0
  from railcore_wallet_transfer t where t.kind in ('single', 'post')
), sums as materialized (
  select tenant_id, account_id, currency, sum(credit) as credits, sum(debit) as debits, sum(held) as held
  from moved group by tenant_id, account_id, currency
)
select 'wallet_imbalance' as code, a.tenant_id, format('account %s in %s', a.account_id, a.currency) as subject,
  format('account/transfers: credits %s/%s, debits %s/%s, held %s/%s', a.credits_posted, coalesce(s.credits, 0),
    a.debits_posted, coalesce(s.debits, 0), a.debits_pending, coalesce(s.held, 0)) as found
from railcore_wallet_account a
  left join sums s on s.tenant_id = a.tenant_id and s.account_id = a.account_id and s.currency = a.currency
where a.kind = 'customer' and (a.credits_posted, a.debits_posted, a.debits_pending)
  <> (coalesce(s.credits, 0), coalesce(s.debits, 0), coalesce(s.held, 0))
union all
select 'hold_disagrees', t.tenant_id, 'hold ' || t.transfer_id,
  case when h.transfer_id is null then 'has no end'
    when r.times > 1 then format('resolved %s times', r.times)
    when r.amount_minor > t.amount_minor then format('of %s, resolved by %s', t.amount_minor, r.amount_minor)
    when r.times is null then format('noted as resolved at %s, by nothing', h.resolved_at)
    else 'resolved, and noted as open' end
from railcore_wallet_transfer t
  left join railcore_wallet_hold h on h.tenant_id = t.tenant_id and h.transfer_id = t.transfer_id
  left join resolved r on r.tenant_id = t.tenant_id and r.pending_id = t.transfer_id
where t.kind = 'pending' and (h.transfer_id is null or r.times > 1 or r.amount_minor > t.amount_minor
  or (r.times is null) <> (h.resolved_at is null))
union all
select 'hold_overdue', h.tenant_id, 'hold ' || h.transfer_id, format('over since %s, not released', h.expires_at)
from railcore_wallet_hold h
where h.resolved_at is null and h.expires_at < now() - make_interval(secs => :overdue_s::float8)
union all
select 'wallet_payment_disagrees', x.tenant_id, 'execution ' || x.execution_id,
  format('%s %s of %s, its transfers moved %s', x.status, x.operation, x.amount_minor, coalesce(m.amount_minor, 0))
from railcore_execution x left join lateral (
  select sum(t.amount_minor) as amount_minor
  from railcore_wallet_reference r
    join railcore_wallet_transfer t on t.tenant_id = r.tenant_id and t.transfer_id = r.transfer_id
  where r.tenant_id = x.tenant_id and r.reference = x.execution_id and t.kind in ('single', 'post')
) m on true
where x.rail = 'wallet' and x.provider = 'wallet' and x.status in ('completed', 'failed')
  and coalesce(m.amount_minor, 0)
    <> case when x.status = 'completed' and x.operation in ('charge', 'capture', 'refund') then x.amount_minor else 0 end
