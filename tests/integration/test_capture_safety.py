"""Capture never breaks the application, gives it no privileges, and cannot be subverted by it."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from bridge.capture.rules import parse_rules
from tests.conftest import init
from tests.integration.application import Application, rule
from tests.integration.conftest import Shop
from tests.integration.installing import uninstall

#: Every column that the preset reads.
CAPTURED = {
    "users": "id telegram_id username first_name last_name referral_code referred_by_id",
    "transactions": "id user_id type amount_kopeks payment_method external_id is_completed"
    " description",
    "tickets": "id user_id title status priority closed_at",
    "ticket_messages": "id ticket_id user_id message_text is_from_admin has_media",
}
COLUMNS = [(table, column) for table, columns in CAPTURED.items() for column in columns.split()]
#: The events of one insert into a table, and for tickets of one status change.
ANNOUNCED = {
    "users": {"user.created"},
    "transactions": {"transaction.created", "payment.completed"},
    "tickets": {"ticket.created", "ticket.status_changed"},
    "ticket_messages": {"ticket.message_added"},
}


def trade(shop: Shop) -> list[tuple[str, object]]:
    """Make an event of each type, and return the events."""
    shop.user(username="second")
    shop.payment(amount_kopeks=-5)
    with shop.transaction():
        ticket = shop.ticket()
        shop.message(ticket, has_media=True)
    with shop.transaction():
        shop.message(ticket, message_text="я" * 300)
        shop.set_status(ticket, "answered")
    return [*shop.events()]


@pytest.fixture
def clerk(shop: Shop) -> Iterator[Shop]:
    """Return a shop whose role has privileges on its own four tables only."""
    shop.execute("do $$ begin create role clerk; exception when duplicate_object then null; end $$")
    shop.execute("grant usage on schema public to clerk")
    shop.execute("grant select, insert, update, delete on all tables in schema public to clerk")
    shop.execute("grant usage on all sequences in schema public to clerk")
    shop.execute("set session authorization clerk")
    yield shop
    shop.execute("reset session authorization")


def test_application_needs_no_privilege_on_schema_bridge(clerk: Shop) -> None:
    clerk.user(username="second")
    clerk.payment()
    with clerk.transaction():
        clerk.message(clerk.ticket(), has_media=True)
    clerk.set_status(1, "closed")
    clerk.message(1)
    clerk.execute("reset session authorization")
    assert [kind for kind, _ in clerk.events()] == [
        "user.created",
        "transaction.created",
        "payment.completed",
        "ticket.created",
        "ticket.status_changed",
        "ticket.message_added",
    ]


@pytest.mark.parametrize("scope", ["", "local "])
def test_owner_can_switch_capture_off_for_a_session(shop: Shop, scope: str) -> None:
    with shop.transaction():
        shop.execute(f"set {scope}bridge.capture = off")
        assert trade(shop) == []
        with shop.transaction():
            shop.message(shop.ticket())
    # Deferred rules see the setting at commit. Other sessions are not affected.
    assert shop.events() == []
    others = Shop(shop.url)
    others.user(username="third")
    others.close()
    assert [kind for kind, _ in shop.events()] == ["user.created"]
    shop.execute("reset bridge.capture")
    shop.user(username="fourth")
    assert [kind for kind, _ in shop.events()] == ["user.created"]


@pytest.mark.parametrize("value", ["on", "", "Off", "of", "false"])
def test_other_values_leave_capture_on(shop: Shop, value: str) -> None:
    shop.execute(f"set bridge.capture = '{value}'")
    shop.user()
    assert [kind for kind, _ in shop.events()] == ["user.created"]


def test_role_of_the_application_cannot_switch_capture_off(clerk: Shop) -> None:
    """Otherwise, whoever can write a captured table could hide it."""
    clerk.execute("set bridge.capture = off")
    clerk.user(username="second")
    clerk.execute("reset session authorization")
    clerk.execute("reset bridge.capture")
    assert [kind for kind, _ in clerk.events()] == ["user.created"]


def test_application_role_cannot_use_schema_bridge(
    clerk: Shop,
) -> None:
    tables = clerk.execute(
        "select relname from pg_class where relnamespace = 'bridge'::regnamespace"
        " and relkind in ('r', 'p', 'v', 'S')"
    ).fetchall()
    assert len(tables) > 10
    for (table,) in tables:
        with pytest.raises(errors.InsufficientPrivilege):
            clerk.execute(f'select * from bridge."{table}"')
    for statement in (
        "insert into bridge.outbox (event_type, payload) values ('forged', '{}')",
        "delete from bridge.outbox",
        "truncate bridge.outbox",
        "update bridge.webhooks set url = 'https://attacker.example'",
        "create table bridge.mine ()",
        "select bridge.ring()",
        "select bridge.note('ticket.opened', '1', '{}')",
        "create trigger mine after insert on public.users"
        " for each row execute function bridge.capture_user_created()",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            clerk.execute(statement)


def test_objects_of_the_application_role_cannot_divert_events(shop: Shop) -> None:
    expected = trade(shop)
    shop.reset()
    shop.user()
    shop.events()
    for statement in (
        "create schema evil",
        # Tables with pgbridge's and the application's names, earlier in the search_path.
        "create temp table outbox (like bridge.outbox including all)",
        "create temp table transaction_notes (like bridge.transaction_notes including all)",
        "create temp table tickets (like public.tickets)",
        "create table evil.outbox (like bridge.outbox including all)",
        "create table evil.tickets (like public.tickets)",
        "insert into evil.tickets select 1, 1, 'evil', 'evil', 'evil', false",
        "insert into pg_temp.tickets select 1, 1, 'evil', 'evil', 'evil', false",
        # Functions and operators that match better than pg_catalog's.
        "create function evil.abs(bigint) returns bigint language sql as 'select 666::bigint'",
        "create function evil.left(text, integer) returns text language sql as $$select 'evil'$$",
        "create function evil.pg_notify(text, text) returns void language sql as 'select 1 / 0'",
        "create function evil.to_jsonb(anyelement) returns jsonb language sql as $$select '{}'$$",
        "create function evil.jsonb_build_object(variadic text[]) returns jsonb"
        " language sql as $$select '{}'::jsonb$$",
        "create function evil.pg_sequence_last_value(regclass) returns bigint"
        " language sql as 'select 1 / 0'",
        "create type evil.jsonb as (evil int)",
        "create type evil.text as (evil int)",
        "create function evil.same(text, text) returns boolean language sql as 'select false'",
        "create operator evil.= (leftarg = text, rightarg = text, function = evil.same)",
        "create function evil.zero(bigint, int) returns boolean language sql as 'select 1 / 0 = 1'",
        "create operator evil.= (leftarg = bigint, rightarg = integer, function = evil.zero)",
        "create function evil.ring() returns void language sql as 'select 1 / 0'",
        "create function pg_temp.left(text, int) returns text language sql as $$select 'evil'$$",
        "create function evil.eq(varchar, text) returns boolean language sql as 'select false'",
        "create operator evil.= (leftarg = varchar, rightarg = text, function = evil.eq)",
        "create function evil.never(int, int) returns boolean language sql as 'select false'",
        "create operator evil.= (leftarg = integer, rightarg = integer, function = evil.never)",
        "set search_path = evil, pg_temp, public, pg_catalog",
    ):
        shop.execute(statement)
    try:
        # The shop qualifies its tables, so only the triggers could be diverted.
        shop.user(username="second")
        shop.payment(amount_kopeks=-5)
        with shop.transaction():
            ticket = shop.ticket()
            shop.message(ticket, has_media=True)
        with shop.transaction():
            shop.message(ticket, message_text="я" * 300)
            shop.execute("update public.tickets set status = 'answered'")
        decoys = shop.execute(
            "select (select count(*) from evil.outbox) + (select count(*) from pg_temp.outbox)"
            " + (select count(*) from pg_temp.transaction_notes)"
        ).fetchone()
        shop.execute("reset search_path")
        assert shop.events() == expected
        assert decoys == (0,)
    finally:
        shop.execute("reset search_path")
        shop.execute("drop schema evil cascade")


def test_functions_with_rule_sql_fix_their_search_path(shop: Shop) -> None:
    functions = shop.execute(
        "select proname, prosecdef, proconfig, prorettype = 'trigger'::regtype, proacl::text"
        " from pg_proc where pronamespace = 'bridge'::regnamespace"
    ).fetchall()
    assert len(functions) > 10
    # This rule contains no SQL, and the template qualifies every name.
    of_columns = {"capture_note_ticket_opened"}
    for name, is_definer, config, is_trigger, acl in functions:
        pinned = "search_path=pg_catalog, pg_temp" in (config or [])
        assert pinned is (name not in of_columns), name
        # Other trigger functions are on pgbridge's own tables and run as the writer.
        if is_trigger and name.startswith("capture_"):
            assert is_definer, name
            assert acl is not None, name
            assert not acl.startswith("{="), f"PUBLIC may execute {name}"


#: The least that an insert needs.
NEEDED: dict[str, dict[str, object]] = {
    "users": {"auth_type": "telegram"},
    "transactions": {"user_id": 1, "type": "deposit", "amount_kopeks": 5, "is_completed": True},
    "tickets": {
        "user_id": 1,
        "title": "t",
        "status": "open",
        "priority": "low",
        "user_reply_block_permanent": False,
    },
    "ticket_messages": {
        "ticket_id": 1,
        "user_id": 1,
        "message_text": "m",
        "is_from_admin": False,
    },
}


def insert(shop: Shop, table: str, values: dict[str, object]) -> None:
    marks = ", ".join(["%s"] * len(values))
    columns = ", ".join(values)
    shop.execute(f"insert into public.{table} ({columns}) values ({marks})", *values.values())


@pytest.mark.parametrize("change", ["drop", "rename"])
@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[".".join(pair) for pair in COLUMNS])
def test_application_can_drop_or_rename_a_captured_column(
    shop: Shop, table: str, column: str, change: str
) -> None:
    if table == "ticket_messages":
        shop.ticket()
        shop.events()
    values = dict(NEEDED[table])
    status = "status"
    with shop.transaction():
        if change == "drop":
            # Cascades to the application's own foreign keys only.
            cascade = "cascade" if column == "id" else ""
            shop.execute(f"alter table public.{table} drop column {column} {cascade}")
            values.pop(column, None)
            status = "title" if column == "status" else "status"
        else:
            shop.execute(f"alter table public.{table} rename column {column} to renamed")
            values = {"renamed" if name == column else name: values[name] for name in values}
            status = "renamed" if column == "status" else "status"
        insert(shop, table, values)
        if table == "tickets":
            shop.execute(f"update public.tickets set {status} = 'closed'")
        shop.execute("set constraints all immediate")
        events = shop.events()
        raise psycopg.Rollback
    assert sorted(kind for kind, _ in events) == sorted(ANNOUNCED[table])
    failed = [payload for _, payload in events if "_capture_error" in payload]
    assert failed
    row_id = 2 if table == "users" else 1
    key = {"id": row_id}
    if column == "id":
        key = {"renamed": row_id} if change == "rename" else {}
    for payload in failed:
        assert payload.pop("_capture_error")
        assert payload == key


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[".".join(pair) for pair in COLUMNS])
def test_application_can_change_a_captured_columns_type(
    shop: Shop, table: str, column: str
) -> None:
    if table == "ticket_messages":
        shop.ticket()
        shop.events()
    values = dict(NEEDED[table])
    if column in values or column == "id":
        values[column] = ["an", "array"]
    with shop.transaction():
        # The application's own foreign keys would prevent it.
        shop.execute(
            "do $$ declare v_drop text; begin for v_drop in"
            " select format('alter table %s drop constraint %I', conrelid::regclass, conname)"
            " from pg_constraint where contype = 'f' loop execute v_drop; end loop; end $$"
        )
        shop.execute(
            f"alter table public.{table} alter column {column} drop default,"
            f" alter column {column} type text[] using array[{column}::text]"
        )
        insert(shop, table, values)
        if table == "tickets":
            new_status = "array['closed']" if column == "status" else "'closed'"
            shop.execute(f"update public.tickets set status = {new_status}")
        shop.execute("set constraints all immediate")
        events = shop.events()
        raise psycopg.Rollback
    assert sorted(kind for kind, _ in events) == sorted(ANNOUNCED[table])
    for _, payload in events:
        if "_capture_error" in payload:
            assert payload["_capture_error"]
            assert set(payload) == {"_capture_error", "id"}


def test_failed_capture_sends_only_key_and_error(shop: Shop) -> None:
    with shop.transaction():
        shop.execute("alter table public.users drop column referral_code")
        shop.user(password_hash="never to be captured", username="nobody")
        [(kind, payload)] = shop.events()
        raise psycopg.Rollback
    assert (kind, payload) == (
        "user.created",
        {"id": 2, "_capture_error": 'record "new" has no field "referral_code"'},
    )


def test_open_session_survives_a_changed_column_type(shop: Shop) -> None:
    shop.payment()
    shop.events()
    with shop.transaction():
        shop.execute("alter table public.transactions alter column amount_kopeks type bigint")
        shop.payment(amount_kopeks=2**40)
        events = shop.events()
        raise psycopg.Rollback
    # PL/pgSQL caches the session's plans with their types, so the payload fails.
    assert [kind for kind, _ in events] == ["transaction.created", "payment.completed"]
    for _, payload in events:
        assert payload["id"] == 2
        assert "does not match that when preparing the plan" in payload["_capture_error"]


def test_new_session_captures_a_column_as_its_new_type(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("alter table public.transactions alter column amount_kopeks type bigint")
    shop = Shop(bridge_url)
    shop.user()
    shop.payment(amount_kopeks=2**40)
    amounts = [(p["amount_kopeks"], p["amount_rubles"]) for _, p in shop.events()[1:]]
    shop.close()
    assert amounts == [(2**40, 10995116277.76)] * 2


def test_renamed_table_keeps_its_triggers_until_removal(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    shop.execute("alter table public.users rename to customers")
    shop.execute("insert into public.customers (auth_type) values ('telegram')")
    assert [kind for kind, _ in shop.events()] == ["user.created"]
    uninstall(bridge_url)
    shop.execute("insert into public.customers (auth_type) values ('telegram')")
    shop.close()


SLOW = """
[[capture]]
event = "slow"
table = "public.users"
on = "insert"
payload = { slept = "pg_sleep(60)::text" }
"""


@pytest.fixture
def slow_shop(bot_url: str) -> Iterator[Shop]:
    """Return a shop whose trigger takes a minute."""
    init(bot_url, parse_rules(SLOW))
    opened = Shop(bot_url)
    yield opened
    opened.close()


def test_statement_timeout_is_not_swallowed(slow_shop: Shop) -> None:
    slow_shop.execute("set statement_timeout = '50ms'")
    with pytest.raises(errors.QueryCanceled):
        slow_shop.user()
    assert slow_shop.execute("select count(*) from public.users").fetchone() == (0,)
    assert slow_shop.events() == []


def test_cancellation_is_not_swallowed(slow_shop: Shop) -> None:
    failed: list[BaseException] = []

    def insert() -> None:
        try:
            slow_shop.user()
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=insert)
    thread.start()
    with psycopg.connect(slow_shop.url, autocommit=True) as admin:
        cancel = (
            "select count(pg_cancel_backend(pid)) from pg_stat_activity"
            " where wait_event = 'PgSleep' and datname = current_database()"
        )
        while admin.execute(cancel).fetchone() == (0,):
            time.sleep(0.01)
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert [type(error) for error in failed] == [errors.QueryCanceled]
        assert admin.execute("select count(*) from public.users").fetchone() == (0,)


HOSTILE_RULES = r'''
[[note]]
topic = "it's \\ a \"topic\""
table = 'public."My ""Table"""'
on = "insert"
key = 'new."select" -- the key'

[[capture]]
event = "odd.created"
table = 'public."My ""Table"""'
on = ["insert", "update", "delete"]
deferred = true
when = "$capture$a$capture$ <> $_capture$a$_capture$ or true -- or not"
[capture.payload]
"it's" = "select"
'back\slash "and" quote' = 'new."we""ird"'
'$capture$' = "$$dollar$$"
'ключ' = 'Ключ'
'comment' = "1 -- a comment"
'''


def test_hostile_names_and_expressions_are_quoted(app: Application) -> None:
    app.run(
        'create table public."My ""Table""" ("select" text primary key, "we""ird" int, "Ключ" text)'
    )
    app.capture(HOSTILE_RULES)
    app.run("insert into public.\"My \"\"Table\"\"\" values ('k''', 7, 'з')")
    payload = {
        "it's": "k'",
        'back\\slash "and" quote': 7,
        "$capture$": "dollar",
        "ключ": "з",
        "comment": 1,
    }
    assert app.events() == [("odd.created", payload)]


def test_payload_may_have_230_fields(app: Application) -> None:
    payload = {f"field_{number}": number for number in range(230)}
    app.run("create table public.t (id int primary key)")
    fields = "\n".join(f"{name} = '{value}'" for name, value in payload.items())
    app.capture(rule("wide", "public.t", "'delete'", f"[capture.payload]\n{fields}"))
    app.run("insert into public.t values (1)", "delete from public.t")
    assert app.payloads() == [payload]


def test_note_key_too_long_for_the_index_is_skipped(app: Application) -> None:
    app.run("create table public.t (name text)")
    app.capture("[[note]]\ntopic = 'seen'\ntable = 'public.t'\non = 'insert'\nkey = 'name'")
    app.run(
        "insert into public.t select string_agg(md5(i::text), '') from generate_series(1, 500) i",
        "insert into public.t values (null), ('short')",
    )
    keys = app.connection.execute("select key from bridge.transaction_notes").fetchall()
    assert keys == [("short",)]
