"""Compare the database with the rules, and plan the steps that bring it up to date."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from bridge.assets import query
from bridge.capture.check import check_rules
from bridge.capture.models import AppliedRule, Plan, applied_rules
from bridge.capture.render import RenderedRule, render_paused, render_sql
from bridge.capture.rules import Rule
from bridge.database import rights
from bridge.database.migrate import InstallError, Step, is_installed, plan_migrations
from bridge.database.quoting import identifier
from bridge.database.sessions import Connection, fetch, one_line_with_hint


def plan_install(
    connection: Connection,
    rules: Sequence[Rule],
    *,
    quiet_doorbell: bool = False,
    create_roles: bool = False,
    check_privileges: bool = True,
) -> Plan:
    """Plan the steps that install or update the schema and apply exactly these rules.

    Args:
        quiet_doorbell: leave the doorbell quiet, for a bridge that polls.
        create_roles: create bridge_service and bridge_reader if they do not exist.
        check_privileges: reject rules for tables on which the session's role cannot create
            triggers, and rules through which others could use the rights of the schema's owner.
            Turn it off to plan what another role would do.

    Raises:
        InstallError: a rule does not fit the database, or the schema cannot be migrated.
    """
    try:
        installed = is_installed(connection)
        migrations = plan_migrations(connection)
        with _temporary_schema(connection, migrations):
            checked, remarks = check_rules(
                connection, rules, check_privileges=check_privileges, is_installed=installed
            )
        missing_roles, role_steps = _plan_roles(
            connection, create=create_roles, regrant_all=bool(migrations)
        )
        hidden = fetch(connection, "row_security")
        applied = {rule.name: rule for rule in applied_rules(connection)}
        [may] = fetch(connection, "may_install")
        rings = connection.execute(
            "select pg_sequence_last_value(to_regclass('bridge.doorbell')) = 0"
        ).fetchone()
    except psycopg.Error as error:
        raise InstallError(one_line_with_hint(error)) from None

    if migrations or hidden:
        title = "disable row-level security in schema bridge"
        migrations.append(Step(title, query("disable_row_security")))
    # Everything belongs to the owner of the schema, also if a superuser or a member runs init.
    owner = may["other_owner"]
    if owner is not None:
        migrations = [
            replace(step, sql=f"set local role {identifier(owner)};\n{step.sql}")
            for step in migrations
        ]
    # Grants come before rules, which may have to wait for table locks: a running bridge needs the
    # grants as soon as the schema has changed.
    plan = Plan([*migrations, *role_steps], remarks=remarks, missing_roles=missing_roles)
    wanted = {rule.name: rule for rule in checked}
    for name, rule in wanted.items():
        known = applied.get(name)
        if known is None:
            plan.new.append(name)
        elif known.has_trigger_of(rule) and known.has_function_of(rule):
            plan.kept.append(name)
            continue
        else:
            plan.changed.append(name)
        plan.steps.append(_application(rule, known, owner))
    # Removals come last: rows of a renamed event are briefly captured under both names, never
    # under none.
    for name, old in applied.items():
        if name not in wanted:
            plan.removed.append(name)
            plan.steps.append(_removal(old))
    if quiet_doorbell and rings == (True,):
        plan.steps.append(
            Step("quiet the doorbell", "select pg_catalog.setval('bridge.doorbell', 1);")
        )
    return plan


def plan_removal(connection: Connection) -> list[Step]:
    """Plan the steps that remove pgbridge from the database; none if it is not installed.

    Raises:
        InstallError: the schema called bridge is not pgbridge's.
    """
    try:
        if not is_installed(connection):
            return []
        removals = [_removal(rule) for rule in applied_rules(connection)]
    except psycopg.Error as error:
        raise InstallError(one_line_with_hint(error)) from None
    return [*removals, Step("drop schema bridge", "drop schema bridge cascade;")]


def _plan_roles(
    connection: Connection, *, create: bool, regrant_all: bool
) -> tuple[list[str], list[Step]]:
    """Return the roles that will not exist, and the steps that create roles and grant privileges.

    Args:
        create: create the missing roles.
        regrant_all: grant everything, not only what is missing now: migrations may drop grants.
    """
    rows = fetch(connection, "rights")
    roles = rights.existing_roles(rows)
    missing = [name for name in rights.ROLES if name not in roles]
    steps = []
    if missing and create:
        [row] = fetch(connection, "may_install")
        script = "".join(f"create role {name} nologin;\n" for name in missing)
        if not row["may_create_role"]:
            raise InstallError(
                f"role {row['role']} may not create roles; have an administrator run, and then "
                f"run pgbridge init again: {' '.join(script.split())}"
            )
        steps.append(Step(f"create {' and '.join(missing)}", script))
        roles, missing = list(rights.ROLES), []
    if grants := rights.grants(rows, roles, only_missing=not regrant_all):
        steps.append(Step(f"grant what {' and '.join(roles)} need", "\n".join(grants)))
    return missing, steps


@contextmanager
def _temporary_schema(connection: Connection, migrations: Sequence[Step]) -> Iterator[None]:
    """Install schema bridge, unless it is installed, and roll it back on exit.

    Rules may call its functions, and are checked before anything is installed.

    Raises:
        InstallError: this role cannot create the schema, or a step fails.
    """
    if is_installed(connection):
        yield
        return
    [may] = fetch(connection, "may_install")
    if not may["may_create_schema"]:
        database, role = identifier(connection.info.dbname), identifier(may["role"])
        raise InstallError(
            f"permission denied: role {may['role']} may not create schema bridge; run init as the "
            "owner of the application's tables; if this is the owner, have an administrator "
            f"run first: grant create on database {database} to {role}"
        )
    with connection.transaction(force_rollback=True):
        for step in migrations:
            try:
                connection.execute(step.sql.encode())
            except psycopg.Error as error:
                raise InstallError(f"{step.title}: {one_line_with_hint(error)}") from None
        yield


def _application(rule: RenderedRule, known: AppliedRule | None, owner: str | None) -> Step:
    replace_trigger = known is None or not known.has_trigger_of(rule)
    # Dropping a trigger blocks readers too, so do it only if `create or replace` cannot do the job,
    # and in the transaction that creates the new one: no row is missed.
    drop_trigger = (
        replace_trigger
        and known is not None
        and known.trigger_present
        and (
            known.trigger_name != rule.trigger_name
            or known.table_name != rule.table
            or "constraint trigger" in known.trigger_sql + rule.trigger_sql
            or not known.trigger_unchanged
        )
    )
    paused = known is not None and known.is_paused
    return Step(
        f"capture {rule.name}",
        render_sql(
            "apply_rule",
            rule=rule,
            function_sql=render_paused(rule.function_name) if paused else rule.function_sql,
            old=known if drop_trigger else None,
            replace_trigger=replace_trigger,
            owner=owner,
        ),
        locked_table=rule.table if replace_trigger else None,
        blocks_readers=drop_trigger,
    )


def _removal(rule: AppliedRule) -> Step:
    return Step(
        f"remove {rule.name}",
        render_sql("remove_rule", old=rule),
        locked_table=rule.table_name,
        blocks_readers=True,
    )
