-- Disables row-level security on all tables of schema bridge. Event triggers and scripts enable it on
-- every new table.
do $$
declare
    v_table regclass;
begin
    for v_table in
        select oid from pg_catalog.pg_class
        where relnamespace = 'bridge'::regnamespace and relrowsecurity and not relispartition
    loop
        execute format('alter table %s disable row level security', v_table);
    end loop;
end
$$;
