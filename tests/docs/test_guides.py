"""Run the commands and SQL of the pages in order."""

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import trio
from trio_websocket import wrap_client_stream

from bridge.database.rights import READER
from bridge.demo.postgres import EmbeddedPostgres
from tests.docs import guides
from tests.docs.guides import Shell, blocks, guide, section, statements
from tests.node import needs_node, node, node_environment
from tests.receiver import receiving
from tests.system.processes import (
    TOKEN,
    Bridge,
    child,
    environment,
    lasting_port,
    pgbridge,
    running,
)
from tests.system.writers import SIGN_UP, logged
from tests.waiting import PATIENCE_SECONDS

Bot = psycopg.Connection[tuple[object, ...]]
EXAMPLES = guides.ROOT / "examples"
PAGES = sorted(
    str(path.relative_to(guides.ROOT))
    for path in [*guides.ROOT.glob("*.md"), *(guides.ROOT / "docs").glob("*.md")]
)
#: Those that the runbook retries and drops.
DEAD_LETTERS = (
    "insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)"
    " values (1, 'user.created', '{}', now(), 'no'), (2, 'user.created', '{}', now(), 'no')"
)

# --- the list of commands


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_run_or_excused(page: str) -> None:
    text = (guides.ROOT / page).read_text("utf-8")
    commands = [block for kind, block in blocks(text) if kind == "sh"]
    assert bool(commands) == (page in guides.RUN_BY)
    if commands:
        file, _, name = guides.RUN_BY[page].partition("::")
        assert f"def {name}(" in (guides.ROOT / file).read_text("utf-8")
    # No block escapes the pattern.
    assert len(blocks(text)) == len(re.findall(r"^```\w+$", text, re.M))


def test_every_excused_command_exists() -> None:
    for (page, line), reason in guides.NOT_RUN.items():
        text = (guides.ROOT / page).read_text("utf-8")
        assert line in {guides.first_line(block) for kind, block in blocks(text) if kind == "sh"}
        assert reason


# --- README and the page on access


@pytest.fixture
def shell(server: EmbeddedPostgres, bridge_url: str, tmp_path: Path) -> Shell:
    """A shell with a bridge's database; the test sets its page."""
    return Shell("", tmp_path, server, bridge_url)


def has(shell: Shell, bridge: Bridge, **stands_for: str) -> Shell:
    """Replace addresses and tokens by those of the bridge."""
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
    """Run a block of commands in a thread, so that servers in this process keep working."""
    return await trio.to_thread.run_sync(shell.run, text)


async def follow(shell: Shell, text: str) -> None:
    """Run all commands and SQL of a text in order."""
    await trio.to_thread.run_sync(shell.follow, text)


async def test_readme_commands_run(shell: Shell, bridge_url: str, bot: Bot) -> None:
    shell.page = "README.md"
    readme = (guides.ROOT / "README.md").read_text("utf-8")
    async with running(bridge_url) as bridge:
        has(shell, bridge, **{"postgresql://bot:secret@127.0.0.1:5432/bot": bridge_url})
        for kind, block in blocks(readme):
            if kind == "sh":
                await run(shell, block)
    [row] = bot.execute("select event_type, secret from bridge.webhooks").fetchall()
    assert row == ("payment.completed", "your-secret")


async def test_access_commands_run(shell: Shell, bridge_url: str, bot: Bot) -> None:
    shell.page = "docs/access.md"
    done = pgbridge("token", "create", "--name", "dashboard", url=bridge_url)
    assert done.returncode == 0
    async with running(bridge_url) as bridge:
        has(shell, bridge, **{"2027-01-31": "2099-01-31"})  # must be in the future
        page = guide("access.md")
        for kind, block in blocks(page):
            if kind == "sh":
                await run(shell, block)
        # The test of docs/roles.md runs the same SQL as this page's.
        await follow(shell, guide("console.md"))
    named = bot.execute("select name, revoked_at is not null from bridge.api_tokens order by id")
    assert named.fetchall() == [("dashboard", False), ("support", True)]
    assert bot.execute("select count(*) from bridge.ws_tickets").fetchone() == (1,)


# --- the page on receivers


async def test_receiver_gets_the_documented_request(
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
    """Run a server of the page; yields its ticket URL."""
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


async def test_dashboard_server_hands_out_tickets(
    shell: Shell, bridge_url: str, bot: Bot, tmp_path: Path
) -> None:
    """Run the page's commands and its ticket server in Python."""
    shell.page = "docs/dashboard.md"
    create, tail = [text for kind, text in blocks(guide("dashboard.md")) if kind == "sh"]
    [script] = parts_of_the_dashboard("python")
    (tmp_path / "dashboard.py").write_text(script, "utf-8")
    async with running(bridge_url) as bridge:
        token = (await run(has(shell, bridge), create)).strip()
        command = [sys.executable, "-m", "tests.asgi", "dashboard:app"]
        port = lasting_port()
        settings = {
            "BRIDGE_URL": bridge.rest_url,
            "DASHBOARD_TOKEN": token,
            "PYTHONPATH": str(tmp_path),
        }
        async with (
            ticket_server(command, port, **settings) as tickets,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            answer = await http.post(tickets)
            ticket = answer.json()["ticket"]
            stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
            with trio.fail_after(PATIENCE_SECONDS):
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


#: What a browser and the page provide.
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


async def test_dashboard_page_shows_events_and_resumes(
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
            # An id that this database never assigned.
            kept["KEPT_since"] = "4000"
            async with child([*start, str(tmp_path / "keeps.mjs")], kept) as tab:
                await tab.out.having("reloaded")
                await tab.out.having("kept since")


# --- the runbook


async def test_runbook_queries_and_commands_run(shell: Shell, bridge_url: str, bot: Bot) -> None:
    shell.page = "docs/operate.md"
    page = guide("operate.md")
    async with (
        running(bridge_url) as bridge,
        receiving() as receiver,
        httpx.AsyncClient(base_url=bridge.rest_url, trust_env=False) as http,
    ):
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
                    if "dead-letters" in text:
                        bot.execute(DEAD_LETTERS)
                    await run(shell, text)
                elif kind == "json":
                    answer = (await http.get("/readyz")).json()
                    assert set(json.loads(text)["checks"]) == set(answer["checks"])
                else:
                    assert kind == "sql"
                    # A reader may run every query.
                    for statement in statements(text):
                        who = bot if "bridge.emit" in statement else reader
                        who.execute(statement.encode())
        assert '"hello"' in str([request.body for request in receiver.at("/")])


def test_runbook_index_lists_every_symptom() -> None:
    page = guide("operate.md")
    headings = re.findall(r"^### (.*)$", page, re.M)
    listed = page.partition("## Events")[0]
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        assert f"(#{anchor})" in listed, heading
