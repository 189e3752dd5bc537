-- Deletes expired audit entries, and returns how many.
-- $1 days to keep
select bridge.forget_audit($1) as forgotten;
