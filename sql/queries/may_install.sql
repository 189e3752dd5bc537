-- Whether schema bridge exists, who owns it, and whether this role may create schemas and roles.
select current_user::text as role,
       to_regnamespace('bridge') is not null as has_schema,
       (select pg_get_userbyid(nspowner) from pg_namespace
        where nspname = 'bridge' and nspowner <> current_user::regrole)::text as other_owner,
       has_database_privilege(current_database(), 'create') as may_create_schema,
       (select rolcreaterole or rolsuper from pg_catalog.pg_roles where rolname = current_user) as may_create_role;
