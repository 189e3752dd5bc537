"""Check the PostgreSQL server and the connection to it."""

import secrets
import time

from bridge.capture.replication import publication_problem, slot_remark
from bridge.database.quoting import literal
from bridge.database.sessions import (
    TRANSACTION_POOLER,
    USE_LISTEN_URL,
    is_pooled,
    is_shared,
    open_connection,
)
from bridge.operations.doctor.framework import (
    APPLICATION_NAME,
    Context,
    Verdicts,
    error,
    listed,
    ok,
    warning,
)
from bridge.operations.formatting import format_seconds

#: The oldest supported major version of PostgreSQL.
OLDEST_SERVER = 14
#: How long a test notification may take.
LISTEN_SECONDS = 3.0
#: Usage of the notification queue that is worth a warning, and an error.
QUEUE_WARNING, QUEUE_ERROR = 0.1, 0.5
#: A two-phase commit takes seconds. One this old was forgotten.
PREPARED_SECONDS = 300
#: Receivers reject timestamps that are minutes off. Synchronized clocks differ by far less.
CLOCK_SECONDS = 5.0


def server_version(context: Context) -> Verdicts:
    """Check that this version of PostgreSQL is supported."""
    info = context.connection.info
    version = info.parameter_status("server_version")
    if info.server_version // 10000 < OLDEST_SERVER:
        return error(
            f"PostgreSQL {version} is older than {OLDEST_SERVER}",
            "it lacks features that pgbridge needs",
            f"upgrade the server to PostgreSQL {OLDEST_SERVER} or newer",
        )
    return ok(f"PostgreSQL {version}")


def standby(context: Context) -> Verdicts:
    """Check that the server is a primary."""
    [row] = context.fetch("standby")
    if row["is_standby"]:
        return error(
            "this server is a standby",
            "a standby rejects writes and LISTEN",
            "point BRIDGE_DATABASE_URL to the primary",
        )
    return ok("this server is a primary")


def read_only(context: Context) -> Verdicts:
    """Check that transactions may write."""
    rows = context.fetch("read_only")
    if rows:
        return error(
            f"default_transaction_read_only is on (set by: {rows[0]['source']})",
            "the bridge can neither drain events nor record deliveries",
            "reset default_transaction_read_only there for this role and database",
        )
    return ok("transactions can write")


def listen(context: Context) -> Verdicts:
    """Check that notifications arrive and that sessions are not shared."""
    settings = context.settings
    name = "BRIDGE_LISTEN_URL" if settings.listen_url else "BRIDGE_DATABASE_URL"
    with (
        open_connection(settings.session_url, APPLICATION_NAME) as listener,
        open_connection(settings.database_url, APPLICATION_NAME) as notifier,
    ):
        if is_shared(listener, settings.session_url):
            return error(
                f"{name} goes through {TRANSACTION_POOLER}",
                "LISTEN and session locks do not work there; the bridge needs the lock even with "
                "BRIDGE_DOORBELL=poll",
                USE_LISTEN_URL,
            )
        token = secrets.token_hex(16)
        listener.execute("listen bridge_probe")
        started = time.perf_counter()
        notifier.execute("select pg_notify('bridge_probe', %s)", [token])
        for notification in listener.notifies(timeout=LISTEN_SECONDS):
            if notification.payload == token:
                break
        else:
            return error(
                f"a test notification did not reach {name} within {LISTEN_SECONDS:.0f} s",
                "the bridge can find events only by polling"
                if settings.listen_url is None
                else "the two URLs probably lead to different databases",
                f"point {name} directly to the application's PostgreSQL",
            )
        milliseconds = (time.perf_counter() - started) * 1000
        message = f"a test notification arrived after {milliseconds:.1f} ms"
        if settings.listen_url and is_pooled(notifier):
            message += ", bypassing the pooler of BRIDGE_DATABASE_URL"
        elif is_pooled(listener):
            message += f"; {name} goes through a pooler in session mode"
        return ok(message)


def notification_queue(context: Context) -> Verdicts:
    """Check that the server's notification queue is almost empty."""
    [row] = context.fetch("notification_queue")
    message = f"the notification queue is {row['usage']:.0%} full"
    if row["usage"] < QUEUE_WARNING:
        return ok(message)
    verdict = warning if row["usage"] < QUEUE_ERROR else error
    hint = "end the listening session that keeps a transaction open"
    if row["pids"]:
        hint += f"; those idle in a transaction for longest have PID {listed(row['pids'])}"
    return verdict(
        message,
        "when the queue is full, every commit that notifies fails, including the application's",
        hint,
    )


def replication(context: Context) -> Verdicts:
    """Check that schema bridge is not replicated to subscribers by accident."""
    rows = context.fetch("replication")
    if (problem := publication_problem(rows)) is not None:
        return error(*problem)
    if (remark := slot_remark(rows)) is not None:
        return warning(
            remark,
            "a consumer that does not expect these tables may fail, and its slot then retains WAL",
            "see docs/capture.md, Logical replication",
        )
    return ok("no publication and no logical slot includes schema bridge")


def prepared_transactions(context: Context) -> Verdicts:
    """Check for forgotten two-phase commits."""
    [row] = context.fetch("prepared_transactions", seconds=PREPARED_SECONDS)
    if row["waiting"]:
        return error(
            f"transactions prepared more than {format_seconds(PREPARED_SECONDS)} ago are still "
            f"open: {listed([literal(gid) for gid in row['waiting']])}",
            "they hold back vacuum, and the bridge keeps polling until they end",
            "run commit prepared or rollback prepared for each, as its application requires",
        )
    if row["possible"] and context.settings.doorbell != "poll":
        return warning(
            "the server allows prepared transactions",
            "PostgreSQL cannot prepare a transaction that has sent a notification",
            "if the application uses PREPARE TRANSACTION on captured tables, set "
            "BRIDGE_DOORBELL=poll",
        )
    return ok("no prepared transaction is open")


def clock(context: Context) -> Verdicts:
    """Check that this machine's clock agrees with the database's."""
    before = context.clock()
    [row] = context.fetch("clock")
    after = context.clock()
    skew = (row["now"] - (before + (after - before) / 2)).total_seconds()
    if abs(skew) <= CLOCK_SECONDS:
        return ok(f"this machine's clock and the database's differ by {abs(skew):.3f} s")
    return error(
        f"this machine's clock is {format_seconds(abs(skew))} "
        f"{'behind' if skew > 0 else 'ahead of'} the database's",
        "receivers reject a delivery whose signed timestamp is minutes off",
        "synchronize both clocks with NTP",
    )
