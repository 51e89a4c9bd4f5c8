"""
A judge inside the database: triggers that watch who takes, moves and ends what is leased.

Workers sign their sessions with their name (``application_name``), which is also the owner that
stands in their leases. So the judge knows, whatever the statements of the stores may say, whether
the writer of a row holds it. Watching changes nothing; ``breaches`` says what should not have been.
"""

from collections import Counter
from collections.abc import Mapping

import psycopg
import sqlalchemy

WATCH = """
create table fence_watch (
  at timestamptz not null default clock_timestamp(), seen text not null, writer text, holder text);
create table fence_try (
  account text, event_id text, writer text, primary key (account, event_id));
grant insert on fence_watch to public;
grant select, insert, update on fence_try to public;

create function fence_execution() returns trigger language plpgsql as $$
declare
  writer text := current_setting('application_name');
begin
  if new.lease_token > old.lease_token then
    if old.lease_until > now() then
      insert into fence_watch (seen, writer, holder)
        values ('breach: an execution was taken within a lease', writer, old.lease_owner);
    elsif old.lease_owner is not null then
      insert into fence_watch (seen, writer, holder) values ('takeover', writer, old.lease_owner);
    end if;
  elsif writer is distinct from old.lease_owner then
    if (new.lease_owner, new.lease_until) is distinct from (old.lease_owner, old.lease_until)
      or new.next_check_at is distinct from old.next_check_at
        and new.status not in ('completed', 'failed') then
      insert into fence_watch (seen, writer, holder)
        values ('breach: lease or schedule of an execution', writer, old.lease_owner);
    elsif new.version > old.version then
      insert into fence_watch (seen, writer, holder) values ('news', writer, old.lease_owner);
    end if;
  end if;
  return null;
end $$;
create trigger fence_execution after update on railcore_execution
  for each row execute function fence_execution();

create function fence_bucket() returns trigger language plpgsql as $$
declare
  writer text := current_setting('application_name');
begin
  if new.token > old.token then
    if old.until > now() and old.owner is not null then
      insert into fence_watch (seen, writer, holder)
        values ('breach: a bucket was taken within a lease', writer, old.owner);
    elsif old.owner is not null then
      insert into fence_watch (seen, writer, holder)
        values ('takeover of a bucket', writer, old.owner);
    end if;
  elsif writer is distinct from old.owner then
    insert into fence_watch (seen, writer, holder)
      values ('breach: lease of a bucket', writer, old.owner);
  end if;
  return null;
end $$;
create trigger fence_bucket after update on railcore_bucket
  for each row execute function fence_bucket();

create function fence_outbox() returns trigger language plpgsql as $$
begin
  insert into fence_watch (seen, writer, holder)
    select 'breach: an event was taken from a bucket', current_setting('application_name'), owner
    from railcore_bucket
    where bucket = old.bucket and owner is distinct from current_setting('application_name');
  return null;
end $$;
create trigger fence_outbox after delete on railcore_outbox
  for each row execute function fence_outbox();

create function fence_inbox() returns trigger language plpgsql as $$
declare
  writer text := current_setting('application_name');
  holder text;
begin
  if tg_op = 'INSERT' or new.attempts > old.attempts then
    if tg_op = 'UPDATE' and old.next_attempt_at > now() then
      insert into fence_watch (seen, writer) values ('breach: a delivery within a try', writer);
    end if;
    insert into fence_try (account, event_id, writer) values (new.account, new.event_id, writer)
      on conflict (account, event_id) do update set writer = excluded.writer;
  else
    select t.writer into holder from fence_try t
      where t.account = new.account and t.event_id = new.event_id;
    if holder is distinct from writer then
      insert into fence_watch (seen, writer, holder)
        values ('breach: the end of a try of a delivery', writer, holder);
    end if;
  end if;
  return null;
end $$;
create trigger fence_inbox after insert or update on railcore_inbox
  for each row execute function fence_inbox();
"""


def watch(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Install the judge. Its triggers watch everybody who writes from now on."""
    connection.execute(WATCH)


def signed(url: str, name: str) -> str:
    """Return *url* for sessions that are signed with *name*."""
    address = sqlalchemy.make_url(url).update_query_dict({"application_name": name})
    return address.render_as_string(hide_password=False)


def seen(connection: psycopg.Connection[tuple[object, ...]]) -> Counter[str]:
    """Return what the judge saw, and how often."""
    rows = connection.execute("select seen, count(*) from fence_watch group by seen").fetchall()
    return Counter({str(name): int(str(count)) for name, count in rows})


def breaches(found: Mapping[str, int]) -> Mapping[str, int]:
    """Return what of it should not have been."""
    return {name: count for name, count in found.items() if name.startswith("breach")}
