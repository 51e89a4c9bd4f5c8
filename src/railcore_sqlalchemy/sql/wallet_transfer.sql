-- Make one transfer: one row of verdict, account_id (the one that is missing). Verdicts: applied, what
-- TransferVerdict calls a refusal, or `again`: another transaction was quicker, so run it again.
-- Customer accounts are locked in the order of their names, house accounts never. A refusal for want of funds or time is
-- decided after the locks, but on a snapshot from before them: look for the transfer itself before believing it.
with stored as materialized (
  select debit_account = :debit_account::text and credit_account = :credit_account::text
    and currency = :currency::text and amount_minor = :amount_minor::bigint and kind = :kind::text
    and pending_id is not distinct from :pending_id::uuid as same
  from railcore_wallet_transfer where tenant_id = :tenant_id::text and transfer_id = :transfer_id::uuid
), missing as materialized (
  select asked.account_id, case when exists (
      select from railcore_wallet_account other
      where other.tenant_id = :tenant_id::text and other.account_id = asked.account_id
    ) then 'wrong_currency' else 'no_account' end as verdict
  from (values (1, :debit_account::text collate "C"), (2, :credit_account::text collate "C")) asked (place, account_id)
  where not exists (
    select from railcore_wallet_account account
    where account.tenant_id = :tenant_id::text and account.account_id = asked.account_id
      and account.currency = :currency::text)
  order by place limit 1
), hold as materialized (
  select h.amount_minor,
    (h.debit_account, h.credit_account, h.currency)
      = (:debit_account::text, :credit_account::text, :currency::text)
      and (:kind::text = 'post' or h.amount_minor = :amount_minor::bigint) as fits,
    h.made_at + make_interval(secs => h.hold_s) <= statement_timestamp() as over,
    exists (
      select from railcore_wallet_transfer r where r.tenant_id = h.tenant_id and r.pending_id = h.transfer_id
    ) as resolved
  from railcore_wallet_transfer h
  where h.tenant_id = :tenant_id::text and h.transfer_id = :pending_id::uuid and h.kind = 'pending'
), locked as materialized (
  select account_id, credits_posted - debits_posted - debits_pending as available
  from railcore_wallet_account
  where tenant_id = :tenant_id::text and account_id in (:debit_account::text, :credit_account::text)
    and currency = :currency::text and kind = 'customer' and not exists (select from stored)
  order by account_id for no key update
), payer as materialized (
  select min(available) filter (where account_id = :debit_account::text) as available from locked
), judged as materialized (
  select case
      when (select same from stored) then 'known'
      when exists (select from stored) then 'differs'
      when exists (select from missing) then (select verdict from missing)
      when :kind::text in ('post', 'void') then (
        select case
            when not exists (select from hold) then 'hold_not_found'
            when not (select fits from hold) then 'hold_mismatch'
            when (select resolved from hold) then 'hold_resolved'
            when :kind::text = 'void' then 'applied'
            when :amount_minor::bigint > (select amount_minor from hold) then 'amount_exceeds_hold'
            when (select over from hold) then 'hold_expired'
            else 'applied' end)
      when payer.available < :amount_minor::bigint then 'insufficient_funds'
      else 'applied' end as verdict
  from payer
), made as (
  insert into railcore_wallet_transfer (
    tenant_id, transfer_id, debit_account, credit_account, currency, amount_minor, kind, pending_id, hold_s, made_at)
  select :tenant_id::text, :transfer_id::uuid, :debit_account::text, :credit_account::text, :currency::text,
    :amount_minor::bigint, :kind::text, :pending_id::uuid, :hold_s::float8, statement_timestamp()
  from judged where verdict = 'applied'
  on conflict do nothing
  returning tenant_id, transfer_id, amount_minor, kind, hold_s, made_at
), debited as (
  update railcore_wallet_account account set
    debits_posted = debits_posted + case when made.kind in ('single', 'post') then made.amount_minor else 0 end,
    debits_pending = debits_pending + case when made.kind = 'pending' then made.amount_minor else 0 end
      - coalesce((select hold.amount_minor from hold), 0)
  from made
  where account.tenant_id = :tenant_id::text and account.account_id = :debit_account::text
    and account.currency = :currency::text and account.kind = 'customer'
), credited as (
  update railcore_wallet_account account set credits_posted = credits_posted + made.amount_minor
  from made
  where account.tenant_id = :tenant_id::text and account.account_id = :credit_account::text
    and account.currency = :currency::text and account.kind = 'customer' and made.kind in ('single', 'post')
), opened as (
  insert into railcore_wallet_hold (tenant_id, transfer_id, expires_at)
  select tenant_id, transfer_id, made_at + make_interval(secs => hold_s) from made where kind = 'pending'
), closed as (
  update railcore_wallet_hold ended set resolved_at = made.made_at
  from made
  where made.kind in ('post', 'void')
    and ended.tenant_id = :tenant_id::text and ended.transfer_id = :pending_id::uuid
), named as (
  insert into railcore_wallet_reference (tenant_id, reference, transfer_id)
  select :tenant_id::text, :reference::uuid, :transfer_id::uuid from judged
  where :reference::uuid is not null and (verdict = 'known' or exists (select from made))
  on conflict do nothing
)
select
  case when verdict = 'applied' and not exists (select from made) then 'again' else verdict end as verdict,
  (select account_id from missing) as account_id
from judged
