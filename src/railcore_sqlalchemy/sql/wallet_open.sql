-- Open an account: one row of kind and is_new, or none when another transaction is opening it: run it again.
with made as (
  insert into railcore_wallet_account (tenant_id, account_id, currency, kind, opened_at)
  values (:tenant_id::text, :account_id::text, :currency::text, :kind::text, now())
  on conflict do nothing
  returning kind
)
select kind, true as is_new from made
union all
select kind, false from railcore_wallet_account
where tenant_id = :tenant_id::text and account_id = :account_id::text and currency = :currency::text
