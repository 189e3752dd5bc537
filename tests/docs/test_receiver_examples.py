"""The receivers in examples/receivers/: a bridge's deliveries, and what somebody else makes up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from bridge.delivery.signing import headers as signed_headers
from tests.system.processes import TOKEN, Child, child, running
from tests.system.writers import SIGN_UP

EXAMPLES = Path(__file__).parents[2] / "examples" / "receivers"
Bot = psycopg.Connection[tuple[object, ...]]
#: Runs a receiver with settings of its environment, until the end of the context.
Run = Callable[..., AbstractAsyncContextManager[Child]]

SECRET = "a secret of one's own, with spaces: й"
#: As bridges make them.
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"user_id": 7, "username": "\\u0418\\u0432\\u0430\\u043d"}'


def test_there_is_a_test_of_every_example() -> None:
    tested = {"receiver.py", "receiver_fastapi.py", "receiver.mjs", "receiver.go"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tested


@pytest.fixture(scope="session")
def go_receiver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The receiver in Go, built once; Go keeps what it has compiled of its library."""
    if not _has("go", "version"):
        pytest.skip("no Go here; the same requests are shown to the receiver in Python")
    built = tmp_path_factory.mktemp("go") / "receiver"
    subprocess.run(
        ["go", "build", "-o", str(built), str(EXAMPLES / "receiver.go")],
        env={**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GO111MODULE": "off"},
        check=True,
        timeout=300,
    )
    return str(built)


@cache
def _has(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(params=["python", "fastapi", "node", "go"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Each example."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WEBHOOK_")
    }
    match request.param:
        case "python":
            command = [sys.executable, str(EXAMPLES / "receiver.py")]
        case "fastapi":
            environment["PYTHONPATH"] = str(EXAMPLES)
            command = [sys.executable, "-m", "tests.asgi", "receiver_fastapi:app"]
        case "node":
            if not _has("node", "--version"):
                pytest.skip("no Node here; the same requests are shown to the receiver in Python")
            command = ["node", str(EXAMPLES / "receiver.mjs")]
        case _:
            command = [request.getfixturevalue("go_receiver")]

    def runs(inbox: str = "inbox.db", **settings: str) -> AbstractAsyncContextManager[Child]:
        given = {name.upper(): value for name, value in settings.items()}
        return child(command, {**environment, "PORT": "0", "INBOX": str(tmp_path / inbox), **given})

    return runs


async def address(receiver: Child) -> str:
    """Return where a receiver listens, once it does."""
    line = await receiver.out.having(" on http://")
    return "http://" + line.split("http://")[1].split(" ")[0].rstrip("/") + "/hook"


def taken(receiver: Child) -> list[str]:
    """Return what a receiver has handled."""
    return [line for line in receiver.out.all if line.startswith("evt_")]


def signed(
    message: str = "evt_1_wh_1",
    *,
    secret: str = SECRET,
    previous: str | None = None,
    age_seconds: int = 0,
    body: bytes = BODY,
) -> dict[str, str]:
    """Return the headers that a bridge sends."""
    lines = signed_headers(
        body=body,
        event_type="user.created",
        webhook_id=1,
        message=message,
        timestamp=int(time.time()) - age_seconds,
        secret=secret,
        previous_secret=previous,
    ).decode()
    return dict(line.split(": ", 1) for line in lines.splitlines())


async def test_an_example_takes_what_a_bridge_sends_before_while_and_after_a_secret_is_changed(
    bridge_url: str, bot: Bot, run: Run
) -> None:
    async with (
        running(bridge_url) as bridge,
        httpx.AsyncClient(
            base_url=bridge.rest_url, headers={"X-API-Key": TOKEN}, trust_env=False
        ) as rest,
        run("a", webhook_secret=SECRET) as old,
        run("b", webhook_secret=STANDARD_SECRET) as new,
    ):
        for url, secret in ((await address(old), SECRET), (await address(new), STANDARD_SECRET)):
            webhook = {"name": "w", "url": url, "event_type": "user.*", "secret": secret}
            assert (await rest.post("/webhooks", json=webhook)).status_code == 201
        bot.execute(SIGN_UP, ("Иван",))
        for webhook_id, receiver in ((1, old), (2, new)):
            line = await receiver.out.having("evt_")
            assert line.startswith(f"evt_1_wh_{webhook_id} user.created ")
            assert '"user_id"' in line
        # The first webhook's receiver goes on knowing the old secret alone, and the second one
        # knows the new one, and verifies what is signed by both.
        rotated = await rest.post("/webhooks/1/rotate-secret", json={"secret": STANDARD_SECRET})
        assert rotated.status_code == 200
        moved = await rest.patch("/webhooks/2", json={"url": await address(old), "secret": SECRET})
        assert moved.status_code == 200
        both = {"name": "w", "url": await address(new), "event_type": "user.*", "secret": SECRET}
        assert (await rest.post("/webhooks", json=both)).status_code == 201
        rotated = await rest.post("/webhooks/3/rotate-secret", json={"secret": STANDARD_SECRET})
        assert rotated.status_code == 200
        bot.execute(SIGN_UP, ("second",))
        await old.out.having("evt_2_wh_1 ")
        await old.out.having("evt_2_wh_2 ")
        await new.out.having("evt_2_wh_3 ")
        attempts: list[tuple[object, ...]] = []
        while len(attempts) < 5:  # settled a moment later
            await trio.sleep(0.01)
            query = "select response_status from bridge.delivery_attempts"
            attempts = bot.execute(query.encode()).fetchall()
        assert attempts == [(204,)] * 5


def altered(**changes: str | None) -> dict[str, str]:
    """Return good headers with some of them changed, or taken away."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    merged = {**signed(), **changed}
    return {name: value for name, value in merged.items() if value is not None}


#: What is shown to a receiver, and what it is to answer.
STRANGE: dict[str, tuple[Callable[[], dict[str, str]], bytes, int]] = {
    "signed by somebody else": (lambda: signed(secret="another"), BODY, 401),
    "an altered body": (signed, BODY.replace(b"7", b"8"), 401),
    "another id": (lambda: altered(webhook_id="evt_9_wh_1"), BODY, 401),
    "made younger": (lambda: altered(webhook_timestamp=str(int(time.time()) + 1)), BODY, 401),
    "recorded ten minutes ago": (lambda: signed(age_seconds=600), BODY, 401),
    "signed in the future": (lambda: signed(age_seconds=-600), BODY, 401),
    "not signed": (lambda: altered(webhook_signature=None), BODY, 401),
    "an empty signature": (lambda: altered(webhook_signature="v1,"), BODY, 401),
    "another version": (
        lambda: altered(webhook_signature=signed()["webhook-signature"].replace("v1,", "v1a,")),
        BODY,
        401,
    ),
    "a signature that is no ASCII": (lambda: altered(webhook_signature="v1,\xfc"), BODY, 401),
    "without an id": (lambda: altered(webhook_id=None), BODY, 400),
    "without a time": (lambda: altered(webhook_timestamp=None), BODY, 400),
    "a time that is none": (lambda: altered(webhook_timestamp="soon"), BODY, 400),
    "no JSON": (lambda: signed(body=b"{"), b"{", 400),
    "a body too large": (signed, b" " * (1024 * 1024 + 1), 413),
}


async def test_an_example_refuses_what_is_forged_altered_stale_or_nonsense(run: Run) -> None:
    async with run(webhook_secret=SECRET) as receiver, httpx.AsyncClient(trust_env=False) as http:
        url = await address(receiver)
        answers = {}
        for name, (headers, body, _) in STRANGE.items():
            sent = [(key.encode(), value.encode("latin-1")) for key, value in headers().items()]
            answers[name] = (await http.post(url, headers=sent, content=body)).status_code
        assert answers == {name: status for name, (_, _, status) in STRANGE.items()}
        # None of it has spoilt an id for the delivery that it belongs to.
        assert (await http.post(url, headers=signed(), content=BODY)).status_code == 204
        await receiver.out.having("evt_1_wh_1 user.created ")
        assert len(taken(receiver)) == 1


async def test_an_example_takes_a_delivery_once_however_often_it_comes(run: Run) -> None:
    async with run(webhook_secret=SECRET) as receiver, httpx.AsyncClient(trust_env=False) as http:
        url = await address(receiver)
        # Later attempts are signed anew, and a recorded request within the tolerance is a repeat.
        for age_seconds in (100, 50, 50, 0):
            repeat = signed(age_seconds=age_seconds)
            assert (await http.post(url, headers=repeat, content=BODY)).status_code == 204
        assert (await http.post(url, headers=signed("evt_2_wh_1"), content=BODY)).status_code == 204
        await receiver.out.having("evt_2_wh_1 ")
        assert [line.split()[0] for line in taken(receiver)] == ["evt_1_wh_1", "evt_2_wh_1"]


async def test_an_example_accepts_two_secrets_while_its_own_is_changed(run: Run) -> None:
    async with (
        run(webhook_secret=STANDARD_SECRET, webhook_secret_previous=SECRET) as receiver,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        url = await address(receiver)
        for number, (secret, previous) in enumerate(
            [(SECRET, None), (STANDARD_SECRET, None), ("third", SECRET), (SECRET, "third")]
        ):
            headers = signed(f"evt_{number}_wh_1", secret=secret, previous=previous)
            assert (await http.post(url, headers=headers, content=BODY)).status_code == 204
        headers = signed("evt_4_wh_1", secret="third")
        assert (await http.post(url, headers=headers, content=BODY)).status_code == 401


async def test_an_example_verifies_the_simple_scheme_if_it_is_told_to(run: Run) -> None:
    def simple(message: str = "evt_1_wh_1", **signing: Any) -> dict[str, str]:
        headers = signed(message, **signing)
        return {name: headers[name] for name in headers if name != "webhook-signature"}

    async with (
        run(webhook_secret=SECRET, webhook_scheme="simple") as receiver,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        url = await address(receiver)
        for headers, body, status in (
            (simple(), BODY, 204),
            (simple(message="evt_2_wh_1", secret="new", previous=SECRET), BODY, 204),
            (simple(secret="another"), BODY, 401),
            (simple(), BODY + b" ", 401),
            ({"webhook-id": "evt_3_wh_1"}, BODY, 401),
        ):
            assert (await http.post(url, headers=headers, content=body)).status_code == status
        await receiver.out.having("evt_2_wh_1 ")
        assert len(taken(receiver)) == 2


async def test_an_example_without_a_secret_does_not_start(run: Run) -> None:
    async with run() as receiver:
        await receiver.end()
        assert not taken(receiver)
        assert any("WEBHOOK_SECRET" in line for line in receiver.err.all)


@pytest.mark.parametrize("run", ["python", "fastapi"], indirect=True)
async def test_the_receivers_in_python_know_after_a_kill_what_they_have_taken(run: Run) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        async with run(webhook_secret=SECRET) as receiver:
            url = await address(receiver)
            assert (await http.post(url, headers=signed(), content=BODY)).status_code == 204
            await receiver.out.having("evt_1_wh_1 ")
            # Marked as done behind the line; the second delivery is printed behind that.
            again = signed("evt_2_wh_1")
            assert (await http.post(url, headers=again, content=BODY)).status_code == 204
            await receiver.out.having("evt_2_wh_1 ")
            receiver.process.kill()
        async with run(webhook_secret=SECRET) as receiver:
            url = await address(receiver)
            for message in ("evt_1_wh_1", "evt_3_wh_1"):
                headers = signed(message)
                assert (await http.post(url, headers=headers, content=BODY)).status_code == 204
            await receiver.out.having("evt_3_wh_1 ")
            # The second may have been printed and not marked: then its work is done twice.
            assert "evt_1_wh_1" not in [line.split()[0] for line in taken(receiver)]
