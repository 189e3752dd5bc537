-- Deletes up to 5,000 expired audit entries, and returns how many.
-- $1 days to keep
select bridge.forget_audit($1) as deleted;
