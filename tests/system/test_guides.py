"""The pages of docs/ do what they say: their commands and their SQL are run, in order."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio
from trio_websocket import wrap_client_stream

from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from bridge.rights import READER
from tests import guides
from tests.conftest import BOT_TABLES, create_roles, init
from tests.guides import Shell, blocks, guide, section, statements
from tests.node import needs_node, node, node_environment
from tests.receiver import receiving
from tests.system.processes import (
    TOKEN,
    Bridge,
    as_role,
    child,
    environment,
    lasting_port,
    pgbridge,
    running,
)
from tests.system.writers import SIGN_UP, logged

Bot = psycopg.Connection[tuple[object, ...]]
EXAMPLES = guides.ROOT / "examples"
PAGES = sorted(
    str(path.relative_to(guides.ROOT))
    for path in [*guides.ROOT.glob("*.md"), *(guides.ROOT / "docs").glob("*.md")]
)
#: Of the bot, what is not among the tables of the demo.
MORE_OF_THE_BOT = """
    create table public.web_api_tokens (id serial primary key, name varchar(255),
        token_hash varchar(128) unique, is_active boolean, expires_at timestamptz);
    create table public.webhooks (id serial primary key, name varchar(255), url text,
        event_type varchar(50), secret varchar(128), description text, is_active boolean);
    insert into public.webhooks (name, url, event_type, is_active)
    values ('crm', 'https://crm.example/hook', 'payment.completed', true)
"""


# --- the list of what is run


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_run_by_a_test_or_named_with_a_reason(page: str) -> None:
    text = (guides.ROOT / page).read_text("utf-8")
    commands = [block for kind, block in blocks(text) if kind == "sh"]
    assert bool(commands) == (page in guides.RUN_BY)
    if commands:
        file, _, name = guides.RUN_BY[page].partition("::")
        assert f"def {name}(" in (guides.ROOT / file).read_text("utf-8")
    # Nobody opens a block in a way that is not looked for here.
    assert len(blocks(text)) == len(re.findall(r"^```\w+$", text, re.M))


def test_every_command_that_is_not_run_stands_in_a_page_and_has_a_reason() -> None:
    for (page, line), reason in guides.NOT_RUN.items():
        text = (guides.ROOT / page).read_text("utf-8")
        assert line in {guides.first_line(block) for kind, block in blocks(text) if kind == "sh"}
        assert reason


# --- README and the page on access


@pytest.fixture
def shell(server: EmbeddedPostgres, bridge_url: str, tmp_path: Path) -> Shell:
    """Somebody with a bridge's database; the page is still to be said."""
    return Shell("", tmp_path, server, bridge_url)


def has(shell: Shell, bridge: Bridge, **stands_for: str) -> Shell:
    """Tell the shell where the bridge is, and what its tokens are."""
    here = f"127.0.0.1:{bridge.port}"
    tokens = dict.fromkeys(("YOUR_TOKEN", "ADMIN_TOKEN", "Bearer TOKEN"), TOKEN)
    tokens["Bearer TOKEN"] = f"Bearer {TOKEN}"
    shell.stands_for = {
        **stands_for,
        "127.0.0.1:8090": here,
        "127.0.0.1:8080": here,
        **tokens,
    }
    shell.settings = {"port": bridge.port, "token": TOKEN}
    return shell


async def run(shell: Shell, text: str) -> str:
    """Run a block of commands, while a bridge or a receiver of this process is at work."""
    return await trio.to_thread.run_sync(shell.run, text)


async def follow(shell: Shell, text: str) -> None:
    """Run all commands and all SQL of a text, in order."""
    await trio.to_thread.run_sync(shell.follow, text)


async def test_the_commands_of_the_readme_run(shell: Shell, bridge_url: str, bot: Bot) -> None:
    shell.page = "README.md"
    readme = (guides.ROOT / "README.md").read_text("utf-8")
    async with running(bridge_url) as bridge:
        for kind, block in blocks(has(shell, bridge).here(readme)):
            if kind == "sh":
                await run(shell, block)
    [row] = bot.execute("select event_type, secret from bridge.webhooks").fetchall()
    assert row == ("payment.completed", "your-secret")


async def test_the_commands_of_the_page_on_access_run(
    shell: Shell, bridge_url: str, bot: Bot
) -> None:
    shell.page = "docs/access.md"
    done = pgbridge("token", "create", "--name", "dashboard", url=bridge_url)
    assert done.returncode == 0
    async with running(bridge_url) as bridge:
        has(shell, bridge, **{"2027-01-31": "2099-01-31"})  # it is to be in the future
        for kind, block in blocks(guide("access.md")):
            if kind == "sh":
                await run(shell, block)
    named = bot.execute("select name, revoked_at is not null from bridge.api_tokens order by id")
    assert named.fetchall() == [("dashboard", False), ("support", True)]
    assert bot.execute("select count(*) from bridge.ws_tickets").fetchone() == (1,)


# --- the page on receivers


async def test_a_receiver_gets_what_the_page_shows(
    shell: Shell, bridge_url: str, bot: Bot, tmp_path: Path
) -> None:
    shell.page = "docs/receivers.md"
    page = guide("receivers.md")
    port = lasting_port()
    command = [sys.executable, str(EXAMPLES / "receivers" / "receiver.py")]
    settings = {"WEBHOOK_SECRET": "your-secret", "PORT": str(port), "INBOX": str(tmp_path / "in")}
    async with (
        running(bridge_url) as bridge,
        child(command, {**environment(None), **settings}) as receiver,
    ):
        await receiver.out.having("listening on")
        has(shell, bridge, **{"127.0.0.1:9000": f"127.0.0.1:{port}"})
        await follow(shell, section(page, 1))
        bot.execute(SIGN_UP, ("ada",))
        [shown] = [text for kind, text in blocks(page) if kind == "text"]
        guides.shows(shown, await receiver.out.having("evt_1_wh_1") + "\n")
        for number in (4, 8, 9):
            await follow(shell, section(page, number))
        assert "webhook.test" in await receiver.out.having("webhook.test")
    assert bot.execute("select count(*) from taken").fetchone() == (1,)
    assert bot.execute("select previous_secret from bridge.webhooks").fetchone() == ("your-secret",)


# --- the page on dashboards


@asynccontextmanager
async def ticket_server(command: list[str], port: int, **settings: str) -> AsyncIterator[str]:
    """Run a server of the page; yields where it gives tickets."""
    env = {**node_environment(), "PORT": str(port), **settings}
    async with child(command, env):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                break
            except OSError:
                await trio.sleep(0.02)
        yield f"http://127.0.0.1:{port}/ticket"


def parts_of_the_dashboard(kind: str) -> list[str]:
    return [text for each, text in blocks(guide("dashboard.md")) if each == kind]


async def test_a_dashboard_connects_as_the_page_says(
    shell: Shell, bridge_url: str, bot: Bot, tmp_path: Path
) -> None:
    """The page's commands, and its server in Python, which hands out tickets."""
    shell.page = "docs/dashboard.md"
    create, tail = [text for kind, text in blocks(guide("dashboard.md")) if kind == "sh"]
    [script] = parts_of_the_dashboard("python")
    (tmp_path / "dashboard.py").write_text(script, "utf-8")
    async with running(bridge_url) as bridge:
        token = (await run(has(shell, bridge), create)).strip()
        command = [
            sys.executable,
            "-m",
            "hypercorn",
            "--bind",
            f"127.0.0.1:{(port := lasting_port())}",
        ]
        settings = {
            "BRIDGE_URL": bridge.rest_url,
            "DASHBOARD_TOKEN": token,
            "PYTHONPATH": str(tmp_path),
        }
        async with (
            ticket_server([*command, "dashboard:app"], port, **settings) as tickets,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            answer = await http.post(tickets)
            ticket = answer.json()["ticket"]
            stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
            with trio.fail_after(20):
                async with stream, trio.open_nursery() as nursery:
                    client = await wrap_client_stream(
                        nursery, stream, "127.0.0.1", f"/ws?ticket={ticket}"
                    )
                    welcome = json.loads(await client.get_message())
                    assert welcome["visible"] == ["ticket.*", "user.created"]
                    bot.execute(SIGN_UP, ("ada",))
                    assert '"ada"' in str(await client.get_message())
                    nursery.cancel_scope.cancel()
        assert '"user.created"' in await run(shell, tail)


#: What a browser has, and a page of one's own.
BROWSER = """
globalThis.location = { host: '%(host)s', reload: () => console.log('reloaded') };
globalThis.localStorage = {
  getItem: (key) => process.env[`KEPT_${key}`] ?? null,
  setItem: (key, value) => console.log('kept', key, value),
};
const plainFetch = globalThis.fetch;
globalThis.fetch = (path, options) =>
  plainFetch(path.startsWith('/') ? '%(site)s' + path : path, options);
globalThis.show = (id, type, payload) => console.log(id, type, JSON.stringify(payload));
globalThis.tell = (state, reason) => console.log(state, reason ?? '');
globalThis.getTicket = async () =>
  (await (await fetch('/ticket', { method: 'POST' })).json()).ticket;
"""


async def test_the_page_of_a_dashboard_shows_events_and_goes_on_where_it_was(
    bridge_url: str, bot: Bot, tmp_path: Path
) -> None:
    needs_node()
    server, page, page_that_keeps = parts_of_the_dashboard("javascript")
    (tmp_path / "server.mjs").write_text(server, "utf-8")
    (tmp_path / "pgbridge.mjs").write_bytes((EXAMPLES / "pgbridge.js").read_bytes())
    token = pgbridge("token", "create", "--name", "dashboard", url=bridge_url).stdout.strip()
    async with running(bridge_url) as bridge:
        port = lasting_port()
        command = [*node(), str(tmp_path / "server.mjs")]
        settings = {"BRIDGE_URL": bridge.rest_url, "DASHBOARD_TOKEN": token}
        async with ticket_server(command, port, **settings) as tickets:
            browser = BROWSER % {
                "host": f"127.0.0.1:{bridge.port}",
                "site": tickets.removesuffix("/ticket"),
            }
            (tmp_path / "browser.mjs").write_text(browser, "utf-8")
            for name, text in (("page.mjs", page), ("keeps.mjs", page_that_keeps)):
                assert "'wss:" in text.replace("`", "'")
                here = text.replace("./pgbridge.js", "./pgbridge.mjs").replace("wss:", "ws:")
                (tmp_path / name).write_text(here, "utf-8")
            start = [*node(), "--import", str(tmp_path / "browser.mjs")]
            async with child([*start, str(tmp_path / "page.mjs")], node_environment()) as tab:
                await tab.out.having("open")
                bot.execute(SIGN_UP, ("ada",))
                assert '"ada"' in await tab.out.having("user.created")
            bot.execute("insert into public.tickets values (1, 1, 'Help', 'open', 'normal', false)")
            await logged(bot, 2)
            kept = {**node_environment(), "KEPT_since": "1"}
            async with child([*start, str(tmp_path / "keeps.mjs")], kept) as tab:
                assert (await tab.out.having("ticket.created")).startswith("2 ")
                await tab.out.having("kept since 2")
            # Of a database that never had such an id.
            kept["KEPT_since"] = "4000"
            async with child([*start, str(tmp_path / "keeps.mjs")], kept) as tab:
                await tab.out.having("reloaded")
                await tab.out.having("kept since")


# --- the runbook


async def test_every_look_of_the_runbook_can_be_had(
    shell: Shell, bridge_url: str, bot: Bot
) -> None:
    shell.page = "docs/operate.md"
    page = guide("operate.md")
    async with running(bridge_url) as bridge, receiving() as receiver:
        has(shell, bridge)
        bot.execute(
            "insert into bridge.webhooks (name, url, event_type) values ('crm', %s, '*')",
            (receiver.url(),),
        )
        bot.execute(SIGN_UP, ("ada",))
        await receiver.until(lambda: bool(receiver.requests))
        with psycopg.connect(bridge_url, autocommit=True) as reader:
            reader.execute(f"set session authorization {READER}".encode())
            for kind, text in blocks(page):
                if kind == "sh":
                    await run(shell, text)
                else:
                    assert kind == "sql"
                    # What only looks, a reader may.
                    for statement in statements(text):
                        who = bot if "bridge.emit" in statement else reader
                        who.execute(statement.encode())
        assert '"hello"' in str([request.body for request in receiver.at("/")])


def test_the_runbook_leads_from_its_beginning_to_every_symptom() -> None:
    page = guide("operate.md")
    headings = re.findall(r"^### (.*)$", page, re.M)
    listed = page.partition("## Events")[0]
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        assert f"(#{anchor})" in listed, heading


# --- installing, upgrading, restoring


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server without any role of ours, with the bot's database, whose owner is the bot."""
    with embedded_postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("create role bot login")
            admin.execute("create database bot owner bot")
        with psycopg.connect(as_role(server.url("bot"), "bot"), autocommit=True) as bot:
            bot.execute(BOT_TABLES.read_bytes())
            bot.execute(MORE_OF_THE_BOT)
        yield server


async def test_an_installation_goes_as_the_page_says(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
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
                await run(shell, text)
            else:
                shell.url = url if "create role" in text else owner
                shell.ask(text)
    assert "create schema bridge" in (tmp_path / "init.sql").read_text().lower()
    for number in (5, 6, 7, 8):
        await follow(shell, section(page, number))
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
                    shown = await run(shell, text)
                elif kind == "sql":
                    shell.ask(text)
                else:
                    guides.shows(text, shown)
    with psycopg.connect(url) as admin:
        imported = admin.execute("select name, is_active from bridge.webhooks").fetchall()
        assert imported == [("crm", True)]


async def test_a_database_is_upgraded_restored_and_cleared_as_the_page_says(
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
                await follow(shell, section(page, 1))
                bot.execute(SIGN_UP, ("live",))
                await receiver.until(lambda: len(receiver.requests) == 2)
        await follow(shell, section(page, 2))
        await follow(shell, section(page, 3))
        # One that is lost with what was committed after the backup.
        with psycopg.connect(owner, autocommit=True) as bot:
            async with running(as_role(url, "pgbridge")):
                for name in ("lost", "lost, too"):
                    bot.execute(SIGN_UP, (name,))
                await receiver.until(lambda: len(receiver.requests) == 4)
        before = [request.headers["webhook-id"] for request in receiver.requests]
        for kind, text in blocks(section(page, 4)):
            shell.url = restored if kind == "sql" else owner
            await follow(shell, f"```{kind}\n{text}```\n")
        shell.url = owner
        with psycopg.connect(restored, autocommit=True) as bot:
            async with running(as_role(restored, "pgbridge")) as bridge:
                stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
                with trio.fail_after(20):
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
    await follow(shell, section(page, 6))
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        admin.execute("drop database bot_restored")
        for kind, text in blocks(section(page, 7)):
            if kind == "sh":
                await run(shell, text)
            else:
                for statement in statements(text):
                    admin.execute(statement.encode())
    with psycopg.connect(url) as bot:
        left = "select from pg_namespace where nspname = 'bridge'"
        assert bot.execute(left).fetchall() == []
        assert bot.execute("select from pg_trigger where not tgisinternal").fetchall() == []
