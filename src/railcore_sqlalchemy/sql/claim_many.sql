-- Claim many executions in one statement: a row of ord, verdict, seq, at for each, in no promised order.
-- :items is a JSON array of objects with the parameters of claim.sql as members (fingerprint in hex, JSON nested as it is) and ord.
-- Verdicts: those of claim.sql and claim_followup.sql, and
--   again  a second row of one payment or of one key: put it into the next batch,
--   busy   another transaction holds the payment's head: use the single form, which waits.
-- Lock order: existing heads by (tenant, payment), then keys by (tenant, key), then new heads. A head that appears in
-- between is refused by the primary key of payment, event or outbox (23505): run the members one by one.
-- The plan must not depend on statistics, which lag behind a growing table: rows are found by lateral probes and scalar
-- subqueries, never by EXISTS, which may be hashed over the whole table, and what reads a step filters it by an equality
-- of text, so that one row is expected and the next table is probed by its key.
with i as materialized (
  select i.*,
    row_number() over (partition by tenant_id collate "C", idempotency_key collate "C" order by ord) = 1
      and row_number() over (partition by tenant_id collate "C", payment_id collate "C" order by ord) = 1 as first,
    (select true from railcore_execution r
      where r.tenant_id = i.tenant_id and r.idempotency_key = i.idempotency_key) as stored
  from json_to_recordset(:items::json) as i (
    ord integer, tenant_id text, execution_id uuid, payment_id text, operation text, amount_minor bigint, currency text,
    due_minor bigint, idempotency_key text, fingerprint text, provider_key text, rail text, provider text, account text,
    mode text, payment_option_key text, parent_execution_id uuid, request json, lease_owner text, lease_s float8,
    sent boolean, check_after_s float8, head_seq bigint, event_id uuid, event_type text, payload json, bucket smallint)
  order by tenant_id collate "C", payment_id collate "C", ord
), o as materialized (
  select i.*, coalesce(h.seq, 0) + 1 as seq, case when h.seq is null then 'new' else 'locked' end as head,
    case
      when i.stored then 'duplicate'
      when not i.first then 'again'
      when h.seq is null then case
        when (select true from railcore_payment s where s.tenant_id = i.tenant_id and s.payment_id = i.payment_id) then 'busy'
        when i.operation not in ('charge', 'authorize') then 'no_payment' end
      when h.currency <> i.currency then 'currency'
      when h.seq <> i.head_seq then 'moved'
      when i.operation in ('charge', 'authorize') then case
        when h.charging + h.authorized - h.voided + i.amount_minor > h.due_minor then 'live'
        when h.charging + h.authorized - h.voided + h.disputed + i.amount_minor > h.due_minor then 'in_doubt' end
      when i.operation = 'refund' then case
        when h.captured - h.refunded - h.refunding < i.amount_minor then 'limit' end
      when h.authorized - h.captured - h.capturing - h.voided - h.voiding < i.amount_minor then 'limit'
    end as refusal
  from i left join lateral (
    select * from railcore_payment p
    where p.tenant_id = i.tenant_id and p.payment_id = i.payment_id and i.first and i.stored is null
    for no key update skip locked
  ) h on true
), x as (
  insert into railcore_execution (
    tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key, fingerprint,
    provider_key, rail, provider, account, mode, payment_option_key, parent_execution_id, created_at,
    status, version, lease_owner, lease_token, lease_until, send_count, first_sent_at, last_sent_at,
    next_check_at, check_count, updated_at, request)
  select tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key, decode(fingerprint, 'hex'),
    provider_key, rail, provider, account, mode, payment_option_key, parent_execution_id, now(),
    'processing', 1,
    case when sent then lease_owner end, case when sent then 1 else 0 end,
    case when sent then now() + make_interval(secs => lease_s) end,
    case when sent then 1 else 0 end, case when sent then now() end, case when sent then now() end,
    now() + make_interval(secs => check_after_s), 0, now(), request
  from o where refusal is null
  order by tenant_id collate "C", idempotency_key collate "C"
  on conflict do nothing
  returning tenant_id, execution_id
), w as materialized (
  select *, case
      when refusal is not null then refusal
      when (tenant_id, execution_id) in (select tenant_id, execution_id from x) then 'claimed'
      else 'duplicate'
    end as verdict
  from o
), n as (
  insert into railcore_payment (tenant_id, payment_id, seq, currency, due_minor, charging)
  select tenant_id, payment_id, 1, currency, coalesce(due_minor, amount_minor), amount_minor
  from w where verdict = 'claimed' and head = 'new'
), u as (
  update railcore_payment p set
    seq = p.seq + 1,
    charging = p.charging + case when w.operation in ('charge', 'authorize') then w.amount_minor else 0 end,
    capturing = p.capturing + case when w.operation = 'capture' then w.amount_minor else 0 end,
    voiding = p.voiding + case when w.operation = 'void' then w.amount_minor else 0 end,
    refunding = p.refunding + case when w.operation = 'refund' then w.amount_minor else 0 end
  from w where w.verdict = 'claimed' and w.head = 'locked' and p.tenant_id = w.tenant_id and p.payment_id = w.payment_id
), e as (
  insert into railcore_event (
    tenant_id, aggregateid, seq, id, aggregatetype, type, execution_id, version, from_status, to_status,
    payment_rail, payment_provider, idempotency_key, occurred_at, payload)
  select tenant_id, payment_id, seq, event_id, 'payment', event_type, execution_id, 1, 'none', 'processing',
    rail, provider, idempotency_key, now(), payload
  from w where verdict = 'claimed'
), q as (
  insert into railcore_outbox (bucket, tenant_id, aggregateid, seq, enqueued_at)
  select bucket, tenant_id, payment_id, seq, now() from w where verdict = 'claimed'
)
select ord, verdict, case when verdict = 'claimed' then seq end as seq, now() as at from w
