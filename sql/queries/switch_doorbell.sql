-- Switches the doorbell. The flag holds as soon as this statement sets it, the note from its commit.
-- $1 whether it is to be quiet
with noted as (
    update bridge.drainer
    set is_quiet = $1, switches = switches + 1, switched_at = clock_timestamp()
)
select setval('bridge.doorbell', $1::boolean::integer) as flag;
