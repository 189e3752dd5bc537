-- Whether there is a schema called bridge; and whether the role of this session may make schemas in
-- this database, and roles.
select current_user::text as role,
       to_regnamespace('bridge') is not null as has_schema,
       has_database_privilege(current_database(), 'create') as may_create_schema,
       (select rolcreaterole or rolsuper from pg_catalog.pg_roles where rolname = current_user) as may_create_role;
