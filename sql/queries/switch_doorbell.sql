-- Switches the doorbell. The flag takes effect when this statement sets it, the record when it commits.
-- $1 whether it is quiet
with noted as (
    update bridge.drainer
    set is_quiet = $1, switches = switches + 1, switched_at = clock_timestamp()
)
select setval('bridge.doorbell', $1::boolean::integer) as flag;
