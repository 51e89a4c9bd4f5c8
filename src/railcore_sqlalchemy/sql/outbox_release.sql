-- Give a bucket's lease back, if the token still holds it. The time stays, so that others have their turn first.
update railcore_bucket set owner = null, until = now()
where bucket = :bucket::smallint and token = :token::bigint and owner = :owner::text
