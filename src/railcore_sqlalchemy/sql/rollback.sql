-- None of them has.
rollback
