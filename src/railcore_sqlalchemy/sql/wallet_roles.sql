-- What the roles of roles.sql may do with the wallet: the app opens accounts and makes transfers; nobody changes or deletes one.
grant select on railcore_wallet_account, railcore_wallet_transfer, railcore_wallet_hold, railcore_wallet_reference
  to railcore_app, railcore_reader;
grant insert on railcore_wallet_account, railcore_wallet_transfer, railcore_wallet_hold, railcore_wallet_reference to railcore_app;
grant update (credits_posted, debits_posted, debits_pending) on railcore_wallet_account to railcore_app;
grant update (resolved_at) on railcore_wallet_hold to railcore_app;
