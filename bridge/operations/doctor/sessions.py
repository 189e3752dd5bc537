"""Check the sessions of bridges: whether they can be ended, and whether some outlived theirs."""

from collections.abc import Mapping
from typing import Any

import psycopg

from bridge.operations.doctor.framework import Context, Verdicts, error, listed, ok, warning
from bridge.operations.formatting import format_seconds

#: Longer than any statement or transaction of a running bridge.
ORPHAN_SECONDS = 60


def orphans(context: Context) -> Verdicts:
    """Check for orphaned sessions, and end them if that was requested."""
    rows = context.fetch("orphaned_sessions", seconds=ORPHAN_SECONDS, pid=None)
    found = [row for row in rows if row["is_orphan"]]
    if found and context.end_orphans:
        return _end(context, found)
    if found:
        return error(
            f"orphaned sessions: {listed([_described(row) for row in found])}",
            "no running bridge waits for them, but they keep their locks and may keep others from "
            "draining",
            "run: pgbridge doctor --end-orphans",
        )
    message = "no session of pgbridge is orphaned"
    if hidden := sorted({row["role"] for row in rows if row["state"] is None}):
        message += (
            f"; those of {listed(hidden)} are hidden from {context.connection.info.user}, which "
            "needs pg_read_all_stats to see them"
        )
    return ok(message)


def takeover(context: Context) -> Verdicts:
    """Check that the running bridges can take over from a leader that is frozen."""
    rows = context.fetch("takeover_obstacles")
    if not rows:
        return ok("no running bridge lacks the rights to take over from a frozen leader")
    return warning(
        f"bridges of {listed([row['role'] for row in rows])} could not take over from a frozen "
        f"leader of {rows[0]['leader']}",
        "until its session ends, which can take hours, no event would be drained",
        "; ".join(dict.fromkeys(row["obstacle"] for row in rows)),
    )


def _end(context: Context, found: list[dict[str, Any]]) -> Verdicts:
    ended, failed = [], []
    hint = "they are waiting for the operating system; run the command again later"
    for row in found:
        try:
            # Ends it only if it is still an orphan.
            again = context.fetch("orphaned_sessions", seconds=ORPHAN_SECONDS, pid=row["pid"])
        except psycopg.errors.InsufficientPrivilege:
            hint = f"connect as {row['role']} or a superuser, or run: grant pg_signal_backend to "
            hint += context.connection.info.user
            failed.append(_described(row))
            continue
        if any(each["is_ended"] for each in again):
            ended.append(_described(row))
        elif any(each["pid"] == row["pid"] and each["is_orphan"] for each in again):
            failed.append(_described(row))
    done = f"ended: {listed(ended)}" if ended else "ended no session"
    if failed:
        return error(f"could not end {listed(failed)}; {done}", "they keep their locks", hint)
    return ok(done)


def _described(row: Mapping[str, Any]) -> str:
    place = row["leading_bridge"] or row["address"] or "this machine"
    return (
        f"PID {row['pid']} ({row['application_name']} of {row['role']} on {place}, {row['state']} "
        f"for {format_seconds(row['seconds'])}: {row['statement']})"
    )
