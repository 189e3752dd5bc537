-- The tables of schema bridge with row-level security, which hides their rows from whoever is not their
-- owner. (For a partition, the policies of its parent count.)
select relname::text as table_name
from pg_catalog.pg_class
where relnamespace = to_regnamespace('bridge') and relrowsecurity and not relispartition
order by relname;
