"""Installing, upgrading and removing: whole or not at all, and never at the application's cost."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from bridge import assets
from bridge.capture.apply import apply_steps, pause, resume
from bridge.capture.models import InstallError, Plan
from bridge.capture.plan import plan_install, plan_removal
from bridge.capture.rules import CaptureRule, Rule, load_preset
from bridge.database.migrate import Step
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.conftest import Shop

Dump = Callable[..., str]
RULES = [
    "note ticket.opened",
    "note ticket.opening_message",
    "user.created",
    "transaction.created",
    "payment.completed",
    "ticket.created",
    "ticket.status_changed",
    "ticket.message_added",
]


def plan(url: str, rules: Iterable[Rule] | None = None) -> Plan:
    with open_session(url) as connection:
        return plan_install(connection, [*(rules or load_preset("telegram-shop"))])


def apply(url: str, steps: Iterable[Step], *, lock_timeout_seconds: float = 1.0) -> None:
    with open_session(url) as connection:
        apply_steps(
            connection,
            [*steps],
            lock_timeout_seconds=lock_timeout_seconds,
            report=lambda _: None,
        )


def uninstall(url: str) -> None:
    with open_session(url) as connection:
        apply(url, plan_removal(connection))


def triggers(url: str) -> dict[str, int]:
    """Our triggers on the application's tables by name, each with its oid: a new one is another."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select tgname, t.oid from pg_trigger t join pg_proc p on p.oid = tgfoid"
            " join pg_class c on c.oid = tgrelid"
            " where p.pronamespace = 'bridge'::regnamespace and c.relnamespace <> p.pronamespace"
        ).fetchall()
    return {str(name): int(oid) for name, oid in rows}


def add_migrations(monkeypatch: pytest.MonkeyPatch, *files: tuple[str, str]) -> None:
    released = assets.migrations()
    monkeypatch.setattr(assets, "migrations", lambda: [*released, *files])


# --- init


def test_the_first_init_installs_everything_and_the_second_plans_nothing(bot_url: str) -> None:
    first = init(bot_url)
    assert first.new == RULES
    assert first.summary() == f"rules: 8 new ({', '.join(RULES)}), 0 changed, 0 kept, 0 removed"
    assert len(triggers(bot_url)) == 8
    second = init(bot_url)
    assert second.steps == []
    assert second.kept == RULES


def test_the_script_of_a_dry_run_does_what_init_does(
    bot_url: str, bridge_url: str, dump_schema: Dump
) -> None:
    script = plan(bot_url).script()
    with psycopg.connect(bot_url, autocommit=True) as connection:
        connection.execute(script.encode())
        connection.execute(
            "select bridge.create_partitions((now() at time zone 'UTC')::date - 1, 4)"
        )
    assert plan(bot_url).steps == []
    assert dump_schema(bot_url) == dump_schema(bridge_url)


def test_a_plan_changes_nothing(bot_url: str, dump_schema: Dump) -> None:
    before = dump_schema(bot_url)
    assert plan(bot_url).steps
    assert dump_schema(bot_url) == before


def test_twenty_inits_at_once_all_succeed_and_leave_one_state(
    bot_url: str, bridge_url: str, dump_schema: Dump
) -> None:
    together = threading.Barrier(20)

    def one(_: int) -> bool:
        together.wait(timeout=30)
        return bool(init(bot_url).steps)

    with ThreadPoolExecutor(20) as pool:
        worked = list(pool.map(one, range(20)))
    assert sum(worked) == 1
    assert dump_schema(bot_url) == dump_schema(bridge_url)


def test_the_applications_tables_must_be_there(empty_url: str, dump_schema: Dump) -> None:
    with pytest.raises(InstallError, match=r"table public\.\w+ is not in this database"):
        init(empty_url)
    assert "bridge" not in dump_schema(empty_url)


def test_a_role_that_may_not_create_a_schema_is_told_what_would_let_it(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        connection.execute("set session authorization pg_monitor")
        with pytest.raises(InstallError, match="may not create schema bridge") as raised:
            plan_install(connection, load_preset("telegram-shop"))
        message = str(raised.value)
        assert "\n" not in message
        connection.execute("reset session authorization")
        grant = message.partition("run first: ")[2]
        connection.execute(grant.encode())
        connection.execute("set session authorization pg_monitor")
        # Now it gets as far as the tables, which are somebody else's.
        with pytest.raises(InstallError, match="may not create triggers"):
            plan_install(connection, load_preset("telegram-shop"))


def test_a_role_that_may_not_see_our_schema_is_told_so_in_one_line(bridge_url: str) -> None:
    with open_session(bridge_url) as connection:
        connection.execute("set session authorization pg_monitor")
        with pytest.raises(InstallError, match="permission denied for schema bridge"):
            plan_install(connection, load_preset("telegram-shop"))


# --- versions


def test_a_released_migration_must_not_be_edited(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, text), *rest = assets.migrations()
    monkeypatch.setattr(assets, "migrations", lambda: [(name, text + "\n"), *rest])
    with pytest.raises(InstallError, match=r"migration 0001 .* must not be edited"):
        plan(bridge_url)


def test_a_newer_database_is_refused(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("insert into bridge.migrations values (9999, 'from the future', 'x')")
    with pytest.raises(InstallError, match="the database is newer than this pgbridge"):
        plan(bridge_url)


def test_an_upgrade_runs_only_the_new_migrations_in_their_order(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_migrations(
        monkeypatch,
        ("9001_add_first.sql", "create table bridge.first ();"),
        ("9002_rename_first.sql", "alter table bridge.first rename to second;"),
    )
    assert [step.title for step in init(bridge_url).steps] == [
        "migration 9001: add first",
        "migration 9002: rename first",
        "grant what bridge_service and bridge_reader need",
    ]
    with psycopg.connect(bridge_url) as connection:
        assert connection.execute("table bridge.second").fetchall() == []


def test_a_migration_that_fails_leaves_nothing_of_itself(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch, dump_schema: Dump
) -> None:
    before = dump_schema(bridge_url)
    add_migrations(
        monkeypatch,
        (
            "9001_fail_late.sql",
            "create table bridge.half (); select 1 / 0; create table bridge.x ();",
        ),
    )
    with pytest.raises(InstallError, match="migration 9001: fail late: division by zero"):
        init(bridge_url)
    assert dump_schema(bridge_url) == before
    with psycopg.connect(bridge_url) as connection:
        row = connection.execute("select max(version) < 9000 from bridge.migrations").fetchone()
    assert row == (True,)


def test_an_init_that_failed_at_the_start_can_be_repeated_or_undone(
    bot_url: str, monkeypatch: pytest.MonkeyPatch, dump_schema: Dump
) -> None:
    before = dump_schema(bot_url)
    released = assets.migrations()
    with monkeypatch.context() as broken:
        broken.setattr(assets, "migrations", lambda: [("0001_fail.sql", "select 1 / 0"), *released])
        with pytest.raises(InstallError, match="division by zero"):
            init(bot_url)
    uninstall(bot_url)
    assert dump_schema(bot_url) == before
    with monkeypatch.context() as broken:
        broken.setattr(assets, "migrations", lambda: [*released, ("9001_fail.sql", "select 1 / 0")])
        with pytest.raises(InstallError, match="division by zero"):
            init(bot_url)
    assert init(bot_url).new == RULES


@pytest.mark.parametrize(
    "table",
    ["precious (id int)", "migrations (id int)", "migrations (version int, name text)"],
)
def test_somebody_elses_schema_with_our_name_is_refused_and_left_alone(
    bot_url: str, dump_schema: Dump, table: str
) -> None:
    with psycopg.connect(bot_url) as connection:
        connection.execute(f"create schema bridge create table {table}".encode())
    before = dump_schema(bot_url)
    for refused in (init, uninstall):
        with pytest.raises(InstallError, match=r"called bridge that is not pgbridge's"):
            refused(bot_url)
    assert dump_schema(bot_url) == before


# --- uninstall


def test_uninstall_restores_the_database_byte_for_byte(bot_url: str, dump_schema: Dump) -> None:
    before = dump_schema(bot_url)
    init(bot_url)
    shop = Shop(bot_url)
    shop.user()
    with shop.transaction():
        shop.message(shop.ticket())
    assert len(shop.events()) == 2
    shop.payment()
    shop.close()
    assert dump_schema(bot_url) != before
    uninstall(bot_url)
    assert dump_schema(bot_url) == before
    with open_session(bot_url) as connection:
        assert plan_removal(connection) == []


def test_uninstall_copes_with_tables_and_triggers_that_went_before(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("drop table public.ticket_messages")
        connection.execute("alter table public.tickets rename to requests")
        connection.execute("create table public.tickets (id int)")
        connection.execute("drop function bridge.capture_user_created() cascade")
    uninstall(bridge_url)
    with psycopg.connect(bridge_url) as connection:
        row = connection.execute(
            "select count(*) from pg_trigger where not tgisinternal"
        ).fetchone()
        assert row == (0,)
        assert connection.execute("select to_regnamespace('bridge')").fetchone() == (None,)


# --- rules


def test_a_trigger_dropped_by_hand_is_put_back_and_no_other_is_touched(bridge_url: str) -> None:
    before = triggers(bridge_url)
    [dropped] = [name for name in before if name.endswith("_user_created")]
    with psycopg.connect(bridge_url) as connection:
        connection.execute(f"drop trigger {dropped} on public.users".encode())
    planned = init(bridge_url)
    assert planned.changed == ["user.created"]
    assert [step.title for step in planned.steps] == ["capture user.created"]
    after = triggers(bridge_url)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} == {dropped}


def test_a_table_made_anew_gets_its_triggers_again(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("create table public.copy (like public.ticket_messages)")
        connection.execute("drop table public.ticket_messages")
        connection.execute("alter table public.copy rename to ticket_messages")
    assert init(bridge_url).changed == ["note ticket.opening_message", "ticket.message_added"]
    assert len(triggers(bridge_url)) == 8


def test_a_rule_that_changes_in_its_function_does_not_touch_its_locked_table(
    bridge_url: str,
) -> None:
    before = triggers(bridge_url)
    with psycopg.connect(bridge_url) as busy:
        busy.execute("lock table public.users in access exclusive mode")
        planned = plan(bridge_url, with_payload("user.created", {"user": "id", "lang": "language"}))
        assert planned.changed == ["user.created"]
        assert [step.locked_table for step in planned.steps] == [None]
        apply(bridge_url, planned.steps, lock_timeout_seconds=0.1)
    assert triggers(bridge_url) == before
    shop = Shop(bridge_url)
    user = shop.user(language="ru")
    assert shop.events() == [("user.created", {"user": user, "lang": "ru"})]
    shop.close()


def test_a_rule_that_is_no_longer_wanted_is_removed(bridge_url: str) -> None:
    wanted = [rule for rule in load_preset("telegram-shop") if rule.name != "ticket.message_added"]
    planned = plan(bridge_url, wanted)
    assert planned.removed == ["ticket.message_added"]
    apply(bridge_url, planned.steps)
    assert len(triggers(bridge_url)) == 7
    shop = Shop(bridge_url)
    shop.user()
    shop.message(shop.ticket())
    assert [kind for kind, _ in shop.events()] == ["user.created", "ticket.created"]
    shop.close()


def test_no_row_is_missed_while_the_rules_are_changed(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    # One rule goes, and where a table has two, they change places.
    rules = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
    wanted = rules[:2] + rules[:1:-1]
    planned = plan(bridge_url, wanted)
    assert len(planned.steps) == 5
    everything_else = sorted(rule.name for rule in wanted if isinstance(rule, CaptureRule))
    shop.user()
    for step in planned.steps:
        shop.events()
        apply(bridge_url, [step])
        shop.payment()
        with shop.transaction():
            ticket = shop.ticket()
            shop.message(ticket)
        with shop.transaction():
            shop.set_status(ticket, "closed")
            shop.message(ticket)
        assert sorted(kind for kind, _ in shop.events()) == everything_else, step.title
    shop.close()
    assert plan(bridge_url, wanted).steps == []


def test_a_rule_moved_to_another_table_leaves_the_first(bridge_url: str) -> None:
    moved = [
        rule.model_copy(update={"table": "public.tickets", "payload": {"id": "id"}})
        if isinstance(rule, CaptureRule) and rule.event == "user.created"
        else rule
        for rule in load_preset("telegram-shop")
    ]
    apply(bridge_url, plan(bridge_url, moved).steps)
    shop = Shop(bridge_url)
    shop.user()
    assert shop.events() == []
    ticket = shop.ticket()
    assert ("user.created", {"id": ticket}) in shop.events()
    shop.close()


def test_an_expression_that_is_no_sql_is_refused_with_the_rules_name(
    bridge_url: str, dump_schema: Dump
) -> None:
    before = dump_schema(bridge_url)
    with pytest.raises(
        InstallError,
        match=r"^\[\[capture\]\] user\.created: payload\.user: syntax error",
    ):
        plan(bridge_url, with_payload("user.created", {"user": "new.id + "}))
    assert dump_schema(bridge_url) == before


def with_payload(event: str, payload: dict[str, str]) -> list[Rule]:
    return [
        rule.model_copy(update={"payload": payload}) if rule.name == event else rule
        for rule in load_preset("telegram-shop")
    ]


def with_operations(event: str, *operations: str) -> list[Rule]:
    return [
        rule.model_copy(update={"on": operations}) if rule.name == event else rule
        for rule in load_preset("telegram-shop")
    ]


# --- what other hands have changed


#: What an administrator may do to the trigger or function of a rule, and how its rule is called.
BY_HAND = {
    "disabled": (
        "user.created",
        "alter table public.users disable trigger bridge_001_user_created",
    ),
    "disabled, deferred": (
        "ticket.created",
        "alter table public.tickets disable trigger bridge_002_ticket_created",
    ),
    "for replicas only": (
        "user.created",
        "alter table public.users enable replica trigger bridge_001_user_created",
    ),
    "function replaced": (
        "user.created",
        "create or replace function bridge.capture_user_created() returns trigger"
        " language plpgsql as 'begin return null; end'",
    ),
    "function's settings": (
        "transaction.created",
        "alter function bridge.capture_transaction_created() reset search_path",
    ),
    "function's rights": (
        "user.created",
        "alter function bridge.capture_user_created() security invoker",
    ),
    "trigger replaced": (
        "user.created",
        "create or replace trigger bridge_001_user_created after update on public.users"
        " for each row execute function bridge.capture_user_created()",
    ),
    "trigger with a condition": (
        "user.created",
        "create or replace trigger bridge_001_user_created after insert on public.users"
        " for each row when (new.id > 100) execute function bridge.capture_user_created()",
    ),
    "trigger made anew": (
        "ticket.message_added",
        "drop trigger bridge_002_ticket_message_added on public.ticket_messages;"
        "create trigger bridge_002_ticket_message_added after insert on public.ticket_messages"
        " for each row execute function bridge.capture_ticket_message_added()",
    ),
    "trigger of another function": (
        "transaction.created",
        "create or replace trigger bridge_001_transaction_created after insert"
        " on public.transactions for each row execute function bridge.capture_user_created()",
    ),
}


def functions(url: str) -> dict[str, str]:
    """The functions of rules by name, each as it is and the version of its row."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select proname, xmin::text from pg_proc where pronamespace = 'bridge'::regnamespace"
            " and prorettype = 'trigger'::regtype"
        ).fetchall()
    return {str(name): str(version) for name, version in rows}


@pytest.mark.parametrize(("rule", "change"), BY_HAND.values(), ids=BY_HAND.keys())
def test_what_another_hand_changed_is_put_right_and_nothing_else_is_touched(
    bridge_url: str, dump_schema: Dump, rule: str, change: str
) -> None:
    before = dump_schema(bridge_url)
    old_triggers, old_functions = triggers(bridge_url), functions(bridge_url)
    with psycopg.connect(bridge_url, autocommit=True) as connection:
        connection.execute(change.encode())
    assert dump_schema(bridge_url) != before
    planned = init(bridge_url)
    assert planned.changed == [rule]
    assert [step.title for step in planned.steps] == [f"capture {rule}"]
    assert dump_schema(bridge_url) == before
    slug = rule.replace(".", "_")
    new_triggers, new_functions = triggers(bridge_url), functions(bridge_url)
    assert new_triggers.keys() == old_triggers.keys()
    assert all(
        name.endswith(slug) or new_triggers[name] == oid for name, oid in old_triggers.items()
    )
    assert all(
        name.endswith(slug) or new_functions[name] == version
        for name, version in old_functions.items()
    )
    assert init(bridge_url).steps == []


# --- pause and resume


def test_a_paused_rule_captures_nothing_and_the_others_go_on(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        assert pause(connection, "user.created") == ["user.created"]
        shop.user()
        shop.payment()
        assert [kind for kind, _ in shop.events()] == ["transaction.created", "payment.completed"]
        assert pause(connection, "user.created") == []
        assert resume(connection, "user.created") == ["user.created"]
        assert resume(connection, "user.created") == []
    # What happened meanwhile is never captured.
    assert shop.events() == []
    user = shop.user()
    assert [(kind, payload["user_id"]) for kind, payload in shop.events()] == [
        ("user.created", user)
    ]
    shop.close()
    assert init(bridge_url).steps == []


def test_all_rules_are_paused_and_resumed_at_once(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        assert sorted(pause(connection, None)) == sorted(RULES)
        shop.user()
        shop.payment()
        with shop.transaction():
            shop.message(shop.ticket())
        shop.set_status(1, "closed")
        assert shop.events() == []
        resume(connection, "user.created")
        resumed = resume(connection, None)
        assert sorted([*resumed, "user.created"]) == sorted(RULES)
    with shop.transaction():
        shop.message(shop.ticket(), has_media=True)
    [(kind, payload)] = shop.events()
    assert (kind, payload["has_media"]) == ("ticket.created", True)
    shop.close()


def test_pausing_and_resuming_need_no_lock_on_the_applications_table(bridge_url: str) -> None:
    with (
        psycopg.connect(bridge_url) as busy,
        open_session(impatient(bridge_url)) as connection,
    ):
        busy.execute("lock table public.users in access exclusive mode")
        assert pause(connection, "user.created") == ["user.created"]
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        assert resume(connection, "user.created") == ["user.created"]
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        busy.commit()
        rows = connection.execute("select payload ->> 'user_id' from bridge.outbox").fetchall()
    assert rows == [("2",)]


def test_a_paused_rule_stays_paused_through_init_and_is_resumed_as_it_then_is(
    bridge_url: str,
) -> None:
    shop = Shop(bridge_url)
    before = triggers(bridge_url)
    with open_session(bridge_url) as connection:
        pause(connection, "user.created")
        assert init(bridge_url).steps == []
        planned = plan(bridge_url, with_payload("user.created", {"who": "id"}))
        assert planned.changed == ["user.created"]
        apply(bridge_url, planned.steps)
        shop.user()
        assert shop.events() == []
        assert plan(bridge_url, with_payload("user.created", {"who": "id"})).steps == []
        assert resume(connection, "user.created") == ["user.created"]
    user = shop.user()
    assert shop.events() == [("user.created", {"who": user})]
    shop.close()
    assert plan(bridge_url, with_payload("user.created", {"who": "id"})).steps == []
    assert triggers(bridge_url) == before


def test_a_paused_rule_whose_trigger_goes_or_changes_stays_paused(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        pause(connection, "user.created")
        shop.execute("drop trigger bridge_001_user_created on public.users")
        assert init(bridge_url).changed == ["user.created"]
        apply(
            bridge_url, plan(bridge_url, with_operations("user.created", "insert", "update")).steps
        )
        shop.user()
        shop.execute("update public.users set language = 'ru'")
        assert shop.events() == []
        resume(connection, None)
    shop.execute("update public.users set language = 'de'")
    assert [kind for kind, _ in shop.events()] == ["user.created"]
    shop.close()


def test_a_rule_that_there_is_not_cannot_be_paused_and_those_there_are_are_named(
    bridge_url: str,
) -> None:
    there = ", ".join(sorted(RULES))
    with open_session(bridge_url) as connection:
        for act in (pause, resume):
            with pytest.raises(InstallError) as raised:
                act(connection, "user.crated")
            assert str(raised.value) == f"unknown rule 'user.crated'; the rules are {there}"


def test_before_init_there_is_no_rule_to_pause(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        for act in (pause, resume):
            for name in ("user.created", None):
                with pytest.raises(InstallError, match=r"^there are no rules; run: pgbri"):
                    act(connection, name)


# --- the doorbell


def test_an_init_that_is_to_leave_the_doorbell_quiet_does(bridge_url: str) -> None:
    rules = load_preset("telegram-shop")
    with open_session(bridge_url) as connection:
        # As init left it: nobody drains, so nobody is rung.
        assert plan_install(connection, rules, quiet_doorbell=True).steps == []
        connection.execute("select setval('bridge.doorbell', 0)")
        assert plan_install(connection, rules).steps == []
        planned = plan_install(connection, rules, quiet_doorbell=True)
        assert [step.title for step in planned.steps] == ["quiet the doorbell"]
        apply(bridge_url, planned.steps)
        assert connection.execute("select last_value from bridge.doorbell").fetchone() == (1,)
        assert plan_install(connection, rules, quiet_doorbell=True).steps == []


def test_a_first_init_leaves_the_doorbell_quiet(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        planned = plan_install(connection, load_preset("telegram-shop"), quiet_doorbell=True)
        apply(bot_url, planned.steps)
        assert connection.execute("select last_value from bridge.doorbell").fetchone() == (1,)


# --- locks


def impatient(url: str) -> str:
    """The URL for a session that fails where it would wait without an end."""
    return f"{url}&options=-c%20statement_timeout%3D10s"


def test_init_steps_back_from_a_locked_table_and_holds_up_nobody_for_longer_than_its_timeout(
    bot_url: str,
) -> None:
    timeout_seconds = 0.3
    stepped_back = threading.Event()
    installed = threading.Event()
    failures: list[Exception] = []

    def report(message: str) -> None:
        if "public.users is locked by pid" in message:
            stepped_back.set()

    def run_init() -> None:
        try:
            with open_session(impatient(bot_url)) as connection:
                steps = plan_install(connection, load_preset("telegram-shop")).steps
                apply_steps(connection, steps, lock_timeout_seconds=timeout_seconds, report=report)
        except Exception as error:
            failures.append(error)
        finally:
            installed.set()

    shop = Shop(impatient(bot_url))
    longest_seconds = 0.0
    thread = threading.Thread(target=run_init, daemon=True)
    with psycopg.connect(bot_url) as busy:
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        thread.start()
        # The bot goes on signing up users for as long as init tries, and once more to be sure.
        while not stepped_back.is_set() and not installed.is_set():
            started = time.monotonic()
            shop.user()
            longest_seconds = max(longest_seconds, time.monotonic() - started)
        assert not installed.is_set(), failures
        assert not triggers(bot_url).keys() & {"bridge_001_user_created"}
        busy.commit()
    thread.join(timeout=30)
    assert failures == []
    assert installed.is_set()
    # A second for a slow machine; without the timeout it would have been for ever.
    assert longest_seconds < timeout_seconds + 1.0
    shop.user()
    assert len(shop.events("user.created")) == 1
    shop.close()


def test_migration_waits_for_our_own_tables_without_blocking_bridges(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_migrations(
        monkeypatch, ("9001_add_note.sql", "alter table bridge.api_tokens add column note text;")
    )
    steps = plan(bridge_url).steps
    said: list[str] = []
    stepped_back, over = threading.Event(), threading.Event()

    def report(message: str) -> None:
        said.append(message)
        if len(said) > 1:
            stepped_back.set()

    def run_init() -> None:
        try:
            with open_session(impatient(bridge_url)) as connection:
                apply_steps(connection, steps, lock_timeout_seconds=0.1, report=report)
        finally:
            over.set()

    thread = threading.Thread(target=run_init, daemon=True)
    # A backup can hold its locks for hours. Bridges look up tokens meanwhile.
    with psycopg.connect(bridge_url, application_name="pg_dump") as backup:
        backup.execute("select from bridge.api_tokens")
        thread.start()
        with psycopg.connect(impatient(bridge_url), autocommit=True) as a_bridge:
            while not stepped_back.is_set() and not over.is_set():
                a_bridge.execute("select from bridge.api_tokens")
        backup.rollback()
    thread.join(timeout=30)
    assert over.is_set()
    # If the bridge is looking up a token at that moment, it is named beside the backup.
    bridge = r"pid \d+ \(postgres, no application_name, [a-z ]+, for \d+ s\)"
    assert re.search(
        rf"^migration 9001: add note: schema bridge is locked by (?:{bridge} and )?"
        r"pid \d+ \(postgres, pg_dump, idle in transaction, for \d+ s\)"
        rf"(?: and {bridge})?, waiting$",
        said[1],
    )
    assert plan(bridge_url).steps == []


def test_init_gives_up_on_a_table_that_stays_locked_and_says_which(
    bot_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 2)
    with psycopg.connect(bot_url) as busy:
        busy.execute("lock table public.users in row exclusive mode")
        planned = plan(bot_url)
        with pytest.raises(InstallError, match=r"keeps public\.users locked; try again"):
            apply(impatient(bot_url), planned.steps, lock_timeout_seconds=0.05)
    # What went before stays, and the next init goes on from there.
    again = init(bot_url)
    assert "user.created" in again.new
    assert "note ticket.opened" in again.kept


@contextmanager
def at_work(url: str, statement: str) -> Iterator[int]:
    """Have a session of the application in the midst of a transaction; its pid."""
    with psycopg.connect(url, application_name="nightly import") as busy:
        busy.execute(statement.encode())
        yield busy.info.backend_pid
        busy.rollback()


def refuse_to_wait(message: str) -> None:
    assert "is locked by" not in message


def test_who_only_reads_does_not_hold_up_a_first_init(bot_url: str) -> None:
    with (
        at_work(bot_url, "select count(*) from public.users, public.tickets"),
        open_session(impatient(bot_url)) as connection,
    ):
        steps = plan_install(connection, load_preset("telegram-shop")).steps
        apply_steps(connection, steps, lock_timeout_seconds=0.1, report=refuse_to_wait)
    assert len(triggers(bot_url)) == len(RULES)


def test_who_only_reads_does_not_hold_up_a_trigger_that_is_replaced_in_its_place(
    bridge_url: str,
) -> None:
    before = triggers(bridge_url)
    with (
        at_work(bridge_url, "select count(*) from public.users"),
        open_session(impatient(bridge_url)) as connection,
    ):
        changed = with_operations("user.created", "insert", "update")
        planned = plan_install(connection, changed)
        assert planned.changed == ["user.created"]
        apply_steps(connection, planned.steps, lock_timeout_seconds=0.1, report=refuse_to_wait)
    assert triggers(bridge_url) == before
    shop = Shop(bridge_url)
    shop.user()
    shop.execute("update public.users set language = 'ru'")
    assert [kind for kind, _ in shop.events()] == ["user.created"] * 2
    shop.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update public.users set language = 'ru'",
        "insert into public.users (auth_type) values ('telegram')",
        "lock table public.users in share mode",
        "lock table public.users in access exclusive mode",
    ],
)
def test_who_writes_holds_up_init_and_is_named(
    bot_url: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 2)
    said: list[str] = []
    with (
        at_work(bot_url, statement) as pid,
        open_session(impatient(bot_url)) as connection,
    ):
        steps = plan_install(connection, load_preset("telegram-shop")).steps
        with pytest.raises(InstallError) as raised:
            apply_steps(connection, steps, lock_timeout_seconds=0.05, report=said.append)
    who = rf"pid {pid} \(postgres, nightly import, idle in transaction, for \d+ s\)"
    assert re.fullmatch(
        rf"capture user\.created: {who} keeps public\.users locked; try again when it has ended",
        str(raised.value),
    )
    waiting = [message for message in said if "locked" in message]
    assert len(waiting) == 1
    assert re.fullmatch(
        rf"capture user\.created: public\.users is locked by {who}, waiting", waiting[0]
    )


def test_a_reader_is_named_where_a_trigger_has_to_go(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.capture.apply.LOCK_ATTEMPTS", 1)
    with at_work(bridge_url, "select count(*) from public.users") as pid:
        wanted = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
        with pytest.raises(InstallError, match=f"^remove user.created: pid {pid} "):
            apply(impatient(bridge_url), plan(bridge_url, wanted).steps, lock_timeout_seconds=0.05)
