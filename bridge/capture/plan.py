"""Compare the database with the rules, and plan the steps that bring it up to date."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import psycopg

from bridge.assets import query
from bridge.capture.check import check_rules
from bridge.capture.dumps import dump_problem
from bridge.capture.models import AppliedRule, Plan, StrayTrigger, applied_rules, stray_triggers
from bridge.capture.render import RenderedRule, render_paused, render_sql
from bridge.capture.replication import publication_problem, slot_remark
from bridge.capture.rules import Rule
from bridge.database import rights
from bridge.database.migrate import InstallError, Step, is_installed, plan_migrations
from bridge.database.quoting import identifier
from bridge.database.sessions import Connection, fetch, one_line_with_hint

IDENTIFY_OUTBOX_ROWS: Final = "alter table bridge.outbox replica identity full;"


def plan_install(
    connection: Connection,
    rules: Sequence[Rule],
    *,
    quiet_doorbell: bool = False,
    create_roles: bool = False,
    check_privileges: bool = True,
    allow_publications: bool = False,
) -> Plan:
    """Plan the steps that install or update the schema and apply exactly these rules.

    Args:
        quiet_doorbell: leave the doorbell quiet, for a bridge that polls.
        create_roles: create bridge_service and bridge_reader if they do not exist.
        check_privileges: reject rules for tables on which the session's role cannot create
            triggers, and rules through which others could use the rights of the schema's owner.
            Turn it off to plan what another role would do.
        allow_publications: plan changes although a publication replicates schema bridge.

    Raises:
        InstallError: a rule does not fit the database, the schema cannot be migrated, or a
            publication would replicate it.
    """
    try:
        installed = is_installed(connection)
        migrations = plan_migrations(connection)
        with _temporary_schema(connection, migrations):
            checked, remarks = check_rules(
                connection, rules, check_privileges=check_privileges, is_installed=installed
            )
            dumps = fetch(connection, "dump_roles")
        missing_roles, role_steps = _plan_roles(
            connection, create=create_roles, regrant_all=bool(migrations)
        )
        hidden = fetch(connection, "row_security")
        replicated = fetch(connection, "replication")
        applied = applied_rules(connection)
        strays = stray_triggers(connection)
        # The function is as new as the last migration.
        behind = fetch(connection, "sequences_behind") if installed and not migrations else []
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
    migrations = _as_role(owner, migrations)
    if behind:
        title = "move sequences past the ids in use"
        migrations.append(Step(title, "select bridge.advance_sequences(0, 0);"))
    # Grants come before rules, which may have to wait for table locks: a running bridge needs the
    # grants as soon as the schema has changed.
    plan = Plan([*migrations, *role_steps], remarks=remarks, missing_roles=missing_roles)
    _plan_rules(plan, checked, applied, strays, owner)
    if quiet_doorbell and rings == (True,):
        plan.steps.append(
            Step("quiet the doorbell", "select pg_catalog.setval('bridge.doorbell', 1);")
        )
    if not installed and (problem := dump_problem(dumps)) is not None:
        plan.remarks.append("; ".join(problem))
    if plan.steps:
        _consider_replication(plan, replicated, allow_publications=allow_publications)
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


def _as_role(role: str | None, steps: Sequence[Step]) -> list[Step]:
    if role is None:
        return list(steps)
    return [replace(step, sql=f"set local role {identifier(role)};\n{step.sql}") for step in steps]


def _plan_rules(
    plan: Plan,
    checked: Sequence[RenderedRule],
    applied: Sequence[AppliedRule],
    strays: Sequence[StrayTrigger],
    owner: str | None,
) -> None:
    """Add the steps that apply exactly these rules."""
    wanted = {rule.name: rule for rule in checked}
    known_rules = {rule.name: rule for rule in applied}
    for name, rule in wanted.items():
        known = known_rules.get(name)
        if known is None:
            plan.new.append(name)
        elif known.has_trigger_of(rule) and known.has_function_of(rule):
            plan.kept.append(name)
            continue
        else:
            plan.changed.append(name)
        plan.steps.append(_application(rule, known, strays, owner))
    # Removals come last: rows of a renamed event are briefly captured under both names, never
    # under none.
    for name, old in known_rules.items():
        if name not in wanted:
            plan.removed.append(name)
            plan.steps.append(_removal(old))
    replaced = {rule.function_name for rule in wanted.values()}
    plan.steps += [_stray_removal(each) for each in strays if each.function_name not in replaced]


def _consider_replication(
    plan: Plan, rows: Sequence[Mapping[str, Any]], *, allow_publications: bool
) -> None:
    """Refuse publications that replicate schema bridge, or prepare for them; remark on slots.

    Args:
        rows: of ``replication.sql``.

    Raises:
        InstallError: there is such a publication, and it is not allowed.
    """
    problem = publication_problem(rows)
    if problem is not None and not allow_publications:
        raise InstallError(
            f"{'; '.join(problem)}; if every subscriber has schema bridge, use --allow-publications"
        )
    if problem is not None and not rows[0]["outbox_is_identified"]:
        # Without a replica identity, PostgreSQL rejects deletions from a published table.
        plan.steps.append(
            Step("identify rows of bridge.outbox to subscribers", IDENTIFY_OUTBOX_ROWS)
        )
    if (remark := slot_remark(rows)) is not None:
        plan.remarks.append(remark)


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


def _application(
    rule: RenderedRule,
    known: AppliedRule | None,
    strays: Sequence[StrayTrigger],
    owner: str | None,
) -> Step:
    replace_trigger = known is None or not known.has_trigger_of(rule)
    # Dropping a trigger blocks readers too, so do it only if `create or replace` cannot do the job,
    # and in the transaction that creates the new one: no row is missed.
    drop_trigger = replace_trigger and (
        any(each.function_name == rule.function_name for each in strays)
        if known is None
        else bool(known.strays)
        or (
            known.trigger_present
            and (
                known.trigger_name != rule.trigger_name
                or known.table_name != rule.table
                or "constraint trigger" in known.trigger_sql + rule.trigger_sql
                or not known.trigger_unchanged
            )
        )
    )
    paused = known is not None and known.is_paused
    return Step(
        f"capture {rule.name}",
        render_sql(
            "apply_rule",
            rule=rule,
            function_sql=render_paused(rule.function_name) if paused else rule.function_sql,
            dropped=(known or rule).function_name if drop_trigger else None,
            old=known,
            replace_trigger=replace_trigger,
            owner=owner,
        ),
        locked_table=rule.table if replace_trigger else None,
        blocks_readers=drop_trigger,
    )


def _removal(rule: AppliedRule) -> Step:
    return Step(
        f"remove {rule.name}",
        render_sql("remove_rule", dropped=rule.function_name, old=rule),
        locked_table=rule.stray_tables[0] if rule.stray_tables else rule.table_name,
        blocks_readers=True,
    )


def _stray_removal(stray: StrayTrigger) -> Step:
    return Step(
        f"remove stray trigger {stray.name}",
        f"drop function if exists {stray.function_name}() cascade;",
        locked_table=stray.table_name,
        blocks_readers=True,
    )
