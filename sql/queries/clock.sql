-- What time the database has.
select clock_timestamp() as now;
