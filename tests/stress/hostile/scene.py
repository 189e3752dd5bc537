"""The database under attack: its roles, tables and capture rules.

Two roles own captured tables. ``hostile_shop`` is the honest application; ``hostile_tenant`` is the
attacker. As docs/roles.md asks, a group of which both are members owns schema ``bridge``.
"""

from collections.abc import Mapping
from typing import Any

import psycopg

from bridge.capture.rules import load_preset, parse_rules
from tests.conftest import BOT_TABLES, init
from tests.system.processes import as_role

SHOP = "hostile_shop"
TENANT = "hostile_tenant"
GROUP = "hostile_group"

_TENANTS_TABLES = """
create table public.notes (id bigserial primary key, body text, data jsonb);
create table public.bulk (id bigserial primary key, n integer);
create table public.moods (id bigserial primary key, mood text, amount integer);
-- Whatever the tenant's code runs as can write here.
create table public.ran_as (role text not null);
grant insert on public.ran_as to public;
"""
_TENANTS_RULES = """
[[capture]]
event = "note.saved"
table = "public.notes"
on = ["insert", "update"]
payload = "*"

[[capture]]
event = "note.deleted"
table = "public.notes"
on = "delete"
payload = ["id"]

[[capture]]
event = "bulk.loaded"
table = "public.bulk"
on = "insert"
payload = "*"

[[capture]]
event = "bulk.settled"
table = "public.bulk"
on = "update"
deferred = true
payload = "*"

[[capture]]
event = "mood.changed"
table = "public.moods"
on = ["insert", "update"]
payload = "*"
"""

# The rights of a role: flags, memberships, and the owners and grants of everything that is not a
# system object. Partitions come and go.
_RIGHTS = f"""
select 'role ' || rolname,
       concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls)
from pg_catalog.pg_roles
union all
select concat('member ', member::regrole, ' of ', roleid::regrole), string_agg(concat_ws(
           ' ', admin_option, inherit_option, set_option), ', ' order by grantor)
from pg_catalog.pg_auth_members group by member, roleid
union all
select 'schema ' || nspname, concat_ws(' ', nspowner::regrole, nspacl::text)
from pg_catalog.pg_namespace where nspname in ('public', 'bridge')
union all
select 'relation ' || c.oid::regclass, concat_ws(' ', c.relowner::regrole, c.relacl::text)
from pg_catalog.pg_class c
where c.relnamespace in ('public'::regnamespace, 'bridge'::regnamespace)
  and c.relowner <> '{TENANT}'::regrole and not c.relispartition
union all
select 'function ' || p.oid::regprocedure,
       concat_ws(' ', p.proowner::regrole, p.prosecdef, p.proacl::text)
from pg_catalog.pg_proc p
where p.pronamespace in ('public'::regnamespace, 'bridge'::regnamespace)
  and p.proowner <> '{TENANT}'::regrole
"""


def build(url: str) -> None:
    """Create roles, tables and rules in a database.

    Args:
        url: for a superuser; the roles of ``init`` exist, the tables do not.
    """
    with psycopg.connect(url, autocommit=True) as admin:
        for role, options in ((GROUP, "nologin"), (SHOP, "login"), (TENANT, "login")):
            admin.execute(
                f"do $$ begin create role {role} {options};"
                " exception when duplicate_object then null; end $$".encode()
            )
        admin.execute(
            f"grant {GROUP} to {SHOP}, {TENANT};"
            f"grant create on schema public to {SHOP}, {TENANT};"
            f"grant create on database {admin.info.dbname} to {GROUP}".encode()
        )
    for role, definition in ((SHOP, BOT_TABLES.read_text()), (TENANT, _TENANTS_TABLES)):
        with psycopg.connect(as_role(url, role), autocommit=True) as owner:
            owner.execute(definition.encode())
            names = owner.execute(
                "select oid::regclass::text from pg_class"
                " where relkind = 'r' and relowner = current_user::regrole"
            ).fetchall()
            tables = ", ".join(name for (name,) in names)
            owner.execute(f"grant trigger on {tables} to {GROUP}".encode())
            if role == SHOP:  # rules of the preset read it
                owner.execute(f"grant select on public.tickets to {GROUP}".encode())
    group = as_role(url, SHOP) + f"&options=-c%20role%3D{GROUP}"
    init(group, [*load_preset("telegram-shop"), *parse_rules(_TENANTS_RULES)])


def rights(admin: psycopg.Connection[Any]) -> Mapping[str, str]:
    """Return what each role may do with what does not belong to the tenant, as text."""
    return {name: str(text) for name, text in admin.execute(_RIGHTS.encode()).fetchall()}


def ran_as(admin: psycopg.Connection[Any]) -> set[str]:
    """Return the roles as which the tenant's code ran."""
    rows = admin.execute("select distinct role from public.ran_as").fetchall()
    return {role for (role,) in rows}
