-- Three group roles and what they may do. Run it as the owner of the tables, as often as you like: after an upgrade, and
-- after giving a login to one of the groups, since settings of a group do not reach its members by themselves.
--   railcore_app     claims and records; deletes nothing
--   railcore_relay   delivers events, again if asked; cannot see executions
--   railcore_reader  looks
-- The timeouts bound how long a forgotten transaction can hold a payment: a lock is waited for half a second, a
-- transaction that does nothing is ended after five. The statements have one good plan each, through the keys: it is made
-- once, and not one that scans a table because that is still small.
do $$
declare
  it record;
begin
  for it in select unnest(array['railcore_app', 'railcore_relay', 'railcore_reader']) as name loop
    if not exists (select from pg_roles where rolname = it.name) then
      execute format('create role %I nologin', it.name);
    end if;
  end loop;
  for it in
    select member.rolname as name, wanted.setting
    from (values
      ('railcore_app', 'lock_timeout = ''500ms'''),
      ('railcore_app', 'statement_timeout = ''15s'''),
      ('railcore_app', 'idle_in_transaction_session_timeout = ''5s'''),
      ('railcore_app', 'plan_cache_mode = force_generic_plan'),
      ('railcore_app', 'enable_seqscan = off'),
      ('railcore_relay', 'lock_timeout = ''500ms'''),
      ('railcore_relay', 'statement_timeout = ''15s'''),
      ('railcore_relay', 'idle_in_transaction_session_timeout = ''5s'''),
      ('railcore_relay', 'plan_cache_mode = force_generic_plan'),
      ('railcore_relay', 'enable_seqscan = off'),
      ('railcore_relay', 'jit = off'),
      ('railcore_reader', 'lock_timeout = ''500ms'''),
      ('railcore_reader', 'statement_timeout = ''5min'''),
      ('railcore_reader', 'idle_in_transaction_session_timeout = ''1min''')
    ) wanted (name, setting)
    join pg_roles on pg_roles.rolname = wanted.name
    join pg_roles member on member.oid = pg_roles.oid
      or member.rolcanlogin and not member.rolsuper and pg_has_role(member.oid, pg_roles.oid, 'member')
  loop
    execute format('alter role %I in database %I set %s', it.name, current_database(), it.setting);
  end loop;
  execute format('grant usage on schema %I to railcore_app, railcore_relay, railcore_reader', current_schema());
end $$;

grant select on railcore_edge, railcore_execution, railcore_payment, railcore_event, railcore_outbox, railcore_bucket,
  railcore_discrepancy, railcore_reference to railcore_app, railcore_reader;
grant insert on railcore_execution, railcore_payment, railcore_event, railcore_outbox, railcore_discrepancy,
  railcore_reference to railcore_app;
grant update on railcore_execution, railcore_payment to railcore_app;
grant update (resolved_at, resolved_by, evidence, resolution, resolving_execution_id, resolved_seq)
  on railcore_discrepancy to railcore_app;

grant select on railcore_event, railcore_outbox, railcore_bucket to railcore_relay;
grant update (owner, token, until) on railcore_bucket to railcore_relay;
grant insert, update (attempts, due_at, parked_at, last_error), delete on railcore_outbox to railcore_relay;

grant select on railcore_inbox to railcore_app, railcore_reader;
grant select on railcore_inbox_body to railcore_app;
grant insert on railcore_inbox, railcore_inbox_body to railcore_app;
grant update (state, attempts, faults, next_attempt_at, settled_at, problem) on railcore_inbox to railcore_app;
