-- The schema's version, and the id of the newest event in the log: what a bridge starts from.
select (select coalesce(max(version), 0) from bridge.migrations) as version,
       (select coalesce(max(id), 0) from bridge.events) as last_event_id;
