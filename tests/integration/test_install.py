"""Installing and removing: as a whole or not at all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from bridge.capture.models import script_of
from bridge.capture.plan import plan_install, plan_removal
from bridge.capture.rules import load_preset
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.conftest import Shop
from tests.integration.installing import (
    RULES,
    Dump,
    apply,
    plan,
    triggers,
    uninstall,
)
from tests.waiting import PATIENCE_SECONDS


def test_first_init_installs_everything_and_the_second_nothing(bot_url: str) -> None:
    first = init(bot_url)
    assert first.new == RULES
    assert first.summary() == f"rules: 8 new ({', '.join(RULES)}), 0 changed, 0 kept, 0 removed"
    assert len(triggers(bot_url)) == 8
    second = init(bot_url)
    assert second.steps == []
    assert second.kept == RULES


def test_dry_run_script_does_what_init_does(
    bot_url: str, bridge_url: str, dump_schema: Dump
) -> None:
    script = script_of(plan(bot_url).steps)
    with psycopg.connect(bot_url, autocommit=True) as connection:
        connection.execute(script.encode())
        connection.execute(
            "select bridge.create_partitions((now() at time zone 'UTC')::date - 1, 4)"
        )
    assert plan(bot_url).steps == []
    assert dump_schema(bot_url) == dump_schema(bridge_url)


def test_planning_changes_nothing(bot_url: str, dump_schema: Dump) -> None:
    before = dump_schema(bot_url)
    assert plan(bot_url).steps
    assert dump_schema(bot_url) == before


def test_concurrent_inits_all_succeed(bot_url: str, bridge_url: str, dump_schema: Dump) -> None:
    together = threading.Barrier(20)

    def one(_: int) -> bool:
        together.wait(PATIENCE_SECONDS)
        return bool(init(bot_url).steps)

    with ThreadPoolExecutor(20) as pool:
        worked = list(pool.map(one, range(20)))
    assert sum(worked) == 1
    assert dump_schema(bot_url) == dump_schema(bridge_url)


def test_missing_application_table_is_refused(empty_url: str, dump_schema: Dump) -> None:
    with pytest.raises(InstallError, match=r"table public\.\w+ does not exist; check"):
        init(empty_url)
    assert "bridge" not in dump_schema(empty_url)


def test_missing_create_privilege_names_the_grant(bot_url: str) -> None:
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
        # Now it reaches the tables, which belong to another role.
        with pytest.raises(InstallError, match="may not create triggers"):
            plan_install(connection, load_preset("telegram-shop"))


def test_missing_usage_privilege_is_reported_in_one_line(bridge_url: str) -> None:
    with open_session(bridge_url) as connection:
        connection.execute("set session authorization pg_monitor")
        with pytest.raises(InstallError, match="permission denied for schema bridge"):
            plan_install(connection, load_preset("telegram-shop"))


def test_init_can_quiet_the_doorbell(bridge_url: str) -> None:
    rules = load_preset("telegram-shop")
    with open_session(bridge_url) as connection:
        # As init left it: quiet until a bridge drains.
        assert plan_install(connection, rules, quiet_doorbell=True).steps == []
        connection.execute("select setval('bridge.doorbell', 0)")
        assert plan_install(connection, rules).steps == []
        planned = plan_install(connection, rules, quiet_doorbell=True)
        assert [step.title for step in planned.steps] == ["quiet the doorbell"]
        apply(bridge_url, planned.steps)
        assert connection.execute("select last_value from bridge.doorbell").fetchone() == (1,)
        assert plan_install(connection, rules, quiet_doorbell=True).steps == []


def test_first_init_leaves_the_doorbell_quiet(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        planned = plan_install(connection, load_preset("telegram-shop"), quiet_doorbell=True)
        apply(bot_url, planned.steps)
        assert connection.execute("select last_value from bridge.doorbell").fetchone() == (1,)


def test_uninstall_restores_the_database_exactly(bot_url: str, dump_schema: Dump) -> None:
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


def test_uninstall_tolerates_missing_tables_and_triggers(bridge_url: str) -> None:
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
