"""Whatever a bridge and its commands print, log and answer shows no secret, but where it is meant.

One run of everything, with what goes wrong in real life: mistyped passwords, keys and tokens, a
database that crashes, requests that are none. All that any process writes and anybody is answered
is kept, and looked through for every secret at the end, however it may be written.

Something new that has a secret is a line in ``SECRETS`` and where it is used: ``WAYS_IN`` for
handshakes of the stream, ``RUN`` for the settings, ``_requests`` for REST, ``_commands`` for the
command line.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urljoin, urlsplit

import httpx
import psycopg
import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream
from typer.testing import CliRunner

from bridge.access.tokens import BotTokens, new_token
from bridge.access.vault import new_secret
from bridge.cli.main import app
from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from tests.conftest import BOT_TABLES
from tests.receiver import Receiver, answer, receiving
from tests.system.processes import Bridge, environment, running

#: Of a secret this long, beginning and end are looked for, too: not all of it may be shown. The
#: first 12 characters of a token are shown on purpose, for people to know it by.
LONG, PART = 30, 16


def forms(text: str) -> set[str]:
    """Return how a text may be written."""
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
    for ahead in range(3):  # it may stand in the midst of what is encoded
        encoded = base64.b64encode(bytes(ahead) + raw).decode().rstrip("=")[(4 if ahead else 0) :]
        # The last character depends on what follows.
        written |= {encoded[:-1], encoded[:-1].replace("+", "-").replace("/", "_")}
    if len(text) >= LONG:
        written |= {text[:PART], text[-PART:]}
    return written


@dataclass(frozen=True)
class Secret:
    """Something that nobody may see, but in answer to whoever asked for it.

    Attributes:
        shown: names of what shows it on purpose, as patterns; each has to.
    """

    text: str
    shown: tuple[str, ...] = ()


@dataclass
class Captured:
    """All that was printed, logged and answered, by who said it."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def add(self, source: str, text: str | bytes) -> None:
        self.said.append((source, text if isinstance(text, str) else text.decode("latin-1")))

    def shows(self, secret: Secret) -> list[str]:
        """Return who shows a secret."""
        sought = forms(secret.text)
        return sorted({who for who, what in self.said if any(each in what for each in sought)})


@pytest.mark.parametrize(
    "written",
    [
        lambda text: f"x{text}x",
        lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
        lambda text: base64.b64encode(f"users:{text}!".encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"me:{text}".encode()).decode(),
        lambda text: f"?token={quote(text, safe='')}",
        lambda text: json.dumps({"secret": text}),
        lambda text: text.encode().hex(),
        lambda text: f"{text[:20]}…",
    ],
    ids=["plain", "basic", "base64", "urlsafe", "url", "json", "hex", "cut"],
)
def test_a_secret_is_found_however_it_is_written(written: Callable[[str], str]) -> None:
    captured = Captured()
    text = 'p@ss/w+rd"ü=' + secrets.token_urlsafe(24)
    captured.add("innocent", f"{text[:12]} sha256:abcdef")
    captured.add("talkative", written(text))
    assert captured.shows(Secret(text)) == ["talkative"]


def _password() -> str:
    return "p@ss/w+rd:" + secrets.token_urlsafe(24)


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.mark.parametrize("name", ["init", "run", "doctor", "status", "tail"])
def test_settings_that_are_wrong_are_told_without_what_is_secret_in_them(
    tmp_path: Path, name: str
) -> None:
    password, key, token = _password(), _key(), secrets.token_urlsafe(24)
    escaped, no_slash = quote(password, safe=""), password.replace("/", "")
    urls = (
        f"mysql://shop:{escaped}@h/shop",
        f"postgresql://shop:{escaped}@h:port/shop",
        f"postgresql://shop:{escaped}@h@h/shop",
        f"postgresql://shop:{escaped}%@h/shop",
        f"postgresql://shop:{password}@h/shop",
        f"postgresql://shop:1/{no_slash}@h/shop",
        f"postgresql://shop:1?{no_slash}@h/shop",
        f"postgresql://shop:1#{no_slash}@h/shop",
    )
    files = (
        f'secret_key = "{key}',
        f'secret_key = "{key}" "',
        f'secret_key = "a"\nsecret_key = "{key}"',
        f"secret_key = {key}",
        f'port = "{token}"',
        f'tokne = "{token}"',
        f"token = ['{token}']",
    )
    key_of_ours = _key()
    wrong: list[dict[str, object]] = [{"secret_key": key_of_ours, "listen_url": u} for u in urls]
    wrong += [{"secret_key": f"no key {key}"}, {"secret_key": f"{key_of_ours},{key[:-5]}"}]
    for number, text in enumerate(files):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        wrong.append({"config": file})
    captured = Captured()

    def run(url: str, settings: dict[str, object]) -> None:
        """Run the command in this process: starting one takes a second."""
        of_others = {each: None for each in os.environ if each.startswith(("BRIDGE_", "PG"))}
        env = {**of_others, **environment(url, **settings)}
        ran = CliRunner().invoke(app, [name], env=env)
        assert ran.exit_code == 2, (settings, ran.output)
        assert ran.stderr.count("\n") == 1, ran.stderr
        captured.add(name, ran.output)

    for settings in wrong:
        run("postgresql://h/shop", settings)
    if name != "tail":  # which needs no database
        for url in urls:
            run(url, {})
    for secret in password, no_slash, key, token:
        assert captured.shows(Secret(secret)) == []


@dataclass
class Scene:
    """A shop's database with passwords, and all that is secret there."""

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
        """Remember a secret that the bridge has made."""
        self.secrets[name] = Secret(text, shown)
        return text


def _secrets() -> dict[str, Secret]:
    return {
        "password": Secret(_password()),
        "a wrong password": Secret(_password()),
        "the static token": Secret("static+/" + secrets.token_urlsafe(24)),
        "a wrong token": Secret(new_token()),
        "the key": Secret(_key()),
        "the key before": Secret(_key()),
        "a wrong key": Secret(_key()),
        "a secret by stdin": Secret(new_secret()),
        "a secret by rest": Secret("rest " + secrets.token_urlsafe(24)),
        "a secret patched": Secret("patched " + secrets.token_urlsafe(24)),
        "a secret rotated": Secret("rotated " + secrets.token_urlsafe(24)),
        "a secret of the bot": Secret("bots " + secrets.token_urlsafe(24)),
        "a secret by sql": Secret("by sql " + secrets.token_urlsafe(24)),
        "a secret refused": Secret("whsec_" + secrets.token_urlsafe(40)),
        # As those of chat services: who knows it may post. The API and the commands show URLs.
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


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A server of its own, where the bridge's role needs its password."""
    known = _secrets()
    password = known["password"].text
    with embedded_postgres() as server:
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
    """Run a command to its end, keep what it writes, and return its standard output."""
    given = {"secret_key": scene["the key"], "token": scene["the static token"], **settings}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bridge", *arguments],
            env=environment(scene.url if url is None else url, **given),
            cwd=tempfile.gettempdir(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = await trio.to_thread.run_sync(run)
    name = " ".join(arguments[: 2 if arguments[0] in ("token", "webhooks") else 1])
    scene.captured.add(f"{name}: out", done.stdout)
    scene.captured.add(f"{name}: err", done.stderr)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout


async def ask(
    scene: Scene, bridge: Bridge, method: str, path: str, *, token: str | None = None, **more: Any
) -> httpx.Response:
    """Ask REST, and keep all of the answer."""
    token = scene["the static token"] if token is None else token
    headers = {"X-API-Key": token, **more.pop("headers", {})}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        got = await http.request(method, f"{bridge.rest_url}{path}", headers=headers, **more)
    name = "/".join(path.split("?")[0].split("/")[:2])
    action = path.split("?")[0].rsplit("/", 1)[-1]
    source = f"{method} {name}" + (f" {action}" if action in ("rotate-secret", "test") else "")
    scene.captured.add(source, f"{got.status_code} {got.reason_phrase}\n{got.headers}\n{got.text}")
    return got


#: How a token comes to the stream: query, headers, first message.
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


async def listen(scene: Scene, bridge: Bridge, way: str, token: str, messages: int) -> None:
    """Connect to the stream, take so many messages or the close, and keep them."""
    query, headers, first = WAYS_IN[way](token)
    with trio.fail_after(60):
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


def _wrong_bytes(token: str) -> dict[str, str]:
    """Return requests that are none, each with a token where it can stand."""
    escaped = quote(token, safe="")
    opening = (
        "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    return {
        "no key": f"GET /ws?token={escaped} HTTP/1.1\r\n{opening}\r\n",
        "token as key": f"GET /ws HTTP/1.1\r\n{opening}Sec-WebSocket-Key: {token}\r\n\r\n",
        "no version": f"GET /ws?token={escaped} HTTP/1.1\r\n{opening[:-31]}\r\n{key}\r\n",
        "no HTTP": f"GET /ws?token={escaped} {token}\r\n\r\n",
        "a header that is none": f"GET /ws HTTP/1.1\r\n{opening}{key}{token}\r\n\r\n",
        "a header in no ASCII": f"GET /ws HTTP/1.1\r\n{opening}{key}X-API-Key: {token}\xff\r\n\r\n",
        "a protocol in no ASCII": (
            f"GET /ws HTTP/1.1\r\n{opening}{key}Sec-WebSocket-Protocol: {token}\xff\r\n\r\n"
        ),
        "a method that is none": f"{token} / HTTP/1.1\r\nHost: h\r\n\r\n",
        "REST that is no HTTP": f"GET /webhooks {token}\r\n\r\n",
        "REST with a bad header": (
            f"GET /webhooks HTTP/1.1\r\nHost: h\r\nX-API-Key : {token}\r\n\r\n"
        ),
        "REST with a bad length": (
            "POST /webhooks HTTP/1.1\r\nHost: h\r\n"
            f"X-API-Key: {token}\r\nContent-Length: {token}\r\n\r\n"
        ),
    }


async def say(scene: Scene, bridge: Bridge, what: str, sent: str) -> None:
    """Send bytes, and keep what is answered until the bridge hangs up."""
    received = b""
    with trio.fail_after(60):
        async with await trio.open_tcp_stream("127.0.0.1", bridge.port) as stream:
            try:
                await stream.send_all(sent.encode("latin-1"))
                await stream.send_eof()
                async for part in stream:
                    received += part
            except trio.BrokenResourceError:
                pass  # it is not spoken to any further
    scene.captured.add(f"bytes: {what}", received)


@asynccontextmanager
async def bridge_of(
    scene: Scene, name: str, *arguments: str, **settings: object
) -> AsyncIterator[Bridge]:
    """Run a bridge, and keep what it has written when it has ended."""
    given = {
        "token": scene["the static token"],
        MISSPELT: scene["a wrong token"],
        "bot_tokens_secret": scene["the key of the bot's tokens"],
        "log_level": "debug",  # all that can be told
        **RUN,
        **settings,
    }
    async with running(scene.url, *arguments, **given) as bridge:
        try:
            yield bridge
            assert await bridge.terminate(within=60) == 0
        finally:
            scene.captured.add(f"{name}: out", bridge.announcement)
            scene.captured.add(f"{name}: err", await trio.Path(bridge.log).read_text())


#: What each bridge is set to, beside keys and token.
RUN: dict[str, object] = {
    "poll_seconds": 0.2,
    "retry_schedule": "0,0.1",
    "bot_tokens": "on",
    "access_log": "on",
    "failed_logins_per_minute": 0,  # there are many
}
#: Pages of the console that are looked at, of each kind.
PAGES_OF_A_KIND = 2
#: A variable that is misspelt is told by its name.
MISSPELT = "tokne"


def command_lines(bridge: Bridge) -> str:
    """Return the command lines of a bridge and its workers, as every user of the machine sees."""
    lines = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                group = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[2])
                if group == bridge.process.pid:
                    lines.append((directory / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    assert lines
    return "\n".join(lines)


async def _commands(scene: Scene, receiver: Receiver) -> None:
    """Run every command, with what is right and what is wrong."""
    await command(scene, "init", "--dry-run")
    await command(scene, "init")
    made = await command(scene, "token", "create", "--name", "t", "--scope", "events:read")
    scene.learn("a token", made.strip(), "token create: out")
    made = await command(scene, "token", "create", "--name", "gone")
    scene.learn("a token revoked", made.strip(), "token create: out")
    await command(scene, "token", "list")
    await command(scene, "token", "revoke", "2")
    await command(
        scene, "token", "create", "--name", scene["a wrong token"], "--scope", "x", code=2
    )

    create = ["webhooks", "create", "--name", "n", "--event-type", "*", "--url"]
    url = receiver.url(f"/{scene['a path']}")
    key = scene["a secret by stdin"]
    await command(scene, *create, url, "--secret-stdin", stdin=f"{key}\n")
    made = await command(scene, *create, url, "--generate-secret")
    scene.learn("a secret made by command", made.split()[1], "webhooks create: out")
    wrong = scene["a secret refused"]
    await command(scene, *create, url, "--secret-stdin", stdin=wrong, code=2)
    await command(scene, *create, f"http://u:{wrong}@h/", code=2)
    await command(scene, *create, "http://h/", "--filter", "$.a ==", code=2)
    await command(scene, "webhooks", "import", "--dry-run")
    await command(scene, "webhooks", "import")
    await command(scene, "webhooks", "list")
    await command(scene, "webhooks", "list", "--json")
    await command(scene, "webhooks", "test", "1")
    await command(scene, "webhooks", "disable", "3")

    wrong_password = scene.url_with(scene["a wrong password"])
    for words in ("init",), ("run",), ("doctor",), ("status",), ("token", "list"):
        await command(scene, *words, url=wrong_password, code=1)
    await command(scene, "run", listen_url=wrong_password, code=1)


async def _looking(scene: Scene, bridge: Bridge) -> None:
    """Run the commands that look at what is there."""
    for name in "doctor", "status":
        await command(scene, name)
        await command(scene, name, "--json")
    await command(scene, "doctor", secret_key=scene["a wrong key"], code=1)
    await command(scene, "webhooks", "test", "1", secret_key=scene["a wrong key"], code=1)
    url = f"ws://127.0.0.1:{bridge.port}/ws"
    tail = ("tail", "--since", "0", "--count", "1", "--url")
    await command(scene, *tail, url, token=scene["a token"])
    await command(scene, *tail, url, token=scene["a wrong token"], code=1)
    await command(scene, *tail, f"{url}?token={scene['a token']}", code=2)
    await command(scene, *tail, url, token=f"{scene['a token']}\xff", code=2)


async def _console(scene: Scene, bridge: Bridge) -> None:
    """Sign in to the console, wrongly and rightly, and look at every page that links lead to."""

    def keep(answered: httpx.Response) -> httpx.Response:
        source = f"{answered.request.method} /console"
        scene.captured.add(source, f"{answered.headers}\n{answered.text}")
        return answered

    async with httpx.AsyncClient(base_url=bridge.rest_url, trust_env=False, timeout=60) as browser:
        for token in scene["a wrong token"], scene["the static token"]:
            asking = keep(await browser.get("/console/sign-in"))
            form = {"csrf": re.findall(r'name="csrf" value="(.+?)"', asking.text)[0]}
            keep(await browser.post("/console/sign-in", data={**form, "token": token}))
        scene.learn("a session", browser.cookies["pgbridge_session"], "POST /console")
        found, seen, kinds = ["/console"], set[str](), Counter[str]()
        while found:
            path = found.pop(0)
            kind = re.sub(r"\d+|=[^&]*", "", path)  # one webhook's page is like another's
            if path in seen or kinds[kind] == PAGES_OF_A_KIND:
                continue
            seen.add(path)
            kinds[kind] += 1
            page = keep(await browser.get(path))
            assert page.status_code == 200, (path, page.text)
            for link in re.findall(r'href="([^"#]+)', page.text):
                to = urlsplit(urljoin(f"{bridge.rest_url}{path}", unescape(link)))
                if to.path.startswith("/console") and "/static/" not in to.path:
                    found.append(to.path + (f"?{to.query}" if to.query else ""))
        assert {"/console/events", "/console/tokens", "/console/audit"} <= seen


async def _requests(scene: Scene, bridge: Bridge, receiver: Receiver) -> None:
    """Ask REST for everything that has to do with a secret, rightly and wrongly."""
    form = {"name": "n", "url": receiver.url(f"/{scene['a path']}"), "event_type": "*"}
    given = scene["a secret by rest"]
    webhook = (await ask(scene, bridge, "POST", "/webhooks", json={**form, "secret": given})).json()
    path = f"/webhooks/{webhook['id']}"
    made = await ask(scene, bridge, "POST", "/webhooks", json={**form, "generate_secret": True})
    scene.learn("a secret made by rest", made.json()["secret"], "POST /webhooks")
    rotated = await ask(scene, bridge, "POST", f"{path}/rotate-secret")
    scene.learn("a secret of a rotation", rotated.json()["secret"], "POST /webhooks rotate-secret")
    await ask(
        scene, bridge, "POST", f"{path}/rotate-secret", json={"secret": scene["a secret rotated"]}
    )
    await ask(scene, bridge, "POST", f"{path}/test")
    await ask(scene, bridge, "PATCH", path, json={"secret": scene["a secret patched"]})
    await ask(scene, bridge, "PATCH", path, json={"url": receiver.url("/refuses")})
    ticket = await ask(scene, bridge, "POST", "/ws/tickets", token=scene["a token of the bot"])
    await listen(
        scene, bridge, "ticket", scene.learn("a ticket", ticket.json()["ticket"], "POST /ws"), 2
    )
    listed = await ask(scene, bridge, "GET", "/webhooks", token=scene["a token of the bot"])
    assert listed.status_code == 200
    token_form = {"name": "t", "scopes": ["events:read:user.*"]}
    token = (await ask(scene, bridge, "POST", "/tokens", json=token_form)).json()
    scene.learn("a token made by rest", token["token"], "POST /tokens")
    await listen(scene, bridge, "bearer", token["token"], 2)
    for path_of_all in "/tokens", "/audit?limit=200", "/events":
        await ask(scene, bridge, "GET", path_of_all)
    await ask(scene, bridge, "DELETE", f"/tokens/{token['id']}")
    for suffix in "", "/health", "/deliveries", "?x=1":
        await ask(scene, bridge, "GET", path + suffix)
    for look in "/webhooks", "/webhooks/stats", "/metrics", "/readyz", "/openapi.json", "/docs":
        await ask(scene, bridge, "GET", look)

    wrong = scene["a secret refused"]
    answers = [
        await ask(scene, bridge, "POST", "/webhooks", json=body)
        for body in (
            {**form, "secret": wrong},
            {**form, "secret": [wrong]},
            {**form, "secret": given, "generate_secret": True},
            {**form, "name": {"secret": wrong}},
            {**form, "event_type": f"{wrong} "},
            {**form, "url": wrong},
            {**form, "url": f"https://user:{wrong}@example.com/"},
            {**form, "timeout_seconds": wrong},
            {**form, "is_active": wrong},
            {**form, "generate_secret": wrong},
            {**form, "retry_schedule": wrong},
            {"secret": wrong},
            wrong,
            [wrong],
        )
    ]
    json_type = {"Content-Type": "application/json"}
    answers += [
        await ask(scene, bridge, "POST", "/webhooks", content=content, headers=json_type)
        for content in (f'{{"secret": "{wrong}', f"secret={wrong}", wrong, f'{{"{wrong}": }}')
    ]
    answers.append(
        await ask(scene, bridge, "POST", f"{path}/rotate-secret", json={"secret": wrong})
    )
    answers.append(await ask(scene, bridge, "GET", f"{path}/deliveries?status={wrong}"))
    answers.append(await ask(scene, bridge, "GET", f"/webhooks/{wrong}"))
    assert {each.status_code for each in answers} == {422}, [each.text for each in answers]
    large = {**form, "secret": wrong, "description": "x" * 2_000_000}
    assert (await ask(scene, bridge, "POST", "/webhooks", json=large)).status_code == 413
    for place in f"/{wrong}", f"/webhooks?token={quote(wrong)}", f"/ws/{wrong}":
        await ask(scene, bridge, "PUT", place, headers={"Cookie": f"a={wrong}"})
    for token in scene["a wrong token"], scene["a token revoked"], scene["a token"]:
        refused = await ask(scene, bridge, "GET", "/webhooks", token=token)
        assert refused.status_code in (401, 403)


async def _failures(scene: Scene, bridge: Bridge) -> None:
    """Have the database refuse what nobody expects: an error of ours, and a row with its values."""
    body = {"name": "boom", "url": "http://127.0.0.1:9/", "event_type": "*"}
    with psycopg.connect(scene.url_of_superuser, autocommit=True) as operator:
        operator.execute(
            "alter table bridge.webhooks add constraint no_boom check (name <> 'boom')"
        )
        given = {**body, "secret": scene["a secret by rest"]}
        assert (await ask(scene, bridge, "POST", "/webhooks", json=given)).status_code == 500
        path = "/webhooks/1"
        assert (await ask(scene, bridge, "PATCH", path, json=given)).status_code == 500
        await command(
            scene,
            *("webhooks", "create", "--name", "boom", "--event-type", "*", "--secret-stdin"),
            *("--url", "http://127.0.0.1:9/"),
            stdin=scene["a secret by stdin"],
            code=1,
            secret_key="",
        )
        operator.execute("alter table bridge.webhooks drop constraint no_boom")
        operator.execute("alter table bridge.webhooks rename to elsewhere")
        assert (await ask(scene, bridge, "POST", "/webhooks", json=given)).status_code == 500
        operator.execute("alter table bridge.elsewhere rename to webhooks")


async def _restart(scene: Scene, bridge: Bridge, receiver: Receiver) -> None:
    """Crash the database while somebody signs up, and wait until the bridge is back at work."""

    def restart() -> None:
        scene.server.crash()
        scene.server.start()

    await trio.to_thread.run_sync(scene.server.crash)
    # Whatever the crash leaves of the connections, the bridge has something to say about it.
    await ask(scene, bridge, "GET", "/webhooks")
    await ask(scene, bridge, "GET", "/webhooks", token=scene["a token"])
    await listen(scene, bridge, "token", scene["a token"], 1)
    await trio.to_thread.run_sync(scene.server.start)
    before = len(receiver.requests)
    sign_up(scene)
    with trio.fail_after(120):
        await receiver.until(lambda: len(receiver.requests) > before)


def sign_up(scene: Scene) -> None:
    with psycopg.connect(scene.url_of_superuser, autocommit=True) as bot:
        bot.execute("insert into public.users (auth_type) values ('email')")


def dump(scene: Scene) -> str:
    """Return schema bridge as a backup has it."""
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
    """Return who shows which secret without being meant to."""
    found = {}
    for name, secret in scene.secrets.items():
        shows = scene.captured.shows(secret)
        for pattern in secret.shown:
            assert any(fnmatchcase(who, pattern) for who in shows), f"{pattern} shows {name}"
        if bad := [w for w in shows if not any(fnmatchcase(w, p) for p in secret.shown)]:
            found[name] = bad
    return found


async def test_what_is_printed_logged_answered_and_backed_up_shows_no_secret(scene: Scene) -> None:
    async with receiving() as receiver:
        receiver.behaviours["/refuses"] = answer("500 Internal Server Error", b"no")
        await _commands(scene, receiver)
        with psycopg.connect(scene.url_of_superuser, autocommit=True) as operator:
            operator.execute(
                "insert into bridge.webhooks (name, url, event_type, secret)"
                " values ('by sql', 'http://127.0.0.1:9/', '*', %s)",
                [scene["a secret by sql"]],
            )
        keys = f"{scene['the key']},{scene['the key before']}"
        async with bridge_of(scene, "run", secret_key=keys) as bridge:
            sign_up(scene)
            with trio.fail_after(60):
                await receiver.until(lambda: bool(receiver.requests))
            await _requests(scene, bridge, receiver)
            for way in WAYS_IN:
                await listen(scene, bridge, way, scene["a token"], 2)
                for token in scene["a wrong token"], scene["a token revoked"]:
                    await listen(scene, bridge, way, token, 3)
            for what, sent in _wrong_bytes(scene["the static token"]).items():
                await say(scene, bridge, what, sent)
            await _looking(scene, bridge)
            await _console(scene, bridge)
            await _restart(scene, bridge, receiver)
            scene.captured.add("a list of processes", command_lines(bridge))
            await ask(scene, bridge, "GET", "/metrics")
        # The row that the database refuses, and tells of, has the secret as it is.
        async with bridge_of(scene, "run without a key") as bridge:
            await _failures(scene, bridge)
        wrong_key = scene["a wrong key"]
        async with bridge_of(scene, "run with a wrong key", secret_key=wrong_key) as bridge:
            with trio.fail_after(60):
                while not bridge.logged("secret_decryption_failed"):  # noqa: ASYNC110 - nobody announces it
                    await trio.sleep(0.05)
        async with bridge_of(scene, "workers", "--workers", "2", secret_key=keys) as bridge:
            scene.captured.add("a list of processes", command_lines(bridge))
            await ask(scene, bridge, "GET", "/metrics")
            await listen(scene, bridge, "token", scene["the static token"], 1)
        backup = dump(scene)
        assert "fernet:" in backup
        scene.captured.add("backup", backup)
    assert leaks(scene) == {}
