-- The schema's version.
select coalesce(max(version), 0) as version from bridge.migrations;
