"""Check the capture rules and their triggers."""

from bridge.capture.blindness import BlindRule
from bridge.capture.owners import owner_problem
from bridge.database.migrate import InstallError
from bridge.operations.doctor.framework import (
    LISTED,
    Context,
    Verdicts,
    error,
    listed,
    ok,
    warning,
)
from bridge.operations.formatting import format_seconds
from bridge.operations.overview import Counted


def triggers_fire(context: Context) -> Verdicts:
    """Check for sessions in the replica role, and for those that switch capture off."""
    rows = context.fetch("triggers_fire")
    found: Verdicts = []
    if replica := [row for row in rows if row["name"] == "session_replication_role"]:
        found += error(
            f"session_replication_role is replica for {listed([row['place'] for row in replica])}",
            "triggers do not fire there, so changes are not captured",
            "; ".join(row["remedy"] for row in replica),
        )
    if off := [row for row in rows if row["name"] == "bridge.capture"]:
        found += warning(
            f"bridge.capture is off for {listed([row['place'] for row in off])}",
            "their changes are not captured, as is wanted while a backup is restored "
            "(docs/backups.md)",
            "when that is done: " + "; ".join(row["remedy"] for row in off),
        )
    return found or ok("triggers fire for every role")


def rules(context: Context) -> Verdicts:
    """Check that the rules fit the database and are applied as written."""
    try:
        plan = context.plan()
    except InstallError as refusal:
        return error(
            str(refusal),
            "pgbridge init rejects this rule; if it is already applied, its events have no payload",
            "change the rule to match the table, then run: pgbridge init",
        )
    groups = {"not applied": plan.new, "removed": plan.removed, "changed": plan.changed}
    differences = [f"{group}: {listed(names)}" for group, names in groups.items() if names]
    if differences:
        return error(
            f"the applied rules differ from the configured ones; {'; '.join(differences)}",
            "the database captures what was last applied",
            "review the changes with pgbridge init --dry-run, then run: pgbridge init",
        )
    found: Verdicts = []
    for remark in plan.remarks:
        found += warning(
            remark,
            "PostgreSQL fires a table's triggers only for the table's own rows",
            "add rules for these tables",
        )
    return found + ok(f"{len(plan.kept)} rules are applied as configured")


def triggers(context: Context) -> Verdicts:
    """Check that the triggers and functions of the rules are unchanged."""
    applied = context.applied_rules()
    blind = {rule.name: rule.words for rule in map(BlindRule.of, context.fetch("blind_rules"))}
    damages = {rule.name: rule.damage or blind.get(rule.name) for rule in applied}
    damaged = [f"{name}: {damage}" for name, damage in damages.items() if damage]
    damaged += [f"no rule: stray trigger {each.name}" for each in context.stray_triggers()]
    if damaged:
        return error(
            f"triggers or functions changed since pgbridge init; {'; '.join(damaged[:LISTED])}",
            "these rules capture the wrong events, each event twice, or none",
            "run: pgbridge init (docs/backups.md if a backup was restored)"
            if all(rule.table_present for rule in applied)
            else "if a table was renamed, change its rule; then run: pgbridge init",
        )
    return ok(f"the triggers and functions of {len(applied)} rules are unchanged")


def table_owners(context: Context) -> Verdicts:
    """Check that no other role's code can run with the rights of the capture functions."""
    tables = [rule.table_name for rule in context.applied_rules()]
    rows = context.fetch("untrusted_owners", tables=tables, view=None)
    if (problem := owner_problem(rows, is_installed=True)) is not None:
        return error(*problem)
    return ok("the owners of captured tables have the rights of the capture functions anyway")


def paused_rules(context: Context) -> Verdicts:
    """Check for paused rules."""
    paused = [rule.name for rule in context.applied_rules() if rule.is_paused]
    if paused:
        return warning(
            f"paused: {listed(paused)}",
            "paused rules capture nothing, and changes made meanwhile are never captured",
            "run: pgbridge capture resume",
        )
    return ok("no rule is paused")


def dead_letters(context: Context) -> Verdicts:
    """Check for events and deliveries that PostgreSQL could not process."""
    rows = context.fetch("first_dead_letters")
    if not rows:
        return ok("there are no dead letters")
    first = [
        f"{row['id']}: {row['event_type']}"
        + ("" if row["webhook_id"] is None else f" for webhook {row['webhook_id']}")
        + f", {format_seconds(row['seconds'])} ago ({' '.join(row['reason'].split())})"
        for row in rows
    ]
    return error(
        f"{Counted.of(rows[0]['total'])} dead letters; {'; '.join(first)}",
        "PostgreSQL could not process these events or deliveries, so they were set aside",
        "remove the cause, then run: pgbridge dead-letters retry ID; or: pgbridge dead-letters "
        "drop ID",
    )


def capture_errors(context: Context) -> Verdicts:
    """Check for events whose payload could not be computed."""
    rows = context.fetch("capture_errors")
    if not rows:
        return ok("every payload was computed")
    failures = [
        f"{row['name']}: {row['failure_count']} times, last {format_seconds(row['seconds'])} ago "
        f"({' '.join(row['last_error'].split())})"
        for row in rows
    ]
    return error(
        f"payloads could not be computed; {'; '.join(failures[:LISTED])}",
        "these events contain only the row's key and _capture_error",
        "change the rule to match the table and run pgbridge init; if a column changed its type, "
        "also reconnect the application",
    )
