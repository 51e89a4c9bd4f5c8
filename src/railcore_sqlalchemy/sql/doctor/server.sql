-- The server and the session that looks, one row: what it starts sessions with, and whether it takes writes.
select current_setting('server_version_num')::integer as version, pg_is_in_recovery() as is_standby,
  current_user::text as role,
  current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
  (select reset_val from pg_settings where name = 'synchronous_commit') as synchronous_commit,
  (select reset_val from pg_settings where name = 'session_replication_role') as session_replication_role,
  (select reset_val from pg_settings where name = 'lock_timeout') as lock_timeout,
  (select reset_val from pg_settings where name = 'idle_in_transaction_session_timeout') as idle_in_transaction_session_timeout,
  (select setting::integer from pg_settings where name = 'max_connections')
    - (select setting::integer from pg_settings where name = 'superuser_reserved_connections') as connections
