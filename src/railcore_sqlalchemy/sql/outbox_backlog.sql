-- How much is still to be delivered: one row.
select count(*) as waiting,
  count(distinct (aggregateid, tenant_id)) filter (where parked_at is not null) as parked,
  min(enqueued_at) as oldest
from railcore_outbox
