-- The wallet: accounts, and transfers between two of them. One row is one transfer, so the books balance by
-- construction. Needs schema.sql, whose railcore_refuse() it uses. RC006 transfers  RC007 accounts

-- A customer's account keeps its sums, and a CHECK keeps what is available at zero or above. A house account keeps none:
-- every payment would wait for its row. Its balance is the sum of its transfers.
create table railcore_wallet_account (
  tenant_id text collate "C" not null,
  account_id text collate "C" not null,
  currency text collate "C" not null,
  kind text collate "C" not null,
  opened_at timestamptz not null,
  credits_posted bigint not null default 0,
  debits_posted bigint not null default 0,
  debits_pending bigint not null default 0,
  constraint railcore_wallet_account_pkey primary key (tenant_id, account_id, currency),
  constraint wallet_available check (credits_posted - debits_posted - debits_pending >= 0),
  constraint wallet_sums_not_negative check (least(credits_posted, debits_posted, debits_pending) >= 0),
  constraint wallet_kind check (kind = 'customer' or kind = 'house' and greatest(credits_posted, debits_posted, debits_pending) = 0)
) with (fillfactor = 70);

-- Append-only. A pending transfer is a hold; a post moves all or part of it, a void releases it. The unique index on
-- pending_id lets exactly one of all that race for a hold resolve it.
create table railcore_wallet_transfer (
  tenant_id text collate "C" not null,
  transfer_id uuid not null,
  debit_account text collate "C" not null,
  credit_account text collate "C" not null,
  currency text collate "C" not null,
  amount_minor bigint not null,
  kind text collate "C" not null,
  pending_id uuid,
  hold_s double precision,
  made_at timestamptz not null,
  constraint railcore_wallet_transfer_pkey primary key (transfer_id, tenant_id),
  constraint transfer_amount check (amount_minor > 0),
  constraint transfer_between_two check (debit_account <> credit_account),
  constraint transfer_kind check (case kind when 'single' then pending_id is null and hold_s is null
    when 'pending' then pending_id is null and coalesce(hold_s > 0, false)
    when 'post' then pending_id is not null and hold_s is null
    when 'void' then pending_id is not null and hold_s is null else false end),
  constraint transfer_debits foreign key (tenant_id, debit_account, currency)
    references railcore_wallet_account (tenant_id, account_id, currency),
  constraint transfer_credits foreign key (tenant_id, credit_account, currency)
    references railcore_wallet_account (tenant_id, account_id, currency),
  constraint transfer_resolves foreign key (tenant_id, pending_id)
    references railcore_wallet_transfer (tenant_id, transfer_id)
);

create unique index railcore_wallet_transfer_resolution on railcore_wallet_transfer (pending_id, tenant_id)
  where pending_id is not null;

-- When holds end. A resolved one stays, and leaves the index of those to be looked at.
create table railcore_wallet_hold (
  tenant_id text collate "C" not null,
  transfer_id uuid not null,
  expires_at timestamptz not null,
  resolved_at timestamptz,
  constraint railcore_wallet_hold_pkey primary key (tenant_id, transfer_id),
  constraint hold_has_transfer foreign key (tenant_id, transfer_id)
    references railcore_wallet_transfer (tenant_id, transfer_id)
) with (fillfactor = 70);

create index railcore_wallet_hold_open on railcore_wallet_hold (expires_at) where resolved_at is null;

-- Which executions a transfer was made for. Several, when an execution was lost and asked for again under its key.
create table railcore_wallet_reference (
  tenant_id text collate "C" not null,
  reference uuid not null,
  transfer_id uuid not null,
  constraint railcore_wallet_reference_pkey primary key (tenant_id, reference, transfer_id),
  constraint reference_has_transfer foreign key (tenant_id, transfer_id)
    references railcore_wallet_transfer (tenant_id, transfer_id)
);

-- Refuses what does not fit the hold that it resolves: other accounts, more than is held, a release of a part.
create function railcore_wallet_resolution() returns trigger language plpgsql as $$
declare
  hold railcore_wallet_transfer%rowtype;
begin
  select * into hold from railcore_wallet_transfer where tenant_id = new.tenant_id and transfer_id = new.pending_id;
  if hold.kind is distinct from 'pending' then
    raise exception 'transfer % resolves no hold', new.transfer_id using errcode = 'RC006';
  elsif (hold.debit_account, hold.credit_account, hold.currency) <> (new.debit_account, new.credit_account, new.currency) then
    raise exception 'transfer % is between other accounts than its hold', new.transfer_id using errcode = 'RC006';
  elsif new.amount_minor > hold.amount_minor or new.kind = 'void' and new.amount_minor <> hold.amount_minor then
    raise exception 'transfer % is of another amount than its hold', new.transfer_id using errcode = 'RC006';
  end if;
  return new;
end $$;

create trigger wallet_account_opens before insert on railcore_wallet_account
  for each row when (new.credits_posted + new.debits_posted + new.debits_pending > 0)
  execute function railcore_refuse('RC007', 'an account opens empty');
create trigger wallet_account_identity before update of tenant_id, account_id, currency, kind, opened_at on railcore_wallet_account
  for each row execute function railcore_refuse('RC007', 'currency and kind of an account are frozen');
create trigger wallet_account_delete before delete on railcore_wallet_account
  for each row execute function railcore_refuse('RC005', 'accounts are kept');
create trigger wallet_account_truncate before truncate on railcore_wallet_account
  for each statement execute function railcore_refuse('RC005', 'accounts are kept');

create trigger wallet_transfer_fits before insert on railcore_wallet_transfer
  for each row when (new.pending_id is not null) execute function railcore_wallet_resolution();
create trigger wallet_transfer_change before update or delete on railcore_wallet_transfer
  for each row execute function railcore_refuse('RC006', 'transfers are append-only');
create trigger wallet_transfer_truncate before truncate on railcore_wallet_transfer
  for each statement execute function railcore_refuse('RC006', 'transfers are append-only');

create trigger wallet_hold_identity before update of tenant_id, transfer_id, expires_at on railcore_wallet_hold
  for each row execute function railcore_refuse('RC006', 'the end of a hold is frozen');
create trigger wallet_hold_delete before delete on railcore_wallet_hold
  for each row execute function railcore_refuse('RC005', 'holds are kept');
create trigger wallet_hold_truncate before truncate on railcore_wallet_hold
  for each statement execute function railcore_refuse('RC005', 'holds are kept');
create trigger wallet_reference_change before update or delete on railcore_wallet_reference
  for each row execute function railcore_refuse('RC006', 'references are append-only');
create trigger wallet_reference_truncate before truncate on railcore_wallet_reference
  for each statement execute function railcore_refuse('RC006', 'references are append-only');

alter table railcore_wallet_account enable always trigger wallet_account_opens;
alter table railcore_wallet_account enable always trigger wallet_account_identity;
alter table railcore_wallet_account enable always trigger wallet_account_delete;
alter table railcore_wallet_account enable always trigger wallet_account_truncate;
alter table railcore_wallet_transfer enable always trigger wallet_transfer_fits;
alter table railcore_wallet_transfer enable always trigger wallet_transfer_change;
alter table railcore_wallet_transfer enable always trigger wallet_transfer_truncate;
alter table railcore_wallet_hold enable always trigger wallet_hold_identity;
alter table railcore_wallet_hold enable always trigger wallet_hold_delete;
alter table railcore_wallet_hold enable always trigger wallet_hold_truncate;
alter table railcore_wallet_reference enable always trigger wallet_reference_change;
alter table railcore_wallet_reference enable always trigger wallet_reference_truncate;
