"""``pgbridge demo``: run all parts and compare what was committed with what arrived."""

import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import trio
from rich.text import Text

from bridge.demo import child
from bridge.demo.bot import Bot
from bridge.demo.database import create_database, create_login, psql_command, shell_command
from bridge.demo.ledger import KEY_FIELDS, Ledger
from bridge.demo.postgres import EmbeddedPostgres, EmbeddedPostgresMissing, embedded_postgres
from bridge.demo.receiver import Receiver
from bridge.demo.screen import Scene, plain_line, print_lines, show_frames
from bridge.demo.watch import Dashboard, NoStreamError
from bridge.demo.webhooks import PATTERNS, create_webhooks, interference, new_secrets
from bridge.tasks import WakeUp, ungrouped
from bridge.terminal.output import Terminal, say_text, show, show_json

EVENTS_PER_SECOND = 40.0
SETTLE_SECONDS = 40.0
#: At the end of a limited run the receiver rejects nothing: a second attempt takes six seconds.
CALM_SECONDS = 8.0
# Once nothing is missing, wait this long for unexpected arrivals.
_AFTERMATH_SECONDS = 0.4

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
    _SIGNALS.append(signal.SIGHUP)

_FAILURES = (
    EmbeddedPostgresMissing,
    NoStreamError,
    child.BridgeError,
    psycopg.Error,
    httpx.HTTPError,
    subprocess.SubprocessError,
    OSError,
)


def run_demo(seconds: float | None) -> int:
    """Run the demo for a time or until a signal, and print the totals as JSON.

    Returns:
        The exit code: 0 if events were committed, all of them arrived and nothing else did.
    """
    demo = Demo(seconds)
    problem = None
    with _signals_held_back():
        child.forget_outside_settings()
        try:
            demo.say("Starting PostgreSQL in a temporary directory …")
            with (
                ungrouped(),
                embedded_postgres() as server,
                tempfile.TemporaryDirectory(prefix="pgbridge-demo-") as directory,
            ):
                trio.run(demo.run, server, Path(directory))
        except _FAILURES as error:
            problem = str(error).strip() or type(error).__name__
            if isinstance(error, psycopg.Error):
                problem = " ".join(problem.split())
        if problem is None:
            problem = demo.verdict()
        if problem is not None:
            with suppress(OSError):
                say_text(f"pgbridge demo: {problem}")
        try:
            show_json(demo.ledger.summary())
        except OSError:
            # The reader has left; keep the interpreter from reporting that at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if problem is None else 1


class _Console(Terminal):
    """A console that reports a closed pipe instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the reader of the output has left")


class Demo:
    """One run: start the parts in order, let the bot trade, settle, stop."""

    def __init__(self, seconds: float | None) -> None:
        self.ledger = Ledger(PATTERNS)
        self._address = f"127.0.0.1:{child.free_port()}"
        self._token = secrets.token_urlsafe(18)
        self._secrets = new_secrets()
        stream = f"ws://{self._address}/ws?token={self._token}"
        self._scene = Scene(
            self.ledger,
            Receiver(self._secrets, self._verified),
            Dashboard(stream, self._streamed),
            seconds,
        )
        self._console = _Console()
        self._live = sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._enough = trio.Event()
        self._news = WakeUp()
        self._aborted = False
        # Changes that a user has made to the webhooks, as texts.
        self._interference: list[str] = []

    def say(self, words: str) -> None:
        """Print a progress message before the screen starts."""
        self._console.print(words, style="grey62", soft_wrap=True)

    def verdict(self) -> str | None:
        """Return why the run failed, or None."""
        ledger, receiver = self.ledger, self._scene.receiver
        if self._aborted:
            return (
                "interrupted during startup"
                if self._scene.began_at is None
                else "interrupted before all deliveries arrived"
            )
        if ledger.events_committed == 0:
            return "no event was committed, so the run proves nothing"
        if self._interference:
            return f"{' and '.join(self._interference)}, so the run proves nothing"
        wrong = []
        if ledger.lost:
            wrong.append(f"{ledger.lost} lost")
        if ledger.unexpected:
            wrong.append(f"{ledger.unexpected} unexpected")
        if receiver.forged:
            wrong.append(f"{receiver.forged} requests with an invalid signature")
        if not wrong:
            return None
        return f"{', '.join(wrong)}: {'; '.join(ledger.discrepancies())}"

    async def run(self, server: EmbeddedPostgres, directory: Path) -> None:
        """Run until done. The first signal stops the bot, the second everything."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals, nursery.cancel_scope)
                    await self._play(server, directory)
                    nursery.cancel_scope.cancel()
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    async def _obey(self, signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        async for number in signals:
            # SIGHUP means that the terminal is gone: do not wait for retries.
            at_once = number == signal.SIGHUP
            if at_once or self._enough.is_set() or self._scene.began_at is None:
                self._aborted = True
                self._scene.phase = "interrupted"
                everything.cancel()
            self._enough.set()

    async def _play(self, server: EmbeddedPostgres, directory: Path) -> None:
        url = await trio.to_thread.run_sync(create_database, server)
        host, port = self._address.split(":")
        settings = {
            "BRIDGE_DATABASE_URL": url,
            "BRIDGE_HOST": host,
            "BRIDGE_PORT": port,
            "BRIDGE_TOKEN": self._token,
            "BRIDGE_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        self.say("Installing the capture triggers: pgbridge init …")
        await child.init(settings, directory)
        # As in production: the bridge has only the privileges it needs and owns nothing.
        settings["BRIDGE_DATABASE_URL"] = await trio.to_thread.run_sync(create_login, url)
        self.say("Starting the bridge: pgbridge run …")
        async with child.bridge(settings, directory) as bridge, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, bridge)
            await self._perform(nursery, server, url)
            nursery.cancel_scope.cancel()

    async def _watch(self, bridge: child.Bridge) -> None:
        try:
            await bridge.watch()
        except child.BridgeError:
            self._scene.phase = "failed"
            raise

    async def _perform(self, nursery: trio.Nursery, server: EmbeddedPostgres, url: str) -> None:
        """Start receiver, dashboard and bot on a running bridge, and wait for all arrivals."""
        scene = self._scene
        receiver_url = await nursery.start(scene.receiver.serve)
        async with httpx.AsyncClient(
            base_url=f"http://{self._address}", headers={"X-API-Key": self._token}, trust_env=False
        ) as api:
            webhooks = await create_webhooks(api, receiver_url, self._secrets)
            await nursery.start(scene.dashboard.watch)
            self._say_what_runs_where(server, url)
            async with trio.open_nursery() as screen:
                if self._live:
                    screen.start_soon(show_frames, scene, self._console)
                else:
                    screen.start_soon(print_lines, scene)
                with await trio.to_thread.run_sync(Bot, url) as bot:
                    await self._trade(bot)
                await self._settle(api, webhooks)
                screen.cancel_scope.cancel()
        if not self._live:
            show(plain_line(scene))

    async def _trade(self, bot: Bot) -> None:
        """Run the bot at a steady pace for its time or until a signal."""
        scene, seconds = self._scene, self._scene.seconds
        scene.phase, scene.began_at = "running", time.monotonic()
        due = trio.current_time()
        ends = due + (math.inf if seconds is None else seconds)
        while trio.current_time() < ends and not self._enough.is_set():
            scene.receiver.moody = trio.current_time() < ends - CALM_SECONDS
            commit = await trio.to_thread.run_sync(bot.step)
            if commit is None:
                scene.rollbacks += 1
                announced = 0
            else:
                scene.commits += 1
                announced = len(commit.announces)
                for event_type, payload in commit.announces:
                    self.ledger.committed(event_type, payload, commit.committed_at)
                scene.beat(announced)
            # Pace by events; after a delay, do not rush to catch up.
            due = max(due + max(announced, 0.5) / EVENTS_PER_SECOND, trio.current_time() - 0.5)
            with trio.move_on_at(min(due, ends)):
                await self._enough.wait()
        scene.receiver.moody = False
        scene.ended_at = time.monotonic()

    async def _settle(self, api: httpx.AsyncClient, webhooks: list[dict[str, Any]]) -> None:
        """Wait until everything arrived, retries included, or for ``SETTLE_SECONDS``."""
        ledger, scene = self.ledger, self._scene
        scene.phase = "settling"
        if ledger.lost:
            self._interference = await interference(api, webhooks)
        if self._interference:
            scene.phase = "failed"
            return
        with trio.move_on_after(SETTLE_SECONDS):
            while ledger.lost:
                await self._news.wait(math.inf)
            await trio.sleep(_AFTERMATH_SECONDS)
        wrong = ledger.lost or ledger.unexpected or scene.receiver.forged
        scene.phase = "failed" if wrong else "all arrived"

    def _streamed(self, message: dict[str, Any]) -> None:
        latency = None
        # A user may create other events and send test requests; only the bot's events count.
        if message["type"] in KEY_FIELDS:
            latency = self.ledger.streamed(
                message["id"], message["type"], message["payload"], time.monotonic()
            )
        self._scene.feed.append((time.strftime("%H:%M:%S"), message, latency))
        self._news.signal()

    def _verified(
        self, name: str, webhook_id: str, event_type: str, payload: dict[str, Any]
    ) -> None:
        if event_type in KEY_FIELDS:
            self.ledger.verified(name, webhook_id, event_type, payload, time.monotonic())
        self._news.signal()

    def _say_what_runs_where(self, server: EmbeddedPostgres, url: str) -> None:
        """Print addresses and commands, ready to copy."""
        for label, what in (
            ("console", f"http://{self._address}/console  (sign in with the token)"),
            ("REST", f"http://{self._address}/docs  (X-API-Key: the token)"),
            ("WebSocket", f"ws://{self._address}/ws?token={self._token}"),
            ("token", self._token),
            ("database", psql_command(server, url)),
            ("shell", shell_command(server, url)),
        ):
            self._console.print(Text.assemble((f" {label:<10}", "bold"), what), soft_wrap=True)
        self._console.print()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block signals while PostgreSQL starts and stops; drop those pending at the end.

    A signal during its start would leave PostgreSQL running. ``Demo.run`` unblocks signals while it
    can handle them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
