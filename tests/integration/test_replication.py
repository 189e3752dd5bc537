"""init and doctor notice what would replicate schema bridge to other systems."""

import psycopg
import pytest

from bridge.capture.plan import plan_install
from bridge.capture.replication import publication_problem, slot_remark
from bridge.capture.rules import load_preset
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, init
from tests.integration.doctor.conftest import Bot, diagnose
from tests.integration.installing import Dump, apply


def publish(url: str, definition: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"create publication shop_copy {definition}".encode())


def test_init_refuses_publications_of_all_tables(bot_url: str, dump_schema: Dump) -> None:
    publish(bot_url, "for all tables")
    before = dump_schema(bot_url)
    with pytest.raises(InstallError) as refused:
        init(bot_url)
    assert "publication shop_copy is for all tables" in str(refused.value)
    assert "--allow-publications" in str(refused.value)
    assert dump_schema(bot_url) == before
    with open_session(bot_url) as connection:
        planned = plan_install(connection, load_preset("telegram-shop"), allow_publications=True)
    apply(bot_url, planned.steps)
    with psycopg.connect(bot_url) as connection:
        # As the drain does.
        connection.execute("select bridge.emit('a', '{}')")
        connection.execute("delete from bridge.outbox")
    found = diagnose(bot_url)["replication"]
    assert found.level == "error"
    assert found.message == refused.value.args[0].split("; ")[0]
    # Nothing to do, so nothing to refuse.
    assert init(bot_url).steps == []


@pytest.mark.parametrize(
    "definition",
    ["for tables in schema bridge", "for table bridge.events, bridge.outbox", "for all tables"],
)
def test_later_publications_are_found(bridge_url: str, bot: Bot, definition: str) -> None:
    assert diagnose(bridge_url)["replication"].level == "ok"
    bot.execute(f"create publication late {definition}".encode())
    found = diagnose(bridge_url)["replication"]
    assert found.level == "error"
    assert "publication late " in found.message
    bot.execute("delete from bridge.capture_rules where name = 'user.created'")
    with pytest.raises(InstallError, match="publication late "):
        init(bridge_url)


@pytest.mark.parametrize(
    "definition", ["for tables in schema public", "for table public.users", ""]
)
def test_publications_of_the_application_are_accepted(bot_url: str, definition: str) -> None:
    publish(bot_url, definition)
    init(bot_url)
    assert diagnose(bot_url)["replication"].level == "ok"


def test_slots_that_receive_every_table_are_named() -> None:
    slots = [{"kind": "slot", "name": name} for name in ("a", "b", "c", "d")]
    assert slot_remark(slots[:1]) == (
        "logical replication slot a will also receive changes of schema bridge; "
        "exclude that schema in the consumer"
    )
    assert "slots a, b, c and others will" in str(slot_remark(slots))
    assert slot_remark([]) is None
    assert publication_problem(slots) is None


def test_slots_of_publications_are_accepted(own_server: EmbeddedPostgres) -> None:
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("alter system set wal_level = logical")
        connection.execute(BOT_TABLES.read_bytes())
    own_server.stop()
    own_server.start()
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('copy', 'pgoutput')")
        assert init(own_server.url()).remarks == []
        assert diagnose(own_server.url())["replication"].level == "ok"
        connection.execute("select pg_drop_replication_slot('copy')")
