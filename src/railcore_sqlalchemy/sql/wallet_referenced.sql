-- The transfer that was made for an execution, its hold if it has one, with what resolved it: no row or one.
select
  t.tenant_id, t.transfer_id, t.debit_account, t.credit_account, t.currency, t.amount_minor, t.kind, t.pending_id,
  t.hold_s, r.transfer_id as resolved_by, r.kind as resolved_kind, r.amount_minor as resolved_minor
from railcore_wallet_reference named
join railcore_wallet_transfer t on t.tenant_id = named.tenant_id and t.transfer_id = named.transfer_id
left join railcore_wallet_transfer r on r.tenant_id = t.tenant_id and r.pending_id = t.transfer_id
where named.tenant_id = :tenant_id::text and named.reference = :reference::uuid
order by t.pending_id is not null, t.transfer_id limit 1
