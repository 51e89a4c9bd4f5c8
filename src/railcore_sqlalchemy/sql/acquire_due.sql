-- Take the leases of executions that are due and that nobody holds, those due longest first: whole rows, the time, and
-- since when each was due, in no promised order. The next look is set in the same step, to the end of the lease: whoever
-- dies with a lease loses nothing.
-- :accounts is a JSON array of {rail, provider, account, most}: how many may be taken of each; of any other, :most_each.
-- An account with most 0 is passed over where rows are found, so that its backlog stands in nobody's way.
-- :unsent: true for work that was never sent, false for everything else, null for both.
-- Rows are locked as they are found, and those that somebody else has locked are passed over; what is above an account's
-- limit is let go again.
with room as materialized (
  select * from json_to_recordset(:accounts::json) as a (rail text, provider text, account text, most integer)
), due as materialized (
  select x.tenant_id, x.execution_id, x.next_check_at, x.rail, x.provider, x.account
  from railcore_execution x
  where x.next_check_at <= now() and (x.lease_until is null or x.lease_until <= now())
    and (:unsent::boolean is null or (x.status = 'processing' and x.send_count = x.refused_count) = :unsent::boolean)
    and (select r.most from room r where r.rail = x.rail and r.provider = x.provider and r.account = x.account) is distinct from 0
  order by x.next_check_at
  limit :limit::integer
  for no key update skip locked
), ranked as materialized (
  select d.*, row_number() over (partition by rail, provider, account order by next_check_at, execution_id) as place
  from due d
), taken as materialized (
  select k.tenant_id, k.execution_id, k.next_check_at as due_at
  from ranked k left join room r on r.rail = k.rail and r.provider = k.provider and r.account = k.account
  where k.place <= coalesce(r.most, :most_each::integer)
)
update railcore_execution x set
  lease_owner = :lease_owner::text, lease_token = x.lease_token + 1, check_count = x.check_count + 1,
  lease_until = now() + make_interval(secs => :lease_s::float8),
  next_check_at = now() + make_interval(secs => :lease_s::float8),
  updated_at = now()
from taken t where x.execution_id = t.execution_id and x.tenant_id = t.tenant_id
returning x.*, now() as at, t.due_at
