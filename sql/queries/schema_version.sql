-- The schema's version, and the id of the newest event or, if the log is empty, the last id assigned.
select (select coalesce(max(version), 0) from bridge.migrations) as version,
       coalesce(
           (select max(id) from bridge.events),
           (select last_value - (not is_called)::integer from bridge.event_id)) as last_event_id;
