-- What replicates schema bridge to other systems: publications, and logical slots whose plugin reads no
-- publication and so receives every table.
select 'publication' as kind,
       p.pubname::text as name,
       p.puballtables as is_for_all_tables,
       array(select t.tablename::text from pg_publication_tables t
             where t.pubname = p.pubname and t.schemaname = 'bridge' and not p.puballtables
             order by 1) as tables,
       coalesce((select relreplident = 'f' from pg_class where oid = to_regclass('bridge.outbox')), false)
           as outbox_is_identified
from pg_publication p
where p.puballtables
   or exists (select from pg_publication_tables t where t.pubname = p.pubname and t.schemaname = 'bridge')
union all
select 'slot', s.slot_name::text, true, '{}', false
from pg_replication_slots s
where s.slot_type = 'logical' and s.database = current_database() and s.plugin <> 'pgoutput'
order by kind, name;
