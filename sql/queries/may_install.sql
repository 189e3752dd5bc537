-- Whether schema bridge exists, and whether this role may create schemas and roles.
select current_user::text as role,
       to_regnamespace('bridge') is not null as has_schema,
       has_database_privilege(current_database(), 'create') as may_create_schema,
       (select rolcreaterole or rolsuper from pg_catalog.pg_roles where rolname = current_user) as may_create_role;
