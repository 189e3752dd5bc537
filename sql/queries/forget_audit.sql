-- Forgets old changes, and returns how many.
-- $1 for how many days they are kept
select bridge.forget_audit($1) as forgotten;
