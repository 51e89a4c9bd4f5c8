-- The railcore schema. No state of an execution and no step of a payment exists without its event, by foreign keys;
-- no open execution without a date to look at it again, by CHECK; the guards are triggers that also fire for replicas.
--
-- The text of a CHECK or of a trigger's WHEN is parsed again by every statement that writes. All of them together cost
-- more than the rows, so the rules that concern one row alone are in the guard functions, which stay compiled and
-- refuse with the same SQLSTATE (23514) and a constraint's name. benchmarks/bench_guards.py prints what each costs.
--
-- tenant_id is part of every key and comes last: of two keys that it leads, a look-up may use the wrong one for the tenant
-- alone, and read all of a tenant's rows, for as long as Postgres believes them to be few
-- (docs/explanation/tenants-in-keys.md).

create table railcore_edge (
  from_status text collate "C" not null,
  to_status text collate "C" not null,
  constraint railcore_edge_pkey primary key (from_status, to_status)
);

insert into railcore_edge (from_status, to_status) values
  ('none', 'processing'),
  ('processing', 'pending'), ('processing', 'completed'), ('processing', 'failed'),
  ('pending', 'pending'), ('pending', 'completed'), ('pending', 'failed');

-- The journal. Debezium's outbox column names; payload is json, so that every redelivery has the same bytes.
-- version is null for an event that is no change of state (a discrepancy).
create table railcore_event (
  tenant_id text collate "C" not null,
  aggregateid text collate "C" not null,
  seq bigint not null,
  id uuid not null,
  aggregatetype text not null,
  type text not null,
  execution_id uuid not null,
  version integer,
  from_status text collate "C" not null,
  to_status text collate "C" not null,
  payment_rail text not null,
  payment_provider text not null,
  idempotency_key text collate "C" not null,
  occurred_at timestamptz not null,
  payload json not null,
  constraint railcore_event_pkey primary key (aggregateid, seq, tenant_id),
  constraint railcore_event_state unique (execution_id, version, to_status, tenant_id)
);

-- The head of a payment. Its row lock is the order of the payment's events, and it carries the sums that limit
-- what may still be charged, captured, voided and refunded. The -ing sums are claimed and not settled: money in doubt.
-- disputed is what open discrepancies tell of charges and authorizations that count nowhere else: it may have come.
create table railcore_payment (
  tenant_id text collate "C" not null,
  payment_id text collate "C" not null,
  seq bigint not null,
  currency text collate "C" not null,
  due_minor bigint not null,
  charging bigint not null default 0,
  authorized bigint not null default 0,
  capturing bigint not null default 0,
  captured bigint not null default 0,
  voiding bigint not null default 0,
  voided bigint not null default 0,
  refunding bigint not null default 0,
  refunded bigint not null default 0,
  disputed bigint not null default 0,
  constraint railcore_payment_pkey primary key (payment_id, tenant_id),
  constraint head_has_event foreign key (tenant_id, payment_id, seq)
    references railcore_event (tenant_id, aggregateid, seq)
) with (fillfactor = 70);

-- One money-moving operation: the unit of idempotency and of doubt. Its payment is not a foreign key, which would be asked
-- about a row that the same statement has just written; an execution without one could never be recorded.
create table railcore_execution (
  tenant_id text collate "C" not null,
  execution_id uuid not null,
  payment_id text collate "C" not null,
  operation text collate "C" not null,
  amount_minor bigint not null,
  currency text collate "C" not null,
  idempotency_key text collate "C" not null,
  fingerprint bytea not null,
  provider_key text collate "C" not null,
  rail text collate "C" not null,
  provider text collate "C" not null,
  account text collate "C" not null,
  mode text collate "C" not null,
  payment_option_key text collate "C",
  parent_execution_id uuid,
  created_at timestamptz not null,
  status text collate "C" not null,
  pending_reason text collate "C",
  failure_code text collate "C",
  cause_code text collate "C",
  version integer not null,
  provider_ref text collate "C",
  settled_minor bigint,
  expires_at timestamptz,
  lease_owner text collate "C",
  lease_token bigint not null,
  lease_until timestamptz,
  send_count integer not null,
  first_sent_at timestamptz,
  last_sent_at timestamptz,
  next_check_at timestamptz,
  check_count integer not null,
  updated_at timestamptz not null,
  phase smallint not null default 0,
  progress bigint not null default 0,
  refused_count integer not null default 0,
  request json not null,
  next_action json,
  provider_response json,
  constraint railcore_execution_pkey primary key (execution_id, tenant_id),
  constraint railcore_execution_key unique (idempotency_key, tenant_id),
  constraint state_has_event foreign key (tenant_id, execution_id, version, status)
    references railcore_event (tenant_id, execution_id, version, to_status),
  constraint never_forgotten check ((status in ('processing', 'pending')) = (next_check_at is not null))
) with (fillfactor = 70);

-- A provider's own news names an execution by the key that we sent, or by the provider's id.
create index railcore_execution_provider_key on railcore_execution (provider_key);
create index railcore_execution_provider_ref on railcore_execution (provider_ref) where provider_ref is not null;

create index railcore_execution_due on railcore_execution (next_check_at) where next_check_at is not null;

-- What is still to be delivered: narrow and short-lived. A row waits until due_at (null: no wait), and while it is parked
-- until a person says so; the later rows of its payment wait with it. The key has the payment as a whole before seq, so
-- that the relay steps from payment to payment.
create table railcore_outbox (
  bucket smallint not null,
  tenant_id text collate "C" not null,
  aggregateid text collate "C" not null,
  seq bigint not null,
  enqueued_at timestamptz not null,
  attempts integer not null default 0,
  due_at timestamptz,
  parked_at timestamptz,
  last_error text,
  constraint railcore_outbox_pkey primary key (bucket, aggregateid, tenant_id, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- Who relays which part of the outbox, with a fencing token.
create table railcore_bucket (
  bucket smallint not null,
  owner text collate "C",
  token bigint not null default 0,
  until timestamptz,
  constraint railcore_bucket_pkey primary key (bucket)
);

insert into railcore_bucket (bucket) select generate_series(0, 63);

-- News that contradicts an execution, or a charge that belongs to none (an orphan), with its event and, once settled, its
-- resolution: who decided, on what, what was made of it, and the event that tells. disputed_minor is what it adds to its
-- payment's disputed while it is open.
create table railcore_discrepancy (
  tenant_id text collate "C" not null,
  discrepancy_id uuid not null,
  execution_id uuid,
  payment_id text collate "C" not null,
  seq bigint not null,
  kind text collate "C" not null,
  detail json not null,
  opened_at timestamptz not null,
  disputed_minor bigint not null default 0,
  resolved_at timestamptz,
  resolved_by text,
  evidence text,
  resolution text,
  resolving_execution_id uuid,
  resolved_seq bigint,
  constraint railcore_discrepancy_pkey primary key (discrepancy_id, tenant_id),
  constraint discrepancy_has_event foreign key (tenant_id, payment_id, seq)
    references railcore_event (tenant_id, aggregateid, seq),
  constraint discrepancy_has_execution foreign key (tenant_id, execution_id)
    references railcore_execution (tenant_id, execution_id),
  constraint resolution_has_event foreign key (tenant_id, payment_id, resolved_seq)
    references railcore_event (tenant_id, aggregateid, seq),
  constraint resolution_has_execution foreign key (tenant_id, resolving_execution_id)
    references railcore_execution (tenant_id, execution_id),
  constraint resolved_says_how check (num_nulls(resolved_at, resolved_by, evidence, resolution, resolved_seq) in (0, 5)),
  constraint remedy_has_execution check ((coalesce(resolution, 'accepted') = 'accepted') = (resolving_execution_id is null)),
  constraint remedy_is_known check (resolution in ('accepted', 'adopt', 'refund')),
  constraint orphan_has_no_execution check ((kind = 'orphan_charge') = (execution_id is null))
);

create index railcore_discrepancy_open on railcore_discrepancy (tenant_id, opened_at) where resolved_at is null;

-- Short references, unique per account, which also lead from a webhook to its execution.
create table railcore_reference (
  tenant_id text collate "C" not null,
  provider text collate "C" not null,
  account text collate "C" not null,
  reference text collate "C" not null,
  execution_id uuid not null,
  created_at timestamptz not null,
  constraint railcore_reference_pkey primary key (reference, account, provider, tenant_id),
  constraint reference_has_execution foreign key (tenant_id, execution_id)
    references railcore_execution (tenant_id, execution_id)
);

-- Verified webhook deliveries, one row an event of an account, kept so that a redelivery is known for as long as its provider
-- may repeat it. tenant_id is '' for an account that tenants share. What is still to be applied has a date.
create table railcore_inbox (
  tenant_id text collate "C" not null,
  provider text collate "C" not null,
  account text collate "C" not null,
  event_id text collate "C" not null,
  body_sha256 bytea not null,
  signed_at timestamptz,
  received_at timestamptz not null,
  state text collate "C" not null,
  attempts integer not null,
  next_attempt_at timestamptz,
  settled_at timestamptz,
  problem text,
  faults integer not null default 0,
  constraint railcore_inbox_pkey primary key (event_id, account, provider, tenant_id),
  constraint inbox_hash_is_sha256 check (octet_length(body_sha256) = 32),
  constraint inbox_state_is_known check (state in ('received', 'applied', 'parked')),
  constraint inbox_never_forgotten check ((state = 'received') = (next_attempt_at is not null))
) with (fillfactor = 70);

create index railcore_inbox_due on railcore_inbox (next_attempt_at) where next_attempt_at is not null;
create index railcore_inbox_received on railcore_inbox (received_at);

-- The bodies, card numbers masked, apart from the rows above because they are not kept as long. References whose digits could
-- be a card's are kept in another spelling, in which a body of 256 KiB may have twice that.
create table railcore_inbox_body (
  tenant_id text collate "C" not null,
  provider text collate "C" not null,
  account text collate "C" not null,
  event_id text collate "C" not null,
  received_at timestamptz not null,
  body bytea not null,
  constraint railcore_inbox_body_pkey primary key (event_id, account, provider, tenant_id),
  constraint inbox_body_is_bounded check (octet_length(body) <= 1048576)
);

-- Guards -------------------------------------------------------------------------------------------------
-- RC001 identity or a counter  RC002 state  RC003 payment head  RC004 journal  RC005 deletion

create function railcore_refuse() returns trigger language plpgsql as $$
begin
  raise exception using errcode = tg_argv[0], message = format('%s of %s refused: %s', tg_op, tg_table_name, tg_argv[1]);
end $$;

-- Refuses a row that breaks a rule of its own, as a CHECK would.
create function railcore_violates(relation text, rule text) returns void language plpgsql as $$
begin
  raise exception using errcode = 'check_violation', table = relation, constraint = rule,
    message = format('new row for relation "%s" violates check constraint "%s"', relation, rule);
end $$;

-- Refuses a capture, a void or a refund that its parent does not allow, doubt counted. The head is locked before anything is
-- summed, so that two that are typed by hand at once see each other. The journal knows the executions of a payment.
-- One that failed and may have moved money after all holds back every other, except what resolves a discrepancy: that only
-- books, or gives back, what is known.
create function railcore_check_parent(asked railcore_execution) returns void language plpgsql as $$
declare
  parent railcore_execution%rowtype;
  root uuid;
  available bigint;
begin
  perform from railcore_payment
    where tenant_id = asked.tenant_id and payment_id = asked.payment_id for no key update;
  select * into parent from railcore_execution
    where tenant_id = asked.tenant_id and execution_id = asked.parent_execution_id;
  if not coalesce(parent.payment_id = asked.payment_id and parent.currency = asked.currency and parent.status = 'completed'
     and case asked.operation when 'refund' then parent.operation in ('charge', 'authorize', 'capture')
       when 'capture' then parent.operation = 'authorize' when 'void' then parent.operation = 'authorize' end, false) then
    perform railcore_violates('railcore_execution', 'parent_allows_it');
  end if;
  if exists (
      select from railcore_event e
        join railcore_discrepancy d on d.tenant_id = e.tenant_id and d.discrepancy_id = e.id
        join railcore_execution x on x.tenant_id = d.tenant_id and x.execution_id = d.execution_id
      where e.tenant_id = asked.tenant_id and e.aggregateid = asked.payment_id and e.version is null
        and d.resolved_at is null and x.status = 'failed' and x.operation in ('capture', 'void', 'refund')
        and d.kind in ('success_after_failure', 'second_reference', 'amount_differs', 'currency_differs'))
     and not exists (
      select from railcore_event e
        join railcore_discrepancy d on d.tenant_id = e.tenant_id and d.discrepancy_id = e.id
      where e.tenant_id = asked.tenant_id and e.aggregateid = asked.payment_id and e.version is null
        and d.resolved_at is null
        and asked.idempotency_key in ('railcore.adopt.' || d.discrepancy_id, 'railcore.refund.' || d.discrepancy_id)) then
    perform railcore_violates('railcore_execution', 'follow_up_in_doubt');
  end if;
  root := case when parent.operation = 'capture' then parent.parent_execution_id else parent.execution_id end;
  with alive as materialized (
    select x.execution_id, x.operation, x.parent_execution_id as of, x.amount_minor as amount, x.status
    from railcore_event e
      join railcore_execution x on x.tenant_id = e.tenant_id and x.execution_id = e.execution_id
    where e.tenant_id = asked.tenant_id and e.aggregateid = asked.payment_id and e.version = 1 and x.status <> 'failed'
  ), captures as (
    select * from alive where operation = 'capture' and status = 'completed' and alive.of = root
  )
  select case
      when asked.operation <> 'refund' then parent.amount_minor
        - coalesce(sum(amount) filter (where operation in ('capture', 'void') and alive.of = parent.execution_id), 0)
      when parent.operation = 'charge' then parent.amount_minor
        - coalesce(sum(amount) filter (where operation = 'refund' and alive.of = parent.execution_id), 0)
      else least(
        parent.amount_minor
          - coalesce(sum(amount) filter (where operation = 'refund' and alive.of = parent.execution_id), 0),
        coalesce((select sum(amount) from captures), 0)
          - coalesce(sum(amount) filter (where operation = 'refund'
              and (alive.of = root or alive.of in (select execution_id from captures))), 0))
    end into available from alive;
  if asked.amount_minor > available then
    perform railcore_violates('railcore_execution', 'parent_limit');
  end if;
end $$;

-- Each guard asks first, in one expression, whether the row is lawful: plpgsql prepares every expression anew in every
-- transaction. Only what is not lawful is looked at closer, to say why.
create function railcore_execution_insert() returns trigger language plpgsql as $$
begin
  if new.version = 1 and new.status = 'processing' and new.pending_reason is null and new.failure_code is null
     and new.amount_minor > 0 and new.operation in ('charge', 'authorize', 'capture', 'void', 'refund')
     and length(new.idempotency_key) between 1 and 255 and new.idempotency_key !~ '[^\x21-\x7e]'
     and octet_length(new.fingerprint) = 32 and (new.send_count = 0) = (new.first_sent_at is null) then
    if new.parent_execution_id is not null then
      perform railcore_check_parent(new);
    end if;
    return new;
  elsif new.version <> 1 or new.status <> 'processing' or new.pending_reason is not null or new.failure_code is not null then
    raise exception 'an execution starts as version 1, processing' using errcode = 'RC002';
  end if;
  perform railcore_violates('railcore_execution', case
    when new.amount_minor <= 0 then 'amount_is_positive'
    when new.operation not in ('charge', 'authorize', 'capture', 'void', 'refund') then 'operation_is_known'
    when octet_length(new.fingerprint) <> 32 then 'fingerprint_is_sha256'
    when (new.send_count = 0) <> (new.first_sent_at is null) then 'sends_are_dated'
    else 'key_is_printable' end);
end $$;

-- The edges are those of railcore_edge, written out so that no table of that name on another search_path is asked.
create function railcore_execution_update() returns trigger language plpgsql as $$
begin
  if new.version = old.version + 1 and old.status in ('processing', 'pending')
     and new.status in ('pending', 'completed', 'failed')
     and (new.status = 'pending') = (new.pending_reason is not null)
     and (new.status = 'failed') = (new.failure_code is not null)
     and new.lease_token >= old.lease_token and new.send_count >= old.send_count
     and new.refused_count between old.refused_count and new.send_count
     and (new.send_count = 0) = (new.first_sent_at is null) then
    return new;
  elsif old.status in ('completed', 'failed') then
    raise exception 'execution % is %: a finished execution never changes', old.execution_id, old.status using errcode = 'RC002';
  elsif new.lease_token < old.lease_token or new.send_count < old.send_count then
    raise exception 'lease_token and send_count only go up' using errcode = 'RC001';
  elsif new.refused_count not between old.refused_count and new.send_count then
    raise exception 'refused_count goes up, to send_count at most' using errcode = 'RC001';
  elsif (new.send_count = 0) <> (new.first_sent_at is null) then
    perform railcore_violates('railcore_execution', 'sends_are_dated');
  elsif new.version = old.version then
    if (new.status, new.pending_reason, new.failure_code, new.cause_code, new.settled_minor)
       is distinct from (old.status, old.pending_reason, old.failure_code, old.cause_code, old.settled_minor) then
      raise exception 'a change of state needs version %', old.version + 1 using errcode = 'RC002';
    end if;
    return new;
  elsif new.version <> old.version + 1 or new.status not in ('pending', 'completed', 'failed') then
    raise exception 'no edge from % (version %) to % (version %)', old.status, old.version, new.status, new.version
      using errcode = 'RC002';
  end if;
  perform railcore_violates('railcore_execution', case
    when (new.status = 'pending') <> (new.pending_reason is not null) then 'pending_says_why' else 'failed_says_why' end);
end $$;

create function railcore_payment_guard() returns trigger language plpgsql as $$
begin
  if (tg_op = 'INSERT' and new.seq = 1 or tg_op = 'UPDATE' and new.seq = old.seq + 1)
     and new.charging + new.authorized - new.voided <= new.due_minor
     and (new.disputed = 0 or new.charging + new.authorized - new.voided + new.disputed <= new.due_minor
       or tg_op = 'UPDATE' and new.charging <= old.charging)
     and new.captured + new.capturing + new.voided + new.voiding <= new.authorized
     and new.refunded + new.refunding <= new.captured
     and least(new.charging, new.authorized, new.capturing, new.captured,
               new.voiding, new.voided, new.refunding, new.refunded, new.disputed) >= 0 then
    return new;
  elsif tg_op = 'INSERT' and new.seq <> 1 or tg_op = 'UPDATE' and new.seq <> old.seq + 1 then
    raise exception 'seq of payment % goes up by one, from 1: not to %', new.payment_id, new.seq using errcode = 'RC003';
  end if;
  perform railcore_violates('railcore_payment', case
    when new.charging + new.authorized - new.voided > new.due_minor then 'due_limit'
    when new.disputed > 0 and new.charging + new.authorized - new.voided + new.disputed > new.due_minor
      and (tg_op = 'INSERT' or new.charging > old.charging) then 'in_doubt_limit'
    when new.captured + new.capturing + new.voided + new.voiding > new.authorized then 'capture_limit'
    when new.refunded + new.refunding > new.captured then 'refund_limit'
    else 'sums_not_negative' end);
end $$;

create trigger execution_insert before insert on railcore_execution
  for each row execute function railcore_execution_insert();
create trigger execution_update before update on railcore_execution
  for each row execute function railcore_execution_update();
create trigger execution_identity before update of tenant_id, execution_id, payment_id, operation, amount_minor, currency,
    idempotency_key, fingerprint, provider_key, rail, provider, account, mode, payment_option_key, parent_execution_id,
    request, created_at on railcore_execution
  for each row execute function railcore_refuse('RC001', 'what was asked never changes');
create trigger execution_delete before delete on railcore_execution
  for each row execute function railcore_refuse('RC005', 'executions are kept');
create trigger execution_truncate before truncate on railcore_execution
  for each statement execute function railcore_refuse('RC005', 'executions are kept');

create trigger payment_guard before insert or update on railcore_payment
  for each row execute function railcore_payment_guard();
create trigger payment_identity before update of tenant_id, payment_id, currency, due_minor on railcore_payment
  for each row execute function railcore_refuse('RC003', 'currency and amount due are frozen');
create trigger payment_delete before delete on railcore_payment
  for each row execute function railcore_refuse('RC005', 'payments are kept');
create trigger payment_truncate before truncate on railcore_payment
  for each statement execute function railcore_refuse('RC005', 'payments are kept');

create trigger event_change before update or delete on railcore_event
  for each row execute function railcore_refuse('RC004', 'the journal is append-only');
create trigger event_truncate before truncate on railcore_event
  for each statement execute function railcore_refuse('RC004', 'the journal is append-only');

create trigger discrepancy_insert before insert on railcore_discrepancy
  for each row when (new.resolution is not null) execute function railcore_refuse('RC002', 'a discrepancy starts unresolved');
create trigger discrepancy_update before update on railcore_discrepancy
  for each row when (old.resolution is not null)
  execute function railcore_refuse('RC002', 'a resolved discrepancy never changes');
create trigger discrepancy_identity before update of tenant_id, discrepancy_id, execution_id, payment_id, seq, kind, detail,
    opened_at, disputed_minor on railcore_discrepancy
  for each row execute function railcore_refuse('RC001', 'what was found never changes');
create trigger discrepancy_delete before delete on railcore_discrepancy
  for each row execute function railcore_refuse('RC005', 'discrepancies are kept');
create trigger discrepancy_truncate before truncate on railcore_discrepancy
  for each statement execute function railcore_refuse('RC005', 'discrepancies are kept');

alter table railcore_execution enable always trigger execution_insert;
alter table railcore_execution enable always trigger execution_update;
alter table railcore_execution enable always trigger execution_identity;
alter table railcore_execution enable always trigger execution_delete;
alter table railcore_execution enable always trigger execution_truncate;
alter table railcore_payment enable always trigger payment_guard;
alter table railcore_payment enable always trigger payment_identity;
alter table railcore_payment enable always trigger payment_delete;
alter table railcore_payment enable always trigger payment_truncate;
alter table railcore_event enable always trigger event_change;
alter table railcore_event enable always trigger event_truncate;
alter table railcore_discrepancy enable always trigger discrepancy_insert;
alter table railcore_discrepancy enable always trigger discrepancy_update;
alter table railcore_discrepancy enable always trigger discrepancy_identity;
alter table railcore_discrepancy enable always trigger discrepancy_delete;
alter table railcore_discrepancy enable always trigger discrepancy_truncate;
