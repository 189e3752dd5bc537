"""A shop full of secrets, and a record of everything that the bridge and its commands show."""

import base64
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import psycopg
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from bridge.access.tokens import new_token
from bridge.access.vault import new_secret
from bridge.bot.tokens import BotTokens
from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES
from tests.postgres import postgres
from tests.system.processes import Bridge, pgbridge, running
from tests.waiting import PATIENCE_SECONDS

#: For secrets this long, the search includes the first and last PART characters. The first 12
#: characters of a token are shown on purpose.
LONG, PART = 30, 16

#: Ways to send a token to the stream: query, headers, first message.
WAYS_IN: dict[str, Callable[[str], tuple[str, dict[str, str], str | None]]] = {
    "token": lambda token: (f"?token={quote(token, safe='')}", {}, None),
    "api_key": lambda token: (f"?api_key={quote(token, safe='')}", {}, None),
    "bearer": lambda token: ("", {"Authorization": f"Bearer {token}"}, None),
    "header": lambda token: ("", {"X-API-Key": token}, None),
    "ticket": lambda ticket: (f"?ticket={quote(ticket, safe='')}", {}, None),
    "message": lambda token: ("", {}, json.dumps({"type": "auth", "token": token})),
    "message without end": lambda token: ("", {}, '{"type": "auth", "token": "' + token),
    "since": lambda token: (f"?token={quote(token, safe='')}&since={quote(token)}", {}, None),
    "events": lambda token: (f"?token={quote(token, safe='')}&events={quote(token)}", {}, None),
}

#: The settings of each bridge, besides keys and token.
RUN: dict[str, object] = {
    "poll_seconds": 0.2,
    "retry_schedule": "0,0.1",
    "bot_tokens": "on",
    "access_log": "on",
    "failed_logins_per_minute": 0,  # many logins fail
}

#: A misspelled variable, whose name is logged.
MISSPELT = "tokne"


def forms(text: str) -> set[str]:
    """Return the encodings of a text."""
    raw = text.encode()
    written = {
        text,
        quote(text),
        quote(text, safe=""),
        quote_plus(text),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        raw.hex(),
    }
    for ahead in range(3):  # it may be in the middle of the encoded text
        encoded = base64.b64encode(bytes(ahead) + raw).decode().rstrip("=")[(4 if ahead else 0) :]
        # The last character depends on what follows.
        written |= {encoded[:-1], encoded[:-1].replace("+", "-").replace("/", "_")}
    if len(text) >= LONG:
        written |= {text[:PART], text[-PART:]}
    return written


@dataclass(frozen=True)
class Secret:
    """A secret.

    Attributes:
        shown: patterns of sources that show it on purpose; each of them must.
    """

    text: str
    shown: tuple[str, ...] = ()


@dataclass
class Captured:
    """All output, by source."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def add(self, source: str, text: str | bytes) -> None:
        self.said.append((source, text if isinstance(text, str) else text.decode("latin-1")))

    def shows(self, secret: Secret) -> list[str]:
        """Return the sources that show a secret."""
        sought = forms(secret.text)
        return sorted({who for who, what in self.said if any(each in what for each in sought)})


def new_password() -> str:
    return "p@ss/w+rd:" + secrets.token_urlsafe(24)


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Scene:
    """A shop's database with its secrets."""

    url: str
    url_of_superuser: str
    server: EmbeddedPostgres
    secrets: dict[str, Secret]
    captured: Captured = field(default_factory=Captured)

    def __getitem__(self, name: str) -> str:
        return self.secrets[name].text

    def url_with(self, password: str) -> str:
        """Return the URL of the bridge's role with a password."""
        return self.url.replace(quote(self["password"], safe=""), quote(password, safe=""))

    def learn(self, name: str, text: str, *shown: str) -> str:
        """Record a secret that the bridge generated."""
        self.secrets[name] = Secret(text, shown)
        return text


def _secrets() -> dict[str, Secret]:
    return {
        "password": Secret(new_password()),
        "a wrong password": Secret(new_password()),
        "the static token": Secret("static+/" + secrets.token_urlsafe(24)),
        "a wrong token": Secret(new_token()),
        "the key": Secret(new_key()),
        "the key before": Secret(new_key()),
        "a wrong key": Secret(new_key()),
        "a secret by stdin": Secret(new_secret()),
        "a secret by rest": Secret("rest " + secrets.token_urlsafe(24)),
        "a secret patched": Secret("patched " + secrets.token_urlsafe(24)),
        "a secret rotated": Secret("rotated " + secrets.token_urlsafe(24)),
        "a secret of the bot": Secret("bots " + secrets.token_urlsafe(24)),
        "a secret by sql": Secret("by sql " + secrets.token_urlsafe(24)),
        "a secret refused": Secret("whsec_" + secrets.token_urlsafe(40)),
        # Like URLs of chat services, which are secrets; the API and commands show URLs.
        "a path": Secret(
            "T0/B0/" + secrets.token_urlsafe(24),
            (
                "webhooks list: out",
                "GET /webhooks",
                "POST /webhooks",
                "PATCH /webhooks",
                "GET /audit",
                "GET /console",
                "backup",
            ),
        ),
        "a token of the bot": Secret(secrets.token_urlsafe(32)),
        "the key of the bot's tokens": Secret(secrets.token_urlsafe(32)),
    }


@contextmanager
def secret_shop() -> Iterator[Scene]:
    """Run a server on which the bridge's role needs its password."""
    known = _secrets()
    password = known["password"].text
    with postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("create role shop superuser login")
            connection.execute(psycopg.sql.SQL("alter role shop password {}").format(password))
            connection.execute("create database shop owner shop")
            row = connection.execute("show hba_file").fetchone()
            assert row is not None
            rules = Path(str(row[0]))
            rules.write_text(f"local all shop scram-sha-256\n{rules.read_text()}")
            connection.execute("select pg_reload_conf()")
        with psycopg.connect(server.url("shop"), autocommit=True) as connection:
            connection.execute(BOT_TABLES.read_bytes())
            connection.execute(
                "create table public.webhooks (id serial, name text, url text, event_type text,"
                " secret text, description text, is_active boolean)"
            )
            connection.execute(
                "insert into public.webhooks (name, url, event_type, secret, is_active)"
                " values ('bots', 'http://127.0.0.1:9/', 'user.created', %s, true)",
                [known["a secret of the bot"].text],
            )
            connection.execute(
                "create table public.web_api_tokens (id serial, name text, token_hash text,"
                " is_active boolean, expires_at timestamptz)"
            )
            known_to_bot = BotTokens(
                "sha256", known["the key of the bot's tokens"].text.encode(), frozenset()
            )
            connection.execute(
                "insert into public.web_api_tokens (name, token_hash, is_active)"
                " values ('panel', %s, true)",
                [known_to_bot.hash(known["a token of the bot"].text)],
            )
        head, rest = server.url("shop").split("://", 1)
        url = f"{head}://shop:{quote(password, safe='')}@{rest.split('@', 1)[-1]}"
        yield Scene(url, server.url("shop"), server, known)


async def command(
    scene: Scene,
    *arguments: str,
    code: int = 0,
    stdin: str = "",
    url: str | None = None,
    **settings: object,
) -> str:
    """Run a command, record its output, and return its standard output."""
    given = {"secret_key": scene["the key"], "token": scene["the static token"], **settings}

    done = await trio.to_thread.run_sync(
        lambda: pgbridge(*arguments, url=url or scene.url, stdin=stdin, **given)
    )
    name = " ".join(arguments[: 2 if arguments[0] in ("token", "webhooks") else 1])
    scene.captured.add(f"{name}: out", done.stdout)
    scene.captured.add(f"{name}: err", done.stderr)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout


async def ask(
    scene: Scene, bridge: Bridge, method: str, path: str, *, token: str | None = None, **more: Any
) -> httpx.Response:
    """Call REST and record the response."""
    token = scene["the static token"] if token is None else token
    headers = {"X-API-Key": token, **more.pop("headers", {})}
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http:
        got = await http.request(method, f"{bridge.rest_url}{path}", headers=headers, **more)
    name = "/".join(path.split("?")[0].split("/")[:2])
    action = path.split("?")[0].rsplit("/", 1)[-1]
    source = f"{method} {name}" + (f" {action}" if action in ("rotate-secret", "test") else "")
    scene.captured.add(source, f"{got.status_code} {got.reason_phrase}\n{got.headers}\n{got.text}")
    return got


async def listen(scene: Scene, bridge: Bridge, way: str, token: str, messages: int) -> None:
    """Connect to the stream, and record this many messages or the close."""
    query, headers, first = WAYS_IN[way](token)
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            await trio.open_tcp_stream("127.0.0.1", bridge.port) as stream,
            trio.open_nursery() as nursery,
        ):
            client = await wrap_client_stream(
                nursery,
                stream,
                "127.0.0.1",
                f"/ws{query}",
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            )
            try:
                if first is not None:
                    await client.send_message(first)
                for _ in range(messages):
                    scene.captured.add(f"stream: {way}", str(await client.get_message()))
                    await client.send_message('{"type": "ping"}')
            except ConnectionClosed as closed:
                scene.captured.add(f"stream: {way}", repr(closed.reason))
            nursery.cancel_scope.cancel()


def malformed_requests(token: str) -> dict[str, str]:
    """Return malformed requests that contain a token."""
    escaped = quote(token, safe="")
    opening = (
        "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    return {
        "no key": f"GET /ws?token={escaped} HTTP/1.1\r\n{opening}\r\n",
        "token as key": f"GET /ws HTTP/1.1\r\n{opening}Sec-WebSocket-Key: {token}\r\n\r\n",
        "no version": f"GET /ws?token={escaped} HTTP/1.1\r\n{opening[:-31]}\r\n{key}\r\n",
        "not HTTP": f"GET /ws?token={escaped} {token}\r\n\r\n",
        "malformed header": f"GET /ws HTTP/1.1\r\n{opening}{key}{token}\r\n\r\n",
        "header not in ASCII": f"GET /ws HTTP/1.1\r\n{opening}{key}X-API-Key: {token}\xff\r\n\r\n",
        "protocol not in ASCII": (
            f"GET /ws HTTP/1.1\r\n{opening}{key}Sec-WebSocket-Protocol: {token}\xff\r\n\r\n"
        ),
        "malformed method": f"{token} / HTTP/1.1\r\nHost: h\r\n\r\n",
        "REST without HTTP": f"GET /webhooks {token}\r\n\r\n",
        "REST with a bad header": (
            f"GET /webhooks HTTP/1.1\r\nHost: h\r\nX-API-Key : {token}\r\n\r\n"
        ),
        "REST with a bad length": (
            "POST /webhooks HTTP/1.1\r\nHost: h\r\n"
            f"X-API-Key: {token}\r\nContent-Length: {token}\r\n\r\n"
        ),
    }


async def say(scene: Scene, bridge: Bridge, what: str, sent: str) -> None:
    """Send bytes, and record the response until the bridge hangs up."""
    received = b""
    with trio.fail_after(PATIENCE_SECONDS):
        async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as stream:
            try:
                await stream.send_all(sent.encode("latin-1"))
                await stream.send_eof()
                async for part in stream:
                    received += part
            except trio.BrokenResourceError:
                pass  # the bridge hung up first
    scene.captured.add(f"bytes: {what}", received)


@asynccontextmanager
async def bridge_of(
    scene: Scene, name: str, *arguments: str, **settings: object
) -> AsyncIterator[Bridge]:
    """Run a bridge, and record its output at the end."""
    given = {
        "token": scene["the static token"],
        MISSPELT: scene["a wrong token"],
        "bot_tokens_secret": scene["the key of the bot's tokens"],
        "log_level": "debug",  # the most verbose
        **RUN,
        **settings,
    }
    async with running(scene.url, *arguments, **given) as bridge:
        try:
            yield bridge
            assert await bridge.terminate() == 0
        finally:
            scene.captured.add(f"{name}: out", bridge.announcement)
            scene.captured.add(f"{name}: err", await trio.Path(bridge.log).read_text())


def command_lines(bridge: Bridge) -> str:
    """Return the command lines of a bridge and its workers, visible to every user."""
    lines = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                group = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[2])
                if group == bridge.process.pid:
                    lines.append((directory / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has ended
    assert lines
    return "\n".join(lines)


def sign_up(scene: Scene) -> None:
    with psycopg.connect(scene.url_of_superuser, autocommit=True) as bot:
        bot.execute("insert into public.users (auth_type) values ('email')")


def dump(scene: Scene) -> str:
    """Return a dump of schema bridge."""
    return subprocess.run(
        [
            str(scene.server.bin / "pg_dump"),
            "--schema=bridge",
            "--inserts",
            scene.url_of_superuser,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def leaks(scene: Scene) -> dict[str, list[str]]:
    """Return unintended sources by secret."""
    found = {}
    for name, secret in scene.secrets.items():
        shows = scene.captured.shows(secret)
        for pattern in secret.shown:
            assert any(fnmatchcase(who, pattern) for who in shows), f"{pattern} shows {name}"
        if bad := [w for w in shows if not any(fnmatchcase(w, p) for p in secret.shown)]:
            found[name] = bad
    return found
