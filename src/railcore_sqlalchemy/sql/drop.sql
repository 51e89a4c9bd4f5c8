-- Removes what schema.sql made. Roles stay: they belong to the cluster.
alter table if exists railcore_event drop constraint if exists event_has_execution;
drop table if exists railcore_reference, railcore_discrepancy, railcore_bucket, railcore_outbox, railcore_execution,
  railcore_payment, railcore_event, railcore_edge;
drop function if exists railcore_refuse(), railcore_violates(text), railcore_execution_insert(), railcore_execution_update(),
  railcore_payment_step();
