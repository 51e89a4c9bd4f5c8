-- What an account has: no row or one. A customer's account keeps it, a house account is summed.
select
  case a.kind when 'customer' then a.credits_posted - a.debits_posted else coalesce(summed.posted, 0) end as posted,
  case a.kind when 'customer' then a.debits_pending else coalesce(summed.held, 0) end as held
from railcore_wallet_account a
left join lateral (
  select
    sum(case when t.credit_account = a.account_id then t.amount_minor else -t.amount_minor end)
      filter (where t.kind in ('single', 'post')) as posted,
    sum(t.amount_minor) filter (where t.kind = 'pending' and t.debit_account = a.account_id
      and h.resolved_at is null) as held
  from railcore_wallet_transfer t
  left join railcore_wallet_hold h on h.tenant_id = t.tenant_id and h.transfer_id = t.transfer_id
  where a.kind = 'house' and t.tenant_id = a.tenant_id and t.currency = a.currency
    and (t.debit_account = a.account_id or t.credit_account = a.account_id)
) summed on true
where a.tenant_id = :tenant_id::text and a.account_id = :account_id::text and a.currency = :currency::text
