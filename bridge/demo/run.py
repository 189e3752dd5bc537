"""``pgbridge demo``: PostgreSQL, bot, bridge, dashboard and receiver, and the sum of it all."""

from __future__ import annotations

import base64
import json
import math
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx
import psycopg
import trio
from rich.console import Console

from bridge.database.rights import SERVICE
from bridge.demo import child
from bridge.demo.bot import Bot
from bridge.demo.ledger import KEY_FIELDS, Ledger
from bridge.demo.postgres import EmbeddedPostgres, EmbeddedPostgresMissing, embedded_postgres
from bridge.demo.receiver import Receiver
from bridge.demo.screen import Arrival, Scene, plain_line, print_lines, show_frames
from bridge.demo.watch import Dashboard, NoStreamError
from bridge.tasks import first_error

EVENTS_PER_SECOND = 40.0
SETTLE_SECONDS = 40.0
#: The receiver turns nobody away in the last seconds of a bounded run: the second attempt takes
#: five to six.
CALM_SECONDS = 8.0
# Once nothing is missing, wait this long for what nobody expects.
_AFTERMATH_SECONDS = 0.4

_DATABASE = "shop"
_BRIDGE = "pgbridge"
_TABLES = Path(__file__).with_name("bot.sql")
#: The demo's webhooks: the name of each, and what it subscribes to.
_WEBHOOKS = {"everything": "*", "payments": "payment.completed"}
_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it runs under nohup
    _SIGNALS.append(signal.SIGHUP)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


_FAILURES = (
    DemoError,
    EmbeddedPostgresMissing,
    NoStreamError,
    child.BridgeError,
    psycopg.Error,
    httpx.HTTPError,
    subprocess.SubprocessError,
    OSError,
)


def run_demo(seconds: float | None) -> int:
    """Run the demo for some seconds, or until a signal; print the sum of it as JSON.

    Returns the exit code: 0 if something was committed and everything arrived, each thing once at
    least and nothing else, else 1.
    """
    ledger = Ledger(_WEBHOOKS)
    demo = Demo(Scene(ledger, seconds))
    problem = None
    with _signals_held_back():
        child.forget_outside_settings()
        try:
            demo.say("Starting PostgreSQL in a temporary directory …")
            with (
                embedded_postgres() as server,
                tempfile.TemporaryDirectory(prefix="pgbridge-demo-") as directory,
            ):
                trio.run(demo.run, server, Path(directory))
        except* _FAILURES as group:
            problem = _first(group)
        if problem is None:
            problem = demo.verdict()
        if problem is not None:
            with suppress(OSError):
                print(f"pgbridge demo: {problem}", file=sys.stderr, flush=True)
        try:
            print(json.dumps(ledger.summary()), flush=True)
        except OSError:
            # Nobody reads any more; the interpreter would complain of that when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if problem is None else 1


class _Console(Console):
    """A console that leaves it to us what follows when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("nobody reads the output any more")


class Demo:
    """One run: who plays, in which order they enter and leave."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ledger = scene.ledger
        self._console = _Console(highlight=False)
        self._live = sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._enough = trio.Event()
        self._news = trio.Event()
        self._aborted = False
        self._token = secrets.token_urlsafe(18)
        #: The demo's webhooks as they were made, and what somebody has done to them since.
        self._made: list[dict[str, Any]] = []
        self._meddled: list[str] = []
        self._keys = {
            "everything": secrets.token_urlsafe(24),
            "payments": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
        }

    def say(self, words: str) -> None:
        """Tell a person what goes on, before the screen is up."""
        self._console.print(words, style="grey62", soft_wrap=True)

    def verdict(self) -> str | None:
        """Return what is wrong with how it ended, or None."""
        ledger, receiver = self._ledger, self._scene.receiver
        if self._aborted:
            return (
                "ended before it began"
                if self._scene.began_at is None
                else "ended at once, before everything could settle"
            )
        if ledger.events_committed == 0:
            return "no event was committed, which proves nothing"
        if self._meddled:
            return f"{' and '.join(self._meddled)}, so that this proves nothing"
        wrong = []
        if ledger.lost:
            wrong.append(f"{ledger.lost} lost")
        if ledger.unexpected:
            wrong.append(f"{ledger.unexpected} that the bot did not commit")
        if receiver is not None and receiver.forged:
            wrong.append(f"{receiver.forged} requests with a wrong signature")
        if not wrong:
            return None
        return f"{', '.join(wrong)}: {'; '.join(ledger.discrepancies())}"

    async def run(self, server: EmbeddedPostgres, directory: Path) -> None:
        """Play, and obey signals: the first ends the bot, the next ends everything at once."""
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
            # A terminal that is gone will not see how things settle.
            at_once = number == signal.SIGHUP
            if at_once or self._enough.is_set() or self._scene.began_at is None:
                self._aborted = True
                self._scene.phase = "ended at once"
                everything.cancel()
            self._enough.set()

    async def _play(self, server: EmbeddedPostgres, directory: Path) -> None:
        url = await trio.to_thread.run_sync(_create_database, server)
        port = child.free_port()
        settings = {
            "BRIDGE_DATABASE_URL": url,
            "BRIDGE_HOST": "127.0.0.1",
            "BRIDGE_PORT": str(port),
            "BRIDGE_TOKEN": self._token,
            "BRIDGE_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        self.say("Installing the capture triggers: pgbridge init …")
        await child.init(settings, directory)
        # As it should be everywhere: the bridge may do what it has to, and owns nothing.
        settings["BRIDGE_DATABASE_URL"] = await trio.to_thread.run_sync(_create_login, url)
        self.say("Starting the bridge: pgbridge run …")
        async with child.bridge(settings, directory) as bridge:
            await bridge.first_line()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, bridge)
                nursery.start_soon(bridge.drain_output)
                await self._perform(nursery, server, url, port)
                nursery.cancel_scope.cancel()
            await bridge.stop()

    async def _watch(self, bridge: child.Bridge) -> None:
        try:
            await bridge.watch()
        except child.BridgeError:
            self._scene.phase = "failed"
            raise

    async def _perform(
        self, nursery: trio.Nursery, server: EmbeddedPostgres, url: str, port: int
    ) -> None:
        """With the bridge running: let everybody enter, trade, settle."""
        scene = self._scene
        scene.receiver = Receiver(self._keys, self._verified)
        base_url = await nursery.start(scene.receiver.serve)
        await self._subscribe(f"http://127.0.0.1:{port}", base_url)
        scene.dashboard = Dashboard(f"ws://127.0.0.1:{port}/ws?token={self._token}", self._streamed)
        await nursery.start(scene.dashboard.watch)
        self._say_what_runs_where(server, url, port)
        async with trio.open_nursery() as screen:
            if self._live:
                screen.start_soon(show_frames, scene, self._console)
            else:
                screen.start_soon(print_lines, scene)
            with await trio.to_thread.run_sync(Bot, url) as bot:
                await self._trade(bot, scene.receiver)
            await self._settle(scene.receiver, f"http://127.0.0.1:{port}")
            screen.cancel_scope.cancel()
        if not self._live:
            print(plain_line(scene), flush=True)

    async def _subscribe(self, bridge_url: str, receiver_url: str) -> None:
        """Create the webhooks as an operator would: through REST."""
        async with self._calling(bridge_url) as client:
            for name, pattern in _WEBHOOKS.items():
                answer = await client.post(
                    "/webhooks",
                    json={
                        "name": f"Demo: {name}",
                        "url": f"{receiver_url}/{name}",
                        "event_type": pattern,
                        "secret": self._keys[name],
                        "description": "The demo's own receiver",
                    },
                )
                if answer.status_code != 201:
                    raise DemoError(
                        f"POST /webhooks answered {answer.status_code}: {answer.text[:300]}"
                    )
                self._made.append(answer.json())

    def _calling(self, bridge_url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=bridge_url, headers={"X-API-Key": self._token}, trust_env=False
        )

    async def _look_at_webhooks(self, bridge_url: str) -> None:
        """Find out which of the demo's webhooks somebody keeps from what they are there for."""
        async with self._calling(bridge_url) as client:
            for made in self._made:
                answer = await client.get(f"/webhooks/{made['id']}")
                if what := _meddled(made, answer):
                    self._meddled.append(f"the webhook {made['name']!r} {what}")

    async def _trade(self, bot: Bot, receiver: Receiver) -> None:
        """Have the bot work at a steady pace for its time, or until a signal."""
        scene, seconds = self._scene, self._scene.seconds
        scene.phase, scene.began_at = "running", time.monotonic()
        due = trio.current_time()
        ends = due + (math.inf if seconds is None else seconds)
        while trio.current_time() < ends and not self._enough.is_set():
            receiver.moody = trio.current_time() < ends - CALM_SECONDS
            commit = await trio.to_thread.run_sync(bot.step)
            if commit is None:
                scene.rollbacks += 1
                announced = 0
            else:
                scene.commits += 1
                announced = len(commit.announces)
                for event_type, payload in commit.announces:
                    self._ledger.committed(event_type, payload, commit.committed_at)
                scene.beat(announced)
            # Paced by events, so that they come evenly; after a pause there is no rush to catch up.
            due = max(due + max(announced, 0.5) / EVENTS_PER_SECOND, trio.current_time() - 0.5)
            with trio.move_on_at(min(due, ends)):
                await self._enough.wait()
        receiver.moody = False
        scene.ended_at = time.monotonic()

    async def _settle(self, receiver: Receiver, bridge_url: str) -> None:
        """Wait until nothing is missing, retries included, or for as long as is reasonable."""
        self._scene.phase = "settling"
        if self._ledger.lost:
            await self._look_at_webhooks(bridge_url)
        if self._meddled:
            self._scene.phase = "failed"
            return
        with trio.move_on_after(SETTLE_SECONDS):
            while self._ledger.lost:
                self._news = trio.Event()
                await self._news.wait()
            await trio.sleep(_AFTERMATH_SECONDS)
        good = not self._ledger.lost and not self._ledger.unexpected and not receiver.forged
        self._scene.phase = "all arrived" if good else "failed"

    def _streamed(self, message: dict[str, Any]) -> None:
        latency = None
        # Whoever tries things out may make other events and send tests: the books are the bot's.
        if message["type"] in KEY_FIELDS:
            latency = self._ledger.streamed(
                message["id"], message["type"], message["payload"], time.monotonic()
            )
        self._scene.feed.append(Arrival(time.strftime("%H:%M:%S"), message, latency))
        self._news.set()

    def _verified(
        self, name: str, webhook_id: str, event_type: str, payload: dict[str, Any]
    ) -> None:
        if event_type in KEY_FIELDS:
            self._ledger.verified(name, webhook_id, event_type, payload, time.monotonic())
        self._news.set()

    def _say_what_runs_where(self, server: EmbeddedPostgres, url: str, port: int) -> None:
        """Print, whole and ready to copy, how to look at it all while it runs."""
        for label, what in (
            ("console", f"http://127.0.0.1:{port}/console  (sign in with the token)"),
            ("REST", f"http://127.0.0.1:{port}/docs  (X-API-Key: the token)"),
            ("WebSocket", f"ws://127.0.0.1:{port}/ws?token={self._token}"),
            ("token", self._token),
            ("database", _psql(server, url)),
            ("shell", _shell(server, url)),
        ):
            self._console.print(f" [bold]{label:<10}[/]{what}", soft_wrap=True, markup=True)
        self._console.print()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold signals back while things start and end; what is pending at the end is dropped.

    A signal in the middle of starting PostgreSQL would leave it running with nobody to stop it.
    ``Demo.run`` lets them through while it has something to answer them with.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _create_database(server: EmbeddedPostgres) -> str:
    """Create the shop's database and its tables; return its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {_DATABASE}".encode())
    url = server.url(_DATABASE)
    with psycopg.connect(url) as connection:
        connection.execute(_TABLES.read_bytes())
    return url


def _create_login(url: str) -> str:
    """Create the role as which the bridge connects; return its URL."""
    with psycopg.connect(url) as connection:
        connection.execute(f"create role {_BRIDGE} login in role {SERVICE}".encode())
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{_BRIDGE}@{parts.netloc.rpartition('@')[2]}"))


def _meddled(made: dict[str, Any], answer: httpx.Response) -> str | None:
    """Say what somebody has done to a webhook, as by the console, so that it gets less; or None."""
    if answer.status_code == 404:
        return "was deleted"
    if answer.status_code != 200:
        return None
    now = answer.json()
    if not now["is_active"]:
        return "is switched off"
    if now["paused_at"] is not None:
        return "is paused"
    for field in ("url", "event_type", "filter", "rate_per_second", "retry_schedule"):
        if now[field] != made[field]:
            return f"has another {field}"
    return None


def _psql(server: EmbeddedPostgres, url: str) -> str:
    """Return the command that opens the shop's database."""
    psql = "psql" if shutil.which("psql") else str(server.bin / "psql")
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    return shlex.join([psql, "-h", host, "-U", parts.username or "postgres", _DATABASE])


def _shell(server: EmbeddedPostgres, url: str) -> str:
    """Return the command after which pgbridge and psql of the same shell work on the database."""
    programs = f"{Path(sys.executable).parent}:{server.bin}"
    return f"export BRIDGE_DATABASE_URL={shlex.quote(url)} PATH={shlex.quote(programs)}:$PATH"


def _first(error: BaseException) -> str:
    """Return the message of the first failure in a group of them."""
    first = first_error(error)
    if isinstance(first, psycopg.Error):
        return " ".join(str(first).split())
    return str(first).strip() or type(first).__name__
