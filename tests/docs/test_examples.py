"""The example clients, and that of the contract document, work with a real bridge."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.node import needs_node, node, node_environment
from tests.system.processes import (
    TOKEN,
    Child,
    child,
    environment,
    lasting_port,
    pgbridge,
    running,
)
from tests.system.writers import SIGN_UP, logged, writing
from tests.waiting import PATIENCE_SECONDS

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
Bot = psycopg.Connection[tuple[object, ...]]
#: Runs a client with a port and a token until the end of the context.
Client = Callable[[int, str], AbstractAsyncContextManager[Child]]


@pytest.fixture
def javascript(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Child]]:
    """Run pgbridge.js with its options as keywords."""
    needs_node()
    # Some versions of Node require this extension for modules.
    module = shutil.copy(EXAMPLES / "pgbridge.js", tmp_path / "pgbridge.mjs")

    def run(port: int, token: str = TOKEN, **options: Any) -> AbstractAsyncContextManager[Child]:
        return child(
            [
                *node(),
                str(HERE / "listen.mjs"),
                str(module),
                f"ws://127.0.0.1:{port}/ws",
                json.dumps(options),
            ],
            node_environment(token=token),
        )

    return run


def python(port: int, token: str) -> AbstractAsyncContextManager[Child]:
    """Run listen.py."""
    return child(
        [sys.executable, str(EXAMPLES / "listen.py"), f"ws://127.0.0.1:{port}/ws"],
        environment(None, token=token),
    )


@pytest.fixture(params=["javascript", "python"])
def client(request: pytest.FixtureRequest) -> Client:
    """Either example."""
    if request.param == "python":
        return python
    javascript: Client = request.getfixturevalue("javascript")
    return javascript


def names(lines: list[str]) -> list[str]:
    """Return the user names in lines such as `7 user.created {"username": …}`."""
    found = [line.split(" ", 2) for line in lines]
    ids = [int(event_id) for event_id, _, _ in found]
    assert ids == sorted(set(ids))
    return [json.loads(payload)["username"] for _, _, payload in found]


async def test_example_client_survives_killed_bridges_without_loss(
    bridge_url: str, client: Client
) -> None:
    port = lasting_port()
    async with running(bridge_url, port=port) as bridge, client(port, TOKEN) as listener:
        await listener.err.having("listening")
        # Before the first event.
        await bridge.kill()
        with writing(bridge_url) as writer:
            for _ in range(2):
                async with running(bridge_url, port=port) as another:
                    await listener.out.count(len(listener.out.all) + 50)
                    await another.kill()
            written = writer.stop()
        async with running(bridge_url, port=port):
            assert names(await listener.out.count(len(written))) == written


async def test_example_client_stops_when_its_token_is_rejected(
    bridge_url: str, client: Client
) -> None:
    async with running(bridge_url) as bridge, client(bridge.port, "wrong") as listener:
        await listener.end()
        assert listener.out.all == []
        assert listener.err.all[-1] == "refused: Invalid or expired API token"


async def test_example_client_reports_a_gap(bridge_url: str, bot: Bot, client: Client) -> None:
    port = lasting_port()
    async with running(bridge_url, port=port) as bridge, client(port, TOKEN) as listener:
        await listener.err.having("listening")
        bot.execute(SIGN_UP, ("first",))
        await listener.out.count(1)
        await bridge.kill()
        for name in ("lost", "also lost", "fourth"):
            bot.execute(SIGN_UP, (name,))
        async with running(bridge_url):  # elsewhere
            await logged(bot, 4)
        bot.execute("delete from bridge.events where id < 4")
        async with running(bridge_url, port=port):
            assert names(await listener.out.count(2)) == ["first", "fourth"]
            assert await listener.err.having("missed") == "missed events after 1"


async def test_example_client_accepts_reused_ids_after_a_restore(
    bridge_url: str, bot: Bot, client: Client
) -> None:
    port = lasting_port()
    async with running(bridge_url, port=port) as bridge, client(port, TOKEN) as listener:
        await listener.err.having("listening")
        for name in ("a", "b", "c"):
            bot.execute(SIGN_UP, (name,))
        await listener.out.count(3)
        await bridge.kill()
        # As after restoring a backup with one event.
        bot.execute("delete from bridge.events where id > 1")
        bot.execute("alter sequence bridge.event_id restart with 2")
        async with running(bridge_url, port=port):
            assert await listener.err.having("missed") == "missed events after 3"
            bot.execute(SIGN_UP, ("d",))
            assert (await listener.out.count(4))[3].startswith("2 user.created ")


async def test_pgbridge_js_filters_and_closes(
    bridge_url: str, bot: Bot, javascript: Callable[..., AbstractAsyncContextManager[Child]]
) -> None:
    bot.execute("select bridge.emit(t, '[]') from unnest('{a.b,gap,a.c.d,b}'::text[]) t")
    async with running(bridge_url) as bridge:
        for in_url in (False, True):
            async with javascript(
                bridge.port,
                since=0,
                events=["a.*", "gap"],
                tokenInUrl=in_url,
                closeAfter=3,
            ) as listener:
                assert await listener.end() == 0
                assert listener.out.all == ["1 a.b []", "2 gap []", "3 a.c.d []"]
                assert listener.err.all[-1] == "refused: close() was called"
        async with javascript(bridge.port, events=["no such*"]) as listener:
            await listener.end()
            assert "is no pattern" in listener.err.all[-1]


async def test_pgbridge_js_stops_when_its_filter_is_forbidden(
    bridge_url: str, javascript: Callable[..., AbstractAsyncContextManager[Child]]
) -> None:
    arguments = ("token", "create", "--name", "tickets", "--scope", "events:read:ticket.*")
    token = pgbridge(*arguments, url=bridge_url).stdout.strip()
    async with (
        running(bridge_url) as bridge,
        javascript(bridge.port, token, events=["user.*"]) as listener,
    ):
        await listener.end()
        assert listener.out.all == []
        assert listener.err.all[-1].startswith("refused: ")
        assert "user.*" in listener.err.all[-1]


async def test_pgbridge_js_notices_a_silent_bridge(
    bridge_url: str, bot: Bot, javascript: Callable[..., AbstractAsyncContextManager[Child]]
) -> None:
    async with (
        running(bridge_url) as bridge,
        javascript(bridge.port, pingSeconds=0.5, silentSeconds=2) as listener,
    ):
        await listener.err.having("listening")
        bridge.process.send_signal(signal.SIGSTOP)
        assert await listener.err.having("waiting") == "waiting no message received"
        bot.execute(SIGN_UP, ("meanwhile",))
        bridge.process.send_signal(signal.SIGCONT)
        assert names(await listener.out.count(1)) == ["meanwhile"]


async def test_client_of_the_contract_document_works(bridge_url: str, bot: Bot) -> None:
    needs_node()
    async with running(bridge_url) as bridge:
        command = [*node(), str(HERE / "contract_client.js")]
        async with child(command, node_environment(token=TOKEN, port=bridge.port)) as page:
            await page.out.having("Event: connection undefined")
            await page.out.having("Event: pong undefined")
            bot.execute(SIGN_UP, ("Иван",))
            dashboard = await page.out.having("Dashboard: ")
            assert json.loads(dashboard.removeprefix("Dashboard: ")) == {
                "user_id": 1,
                "telegram_id": None,
                "username": "Иван",
                "first_name": None,
                "last_name": None,
                "referral_code": None,
                "referred_by_id": None,
            }
            assert page.out.all[0] == "Connected"
            assert await bridge.terminate() == 0
            await page.out.having("Disconnected")
            assert page.err.all == [] or "Warning" in page.err.all[0]


async def test_pgbridge_js_requests_a_ticket_per_connection(
    bridge_url: str, bot: Bot, javascript: Callable[..., AbstractAsyncContextManager[Child]]
) -> None:
    port = lasting_port()
    tickets = f"http://127.0.0.1:{port}/ws/tickets"
    async with (
        running(bridge_url, port=port) as bridge,
        javascript(port, tickets=tickets, events=["user.*"]) as listener,
    ):
        await listener.err.having("listening")
        await bridge.kill()
        await listener.err.having("waiting")
        bot.execute(SIGN_UP, ("missed",))
        async with running(bridge_url, port=port):
            assert names(await listener.out.count(1)) == ["missed"]
    assert bot.execute("select from bridge.ws_tickets").fetchall() == []


def test_pgbridge_js_requests_a_late_ticket_again(tmp_path: Path) -> None:
    needs_node()
    module = shutil.copy(EXAMPLES / "pgbridge.js", tmp_path / "pgbridge.mjs")
    done = subprocess.run(
        [*node(), str(HERE / "late_ticket.mjs"), str(module)],
        env=node_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "connecting",
        "waiting no message received",
        "connecting",
        "opens with second",
    ]
