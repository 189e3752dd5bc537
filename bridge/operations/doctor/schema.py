"""Check schema ``bridge`` and the bridge that works on it."""

from bridge import assets
from bridge.database.migrate import InstallError, is_installed
from bridge.operations.doctor.framework import Context, Verdicts, error, listed, ok, warning
from bridge.operations.formatting import format_seconds
from bridge.operations.overview import Doorbell, Drainer, WaitingEvents
from bridge.operations.status import format_doorbell, format_events

#: Events leave the outbox within milliseconds. After this time, nothing drains it.
OUTBOX_SECONDS = 60
#: Deferred deliveries are queued within seconds, unless there are too many.
DEFERRED_SECONDS = 60
#: A regular vacuum leaves far fewer dead rows in a queue.
DEAD_ROWS = 100_000
#: A younger transaction cannot be the cause of that many.
HOLDER_SECONDS = 60
#: Days, from today on, that need partitions. The first ones are urgent.
PARTITION_DAYS, URGENT_DAYS = 4, 2


def schema_version(context: Context) -> Verdicts:
    """Check that the schema exists in the version that this pgbridge needs."""
    try:
        installed = is_installed(context.connection)
    except InstallError as refusal:
        return error(str(refusal), "pgbridge needs this schema name", "rename the existing schema")
    if not installed:
        return error(
            "pgbridge is not installed in this database",
            "without its triggers, no events are captured",
            "run: pgbridge init",
        )
    [row] = context.fetch("schema_version")
    if mismatch := assets.schema_mismatch(row["version"]):
        message, hint = mismatch
        return error(message, "different versions of schema and bridge do not work together", hint)
    return ok(f"schema version {row['version']}")


def row_security(context: Context) -> Verdicts:
    """Check that no policies hide rows of schema bridge."""
    tables = [row["table_name"] for row in context.fetch("row_security")]
    if not tables:
        return ok("no rows of schema bridge are hidden")
    return error(
        f"row-level security is enabled on {listed([f'bridge.{each}' for each in tables])}",
        "its policies hide rows from the bridge, so its queries fail",
        "run: pgbridge init; if it comes back, find the script or event trigger that enables it",
    )


def sequences(context: Context) -> Verdicts:
    """Check that no sequence gives out ids that are in use."""
    behind = [
        f"{row['sequence_name']} ({row['last_id']}, in use up to {row['used_id']})"
        for row in context.fetch("sequences_behind")
    ]
    if not behind:
        return ok("sequences are past all ids in use")
    return warning(
        f"sequences were set back: {listed(behind)}",
        "a dump that is replayed into its own database does this; ids would be given out twice",
        "run: pgbridge init; a running bridge moves them within a minute",
    )


def outbox(context: Context) -> Verdicts:
    """Check that a bridge drains the outbox."""
    [row] = context.fetch("overview")
    drainer, events = Drainer.of(row), WaitingEvents.of_state(row, "outbox")
    message = f"events in the outbox: {format_events(events)}"
    if events.oldest_seconds is not None and events.oldest_seconds > OUTBOX_SECONDS:
        if not drainer.alive:
            return error(message, "no bridge drains the outbox", "start one: pgbridge run")
        return error(
            message,
            f"{drainer} holds the lock but makes no progress",
            "look for database_task_failed in its log, or restart it",
        )
    if not drainer.alive:
        return warning(
            f"no bridge is draining; {message}",
            "captured events wait in the outbox, and none are lost",
            "start one: pgbridge run",
        )
    return ok(f"{message}; {drainer} drains")


def deferred(context: Context) -> Verdicts:
    """Check that events are queued for all of their webhooks."""
    [row] = context.fetch("overview")
    events = WaitingEvents.of_state(row, "deferred")
    message = f"events not queued for delivery yet: {format_events(events)}"
    if events.oldest_seconds is None or events.oldest_seconds <= DEFERRED_SECONDS:
        return ok(message)
    return warning(
        message,
        "there are more deliveries than the bridge can queue in time; older webhooks come first",
        "delete or switch off webhooks that are not needed, or make their event types narrower",
    )


def doorbell(context: Context) -> Verdicts:
    """Check that commits notify only if a bridge listens, and in the configured mode."""
    [row] = context.fetch("overview")
    drainer, bell = Drainer.of(row), Doorbell.of(row)
    message = f"the doorbell is {format_doorbell(bell)}"
    if bell.rings and not drainer.alive:
        return warning(
            message,
            "the application's commits send notifications, but no bridge receives them",
            "start a bridge: pgbridge run; until then this costs the application some throughput",
        )
    if drainer.alive and bell.mode not in (None, context.settings.doorbell):
        return warning(
            message,
            f"BRIDGE_DOORBELL is {context.settings.doorbell} here, but {bell.mode} for {drainer}",
            "use the same BRIDGE_DOORBELL for init and for every bridge",
        )
    return ok(message)


def vacuum(context: Context) -> Verdicts:
    """Check that vacuum keeps up with the queues."""
    queues = context.fetch("vacuum")
    dead = ", ".join(f"{row['dead_rows']} in bridge.{row['queue']}" for row in queues)
    message = f"dead rows: {dead}"
    if max(row["dead_rows"] for row in queues) <= DEAD_ROWS:
        return ok(message)
    for holder in context.fetch("vacuum_holders"):
        seconds = holder["seconds"]
        if seconds is None or seconds >= HOLDER_SECONDS:
            age = "" if seconds is None else f" for {format_seconds(seconds)}"
            return error(
                message,
                f"{holder['name']} has held back vacuum{age}, so the drain has to skip dead rows",
                f"if it is no longer needed, run: {holder['remedy']}",
            )
    return error(
        message,
        "vacuum is not held back but does not keep up, so the drain has to skip dead rows",
        "turn autovacuum on, and run: vacuum bridge.outbox, bridge.delivery_queue",
    )


def partitions(context: Context) -> Verdicts:
    """Check that the logs have partitions for today and the coming days."""
    rows = context.fetch("partitions", days=PARTITION_DAYS)
    if rows[0]["never_made"]:
        return warning(
            "the logs have no partitions yet",
            "pgbridge run creates them when it starts",
            "start one: pgbridge run",
        )
    missing = [partition for row in rows for partition in row["missing"]]
    if not missing:
        return ok(f"the logs have partitions for the next {PARTITION_DAYS} days")
    urgent = any(row["missing"] for row in rows if row["ahead"] < URGENT_DAYS)
    verdict = error if urgent else warning
    return verdict(
        f"the logs lack {listed(missing)}",
        "without the day's partitions, events cannot be drained and deliveries not recorded",
        "pgbridge run creates partitions at its start and every 10 minutes; if it is running, "
        "see its log",
    )


def kept_days(context: Context) -> Verdicts:
    """Check that no event stays after its retention because its delivery is still pending."""
    keep = context.settings.keep_events_days
    [row] = context.fetch("kept_days", days=keep)
    if row["oldest"] is None:
        return ok(f"no delivery is pending for an event older than {keep} days")
    return warning(
        f"{row['days']} expired days of events are kept for pending deliveries, the oldest from "
        f"{row['oldest']}",
        "a day of events is dropped only when none of its deliveries is pending",
        f"resume, repair or delete the webhooks with these ids: {listed(row['webhook_ids'])}",
    )
