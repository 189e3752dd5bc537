-- Sets the doorbell and records the drainer, when a bridge becomes the drainer.
-- $1 bridge as host:pid, $2 doorbell mode, $3 whether the doorbell is quiet
with noted as (
    insert into bridge.drainer (bridge, mode, is_quiet)
    values ($1, $2, $3)
    on conflict on constraint drainer_pkey do update
    set bridge = excluded.bridge, mode = excluded.mode, is_quiet = excluded.is_quiet, switches = 0,
        switched_at = clock_timestamp(), leading_since = clock_timestamp()
)
select setval('bridge.doorbell', $3::boolean::integer) as flag;
