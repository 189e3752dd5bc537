"""What is wrong with the database, as far as pgbridge is concerned, and what to do about it."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg

from bridge import assets
from bridge.access.vault import SecretError, Vault, is_sealed
from bridge.capture.models import AppliedRule, InstallError, Plan, applied_rules
from bridge.capture.plan import plan_install
from bridge.capture.rules import Rule
from bridge.database.migrate import MigrationError, is_installed
from bridge.database.quoting import literal
from bridge.database.rights import ROLES, grants, missing_rights, missing_roles
from bridge.database.sessions import (
    TRANSACTION_POOLER,
    USE_LISTEN_URL,
    Connection,
    fetch,
    is_pooled,
    is_shared,
    one_line,
    open_connection,
)
from bridge.operations.status import (
    Drainer,
    read_drainer,
    spell_count,
    spell_doorbell,
    spell_seconds,
)
from bridge.settings import Settings

APPLICATION_NAME = "pgbridge-doctor"

#: PostgreSQL's versions before this one lack what the bridge is made of.
OLDEST_SERVER = 14
#: No check waits longer for one statement, such as for a table that somebody has locked.
STATEMENT_SECONDS = 5
#: How long a notification may take to come back.
LISTEN_SECONDS = 3.0
#: Shares of the notification queue that are worth a note, and too much.
QUEUE_FILLING, QUEUE_FULL = 0.1, 0.5
#: Events wait in the outbox for milliseconds; this long, and nobody drains it.
OUTBOX_SECONDS = 60
#: Dead rows that vacuum leaves in a queue when it gets around to it are far fewer.
DEAD_ROWS = 100_000
#: Whoever is younger is not what vacuum has been waiting for.
HOLDER_SECONDS = 60
#: A two-phase commit is over in seconds, or has been forgotten.
PREPARED_SECONDS = 300
#: Days whose partitions there are to be; the first two are needed soon.
PARTITION_DAYS, PARTITION_DAYS_NEEDED = 4, 2
#: Receivers refuse a signature whose timestamp is some minutes off; clocks that are kept agree.
CLOCK_SECONDS = 5.0
#: Names in one line.
NAMES_SHOWN = 5

Level = Literal["ok", "note", "wrong"]
#: Level, what, why and fix of a finding.
Verdict = tuple[Level, str, str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to: each text is one line; what is ok has neither a why nor a fix."""

    check: str
    level: Level
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a check looks at.

    Args:
        connection: autocommit, where sessions are had.
        clock: this machine's.
    """

    settings: Settings
    rules: Sequence[Rule]
    connection: Connection
    clock: Callable[[], datetime]

    def fetch(self, name: str, **values: object) -> list[dict[str, Any]]:
        """Run the named query and return its rows: changes nothing, and does not wait for long."""
        with self._looking():
            return fetch(self.connection, name, **values)

    def plan(self) -> Plan:
        """Return what init would do, run by a role that may.

        Raises:
            InstallError: it would refuse.
        """
        with self._looking():
            return plan_install(self.connection, self.rules, check_privileges=False)

    def applied_rules(self) -> list[AppliedRule]:
        """Return the rules as init applied them last."""
        with self._looking():
            return applied_rules(self.connection)

    def drainer(self) -> Drainer:
        """Return which bridge drains."""
        with self._looking():
            return read_drainer(self.connection)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        # Set for one transaction: behind a pooler, the next one may be anybody's.
        with self.connection.transaction():
            self.connection.execute(
                f"set local statement_timeout = '{STATEMENT_SECONDS}s';"
                "set local search_path = pg_catalog, pg_temp"
            )
            yield


Check = Callable[[Context], Iterator[Verdict]]


def _now() -> datetime:
    return datetime.now(UTC)


def examine(
    settings: Settings, rules: Sequence[Rule], *, clock: Callable[[], datetime] = _now
) -> list[Finding]:
    """Run the checks, in order, and return what they found. No database makes this raise.

    Args:
        rules: the rules of capture that init would apply.
        clock: this machine's.
    """
    with ExitStack() as stack:
        # The last that there is gives sessions.
        for name, url in (
            ("BRIDGE_DATABASE_URL", settings.database_url),
            ("BRIDGE_LISTEN_URL", settings.listen_url),
        ):
            if url is None:
                continue
            try:
                connection = stack.enter_context(open_connection(url, APPLICATION_NAME))
            except psycopg.Error as error:
                return [
                    Finding(
                        "connection",
                        "wrong",
                        f"cannot connect to the database: {one_line(error)}",
                        "nothing else can be looked at",
                        f"have {name} name a PostgreSQL that runs, with a role it lets in",
                    )
                ]
        connection.read_only = True
        info = connection.info
        what = f"connected to database {info.dbname} at {info.host} as {info.user}"
        findings = [Finding("connection", "ok", what)]
        for check in CHECKS:
            found = _run(check, Context(settings, rules, connection, clock))
            findings += found
            wrong = any(finding.level == "wrong" for finding in found)
            if connection.closed or (wrong and check in DECISIVE):
                break
    return findings


def _run(check: Check, context: Context) -> list[Finding]:
    """Return what a check found; that it could not look is a finding, too."""
    verdicts = []
    try:
        for verdict in check(context):
            verdicts.append(verdict)  # noqa: PERF402 - those before an error count as well
    except psycopg.Error as error:
        verdicts.append(
            _wrong(
                f"cannot look: {one_line(error)}",
                "the database refused or broke off what this check asks",
                "see what the other lines say; a right that is missing, grant it to this role",
            )
        )
    return [Finding(check.__name__, *verdict) for verdict in verdicts]


def _ok(what: str) -> Verdict:
    return ("ok", what, "", "")


def _note(what: str, why: str, fix: str) -> Verdict:
    return ("note", what, why, fix)


def _wrong(what: str, why: str, fix: str) -> Verdict:
    return ("wrong", what, why, fix)


def _names(names: Sequence[object]) -> str:
    """Return names for one line: the first few, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


# --- the checks, in the order in which they run. Each is named as in Finding.check.


def server_version(context: Context) -> Iterator[Verdict]:
    """PostgreSQL is one that the bridge was made for."""
    info = context.connection.info
    version = info.parameter_status("server_version")
    if info.server_version // 10000 < OLDEST_SERVER:
        yield _wrong(
            f"PostgreSQL {version} is older than {OLDEST_SERVER}",
            "it lacks functions that the bridge is made of",
            f"upgrade the server to PostgreSQL {OLDEST_SERVER} or newer",
        )
    else:
        yield _ok(f"PostgreSQL {version}")


def standby(context: Context) -> Iterator[Verdict]:
    """The server is a primary."""
    [row] = context.fetch("standby")
    if row["is_standby"]:
        yield _wrong(
            "this server is a standby",
            "nothing can be written to it, and LISTEN does not work on it",
            "have BRIDGE_DATABASE_URL name the primary",
        )
    else:
        yield _ok("this server is a primary")


def read_only(context: Context) -> Iterator[Verdict]:
    """Transactions may write."""
    rows = context.fetch("read_only")
    if rows:
        yield _wrong(
            f"default_transaction_read_only is on (set by: {rows[0]['source']})",
            "the bridge cannot move events to the log, nor write down deliveries",
            "reset default_transaction_read_only there, for this role and database",
        )
    else:
        yield _ok("transactions may write")


def triggers_fire(context: Context) -> Iterator[Verdict]:
    """No session runs as a replica, in which ordinary triggers do not fire."""
    rows = context.fetch("triggers_fire")
    if rows:
        yield _wrong(
            f"session_replication_role is replica for {_names([row['place'] for row in rows])}",
            "triggers do not fire there: what is committed there is not captured",
            "; ".join(row["remedy"] for row in rows),
        )
    else:
        yield _ok("triggers fire for every role")


def listen(context: Context) -> Iterator[Verdict]:
    """A notification arrives, and sessions are kept."""
    settings = context.settings
    name = "BRIDGE_LISTEN_URL" if settings.listen_url else "BRIDGE_DATABASE_URL"
    with (
        open_connection(settings.session_url, APPLICATION_NAME) as listener,
        open_connection(settings.database_url, APPLICATION_NAME) as notifier,
    ):
        if is_shared(listener, settings.session_url):
            yield _wrong(
                f"{name} goes through {TRANSACTION_POOLER}",
                "LISTEN and session locks do not work there; with BRIDGE_DOORBELL=poll the lock "
                "of the one that drains is needed all the same",
                USE_LISTEN_URL,
            )
            return
        token = secrets.token_hex(16)
        listener.execute("listen bridge_probe")
        started = time.perf_counter()
        notifier.execute("select pg_notify('bridge_probe', %s)", [token])
        for notification in listener.notifies(timeout=LISTEN_SECONDS):
            if notification.payload == token:
                break
        else:
            yield _wrong(
                f"a notification did not arrive at {name} within {LISTEN_SECONDS:.0f} s",
                "the bridge then sees commits only when it polls"
                if settings.listen_url is None
                else "the two URLs lead to different databases, most likely",
                f"have {name} name the address of the application's PostgreSQL itself",
            )
            return
        milliseconds = (time.perf_counter() - started) * 1000
        what = f"a notification arrived within {milliseconds:.1f} ms"
        if settings.listen_url and is_pooled(notifier):
            what += ", past the pooler of BRIDGE_DATABASE_URL"
        elif is_pooled(listener):
            what += f"; {name} goes through a pooler that keeps sessions"
        yield _ok(what)


def notification_queue(context: Context) -> Iterator[Verdict]:
    """The server's queue of notifications is as good as empty."""
    [row] = context.fetch("notification_queue")
    what = f"the notification queue is {row['usage']:.0%} full"
    if row["usage"] < QUEUE_FILLING:
        yield _ok(what)
        return
    verdict = _note if row["usage"] < QUEUE_FULL else _wrong
    fix = "end the session that listens and sits in an open transaction"
    if row["pids"]:
        fix += f"; those that idle in one for longest have PID {_names(row['pids'])}"
    yield verdict(
        what, "once it is full, every commit that notifies fails, the application's too", fix
    )


def prepared_transactions(context: Context) -> Iterator[Verdict]:
    """No two-phase commit was forgotten."""
    [row] = context.fetch("prepared_transactions", seconds=PREPARED_SECONDS)
    if row["waiting"]:
        yield _wrong(
            f"transactions have been prepared for more than {spell_seconds(PREPARED_SECONDS)} "
            f"and not ended: {_names([literal(gid) for gid in row['waiting']])}",
            "they hold back vacuum, and the drainer waits for them before it stops polling",
            "end each as its application says: commit prepared or rollback prepared, and its name",
        )
    elif row["possible"] and context.settings.doorbell != "poll":
        yield _note(
            "the server allows prepared transactions",
            "PostgreSQL refuses to prepare a transaction that has notified",
            "if the application uses PREPARE TRANSACTION on captured tables: BRIDGE_DOORBELL=poll",
        )
    else:
        yield _ok("no transaction is prepared")


def clock(context: Context) -> Iterator[Verdict]:
    """This machine and the database agree on the time."""
    before = context.clock()
    [row] = context.fetch("clock")
    after = context.clock()
    skew = (row["now"] - (before + (after - before) / 2)).total_seconds()
    if abs(skew) <= CLOCK_SECONDS:
        yield _ok(f"this machine's clock and the database's are {abs(skew):.3f} s apart")
    else:
        yield _wrong(
            f"this machine's clock is {spell_seconds(abs(skew))} "
            f"{'behind' if skew > 0 else 'ahead of'} the database's",
            "receivers refuse a delivery whose signed timestamp is minutes off",
            "have both machines keep their time by NTP",
        )


def rights(context: Context) -> Iterator[Verdict]:
    """The role may do what the bridge does, and so may those that init grants it to."""
    [may] = context.fetch("may_install")
    if not may["has_schema"]:
        database = context.connection.info.dbname
        if may["may_create_schema"]:
            yield _ok(f"role {may['role']} may create the schema")
        else:
            yield _wrong(
                f"role {may['role']} lacks create on database {database}",
                "there is no schema bridge yet, and this role cannot create it",
                "use the owner of the application's tables, or: "
                f"grant create on database {database} to {may['role']}",
            )
        return
    rows = context.fetch("rights")
    missing = missing_rights(rows)
    if missing is not None:
        yield _wrong(
            str(missing),
            "the bridge has to do that, and pgbridge run does not start without",
            missing.remedy,
        )
        return
    absent = missing_roles(rows)
    present = [role for role in ROLES if role not in absent]
    if gone := grants(rows, present):
        yield _note(
            f"of the rights that init grants to {' and '.join(present)}, {len(gone)} are missing",
            "who connects with these roles alone is refused in the middle of something",
            "run: pgbridge init",
        )
        return
    yield _ok(f"role {may['role']} may do what the bridge does")


def schema_version(context: Context) -> Iterator[Verdict]:
    """Schema bridge is there, in this pgbridge's version."""
    try:
        installed = is_installed(context.connection)
    except MigrationError as error:
        yield _wrong(str(error), "pgbridge needs that name", "rename the schema that has it")
        return
    if not installed:
        yield _wrong(
            "pgbridge is not installed in this database",
            "without triggers nothing is captured",
            "run: pgbridge init",
        )
        return
    [row] = context.fetch("schema_version")
    if mismatch := assets.schema_mismatch(row["version"]):
        what, fix = mismatch
        yield _wrong(what, "neither would understand the other", fix)
    else:
        yield _ok(f"schema version {row['version']}")


def outbox(context: Context) -> Iterator[Verdict]:
    """Events leave the outbox."""
    [row] = context.fetch("overview")
    drainer = context.drainer()
    what = f"events in the outbox: {spell_count(row['outbox_count'])}"
    oldest_seconds = row["outbox_oldest_seconds"]
    if oldest_seconds is not None and oldest_seconds > OUTBOX_SECONDS:
        what += f", the oldest captured {spell_seconds(oldest_seconds)} ago"
        if drainer.pid is None:
            yield _wrong(what, "no bridge drains", "start one: pgbridge run")
        else:
            yield _wrong(
                what,
                f"{drainer} holds the lock and does not get on",
                "look into its log for database_task_failed, or restart it",
            )
    elif drainer.pid is None:
        yield _note(
            f"no bridge drains now; {what}",
            "what is captured waits there, and nothing is lost",
            "start one: pgbridge run",
        )
    else:
        yield _ok(f"{what}; {drainer} drains")


def doorbell(context: Context) -> Iterator[Verdict]:
    """Commits ring only where somebody hears it."""
    drainer = context.drainer()
    what = f"the doorbell is {spell_doorbell(drainer)}"
    if drainer.pid is None and drainer.rings:
        yield _note(
            what,
            "no bridge drains: the application's commits pay for notifications that nobody hears",
            "start a bridge, pgbridge run; to be without one costs no more than that",
        )
    elif drainer.pid and drainer.mode not in (None, context.settings.doorbell):
        yield _note(
            what,
            f"BRIDGE_DOORBELL is {context.settings.doorbell} here, and {drainer.mode} where "
            f"{drainer} was started",
            "have every bridge, and init, run with the same",
        )
    else:
        yield _ok(what)


def vacuum(context: Context) -> Iterator[Verdict]:
    """Vacuum keeps up with the queues."""
    queues = context.fetch("vacuum")
    dead = ", ".join(f"{row['dead_rows']} in bridge.{row['queue']}" for row in queues)
    if max(row["dead_rows"] for row in queues) <= DEAD_ROWS:
        yield _ok(f"dead rows: {dead}")
        return
    for holder in context.fetch("vacuum_holders"):
        seconds = holder["seconds"]
        if seconds is None or seconds >= HOLDER_SECONDS:
            age = "" if seconds is None else f" for {spell_seconds(seconds)}"
            yield _wrong(
                f"dead rows: {dead}",
                f"{holder['name']} has held back vacuum{age}; the drain has to skip dead rows",
                f"if it is not needed any more: {holder['remedy']}",
            )
            return
    yield _wrong(
        f"dead rows: {dead}",
        "nobody holds back vacuum, it does not get around to them; the drain has to skip them",
        "have autovacuum on, and run: vacuum bridge.outbox, bridge.delivery_queue",
    )


def partitions(context: Context) -> Iterator[Verdict]:
    """The logs have partitions for today and the days to come."""
    rows = context.fetch("partitions", days=PARTITION_DAYS)
    if rows[0]["never_made"]:
        yield _note(
            "the logs have no partitions yet",
            "pgbridge run makes them when it starts",
            "start one: pgbridge run",
        )
        return
    missing = [partition for row in rows for partition in row["missing"]]
    if not missing:
        yield _ok(f"the logs have their partitions for {PARTITION_DAYS} days")
        return
    needed = any(row["missing"] for row in rows if row["ahead"] < PARTITION_DAYS_NEEDED)
    verdict = _wrong if needed else _note
    yield verdict(
        f"the logs lack {_names(missing)}",
        "without the day's partition nothing can be drained or settled",
        "pgbridge run makes them at its start and every 10 minutes; if it runs, look into its log",
    )


def rules(context: Context) -> Iterator[Verdict]:
    """The rules fit the database, and are applied as they are written."""
    try:
        planned = context.plan()
    except InstallError as error:
        yield _wrong(
            str(error),
            "init refuses such a rule; one that was applied before sends events without a payload",
            "have the rule say what the table is now, and run: pgbridge init",
        )
        return
    differing = {"not applied": planned.new, "no longer wanted": planned.removed}
    words = [f"{what}: {_names(names)}" for what, names in differing.items() if names]
    if planned.changed:
        words.append(f"applied otherwise: {_names(planned.changed)}")
    if words:
        yield _wrong(
            f"rules {'; '.join(words)}",
            "what is captured is not what the rules say",
            "see what would change, pgbridge init --dry-run, and run: pgbridge init",
        )
        return
    for remark in planned.remarks:
        yield _note(remark, "PostgreSQL fires a table's triggers for its own rows only", "add them")
    yield _ok(f"{len(planned.kept)} rules are applied as they are written")


def triggers(context: Context) -> Iterator[Verdict]:
    """What init made of the rules stands as it was made."""
    applied = context.applied_rules()
    touched = [f"{rule.name}: {damage}" for rule in applied if (damage := rule.damage)]
    if touched:
        yield _wrong(
            f"made by init and changed since: {'; '.join(touched[:NAMES_SHOWN])}",
            "these rules do not capture what they say, or nothing at all",
            "run: pgbridge init",
        )
    else:
        yield _ok(f"the triggers and functions of {len(applied)} rules are as init made them")


def paused_rules(context: Context) -> Iterator[Verdict]:
    """Every rule is at work."""
    paused = [rule.name for rule in context.applied_rules() if rule.is_paused]
    if paused:
        yield _note(
            f"paused: {_names(paused)}",
            "they capture nothing, and what happens meanwhile is not captured later",
            "pgbridge capture resume",
        )
    else:
        yield _ok("no rule is paused")


def capture_errors(context: Context) -> Iterator[Verdict]:
    """Every rule could compute the payloads of its events."""
    rows = context.fetch("capture_errors")
    if not rows:
        yield _ok("every payload could be computed")
        return
    told = [
        f"{row['name']}: {row['failure_count']} times, last {spell_seconds(row['seconds'])} ago "
        f"({' '.join(row['last_error'].split())})"
        for row in rows
    ]
    yield _wrong(
        f"payloads that could not be computed, by rule: {'; '.join(told[:NAMES_SHOWN])}",
        "these events went out with the row's key and _capture_error alone",
        "have the rule say what the table is now, run pgbridge init, and have the application "
        "reconnect if a column changed its type",
    )


def webhook_secrets(context: Context) -> Iterator[Verdict]:
    """Secrets of webhooks are encrypted, and can be opened."""
    vault = Vault(context.settings.secret_keys)
    # Webhooks with a secret like that.
    unopened, clear, outdated = set(), set(), set()
    rows = context.fetch("stored_secrets")
    for row in rows:
        for stored in filter(None, (row["secret"], row["previous_secret"])):
            try:
                vault.open(stored)
            except SecretError:
                unopened.add(row["webhook_id"])
                continue
            if not is_sealed(stored):
                clear.add(row["webhook_id"])
            elif not vault.is_current(stored):
                outdated.add(row["webhook_id"])
    if unopened:
        whose = f"secrets of {len(unopened)} webhooks: {_names(sorted(unopened))}"
        yield _wrong(
            f"no key in BRIDGE_SECRET_KEY opens the {whose}"
            if vault.encrypts
            else f"BRIDGE_SECRET_KEY is not set, and encrypted are the {whose}",
            "a bridge with these settings cannot sign what it has to deliver to them",
            "add the key that they were encrypted with, behind the others, separated by a comma; "
            "if it is lost, give these webhooks new secrets",
        )
    elif clear and not vault.encrypts:
        yield _note(
            f"webhooks whose secrets are stored in the clear: {len(clear)}",
            "whoever reads bridge.webhooks, or a backup of it, can sign like the bridge",
            "set BRIDGE_SECRET_KEY for every bridge; a key is what this prints: "
            "openssl rand -base64 32",
        )
    elif clear:
        yield _note(
            f"BRIDGE_SECRET_KEY is set, and secrets are stored in the clear: "
            f"of webhooks {_names(sorted(clear))}",
            "a bridge that has the key encrypts them when it starts, and every 10 minutes",
            "start every bridge anew with the key; if one runs with it, look into its log",
        )
    elif outdated:
        yield _note(
            f"secrets are encrypted with a key that is not the first: "
            f"of webhooks {_names(sorted(outdated))}",
            "a bridge with these keys encrypts them anew when it starts, and every 10 minutes; "
            "until then the older key is needed",
            "start every bridge anew with these keys; if one runs with them, look into its log",
        )
    elif rows:
        yield _ok(f"the secrets of {len(rows)} webhooks are encrypted, and can be opened")
    else:
        yield _ok("no webhook has a secret")


def bot_tokens(context: Context) -> Iterator[Verdict]:
    """The bot's own tokens can be read, where they are to be valid."""
    if not context.settings.bot_tokens:
        yield _ok("the bot's own tokens are not valid here, as BRIDGE_BOT_TOKENS is off")
        return
    for row in context.fetch("bot_tokens_table"):
        yield _wrong(
            f"public.web_api_tokens is not read: {row['reason']}",
            "what its owner wrote would run with the rights of the bridge, and pgbridge run does "
            "not start",
            "set BRIDGE_BOT_TOKENS=off, or have that taken from the table",
        )
        return
    try:
        with context.connection.transaction():
            context.connection.execute("set transaction read only")
            context.connection.execute(
                "select id, name, token_hash, is_active, expires_at"
                " from only public.web_api_tokens limit 0"
            )
    except psycopg.Error as error:
        yield _wrong(
            f"public.web_api_tokens cannot be read: {one_line(error)}",
            "BRIDGE_BOT_TOKENS is on, and pgbridge run does not start without that table",
            "let its owner run: grant select (id, name, token_hash, is_active, expires_at) on "
            f"public.web_api_tokens to {context.connection.info.user}; or switch it off",
        )
    else:
        yield _ok("the bot's own tokens can be read")


CHECKS: tuple[Check, ...] = (
    server_version,
    standby,
    read_only,
    triggers_fire,
    listen,
    notification_queue,
    prepared_transactions,
    clock,
    rights,
    schema_version,
    # From here on, of schema bridge as this pgbridge knows it.
    outbox,
    doorbell,
    vacuum,
    partitions,
    rules,
    triggers,
    paused_rules,
    capture_errors,
    webhook_secrets,
    bot_tokens,
)
#: When one of these finds something wrong, those after it would only say so again.
DECISIVE: tuple[Check, ...] = (server_version, standby, schema_version)
