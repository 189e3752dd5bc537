"""Follow docs/install.md and docs/upgrade.md on a separate server."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from trio_websocket import wrap_client_stream

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, create_roles, init
from tests.docs import guides
from tests.docs.guides import Shell, blocks, guide, section, statements
from tests.receiver import receiving
from tests.system.processes import TOKEN, as_role, lasting_port, running
from tests.system.writers import SIGN_UP
from tests.waiting import PATIENCE_SECONDS

#: Tables of the bot that the demo lacks.
MORE_OF_THE_BOT = """
    create table public.web_api_tokens (id serial primary key, name varchar(255),
        token_hash varchar(128) unique, is_active boolean, expires_at timestamptz);
    create table public.webhooks (id serial primary key, name varchar(255), url text,
        event_type varchar(50), secret varchar(128), description text, is_active boolean);
    insert into public.webhooks (name, url, event_type, is_active)
    values ('crm', 'https://crm.example/hook', 'payment.completed', true)
"""


async def _follow(shell: Shell, text: str) -> None:
    """Run all commands and SQL of a text in a thread, so that servers here keep working."""
    await trio.to_thread.run_sync(shell.follow, text)


@pytest.fixture
def own_server(own_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """The server with a database that the bot owns."""
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("create role bot login")
        admin.execute("create database bot owner bot")
    with psycopg.connect(as_role(own_server.url("bot"), "bot"), autocommit=True) as bot:
        bot.execute(BOT_TABLES.read_bytes())
        bot.execute(MORE_OF_THE_BOT)
    return own_server


async def test_installation_works_as_written(own_server: EmbeddedPostgres, tmp_path: Path) -> None:
    page = guide("install.md")
    url = own_server.url("bot")
    owner, login = as_role(url, "bot"), as_role(url, "pgbridge")
    shell = Shell("docs/install.md", tmp_path, own_server, owner)
    env_file = tmp_path / "pgbridge.env"
    port = lasting_port()
    shell.stands_for = {
        "postgresql://pgbridge:long-and-random@127.0.0.1:5432/bot": login,
        "postgresql://bot:secret@127.0.0.1:5432/bot": owner,
        "/etc/pgbridge.env": str(env_file),
        "8090": str(port),
        "…": "+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/8=",
    }
    for number in (1, 2, 3, 4):
        for kind, text in blocks(section(page, number)):
            if kind == "ini":
                env_file.write_text(shell.here(text), "utf-8")
            elif kind == "sh":
                await trio.to_thread.run_sync(shell.run, text)
            else:
                shell.url = url if "create role" in text else owner
                shell.ask(text)
    assert "create schema bridge" in (tmp_path / "init.sql").read_text().lower()
    for number in (5, 6, 7, 8):
        await _follow(shell, section(page, number))
    shell.url = owner
    given = dict(re.findall(r"^BRIDGE_(\w+)='?(.*?)'?$", env_file.read_text("utf-8"), re.M))
    settings: dict[str, Any] = {name.lower(): value for name, value in given.items()}
    assert settings.pop("database_url") == login
    assert set(given) >= {"PORT", "SECRET_KEY", "TRUSTED_PROXIES"}
    async with running(login, **settings) as bridge:
        assert bridge.port == port
        for number in (9, 10):
            shown = ""
            for kind, text in blocks(section(page, number)):
                if kind == "sh":
                    shown = await trio.to_thread.run_sync(shell.run, text)
                elif kind == "sql":
                    shell.ask(text)
                else:
                    guides.shows(text, shown)
    with psycopg.connect(url) as admin:
        imported = admin.execute("select name, is_active from bridge.webhooks").fetchall()
        assert imported == [("crm", True)]


async def test_upgrade_restore_and_uninstall_work_as_written(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    page = guide("upgrade.md")
    url = own_server.url("bot")
    owner = as_role(url, "bot")
    shell = Shell("docs/upgrade.md", tmp_path, own_server, owner)
    restored = as_role(own_server.url("bot_restored"), "bot")
    shell.variables = {
        "OWNER_URL": owner,
        "ADMIN_URL": own_server.url(),
        "RESTORED_URL": restored,
    }
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        create_roles(admin)
        admin.execute("create role pgbridge login in role bridge_service")
    init(owner)

    async with receiving() as receiver:
        with psycopg.connect(owner, autocommit=True) as bot:
            bot.execute(
                "insert into bridge.webhooks (name, url, event_type) values ('crm', %s, '*')",
                (receiver.url(),),
            )
            async with running(as_role(url, "pgbridge")):
                bot.execute(SIGN_UP, ("before",))
                await receiver.until(lambda: len(receiver.requests) == 1)
                await _follow(shell, section(page, 1))
                bot.execute(SIGN_UP, ("live",))
                await receiver.until(lambda: len(receiver.requests) == 2)
        await _follow(shell, section(page, 2))
        await _follow(shell, section(page, 3))
        # Committed after the backup, so lost in the restore.
        with psycopg.connect(owner, autocommit=True) as bot:
            async with running(as_role(url, "pgbridge")):
                for name in ("lost", "lost, too"):
                    bot.execute(SIGN_UP, (name,))
                await receiver.until(lambda: len(receiver.requests) == 4)
        before = [request.headers["webhook-id"] for request in receiver.requests]
        for kind, text in blocks(section(page, 4)):
            shell.url = restored if kind == "sql" else owner
            await _follow(shell, f"```{kind}\n{text}```\n")
        shell.url = owner
        with psycopg.connect(restored, autocommit=True) as bot:
            async with running(as_role(restored, "pgbridge")) as bridge:
                stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
                with trio.fail_after(PATIENCE_SECONDS):
                    async with stream, trio.open_nursery() as nursery:
                        client = await wrap_client_stream(
                            nursery, stream, "127.0.0.1", f"/ws?token={TOKEN}&since=3"
                        )
                        await client.get_message()
                        assert '"gap"' in str(await client.get_message())
                        nursery.cancel_scope.cancel()
                bot.execute(SIGN_UP, ("after",))
                await receiver.until(lambda: b"after" in receiver.requests[-1].body)
        new = receiver.requests[-1].headers["webhook-id"]
        assert new not in before
        assert int(new.split("_")[1]) > 1_000_000
    await _follow(shell, section(page, 6))
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("drop database bot_restored")
        for kind, text in blocks(section(page, 7)):
            if kind == "sh":
                await trio.to_thread.run_sync(shell.run, text)
            else:
                for statement in statements(text):
                    admin.execute(statement.encode())
    with psycopg.connect(url) as bot:
        left = "select from pg_namespace where nspname = 'bridge'"
        assert bot.execute(left).fetchall() == []
        assert bot.execute("select from pg_trigger where not tgisinternal").fetchall() == []
