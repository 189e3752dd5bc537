"""Settings and policies of the application's database do not change what the bridge does."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from bridge.daemon.start import StartError, prepare_database
from bridge.database.pool import open_database
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.doctor.conftest import diagnose
from tests.integration.relaying import Bot, relaying, sign_up
from tests.system.processes import as_service
from tests.waiting import until

#: Enables row-level security on every new table, as hosting providers do.
ENABLE_EVERYWHERE = """
    create function public.enable_rls() returns event_trigger language plpgsql as $$
    declare command record;
    begin
        for command in
            select * from pg_event_trigger_ddl_commands() where command_tag = 'CREATE TABLE'
        loop
            execute format('alter table %s enable row level security', command.objid::regclass);
        end loop;
    end $$;
    create event trigger enable_rls on ddl_command_end when tag in ('CREATE TABLE')
        execute function public.enable_rls();
"""


@pytest.mark.parametrize(
    "setting",
    [
        "quote_all_identifiers = on",
        "default_transaction_isolation = serializable",
        "standard_conforming_strings = off",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = sql_standard",
        "bytea_output = escape",
        "timezone = 'Asia/Vladivostok'",
        "search_path = public, pg_catalog",
        "extra_float_digits = -15",
        "array_nulls = off",
        "transform_null_equals = on",
        "plan_cache_mode = force_generic_plan",
    ],
)
async def test_settings_of_the_database_change_nothing(
    bot_url: str, bot: Bot, setting: str
) -> None:
    init(bot_url)
    database = conninfo_to_dict(bot_url)["dbname"]
    bot.execute(f"alter database {database} set {setting}".encode())
    assert init(bot_url).steps == []
    found = diagnose(bot_url)
    assert [each.message for each in found.values() if each.level == "error"] == []
    with psycopg.connect(bot_url, autocommit=True) as shop:
        async with relaying(bot_url) as relayed:
            sign_up(shop, "a")
            await relayed.until_count(1)


def test_sessions_compile_no_queries(bot_url: str, bot: Bot) -> None:
    database = conninfo_to_dict(bot_url)["dbname"]
    bot.execute(f"alter database {database} set jit = on".encode())
    with open_session(bot_url) as connection:
        assert connection.execute("show jit").fetchone() == ("off",)


async def test_init_leaves_no_row_hidden(bot_url: str) -> None:
    with psycopg.connect(bot_url) as shop:
        shop.execute(ENABLE_EVERYWHERE.encode())
    init(bot_url)
    assert diagnose(as_service(bot_url))["row_security"].level == "ok"
    async with open_database(as_service(bot_url)) as database:
        await prepare_database(database)


@pytest.mark.parametrize("table", ["migrations", "outbox", "webhooks"])
async def test_hidden_rows_are_named(bridge_url: str, bot: Bot, table: str) -> None:
    bot.execute(f"alter table bridge.{table} enable row level security".encode())
    found = diagnose(as_service(bridge_url))["row_security"]
    assert (found.level, found.hint[:18]) == ("error", "run: pgbridge init")
    assert f"bridge.{table}" in found.message
    if table == "migrations":
        async with open_database(as_service(bridge_url)) as database:
            with pytest.raises(StartError, match=r"row-level security.*migrations.*pgbridge init"):
                await prepare_database(database)
    init(bridge_url)
    assert diagnose(as_service(bridge_url))["row_security"].level == "ok"


async def test_rows_hidden_from_a_running_bridge_are_noticed(bridge_url: str, bot: Bot) -> None:
    with capture_logs() as logs:
        async with relaying(as_service(bridge_url), poll_seconds=0.1) as relayed:
            sign_up(bot, "a")
            await relayed.until_count(1)
            bot.execute("alter table bridge.outbox enable row level security")
            sign_up(bot, "b")
            await until(
                lambda: any("row-level security" in each.get("reason", "") for each in logs)
            )
            bot.execute("alter table bridge.outbox disable row level security")
            await relayed.until_count(2)
