-- Removes what schema.sql made. Roles stay: they belong to the cluster.
drop function if exists railcore_check_parent(railcore_execution);
drop table if exists railcore_inbox_body, railcore_inbox, railcore_reference, railcore_discrepancy, railcore_bucket, railcore_outbox, railcore_execution,
  railcore_payment, railcore_event, railcore_edge;
drop function if exists railcore_refuse(), railcore_violates(text, text), railcore_execution_insert(),
  railcore_execution_update(), railcore_payment_guard();
