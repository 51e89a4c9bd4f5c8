-- Claim a capture, a void or a refund: one row of verdict, seq, at. Parameters as claim.sql, without due_minor.
-- Verdicts: claimed | duplicate | no_payment | currency | moved | limit. What its parent does not allow is refused by
-- parent_limit or follow_up_in_doubt (23514). The head is locked before its sums are
-- looked at: summing in the claim's own snapshot would let two refunds of 60 through on 100.
with k as materialized (
  select from railcore_execution where tenant_id = :tenant_id::text and idempotency_key = :idempotency_key::text
), h as materialized (
  select case
      when currency <> :currency::text then 'currency'
      when seq <> :head_seq::bigint then 'moved'
      when case when :operation::text = 'refund' then captured - refunded - refunding
             else authorized - captured - capturing - voided - voiding end < :amount_minor::bigint then 'limit'
    end as refusal
  from railcore_payment
  where tenant_id = :tenant_id::text and payment_id = :payment_id::text and not exists (select from k)
  for no key update
), x as (
  insert into railcore_execution (
    tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key, fingerprint,
    provider_key, rail, provider, account, mode, payment_option_key, parent_execution_id, created_at,
    status, version, lease_owner, lease_token, lease_until, send_count, first_sent_at, last_sent_at,
    next_check_at, check_count, updated_at, request)
  select :tenant_id::text, :execution_id::uuid, :payment_id::text, :operation::text, :amount_minor::bigint,
    :currency::text, :idempotency_key::text, :fingerprint::bytea, :provider_key::text, :rail::text, :provider::text,
    :account::text, :mode::text, :payment_option_key::text, :parent_execution_id::uuid, now(),
    'processing', 1,
    case when :sent::boolean then :lease_owner::text end,
    case when :sent::boolean then 1 else 0 end,
    case when :sent::boolean then now() + make_interval(secs => :lease_s::float8) end,
    case when :sent::boolean then 1 else 0 end,
    case when :sent::boolean then now() end,
    case when :sent::boolean then now() end,
    now() + make_interval(secs => :check_after_s::float8), 0, now(), :request::json
  from h where refusal is null and :operation::text in ('capture', 'void', 'refund')
  on conflict (tenant_id, idempotency_key) do nothing
  returning tenant_id, operation, amount_minor
), p as (
  update railcore_payment head set
    seq = head.seq + 1,
    capturing = head.capturing + case when x.operation = 'capture' then x.amount_minor else 0 end,
    voiding = head.voiding + case when x.operation = 'void' then x.amount_minor else 0 end,
    refunding = head.refunding + case when x.operation = 'refund' then x.amount_minor else 0 end
  from x where head.tenant_id = :tenant_id::text and head.payment_id = :payment_id::text
  returning head.tenant_id, head.seq
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, :payment_id::text, seq, :event_id::uuid, 'payment', :event_type::text, :execution_id::uuid, 1,
    'none', 'processing', :rail::text, :provider::text, :idempotency_key::text, now(), :payload::json
  from p
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select :bucket::smallint, tenant_id, :payment_id::text, seq, now() from p
)
select case
    when p.seq is not null then 'claimed'
    when exists (select from k) then 'duplicate'
    when not exists (select from h) then 'no_payment'
    else coalesce((select refusal from h), 'duplicate')
  end as verdict, p.seq, now() as at
from (values (1)) one left join p on true
