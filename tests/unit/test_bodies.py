"""What bodies cost: before authentication, after it, and many at once."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import pytest
import trio
import trio.testing
from fastapi import Body, FastAPI, HTTPException
from pydantic import ValidationError
from starlette import requests
from starlette.types import Message

from bridge.access.scopes import ADMIN
from bridge.access.tokens import Grant
from bridge.access.vault import Vault
from bridge.web.api.tokens import NewToken
from bridge.web.app import build_api
from bridge.web.http.bodies import AUTHENTICATED, STRANGERS
from bridge.web.http.body import MAX_CONTAINERS, parse_json
from bridge.webhooks.model import NewWebhook
from tests.unit.serving import Tokens

JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"application/x-www-form-urlencoded")
MULTIPART = (b"content-type", b"multipart/form-data; boundary=x")
WRONG = (b"x-api-key", b"wrong")
STALE = (b"cookie", b"pgbridge_session=stale")
ADMIN_TOKEN = (b"x-api-key", b"admin")
OTHER_ADMIN = (b"x-api-key", b"another")
SESSION = (b"cookie", b"pgbridge_session=admin")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PIECE = b" " * 1024


class Sessions(Tokens):
    """The stand-in with two administrators; each token is also the cookie of its session."""

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate(("admin", "another"), 10):
            self.known[name] = Grant(number, name, frozenset([ADMIN]))

    async def use_session(self, session: str, address: str = "") -> Grant | None:
        return self.known.get(session)


class Call:
    """A request, and what the application takes of its body."""

    def __init__(self, *pieces: bytes, endless: bool = False, stalling: bool = False) -> None:
        self._pieces = list(pieces)
        self._endless = endless
        self._stalling = stalling
        self.read_bytes = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.text = ""

    async def __call__(
        self, api: FastAPI, method: str, path: str, *headers: tuple[bytes, bytes]
    ) -> "Call":
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": list(headers),
            "client": ("127.0.0.1", 4711),
        }
        await api(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._pieces and self._stalling:
            await trio.sleep_forever()
        piece = self._pieces.pop(0) if self._pieces else PIECE if self._endless else b""
        self.read_bytes += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.text += message["body"].decode()


@pytest.fixture
def api() -> FastAPI:
    """The application without a database, and a route that forgot to check tokens."""

    async def accept(_url: str) -> None:
        """Accept every URL."""

    api = build_api(
        None,  # type: ignore[arg-type]
        Sessions(),
        vault=Vault(),
        troubles=dict,
        url_refusal=accept,
        send_trial=None,  # type: ignore[arg-type]
    )

    @api.post("/unguarded")
    async def unguarded(body: Annotated[Any, Body()]) -> Any:
        return body

    return api


def paths(routes: Iterable[Any]) -> Iterator[str]:
    """Yield the path of every route, with the names of its parameters as their values."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from paths(router.routes)
        else:
            yield re.sub(r"\{(\w+)[^}]*\}", r"\1", route.path)


@pytest.mark.parametrize("shown", [None, WRONG, STALE], ids=["nothing", "token", "session"])
async def test_no_route_reads_much_of_a_stranger(
    api: FastAPI, shown: tuple[bytes, bytes] | None
) -> None:
    headers = [] if shown is None else [shown]
    readers = set()
    found = list(paths(api.routes))
    assert {"/unguarded", "/webhooks/webhook_id", "/console/audit", "/openapi.json"} <= set(found)
    for path in found:
        for method in METHODS:
            for kind in JSON, FORM, MULTIPART:
                call = await Call(endless=True)(api, method, path, *headers, kind)
                assert call.read_bytes <= STRANGERS.most_bytes + len(PIECE), path
                if call.read_bytes:
                    readers.add(path)
                    assert call.status == 413
    # All other routes refuse the request before they read anything. A route in this set accepts a
    # body from strangers.
    assert readers == {"/console/sign-in", "/unguarded"}


async def test_announced_bodies_are_refused_unread(api: FastAPI) -> None:
    for limits, path, headers in (
        (STRANGERS, "/console/sign-in", [FORM]),
        (AUTHENTICATED, "/tokens", [JSON, ADMIN_TOKEN]),
        (AUTHENTICATED, "/console/tokens/new", [FORM, SESSION]),
    ):
        for size in (str(limits.most_bytes + 1), "9" * 19):
            length = (b"content-length", size.encode())
            call = await Call(endless=True)(api, "POST", path, *headers, length)
            assert (call.status, call.read_bytes) == (413, 0)


async def test_authenticated_clients_may_send_64_kib(api: FastAPI) -> None:
    for path, headers in (
        ("/tokens", [JSON, ADMIN_TOKEN]),
        ("/console/tokens/new", [FORM, SESSION]),
    ):
        call = await Call(endless=True)(api, "POST", path, *headers)
        assert call.status == 413
        assert call.read_bytes == AUTHENTICATED.most_bytes + len(PIECE)


async def test_session_without_the_scope_is_refused_unread(api: FastAPI) -> None:
    listener = (b"cookie", b"pgbridge_session=right")
    call = await Call(endless=True)(api, "POST", "/console/tokens/new", FORM, listener)
    assert (call.status, call.read_bytes) == (403, 0)


async def test_forms_have_few_fields(api: FastAPI) -> None:
    for limits, path, headers in (
        (STRANGERS, "/console/sign-in", [FORM]),
        (AUTHENTICATED, "/console/tokens/new", [FORM, SESSION]),
    ):
        for separator in "&", "&&":
            form = separator.join(["a=1"] * (limits.most_fields + 1)).encode()
            call = await Call(form)(api, "POST", path, *headers)
            assert call.status == 422
        fitting = "&".join(["a=1"] * limits.most_fields).encode()
        # Read, and not a form of the page that it claims to come from.
        assert (await Call(fitting)(api, "POST", path, *headers)).status == 403


async def test_multipart_forms_are_not_parsed(api: FastAPI) -> None:
    form = b"--x\r\nContent-Disposition: form-data; name=token\r\n\r\nright\r\n--x--\r\n"
    call = await Call(form)(api, "POST", "/console/sign-in", MULTIPART)
    assert call.status == 422
    assert "Content-Type must be application/x-www-form-urlencoded" in call.text


async def test_bodies_arrive_in_a_bounded_number_of_pieces(api: FastAPI) -> None:
    for limits, path, headers in (
        (STRANGERS, "/console/sign-in", [FORM]),
        (AUTHENTICATED, "/console/tokens/new", [FORM, SESSION]),
    ):
        for count, status in (limits.most_pieces - 1, 403), (limits.most_pieces, 413):
            call = await Call(*[b"x"] * count)(api, "POST", path, *headers)
            assert call.status == status


# --- many at once


async def test_slow_bodies_make_room_for_new_ones(api: FastAPI) -> None:
    slow = [Call(b"tok", stalling=True) for _ in range(STRANGERS.most_at_once)]
    async with trio.open_nursery() as nursery:
        for call in slow:
            nursery.start_soon(call, api, "POST", "/console/sign-in", FORM)
            await trio.testing.wait_all_tasks_blocked()
        assert not any(call.status for call in slow)
        # Authenticated clients have their own share.
        await Call(b"{}")(api, "POST", "/tokens", JSON, ADMIN_TOKEN)
        assert not any(call.status for call in slow)
        # It is read; then the form lacks its cookie.
        assert (await Call(b"token=x")(api, "POST", "/console/sign-in", FORM)).status == 403
        await trio.testing.wait_all_tasks_blocked()
        assert [call.status for call in slow] == [429] + [0] * (len(slow) - 1)
        assert slow[0].headers[b"retry-after"] == b"1"
        nursery.cancel_scope.cancel()


async def test_slow_tokens_make_room_for_other_tokens(api: FastAPI) -> None:
    slow = [Call(b"{", stalling=True) for _ in range(AUTHENTICATED.most_at_once)]
    async with trio.open_nursery() as nursery:
        for call in slow:
            nursery.start_soon(call, api, "POST", "/tokens", JSON, ADMIN_TOKEN)
        await trio.testing.wait_all_tasks_blocked()
        assert (await Call(b"{}")(api, "POST", "/tokens", JSON, OTHER_ADMIN)).status == 422
        await trio.testing.wait_all_tasks_blocked()
        assert sum(call.status == 429 for call in slow) == 1
        nursery.cancel_scope.cancel()


async def test_bodies_in_use_are_bounded(api: FastAPI) -> None:
    finish = trio.Event()

    @api.post("/waiting")
    async def waiting(body: Annotated[Any, Body()]) -> Any:
        await finish.wait()
        return body

    calls = [Call(b"1") for _ in range(STRANGERS.most_at_once)]
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call, api, "POST", "/waiting", JSON)
        await trio.testing.wait_all_tasks_blocked()
        refused = await Call(b"1")(api, "POST", "/waiting", JSON)
        assert (refused.status, refused.headers[b"retry-after"]) == (429, b"1")
        finish.set()
    assert {call.status for call in calls} == {200}
    assert (await Call(b"1")(api, "POST", "/waiting", JSON)).status == 200


# --- parsing


async def test_cookies_of_others_are_not_parsed(
    api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def parse(text: str) -> dict[str, str]:
        parsed.append(text)
        return {}

    monkeypatch.setattr(requests, "cookie_parser", parse)
    quoted = b'pgbridge_session="' + b'\\"' * 5000 + b'"'
    for sent, kept in (
        (b'other="' + b'\\"' * 5000 + b'"', ""),
        (quoted, ""),
        (b"pgbridge_session=a!", ""),
        (b"xpgbridge_session=a; x=pgbridge_session=a", ""),
        (b"a=b;pgbridge_session=-A_9 ;  pgbridge_sign_in=x;c", "-A_9; pgbridge_sign_in=x"),
    ):
        parsed.clear()
        await Call()(api, "GET", "/healthz", (b"cookie", sent))
        assert parsed == ["pgbridge_session=" + kept if kept else ""]


LARGEST = AUTHENTICATED.most_bytes
COSTLY = {
    "objects": b"[" + b"{}," * (LARGEST // 3 - 2) + b"{}]",
    "lists": b"[" + b"[]," * (LARGEST // 3 - 2) + b"[]]",
    "objects in objects": b'{"a":' * (LARGEST // 6) + b"1" + b"}" * (LARGEST // 6),
    "unfinished": b"[" * LARGEST,
    "behind strings": b"[" + b'"\\"",{},' * (LARGEST // 8 - 1) + b"1]",
    "behind an unfinished string": b"[{}," * (LARGEST // 4) + b'"' + b'\\"' * 100,
}


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
def test_bodies_of_many_objects_are_not_parsed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("the body was parsed")

    monkeypatch.setattr(json, "loads", parsed)
    assert len(body) <= LARGEST + 300
    with pytest.raises(HTTPException) as refusal:
        parse_json(body)
    assert refusal.value.status_code == 422
    assert "too many lists and objects" in str(refusal.value.detail)


def test_brackets_in_texts_do_not_count() -> None:
    text = '[{"\\' * (MAX_CONTAINERS + 1)
    assert parse_json(json.dumps({"description": text}).encode()) == {"description": text}


def test_objects_and_keys_within_the_limits_are_parsed() -> None:
    objects: list[Any] = [{"a": {}} for _ in range((MAX_CONTAINERS - 1) // 2)]
    assert parse_json(json.dumps(objects).encode()) == objects
    keys = {f"{number:x}": 0 for number in range(LARGEST // 10)}
    assert parse_json(json.dumps(keys, separators=(",", ":")).encode()) == keys


def test_numbers_with_many_digits_are_refused_or_cheap() -> None:
    with pytest.raises(HTTPException) as refusal:
        parse_json(b"9" * LARGEST)
    assert refusal.value.status_code == 422
    assert "too many digits" in str(refusal.value.detail)
    assert parse_json(b"0." + b"3" * (LARGEST - 2)) == pytest.approx(1 / 3)


def test_problems_of_a_body_are_bounded() -> None:
    count = LARGEST // 4
    for model, fields in (
        (NewWebhook, {"name": "n", "url": "https://x", "event_type": "a", "retry_schedule": "x"}),
        (NewToken, {"name": "n", "scopes": "x"}),
    ):
        many = {name: [text] * count if text == "x" else text for name, text in fields.items()}
        with pytest.raises(ValidationError) as invalid:
            model.model_validate(many)
        assert len(invalid.value.errors()) <= 101
        unknown: dict[str, Any] = {f"{number:x}": [] for number in range(count)}
        with pytest.raises(ValidationError) as invalid:
            model.model_validate(unknown)
        assert len(invalid.value.errors()) <= 3
