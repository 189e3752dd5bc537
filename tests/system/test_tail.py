"""`pgbridge tail` on terminals and in pipes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import trio

from tests.system.processes import (
    TOKEN,
    Child,
    Lines,
    child,
    complaint,
    environment,
    invoked,
    lasting_port,
    pgbridge,
    running,
)
from tests.system.writers import SIGN_UP, logged, writing
from tests.waiting import PATIENCE_SECONDS

TAIL = (sys.executable, "-m", "bridge", "tail")
Bot = psycopg.Connection[tuple[object, ...]]


def tailing(port: int, *arguments: str, token: str = TOKEN) -> AbstractAsyncContextManager[Child]:
    """Run `pgbridge tail` with pipes and without a database."""
    return child([*TAIL, *arguments], environment(None, port=port, token=token))


async def refused(port: int, *arguments: str, token: str = TOKEN) -> tuple[int, str]:
    """Return the exit code and the error line of a tail that must not start."""
    async with tailing(port, *arguments, token=token) as tail:
        code = await tail.end()
        assert tail.out.all == []
        [line] = tail.err.all
        return code, line


def sign_up(bot: Bot, *names: str) -> None:
    for name in names:
        bot.execute(SIGN_UP, (name,))


def names(lines: list[str]) -> list[str]:
    """Return the users of events, whose IDs must increase."""
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    return [event["payload"]["username"] for event in events]


# --- output


async def test_tail_prints_original_json_into_a_pipe(bridge_url: str, bot: Bot) -> None:
    async with running(bridge_url) as bridge, tailing(bridge.port) as tail:
        following = await tail.err.having("following")
        sign_up(bot, "Иван \x7f \x9b31m")
        [line] = await tail.out.count(1)
        assert following == f"pgbridge: following ws://127.0.0.1:{bridge.port}/ws after event 0"
        assert re.fullmatch(
            r'\{"type":"user.created","payload":\{"user_id": 1, .*\},"timestamp":"[^"]*Z","id":1\}',
            line,
        )
        assert names([line]) == ["Иван \x7f \x9b31m"]
        assert line.isprintable(), "the next program may print it"


async def test_tail_replays_with_since_and_filters_by_type(bridge_url: str, bot: Bot) -> None:
    sign_up(bot, "a", "b")
    bot.execute("select bridge.emit('ticket.created', '{}'), bridge.emit('other', '{}')")
    async with running(bridge_url) as bridge:
        async with tailing(bridge.port, "--since", "0", "--count", "4") as tail:
            assert await tail.end() == 0
            kinds = [json.loads(line)["type"] for line in tail.out.all]
            assert kinds == ["user.created", "user.created", "ticket.created", "other"]
        async with tailing(
            bridge.port, "ticket.*", "other", "--since", "0", "--count", "2"
        ) as tail:
            assert await tail.end() == 0
            assert [json.loads(line)["type"] for line in tail.out.all] == [
                "ticket.created",
                "other",
            ]


async def test_tail_accepts_events_of_any_size_and_depth(bridge_url: str, bot: Bot) -> None:
    deep = "[" * 3000 + "]" * 3000
    bot.execute("select bridge.emit('big', to_jsonb(repeat('x', 3000000)))")
    bot.execute("select bridge.emit('deep', %s::jsonb)", (deep,))
    bot.execute("select bridge.emit('gap', 'null')")
    async with (
        running(bridge_url) as bridge,
        tailing(bridge.port, "--since", "0", "--count", "3") as tail,
    ):
        assert await tail.end() == 0
        big, deepest, gap = tail.out.all
        assert len(json.loads(big)["payload"]) == 3_000_000
        assert f'"payload":{deep},' in deepest
        assert json.loads(gap)["type"] == "gap"


@asynccontextmanager
async def on_terminal(port: int, *arguments: str) -> AsyncIterator[tuple[Lines, trio.Process]]:
    """Run `pgbridge tail` on a terminal of 80 columns; yield its output."""
    ours, theirs = pty.openpty()
    env = {**environment(None, port=port, token=TOKEN), "TERM": "xterm-256color"}
    env |= {"COLUMNS": "80", "TZ": "Asia/Vladivostok", "PYTHONIOENCODING": "utf-8"}
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.lowlevel.FdStream(ours) as terminal, trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                [*TAIL, *arguments],
                env=env,
                cwd=tempfile.gettempdir(),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
            os.close(theirs)
            screen = Lines()
            nursery.start_soon(screen.read, terminal)
            try:
                yield screen, process
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()


async def test_tail_prints_one_safe_coloured_line_on_a_terminal(bridge_url: str, bot: Bot) -> None:
    hostile = "\x1b[2J\x9b\r\u202e" + "漢字🎉" * 40
    async with running(bridge_url) as bridge, on_terminal(bridge.port) as (screen, tail):
        await screen.having("following")
        sign_up(bot, "anna", hostile)
        bot.execute("select bridge.emit('note', to_jsonb(%s::text))", (hostile,))
        await screen.having("user.created", 2)
        line = (await screen.having("note")).rstrip("\r")
        assert "\x1b[" in line  # our colours
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        escaped = r"\u001b[2J\u009b\r\u202e"
        assert re.fullmatch(
            r"\d\d-\d\d \d\d:\d\d:\d\d {6}3 note {19}" + re.escape(f'"{escaped}漢') + ".*…", plain
        )
        assert plain.isprintable()
        assert sum(1 + (each in "漢字🎉") for each in plain) <= 80
        moment = bot.execute(
            "select to_char(occurred_at at time zone 'Asia/Vladivostok', 'MM-DD HH24:MI:SS')"
            " from bridge.events where id = 3"
        ).fetchone()
        assert moment == (plain[:14],)
        tail.send_signal(signal.SIGINT)
        assert await tail.wait() == 0
        assert not any("Traceback" in line for line in screen.all)


async def test_tail_escapes_json_on_a_terminal(bridge_url: str, bot: Bot) -> None:
    hostile = "\x1b[2J\x7f\x9b2J\u202e 🎉"
    async with running(bridge_url) as bridge, on_terminal(bridge.port, "--json") as (screen, _):
        await screen.having("following")
        bot.execute("select bridge.emit('note', to_jsonb(%s::text))", (hostile,))
        line = (await screen.having('"note"')).rstrip("\r")
        assert line.isprintable()
        assert json.loads(line)["payload"] == hostile


# --- lost connections


async def test_tail_neither_loses_nor_repeats_events_of_killed_bridges(bridge_url: str) -> None:
    port = lasting_port()
    async with tailing_when_served(bridge_url, port) as tail:
        with writing(bridge_url) as writer:
            for restarts in range(1, 4):
                async with running(bridge_url, port=port) as bridge:
                    await tail.err.having("reconnected", restarts)
                    await tail.out.count(len(tail.out.all) + 50)
                    await bridge.kill()
                await tail.err.having("connection lost", restarts + 1)
            written = writer.stop()
        async with running(bridge_url, port=port):
            assert names(await tail.out.count(len(written))) == written
            assert await tail.end(signal.SIGTERM) == 0
        assert names(tail.out.all) == written


@asynccontextmanager
async def tailing_when_served(url: str, port: int) -> AsyncIterator[Child]:
    """Run a tail whose bridge was killed before the first event."""
    async with running(url, port=port) as bridge, tailing(port) as tail:
        await tail.err.having("following")
        await bridge.kill()
        await tail.err.having("connection lost")
        yield tail


async def test_tail_waits_for_a_stopped_bridge(bridge_url: str, bot: Bot) -> None:
    port = lasting_port()
    async with running(bridge_url, port=port) as bridge, tailing(port, "user.*") as tail:
        await tail.err.having("following")
        sign_up(bot, "before")
        await tail.out.count(1)
        assert await bridge.terminate() == 0
        lost = await tail.err.having("connection lost")
        assert lost == "pgbridge: connection lost (the bridge is shutting down); reconnecting"
        sign_up(bot, "meanwhile")
        async with running(bridge_url, port=port):
            assert names(await tail.out.count(2)) == ["before", "meanwhile"]


async def test_tail_reports_a_gap_on_both_outputs(bridge_url: str, bot: Bot) -> None:
    port = lasting_port()
    async with running(bridge_url, port=port) as bridge, tailing(port) as tail:
        await tail.err.having("following")
        sign_up(bot, "first")
        await tail.out.count(1)
        await bridge.kill()
        await tail.err.having("connection lost")
        sign_up(bot, "lost", "also lost", "third")
        async with running(bridge_url):  # elsewhere
            await logged(bot, 4)
        bot.execute("delete from bridge.events where id < 4")
        async with running(bridge_url, port=port):
            _, gap, event = await tail.out.count(3)
        assert json.loads(gap) == {"type": "gap", "since": 1, "available_from": 4}
        assert names([event]) == ["third"]
        assert "pgbridge: gap: events 2 to 3 are no longer in the log" in tail.err.all


async def test_tail_buffers_little_for_a_slow_reader(bridge_url: str, bot: Bot) -> None:
    # More than pipes, sockets and the bridge's buffer can hold.
    bot.execute(
        "select bridge.emit('filler', to_jsonb(repeat('x', 2000))) from generate_series(1, 10000)"
    )
    async with running(bridge_url, ws_buffer_bytes=65536) as bridge:
        await logged(bot, 10_000)
        async with unread(bridge.port, "--since", "0") as process:
            await settled(process.pid)
            assert await resident_bytes(process.pid) < 150 * 1024 * 1024
            lines = Lines()
            assert process.stdout is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lines.read, process.stdout)
                got = [json.loads(line)["id"] for line in await lines.count(10_000)]
                assert got == list(range(1, 10_001))
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
            assert len(lines.all) == 10_000


@asynccontextmanager
async def unread(port: int, *arguments: str) -> AsyncIterator[trio.Process]:
    """Run `pgbridge tail` into a pipe that is not read."""
    process = await trio.lowlevel.open_process(
        [*TAIL, *arguments],
        env=environment(None, port=port, token=TOKEN),
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with trio.fail_after(PATIENCE_SECONDS):
        async with process.stdout:
            try:
                yield process
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def settled(pid: int) -> None:
    """Wait until a process is idle."""
    used, same = 0, 0
    while same < 5:
        stat = await trio.Path(f"/proc/{pid}/stat").read_text()
        now = sum(map(int, stat.rsplit(")", 1)[1].split()[11:13]))
        same = same + 1 if now == used else 0
        used = now
        await trio.sleep(0.2)


async def resident_bytes(pid: int) -> int:
    pages = (await trio.Path(f"/proc/{pid}/statm").read_text()).split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


async def test_tail_reports_an_unknown_event_id(bridge_url: str, bot: Bot) -> None:
    async with running(bridge_url) as bridge, tailing(bridge.port, "--since", "9") as tail:
        assert await tail.err.having("gap") == (
            "pgbridge: gap: event 9 does not exist yet: the database is a different one or was "
            "restored; continuing at 1"
        )
        sign_up(bot, "a")
        gap, event = await tail.out.count(2)
        assert json.loads(gap) == {"type": "gap", "since": 9, "available_from": 1}
        assert names([event]) == ["a"]


# --- the end


async def test_tail_exits_with_0_on_ctrl_c_or_a_closed_pipe(bridge_url: str, bot: Bot) -> None:
    async with running(bridge_url) as bridge:
        for number in (signal.SIGINT, signal.SIGTERM):
            async with tailing(bridge.port) as tail:
                following = await tail.err.having("following")
                assert await tail.end(number) == 0
                assert (tail.out.all, tail.err.all) == ([], [following])
        sign_up(bot, "a", "b", "c")
        command = f"{' '.join(TAIL)} --since 0 | head -2; echo ${{PIPESTATUS[0]}}"
        env = environment(None, port=bridge.port, token=TOKEN)
        async with child(["bash", "-c", command], env) as head:
            assert await head.end() == 0
            assert names(head.out.all[:2]) == ["a", "b"]
            assert head.out.all[2:] == ["0"]
            assert len(head.err.all) == 1  # following


async def test_tail_stops_while_its_output_is_blocked(bridge_url: str, bot: Bot) -> None:
    bot.execute("select bridge.emit('big', to_jsonb(repeat('x', 3000000)))")
    async with running(bridge_url) as bridge, unread(bridge.port, "--since", "0") as tail:
        assert tail.stdout is not None
        assert await tail.stdout.receive_some(1)  # it is blocked while it prints
        tail.send_signal(signal.SIGINT)
        assert await tail.wait() == 0


async def test_tail_reports_a_full_disk(bridge_url: str, bot: Bot) -> None:
    sign_up(bot, "a")
    async with running(bridge_url) as bridge:
        command = f"{' '.join(TAIL)} --since 0 > /dev/full"
        env = environment(None, port=bridge.port, token=TOKEN)
        async with child(["bash", "-c", command], env) as tail:
            assert await tail.end() == 1
            assert tail.err.all[1:] == ["pgbridge: cannot print: No space left on device"]


async def test_tail_stops_when_its_token_is_rejected(bridge_url: str, bot: Bot) -> None:
    async with running(bridge_url) as bridge:
        where = f"ws://127.0.0.1:{bridge.port}/ws"
        code, line = await refused(bridge.port, token="wrong")
        assert (code, line) == (1, f"pgbridge: {where} refuses: Invalid or expired API token")
        made = await trio.to_thread.run_sync(
            lambda: pgbridge("token", "create", "--name", "tail", url=bridge_url)
        )
        async with tailing(bridge.port, token=made.stdout.strip()) as tail:
            await tail.err.having("following")
            bot.execute("update bridge.api_tokens set revoked_at = now()")
            assert await tail.end() == 1
            assert tail.err.all[1:] == [f"pgbridge: {where} refuses: API token revoked or expired"]


async def test_tail_that_cannot_start_says_what_to_do() -> None:
    port = lasting_port()
    code, line = await refused(port)
    assert code == 1
    assert line == (
        f"pgbridge: cannot follow ws://127.0.0.1:{port}/ws: Connection refused; is the bridge "
        "running there? Start it with `pgbridge run`, or set BRIDGE_HOST and BRIDGE_PORT, or --url"
    )


def misused(*arguments: str, token: str = TOKEN) -> str:
    """Return the error line of a tail that is wrong usage."""
    return complaint(invoked("tail", *arguments, url=None, token=token), 2)


def test_wrong_usage_of_tail_says_what_to_do() -> None:
    assert "BRIDGE_TOKEN is not set" in misused(token="")
    line = misused(token="пароль")
    assert ("пароль" in line, "BRIDGE_TOKEN contains" in line) == (False, True)
    for pattern in ("ticket*", "ticket created", "", "*.created"):
        assert "is no pattern such as" in misused("--", pattern), pattern
    for url in (
        "http://127.0.0.1/ws",
        "127.0.0.1:80",
        "ws://h/ws?token=s3cret",
        "ws://u:s3cret@h/ws",
    ):
        line = misused("--url", url)
        assert ("--url" in line, "s3cret" in line) == (True, False), url


async def test_tail_names_an_address_without_a_bridge(bridge_url: str) -> None:
    async with running(bridge_url) as bridge:
        where = f"ws://127.0.0.1:{bridge.port}/elsewhere"
        code, line = await refused(bridge.port, "--url", where)
        assert (code, "HTTP status" in line) == (1, True)
