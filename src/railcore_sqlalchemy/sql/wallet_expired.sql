-- Holds whose time is over, the oldest first.
select t.tenant_id, t.transfer_id, t.debit_account, t.credit_account, t.currency, t.amount_minor, t.kind, t.pending_id, t.hold_s
from railcore_wallet_hold h
join railcore_wallet_transfer t on t.tenant_id = h.tenant_id and t.transfer_id = h.transfer_id
where h.resolved_at is null and h.expires_at <= now()
order by h.expires_at limit :limit::integer
