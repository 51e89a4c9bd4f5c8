-- They have happened.
commit
