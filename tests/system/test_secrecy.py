"""Nothing that a bridge and its commands print, log or answer shows a secret, unless intended.

The test runs everything, mistakes included: mistyped passwords, keys and tokens, a database that
crashes, malformed requests. It records all output and then searches it for every secret in every
encoding.

For a new secret, add it to ``_secrets`` and use it: ``WAYS_IN`` for stream handshakes, ``RUN``
for settings, ``_requests`` for REST, ``_commands`` for the command line.
"""

import base64
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import psycopg
import pytest
import trio

from tests.receiver import Receiver, answer, receiving
from tests.system.processes import Bridge, invoked
from tests.system.secret_scene import (
    WAYS_IN,
    Captured,
    Scene,
    Secret,
    ask,
    bridge_of,
    command,
    command_lines,
    dump,
    leaks,
    listen,
    malformed_requests,
    new_key,
    new_password,
    say,
    secret_shop,
    sign_up,
)
from tests.waiting import PATIENCE_SECONDS, until
from tests.webhook_rows import add_webhook


@pytest.fixture
def scene() -> Iterator[Scene]:
    with secret_shop() as scene:
        yield scene


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
def test_search_finds_a_secret_in_any_encoding(written: Callable[[str], str]) -> None:
    captured = Captured()
    text = 'p@ss/w+rd"ü=' + secrets.token_urlsafe(24)
    captured.add("innocent", f"{text[:12]} sha256:abcdef")
    captured.add("talkative", written(text))
    assert captured.shows(Secret(text)) == ["talkative"]


@pytest.mark.parametrize("name", ["init", "run", "doctor", "status", "tail"])
def test_errors_about_settings_show_no_secret(tmp_path: Path, name: str) -> None:
    password, key, token = new_password(), new_key(), secrets.token_urlsafe(24)
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
    key_of_ours = new_key()
    wrong: list[dict[str, Any]] = [{"secret_key": key_of_ours, "listen_url": u} for u in urls]
    wrong += [{"secret_key": f"no key {key}"}, {"secret_key": f"{key_of_ours},{key[:-5]}"}]
    for number, text in enumerate(files):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        wrong.append({"config": file})
    captured = Captured()

    def run(url: str, settings: dict[str, Any]) -> None:
        ran = invoked(name, url=url, **settings)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), (settings, ran.stderr)
        captured.add(name, ran.stdout + ran.stderr)

    for settings in wrong:
        run("postgresql://h/shop", settings)
    if name != "tail":  # needs no database
        for url in urls:
            run(url, {})
    for secret in password, no_slash, key, token:
        assert captured.shows(Secret(secret)) == []


#: Pages of the console to open per kind.
PAGES_OF_A_KIND = 2


async def _commands(scene: Scene, receiver: Receiver) -> None:
    """Run every command with valid and invalid input."""
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
    """Run the commands that only read."""
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
    """Sign in to the console, once with an invalid token, and open every linked page."""

    def keep(answered: httpx.Response) -> httpx.Response:
        source = f"{answered.request.method} /console"
        scene.captured.add(source, f"{answered.headers}\n{answered.text}")
        return answered

    async with httpx.AsyncClient(
        base_url=bridge.rest_url, trust_env=False, timeout=PATIENCE_SECONDS
    ) as browser:
        for token in scene["a wrong token"], scene["the static token"]:
            asking = keep(await browser.get("/console/sign-in"))
            form = {"csrf": re.findall(r'name="csrf" value="(.+?)"', asking.text)[0]}
            keep(await browser.post("/console/sign-in", data={**form, "token": token}))
        scene.learn("a session", browser.cookies["pgbridge_session"], "POST /console")
        found, seen, kinds = ["/console"], set[str](), Counter[str]()
        while found:
            path = found.pop(0)
            kind = re.sub(r"\d+|=[^&]*", "", path)  # pages of one kind are alike
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
    """Send REST requests with secrets, valid and invalid ones."""
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
    """Make the database reject valid statements, with a row's values in its error."""
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
    """Crash the database, and wait until the bridge delivers again."""

    def restart() -> None:
        scene.server.crash()
        scene.server.start()

    await trio.to_thread.run_sync(scene.server.crash)
    # The bridge must report the broken connections.
    await ask(scene, bridge, "GET", "/webhooks")
    await ask(scene, bridge, "GET", "/webhooks", token=scene["a token"])
    await listen(scene, bridge, "token", scene["a token"], 1)
    await trio.to_thread.run_sync(scene.server.start)
    before = len(receiver.requests)
    sign_up(scene)
    with trio.fail_after(PATIENCE_SECONDS):
        await receiver.until(lambda: len(receiver.requests) > before)


async def test_output_logs_responses_and_backups_show_no_secret(scene: Scene) -> None:
    async with receiving() as receiver:
        receiver.behaviours["/refuses"] = answer("500 Internal Server Error", b"no")
        await _commands(scene, receiver)
        with psycopg.connect(scene.url_of_superuser, autocommit=True) as operator:
            add_webhook(operator, "http://127.0.0.1:9/", secret=scene["a secret by sql"])
        keys = f"{scene['the key']},{scene['the key before']}"
        async with bridge_of(scene, "run", secret_key=keys) as bridge:
            sign_up(scene)
            with trio.fail_after(PATIENCE_SECONDS):
                await receiver.until(lambda: bool(receiver.requests))
            await _requests(scene, bridge, receiver)
            for way in WAYS_IN:
                await listen(scene, bridge, way, scene["a token"], 2)
                for token in scene["a wrong token"], scene["a token revoked"]:
                    await listen(scene, bridge, way, token, 3)
            for what, sent in malformed_requests(scene["the static token"]).items():
                await say(scene, bridge, what, sent)
            await _looking(scene, bridge)
            await _console(scene, bridge)
            await _restart(scene, bridge, receiver)
            scene.captured.add("a list of processes", command_lines(bridge))
            await ask(scene, bridge, "GET", "/metrics")
        # Without a key, the rejected row contains the secret in plain text.
        async with bridge_of(scene, "run without a key") as bridge:
            await _failures(scene, bridge)
        wrong_key = scene["a wrong key"]
        async with bridge_of(scene, "run with a wrong key", secret_key=wrong_key) as bridge:
            with trio.fail_after(PATIENCE_SECONDS):
                await until(lambda: bridge.logged("secret_decryption_failed"))
        async with bridge_of(scene, "workers", "--workers", "2", secret_key=keys) as bridge:
            scene.captured.add("a list of processes", command_lines(bridge))
            await ask(scene, bridge, "GET", "/metrics")
            await listen(scene, bridge, "token", scene["the static token"], 1)
        backup = dump(scene)
        assert "fernet:" in backup
        scene.captured.add("backup", backup)
    assert leaks(scene) == {}
