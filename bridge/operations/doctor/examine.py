"""Run the checks of ``pgbridge doctor``."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import psycopg

from bridge.capture.rules import Rule
from bridge.database.parameters import for_asyncpg
from bridge.database.sessions import one_line, open_connection
from bridge.operations.doctor import access, capture, schema, secrets, server, sessions
from bridge.operations.doctor.framework import APPLICATION_NAME, Check, Context, Finding, error
from bridge.settings import Settings

#: In the order in which they run.
CHECKS: tuple[Check, ...] = (
    server.server_version,
    server.standby,
    server.read_only,
    capture.triggers_fire,
    server.listen,
    server.notification_queue,
    server.replication,
    server.prepared_transactions,
    server.clock,
    access.rights,
    schema.row_security,
    schema.schema_version,
    # These need the current schema.
    access.dumps,
    sessions.orphans,
    sessions.takeover,
    schema.sequences,
    schema.outbox,
    schema.deferred,
    schema.doorbell,
    schema.vacuum,
    schema.partitions,
    schema.kept_days,
    capture.rules,
    capture.triggers,
    capture.table_owners,
    capture.paused_rules,
    capture.capture_errors,
    capture.dead_letters,
    secrets.webhook_secrets,
    access.bot_tokens,
)
#: If one of these fails, the later checks would only repeat its error.
DECISIVE: tuple[Check, ...] = (
    server.server_version,
    server.standby,
    schema.row_security,
    schema.schema_version,
)


def _now() -> datetime:
    return datetime.now(UTC)


def examine(
    settings: Settings,
    rules: Sequence[Rule],
    *,
    clock: Callable[[], datetime] = _now,
    end_orphans: bool = False,
) -> list[Finding]:
    """Run the checks in order and return their findings. Database errors become findings.

    Args:
        rules: the capture rules that ``pgbridge init`` would apply.
        clock: the clock of this machine.
        end_orphans: end the sessions that the check ``orphans`` finds.
    """
    with ExitStack() as stack:
        # The checks use the last of these, because BRIDGE_LISTEN_URL bypasses poolers.
        for name, url in (
            ("BRIDGE_DATABASE_URL", settings.database_url),
            ("BRIDGE_LISTEN_URL", settings.listen_url),
        ):
            if url is None:
                continue
            try:
                for_asyncpg(url)  # as the bridge connects
                connection = stack.enter_context(open_connection(url, APPLICATION_NAME))
            except psycopg.Error as refusal:
                return [
                    Finding(
                        "connection",
                        "error",
                        f"cannot connect to the database: {one_line(refusal)}",
                        "the other checks need a connection",
                        f"point {name} to a running PostgreSQL and a role that may log in",
                    )
                ]
        connection.read_only = True
        info = connection.info
        message = f"connected to database {info.dbname} at {info.host} as {info.user}"
        findings = [Finding("connection", "ok", message)]
        context = Context(settings, rules, connection, clock, end_orphans)
        for check in CHECKS:
            found = _run(check, context)
            findings += found
            failed = any(finding.level == "error" for finding in found)
            if connection.closed or (failed and check in DECISIVE):
                break
    return findings


def _run(check: Check, context: Context) -> list[Finding]:
    """Return the findings of a check, including that it failed."""
    try:
        verdicts = check(context)
    except psycopg.Error as refusal:
        verdicts = error(
            f"the check failed: {one_line(refusal)}",
            "the database rejected or cancelled a query of this check",
            "fix the other errors first; if a privilege is missing, grant it to this role",
        )
    return [Finding(check.__name__, *verdict) for verdict in verdicts]
