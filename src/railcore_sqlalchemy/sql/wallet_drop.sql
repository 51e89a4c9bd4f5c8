-- Removes what wallet.sql made.
drop table if exists railcore_wallet_reference, railcore_wallet_hold, railcore_wallet_transfer, railcore_wallet_account;
drop function if exists railcore_wallet_resolution();
