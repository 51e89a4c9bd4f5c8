-- What the session that this runs in promises: one row. A timeout of 0 is none.
select
  current_user as role,
  current_setting('lock_timeout') as lock_timeout,
  current_setting('idle_in_transaction_session_timeout') as idle_in_transaction_session_timeout,
  pg_is_in_recovery() as standby,
  array(
    select relname || '.' || tgname from pg_trigger join pg_class on pg_class.oid = tgrelid
    where tgenabled = 'A' and not tgisinternal and pg_table_is_visible(pg_class.oid)
  ) as fences
