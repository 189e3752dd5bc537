"""The service role can do what a bridge needs; the reader sees everything except secrets."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from bridge import assets
from bridge.capture.apply import install_lock
from bridge.capture.models import script_of
from bridge.capture.plan import plan_install
from bridge.capture.rules import load_preset
from bridge.database.migrate import InstallError
from bridge.database.rights import READER, ROLES, SERVICE, missing_rights
from bridge.database.sessions import fetch, open_session
from bridge.operations.status import read_status
from tests.conftest import init
from tests.integration.relaying import DRAIN
from tests.system.processes import as_service

Bot = psycopg.Connection[tuple[Any, ...]]
Right = tuple[str, str, str, str | None]

QUERIES = Path(__file__).parents[2] / "sql" / "queries"
#: Queries that only the owner runs, to install.
OWNERS = {"bootstrap", "disable_row_security", "mark_rule_paused"}
SECRETS = {
    ("webhooks", "secret"),
    ("webhooks", "previous_secret"),
    ("api_tokens", "token_hash"),
    ("ws_tickets", "ticket_hash"),
    ("console_sessions", "session_hash"),
}
#: Useful only to the bridge, and only for seconds.
TICKETS = {("ws_tickets", column) for column in ("token_source", "token_id", "expires_at")}


@pytest.fixture
def service(bridge_url: str) -> Iterator[Bot]:
    """Return a session with the rights of the service."""
    with psycopg.connect(as_service(bridge_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def reader(bridge_url: str) -> Iterator[Bot]:
    """Return a session with the rights of the reader."""
    with psycopg.connect(bridge_url, autocommit=True) as connection:
        connection.execute(f"set session authorization {READER}".encode())
        yield connection


def granted(connection: Bot) -> set[Right]:
    """Return the rights on schema bridge of every role except the owner, from the catalog."""
    rows = connection.execute("""
        select grantee, name, lower(privilege_type), column_name
        from (
            select n.nspowner as owner, 'bridge' as name, null as column_name, nspacl as acl
            from pg_namespace n where nspname = 'bridge'
            union all
            select relowner, 'bridge.' || relname, null, relacl
            from pg_class where relnamespace = 'bridge'::regnamespace
            union all
            select c.relowner, 'bridge.' || relname, attname, attacl
            from pg_attribute a join pg_class c on c.oid = a.attrelid
            where relnamespace = 'bridge'::regnamespace and attacl is not null
            union all
            select proowner, 'bridge.' || proname || '(' || oidvectortypes(proargtypes) || ')',
                   null, coalesce(proacl, acldefault('f', proowner))
            from pg_proc where pronamespace = 'bridge'::regnamespace
        ) as object
        cross join lateral aclexplode(object.acl) as entry
        where entry.grantee <> object.owner
    """).fetchall()
    names = {0: "public"} | dict(connection.execute("select oid, rolname from pg_roles").fetchall())
    return {(names[grantee], *rest) for grantee, *rest in rows}


def listed(connection: Bot) -> set[Right]:
    """Return the rights that ``rights.sql`` lists."""
    return {
        (row["role"], row["object"], privilege, column)
        for row in fetch(connection, "rights")
        for privilege in row["privileges"].split(", ")
        for column in (row["columns"].split(", ") if row["columns"] else [None])
    }


# --- what init grants


def test_init_grants_exactly_the_listed_rights(bridge_url: str, bot: Bot) -> None:
    assert granted(bot) == listed(bot)
    assert {role for role, *_ in listed(bot)} == set(ROLES)


def test_init_restores_only_revoked_rights(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        f"revoke delete on bridge.outbox from {SERVICE};"
        f"revoke execute on function bridge.lead() from {SERVICE};"
        f"revoke select (name) on bridge.webhooks from {READER};"
        f"revoke usage on schema bridge from {READER}".encode()
    )
    [step] = init(bridge_url).steps
    assert step.sql.splitlines()[:3] == [
        f"grant select, insert, delete on table bridge.outbox to {SERVICE};",
        f"grant execute on function bridge.lead() to {SERVICE};",
        f"grant usage on schema bridge to {READER};",
    ]
    assert granted(bot) == listed(bot)
    assert init(bridge_url).steps == []


def test_additional_grants_are_left_alone(bridge_url: str, bot: Bot) -> None:
    bot.execute(f"grant update on bridge.outbox to {SERVICE}".encode())
    assert init(bridge_url).steps == []
    assert granted(bot) - listed(bot) == {(SERVICE, "bridge.outbox", "update", None)}


def test_dry_run_shows_the_grants(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        script = script_of(plan_install(connection, load_preset("telegram-shop")).steps)
        every = [row["grant_sql"] for row in fetch(connection, "rights")]
    assert [line for line in script.splitlines() if line.startswith("grant ")] == every


def test_public_may_execute_no_function(bot: Bot) -> None:
    functions = bot.execute("""
        select proname, has_function_privilege('pg_monitor', oid, 'execute')
        from pg_proc where pronamespace = 'bridge'::regnamespace
    """).fetchall()
    assert len(functions) > 20
    assert [name for name, anybody in functions if anybody] == []


def test_security_definer_functions_set_search_path(
    bot: Bot,
) -> None:
    rows = bot.execute("""
        select proname, 'search_path=pg_catalog, pg_temp' = any (proconfig)
        from pg_proc where pronamespace = 'bridge'::regnamespace and prosecdef
          and proname !~ '^capture_'
    """).fetchall()
    assert dict(rows) == {
        "create_partitions": True,
        "drop_expired_partition": True,
        "lead": True,
        "audit": True,
        "forget_audit": True,
        "sequences_behind": True,
        "advance_sequences": True,
        "give_event_ids": True,
    }


# --- the service


def _explained(name: str) -> tuple[str, int]:
    """Return a query with numbered parameters, and their number."""
    text = assets.query(name)
    named = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for number, parameter in enumerate(named, 1):
        text = text.replace(f"%({parameter})s", f"${number}")
    numbered = [int(number) for number in re.findall(r"\$(\d+)", text)]
    return text, max(numbered, default=0)


def refused_queries(url: str, likely: str = "") -> Iterator[str]:
    """Yield the queries that the service may not run, those that contain a text first."""
    queries = {path.stem: _explained(path.stem) for path in QUERIES.iterdir()}
    with psycopg.connect(as_service(url), autocommit=True, prepare_threshold=None) as service:
        for name in sorted(
            queries.keys() - OWNERS, key=lambda name: likely not in queries[name][0]
        ):
            text, count = queries[name]
            nulls = f"({', '.join(['null'] * count)})" if count else ""
            try:
                service.execute(f"prepare {name} as {text}".encode())
                # EXPLAIN checks the same rights as running it: on tables, columns and functions.
                service.execute(f"explain execute {name}{nulls}".encode())
            except errors.InsufficientPrivilege:
                yield name


#: Rights that only functions and triggers need, and rights on sequences.
NEEDED_WITHIN = {
    ("bridge.outbox_id_seq", "select"),  # last_ids
    ("bridge.doorbell", "select"),  # drainer, ring
    ("bridge.doorbell", "update"),  # begin_to_drain, switch_doorbell
    ("bridge.event_id", "select"),  # log_bounds
    ("bridge.leader", "select"),  # leader_pid
    ("bridge.log_start", "select"),  # log_bounds
    ("bridge.delivery_log", "delete"),  # requeue
    ("bridge.redelivery_lock", "insert"),  # requeue
    ("bridge.deleted_webhooks", "insert"),  # note_deleted_webhook
    ("bridge.audit(text, bigint, text, jsonb)", "execute"),  # audit_change, redeliver
    ("bridge.clock", "select"),  # watch_clock, shift_times
    ("bridge.clock", "update"),  # watch_clock, shift_times
    ("bridge.dead_letters", "insert"),  # set_event_aside, log_apart, queue_deliveries
    ("bridge.is_of_values(text)", "execute"),  # set_event_aside, log_apart
    ("bridge.log_apart(bridge.delivery_log, text)", "execute"),  # settle_apart, give_up_next
    ("bridge.queue_deliveries(bridge.deferred_events, bigint[])", "execute"),  # queue_deferred
    ("bridge.deferred_events", "update"),  # queue_deferred
    ("bridge.deferred_events", "delete"),  # queue_deferred
    ("bridge.passes(jsonpath, jsonb)", "execute"),  # passing, queue_deferred
    ("bridge.is_event_type(text)", "execute"),  # is_scope
    ("bridge.is_scope(text)", "execute"),  # are_scopes
    ("bridge.are_scopes(text[])", "execute"),  # api_tokens_scopes_known
    ("bridge.filter_problem(text)", "execute"),  # to_filter
    ("bridge.to_filter(text)", "execute"),  # create_webhook, update_webhook, check_filter
    ("bridge.wake_couriers()", "execute"),  # redeliver, redeliver_failed, resume_webhook
    (
        f"bridge.requeue(bigint, bigint[], double precision{', timestamp with time zone' * 3})",
        "execute",
    ),
    ("bridge.requeue_batch(bigint)", "execute"),  # redeliver_finished, continue_redelivery
    (
        f"bridge.redeliver_finished(bigint{', timestamp with time zone' * 2}, boolean,"
        " double precision, text)",
        "execute",
    ),  # redeliver_failed
    ("bridge.redeliveries", "insert"),  # redeliver_finished
    ("bridge.redeliveries", "update"),  # redeliver_finished, requeue_batch, cancel_redelivery
}


def test_service_has_exactly_the_rights_its_queries_need(bridge_url: str, bot: Bot) -> None:
    # The bot's own table of tokens, readable for the bridge.
    bot.execute(
        "create table public.web_api_tokens (id serial, name varchar, token_hash varchar,"
        " token_prefix varchar, is_active boolean, expires_at timestamptz)"
    )
    bot.execute(
        "grant select (id, name, token_hash, is_active, expires_at)"
        " on public.web_api_tokens to bridge_service"
    )
    assert list(refused_queries(bridge_url)) == []
    unneeded = set()
    for row in fetch(bot, "rights"):
        if row["role"] != SERVICE:
            continue
        what = f"{row['kind']} {row['object']}"
        name = row["object"].partition("(")[0]
        for privilege in row["privileges"].split(", "):
            for column in row["columns"].split(", ") if row["columns"] else [None]:
                right = f"{privilege} ({column})" if column else privilege
                bot.execute(f"revoke {right} on {what} from {SERVICE}".encode())
                if not any(refused_queries(bridge_url, likely=name)):
                    unneeded.add((row["object"], right))
                bot.execute(row["grant_sql"].encode())
    assert unneeded == NEEDED_WITHIN


def test_service_role_runs_everything_a_bridge_does(service: Bot, bot: Bot) -> None:
    """Covers functions and triggers, which EXPLAIN does not look into."""
    values: Callable[..., Any] = lambda text, *args: service.execute(text, args).fetchall()  # noqa: E731
    assert values("select bridge.lead()") == [(True,)]
    assert values("select setval('bridge.doorbell', 0)") == [(0,)]
    assert values("select pg_sequence_last_value('bridge.outbox_id_seq')") == [(None,)]
    bot.execute("insert into public.users (auth_type, username) values ('telegram', 'ivan')")
    [(webhook,)] = values(
        "insert into bridge.webhooks (name, url, event_type, filter)"
        " values ('w', 'http://localhost/', 'user.*', '$.username == \"ivan\"') returning id"
    )
    drained = fetch(service, "drain", *DRAIN)
    assert len(drained) == 1
    values(
        "insert into bridge.deferred_events values (1, now(), 'user.created', now(), now(), 1)"
        " returning event_id"
    )
    queued = "select is_empty from bridge.queue_deferred(10, 0)"
    assert [values(queued), values(queued)] == [[(False,)], [(True,)]]
    [(delivery,)] = values("select id from bridge.delivery_queue")
    assert values("select bridge.redeliver(%s)", delivery) == [(False,)]
    # As settle does.
    values(
        "with done as (delete from bridge.delivery_queue returning *), logged as ("
        " insert into bridge.delivery_log (id, webhook_id, event_id, event_recorded_at, event_type,"
        "  status, attempt_number, created_at)"
        " select id, webhook_id, event_id, event_recorded_at, event_type, 'failed', 1, created_at"
        " from done returning 1)"
        " update bridge.webhooks set failed_count = 1 returning id"
    )
    values(
        "insert into bridge.deferred_events values (2, now(), 'user.created', now(), now(), 1)"
        " returning event_id"
    )
    values("select is_empty from bridge.queue_deferred(1, 0)")
    values("select bridge.give_up_next(%s, 'no')", webhook)
    aside = "select dead_letter_id from bridge.set_event_aside(%s, 'no')"
    for number in (10, 11):
        values(
            "insert into bridge.outbox (id, event_type, payload) overriding system value"
            " values (%s, 'x', '{}') returning id",
            number,
        )
    assert [values(aside, number) for number in (10, 11)] == [[(1,)], [(2,)]]
    assert len(values("select id from bridge.dead_letters_page(null, null, 9, 9)")) == 2
    values("select bridge.retry_dead_letter(1), bridge.drop_dead_letter(2)")
    since = "now() - interval '1 hour'"
    assert values(f"select bridge.redeliver_failed(%s, {since})", webhook) == [(1,)]
    values("select bridge.pause_webhook(%s), bridge.resume_webhook(%s)", webhook, webhook)
    values("update bridge.webhooks set failed_count = 1, is_active = false returning id")
    values("update bridge.webhooks set is_active = true returning id")
    assert values("delete from bridge.webhooks returning id") == [(webhook,)]
    assert values("select id from bridge.deleted_webhooks") == [(webhook,)]
    assert values("select id from bridge.delivery_queue") == []
    assert values("select bridge.create_partitions(current_date + 20, 2)") == [(8,)]
    values("select bridge.create_partitions(current_date - 50, 1)")
    [(dropped,)] = values("select bridge.drop_expired_partition('events', 35)")
    assert dropped.startswith("events_p")
    assert values("select count(*) from bridge.webhook_health") == [(0,)]


REFUSED_TO_THE_SERVICE = [
    "create table bridge.mine ()",
    "create function bridge.mine() returns int language sql as 'select 1'",
    "drop table bridge.outbox",
    "drop schema bridge cascade",
    "alter table bridge.events add column mine int",
    "alter table bridge.outbox disable trigger all",
    "create index on bridge.events (event_type)",
    "create trigger mine before insert on bridge.outbox"
    " for each row execute function bridge.forgive_webhook()",
    "comment on table bridge.outbox is 'mine'",
    "truncate bridge.outbox",
    "update bridge.outbox set payload = '{}'",
    "update bridge.events set payload = '{}'",
    "delete from bridge.events",
    "update bridge.delivery_log set status = 'success'",
    "delete from bridge.delivery_attempts",
    "insert into bridge.migrations (version, name, checksum) values (99, 'x', 'x')",
    "delete from bridge.migrations",
    "insert into bridge.partitioned_logs values ('outbox')",
    "update bridge.capture_rules set function_sql = 'drop schema public cascade'",
    "update bridge.capture_rules set paused_at = now()",
    "insert into bridge.capture_rules (name, table_name, trigger_name, function_name)"
    " values ('x', 'x', 'x', 'x')",
    "update bridge.leader set pid = 1",
    "insert into bridge.leader (pid, role_id, lock_key) values (1, 1, 1)",
    "update bridge.api_tokens set scopes = '{admin}'",
    "update bridge.api_tokens set token_hash = 'x'",
    "delete from bridge.api_tokens",
    "insert into bridge.audit_log (action, via, actor, changes) values ('x', 'sql', 'x', '{}')",
    "update bridge.audit_log set actor = 'another actor'",
    "delete from bridge.audit_log",
    "truncate bridge.audit_log",
    "alter table bridge.webhooks disable trigger audit_update",
    "select setval('bridge.event_id', 1)",
    "select bridge.emit('mine.made')",
    "select bridge.note('a', 'b', '{}')",
    "lock table bridge.partitioned_logs in share mode",
    "lock table bridge.leader in row exclusive mode",
    "select * from public.users",
    "insert into public.users (auth_type) values ('telegram')",
    "create trigger mine after insert on public.users"
    " for each row execute function bridge.capture_user_created()",
    "set session authorization postgres",
    "set role postgres",
]


@pytest.mark.parametrize("statement", REFUSED_TO_THE_SERVICE, ids=lambda text: text[:60])
def test_service_may_not(statement: str, service: Bot) -> None:
    with pytest.raises(errors.InsufficientPrivilege), service.transaction():
        service.execute(statement.encode())


@pytest.mark.parametrize(
    "call",
    [
        "create_partitions(current_date, 101)",
        "create_partitions(current_date, 0)",
        "create_partitions(current_date, null)",
        "create_partitions(current_date + 101, 1)",
        "create_partitions(current_date - 402, 1)",
        "create_partitions('infinity', 1)",
        "create_partitions(null, 1)",
        "drop_expired_partition('events', -1)",
        "drop_expired_partition('events', null)",
        "drop_expired_partition('outbox', 1)",
        "drop_expired_partition('events\"; drop table bridge.outbox; --', 1)",
        "drop_expired_partition(null, 1)",
    ],
)
def test_owner_functions_bound_their_arguments(call: str, service: Bot) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        service.execute(f"select bridge.{call}".encode())


def test_partition_of_today_or_later_is_never_dropped(service: Bot, bot: Bot) -> None:
    needed = (
        "select count(*) from pg_class where relname ~ '^events_p'"
        " and right(relname, 8) >= to_char(now() at time zone 'UTC', 'YYYYMMDD')"
    )
    before = bot.execute(needed.encode()).fetchone()
    while service.execute("select bridge.drop_expired_partition('events', 0)").fetchone() != (
        None,
    ):
        pass
    assert bot.execute(needed.encode()).fetchone() == before
    assert before not in [(0,), None]


def test_missing_rights_are_reported_in_one_line(bot: Bot) -> None:
    assert missing_rights(fetch(bot, "rights")) is None
    bot.execute("set session authorization pg_monitor")
    found = missing_rights(fetch(bot, "rights"))
    assert found is not None
    message, remedy = found
    said = re.fullmatch(
        r"role pg_monitor lacks usage on schema bridge, (?:\w+ on bridge\.\w+, ){3}"
        r"\w+ on bridge\.\w+ and (\d+) more",
        message,
    )
    assert said is not None
    assert int(said[1]) > 45
    assert remedy == f"grant {SERVICE} to pg_monitor"


# --- the reader


def test_reader_may_read_every_column_except_secrets(reader: Bot) -> None:
    columns = reader.execute("""
        select c.relname, a.attname, has_column_privilege(c.oid, a.attnum, 'select')
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where relnamespace = 'bridge'::regnamespace and relkind in ('r', 'p', 'v')
          and attnum > 0 and not attisdropped and relname !~ '_p[0-9]{8}$'
    """).fetchall()
    assert len(columns) > 100
    assert {(table, column) for table, column, may in columns if not may} == SECRETS | TICKETS


def test_columns_with_secrets_are_hidden_from_the_reader(bot: Bot) -> None:
    named = bot.execute("""
        select c.relname, a.attname
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where relnamespace = 'bridge'::regnamespace and relkind in ('r', 'p', 'v', 'm')
          and attname ~ 'secret|hash|password' and attname !~ '_at$' and attnum > 0
    """).fetchall()
    assert set(named) == SECRETS


@pytest.mark.parametrize(
    "statement",
    [
        "select secret from bridge.webhooks",
        "select * from bridge.webhooks",
        "select w from bridge.webhooks w",
        "select to_jsonb(w) from bridge.webhooks w",
        "select count(previous_secret) from bridge.webhooks",
        "select 1 from bridge.webhooks where secret like 'a%'",
        "select 1 from bridge.webhooks order by secret",
        "select token_hash from bridge.api_tokens",
        "select * from bridge.ws_tickets",
        "select session_hash from bridge.console_sessions",
        "select bridge.audit('x', 1, 'x', '{}')",
        "select bridge.forget_audit(30)",
        "copy bridge.api_tokens to stdout",
        "create table bridge.mine ()",
        "select id from bridge.webhooks for update",
        "select id from bridge.webhooks for key share",
        "select bridge.lead()",
        "select bridge.emit('mine.made')",
        "select bridge.redeliver(1)",
        "select bridge.redeliver_failed(1, now(), null, true)",
        "select bridge.pause_webhook(1)",
        "select bridge.create_partitions(current_date, 1)",
        "select bridge.drop_expired_partition('events', 1)",
        "select nextval('bridge.event_id')",
        "select setval('bridge.doorbell', 1)",
        "select * from public.users",
    ],
)
def test_reader_may_not(statement: str, reader: Bot) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        reader.execute(statement.encode())


def test_reader_cannot_write_or_block_anything(reader: Bot) -> None:
    tables = reader.execute(
        "select relname from pg_class where relnamespace = 'bridge'::regnamespace"
        " and relkind in ('r', 'p')"
    ).fetchall()
    assert len(tables) > 15
    for (table,) in tables:
        for statement in (
            "insert into {} default values",
            "delete from {}",
            "truncate {}",
            # Of all that the bridge does, only dropping a day conflicts with ACCESS SHARE.
            "lock table {} in row share mode",
            "lock table {} in row exclusive mode",
            "lock table {} in share mode",
            "lock table {} in access exclusive mode",
        ):
            with pytest.raises(errors.InsufficientPrivilege), reader.transaction():
                reader.execute(statement.format(f"bridge.{table}").encode())


def test_reader_sees_the_status(bridge_url: str, reader: Bot, service: Bot) -> None:
    service.execute("select bridge.lead()")
    status = read_status(reader)
    assert status.overview.drainer.pid == service.info.backend_pid
    assert status.overview.doorbell.rings is False


def test_long_reader_postpones_only_the_drop(reader: Bot, service: Bot) -> None:
    service.execute("select bridge.create_partitions(current_date - 50, 1)")
    with reader.transaction():
        reader.execute("select count(*) from bridge.events")
        with pytest.raises(errors.LockNotAvailable):
            service.execute("select bridge.drop_expired_partition('events', 35)")
        service.execute("select bridge.create_partitions(current_date + 20, 1)")
        service.execute(
            "insert into bridge.events (id, event_type, payload, occurred_at)"
            " values (1, 'a.b', '{}', now())"
        )
    found = service.execute("select bridge.drop_expired_partition('events', 35)").fetchone()
    assert found != (None,)


# --- the install lock


def test_holder_of_the_install_lock_is_named(bridge_url: str, bot: Bot) -> None:
    with psycopg.connect(as_service(bridge_url), application_name="idler") as stranger:
        stranger.execute("select pg_advisory_lock(hashtext('bridge.install'))")
        with open_session(bridge_url) as connection:
            with (
                pytest.raises(InstallError) as raised,
                install_lock(connection, wait_seconds=0.1),
            ):
                raise AssertionError("two hold the lock")
            user = conninfo_to_dict(as_service(bridge_url))["user"]
            assert str(raised.value).startswith(
                f"pid {stranger.info.backend_pid} ({user}, idler, idle in transaction) has held"
            )
            assert "\n" not in str(raised.value)
            stranger.execute("select pg_advisory_unlock_all()")
            with install_lock(connection, wait_seconds=0.1):
                pass
