-- Sets the doorbell and writes down who drains, when a bridge begins to.
-- $1 its name, host:pid; $2 its mode; $3 whether the doorbell is to be quiet
with noted as (
    insert into bridge.drainer (bridge, mode, is_quiet)
    values ($1, $2, $3)
    on conflict on constraint drainer_pkey do update
    set bridge = excluded.bridge, mode = excluded.mode, is_quiet = excluded.is_quiet, switches = 0,
        switched_at = clock_timestamp(), leading_since = clock_timestamp()
)
select setval('bridge.doorbell', $3::boolean::integer) as flag;
