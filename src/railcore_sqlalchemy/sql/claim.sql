-- Claim a charge or an authorization: one row of verdict, seq, at.
-- Verdicts: claimed | duplicate | currency | moved | live | in_doubt. Layers: the stored key is looked for before any lock is taken,
-- then the payment's head is locked, where there is one, then ON CONFLICT decides between racing claims of one key.
-- Two racing first charges meet at due_limit (23514).
-- What an adoption books has come, whatever else is in doubt: it takes the doubt that it was told of as :settles_minor
-- off the head, and resolve.sql puts back what is left of it, in the same transaction. It is 0 for everybody else.
-- A value that one step has stored, the next takes from its RETURNING.
with h as materialized (
  select (
    select case
        when currency <> :currency::text then 'currency'
        when seq <> :head_seq::bigint then 'moved'
        when charging + authorized - voided + :amount_minor::bigint > due_minor then 'live'
        when charging + authorized - voided + disputed - :settles_minor::bigint + :amount_minor::bigint > due_minor
          then 'in_doubt'
      end
    from railcore_payment
    where tenant_id = :tenant_id::text and payment_id = :payment_id::text
    for no key update
  ) as refusal
  where not exists (
    select from railcore_execution where tenant_id = :tenant_id::text and idempotency_key = :idempotency_key::text)
), x as (
  insert into railcore_execution (
    tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key, fingerprint,
    provider_key, rail, provider, account, mode, payment_option_key, parent_execution_id, created_at,
    status, version, lease_owner, lease_token, lease_until, send_count, first_sent_at, last_sent_at,
    next_check_at, check_count, updated_at, request)
  select :tenant_id::text, :execution_id::uuid, :payment_id::text, :operation::text, :amount_minor::bigint,
    :currency::text, :idempotency_key::text, :fingerprint::bytea, :provider_key::text, :rail::text, :provider::text,
    :account::text, :mode::text, :payment_option_key::text, :parent_execution_id::uuid, now(), 'processing', 1,
    case when sent then :lease_owner::text end, sent::integer,
    case when sent then now() + make_interval(secs => :lease_s::float8) end,
    sent::integer, case when sent then now() end, case when sent then now() end,
    now() + make_interval(secs => :check_after_s::float8), 0, now(), :request::json
  from h, (select :sent::boolean as sent) s where refusal is null
  on conflict (tenant_id, idempotency_key) do nothing
  returning tenant_id, payment_id, currency, amount_minor
), p as (
  insert into railcore_payment as head (tenant_id, payment_id, seq, currency, due_minor, charging)
  select tenant_id, payment_id, 1, currency, coalesce(:due_minor::bigint, amount_minor), amount_minor from x
  on conflict (tenant_id, payment_id) do update set
    seq = head.seq + 1, charging = head.charging + excluded.charging, disputed = head.disputed - :settles_minor::bigint
  where head.currency = excluded.currency
  returning tenant_id, payment_id, seq
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, payment_id, seq, :event_id::uuid, 'payment', :event_type::text, :execution_id::uuid, 1,
    'none', 'processing', :rail::text, :provider::text, :idempotency_key::text, now(), :payload::json
  from p
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, payment_id, seq, now() from p
)
select case when p.seq is not null then 'claimed' else coalesce((select refusal from h), 'duplicate') end as verdict,
  p.seq, now() as at
from (values (1)) one left join p on true
