-- Whether two-phase commit is enabled, and which prepared transactions of this database are old.
-- %(seconds)s only those older than this
select current_setting('max_prepared_transactions')::integer > 0 as possible,
       array(
           select gid
           from pg_catalog.pg_prepared_xacts
           where database = current_database()
             and prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
           order by prepared
       ) as waiting;
