-- Whether two-phase commits are possible, and those that wait in this database to be ended.
-- %(seconds)s only those that wait longer
select current_setting('max_prepared_transactions')::integer > 0 as possible,
       array(
           select gid
           from pg_catalog.pg_prepared_xacts
           where database = current_database()
             and prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
           order by prepared
       ) as waiting;
