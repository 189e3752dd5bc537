"""Deliveries reach their receivers, and their results are recorded."""

import gzip
import hashlib
import hmac
import json

import pytest
import trio
from cryptography.fernet import Fernet
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from bridge.access.vault import Vault, new_secret
from bridge.delivery import attempt as attempt_module
from bridge.delivery.body import canonical_body
from bridge.delivery.transport import RESPONSE_BYTES
from tests.integration.delivering import (
    SETTLED,
    Bot,
    delivering,
    delivery,
    enqueue,
)
from tests.receiver import Behaviour, Request, answer, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


async def test_delivery_follows_the_contract_and_is_logged(bridge_url: str, bot: Bot) -> None:
    payload = {"username": "Иван 🎉", "b": None, "a": 100.5}
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url("/hook"), secret="секрет")
        [number] = enqueue(bot, webhook, json.dumps(payload))
        await until_true(bot, SETTLED)
    [request] = receiver.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert request.body == json.dumps(payload, sort_keys=True).encode()
    assert headers["content-type"] == "application/json"
    assert headers["x-webhook-event"] == "test.event"
    assert headers["x-webhook-id"] == str(webhook)
    digest = hmac.new("секрет".encode(), request.body, hashlib.sha256).hexdigest()
    assert headers["x-webhook-signature"] == f"sha256={digest}"
    assert Webhook("секрет".encode()).verify(request.body, headers) == payload
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers
    row = delivery(bot, number)
    assert row["delivered_at"] is not None
    assert {name: row[name] for name in row if not name.endswith("_at")} == {
        "id": number,
        "webhook_id": webhook,
        "event_type": "test.event",
        "payload": payload,
        "response_status": 200,
        "response_body": "ok",
        "status": "success",
        "error_message": None,
        "attempt_number": 1,
        "event_id": 1,
    }
    assert bot.execute(
        "select success_count, failure_count, last_triggered_at is not null from bridge.webhooks"
    ).fetchone() == (1, 0, True)


async def _hang_up(_request: Request, stream: trio.SocketStream) -> None:
    await stream.aclose()


async def _garbage(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def _endless_headers(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Header: value\r\n" * 100)


async def _broken_off(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npartial")


FAILURES: list[tuple[Behaviour, int | None, str]] = [
    (answer("500 Oops", b"sorry"), 500, "HTTP 500"),
    (answer("404 Not Found"), 404, "HTTP 404"),
    (
        answer("302 Found", headers=("Location: /elsewhere",)),
        302,
        "HTTP 302: redirects are not followed",
    ),
    (_hang_up, None, "connection lost: closed without a response"),
    (_garbage, None, 'invalid HTTP response: invalid status line "SSH-2.0-OpenSSH_9.2"'),
    (_endless_headers, None, "the response head exceeds 65536 bytes"),
    (_broken_off, 200, "connection lost: "),
]
UNREACHABLE = {
    "http://127.0.0.1:1/": "cannot connect: ",
    "http://does-not-exist.invalid/": "cannot resolve the host: ",
    "http://[::1": "invalid URL: ",
    "ftp://127.0.0.1/": "invalid URL: ",
    "http://127.0.0.1:99999/": "cannot connect: ",
}


async def test_failed_attempt_is_recorded_and_retried(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        numbers = []
        for index, (behaviour, _, _) in enumerate(FAILURES):
            receiver.behaviours[f"/bad/{index}"] = behaviour
            numbers += enqueue(bot, add_webhook(bot, receiver.url(f"/bad/{index}")))
        # Failing webhooks do not delay another.
        good = add_webhook(bot, receiver.url("/good"))
        enqueue(bot, good, count=20)
        await receiver.until(lambda: len(receiver.at("/good")) == 20)
        await until_true(bot, SETTLED)
    for number, (_, status, error) in zip(numbers, FAILURES, strict=True):
        row = delivery(bot, number)
        assert (row["status"], row["attempt_number"]) == ("pending", 1)
        assert row["response_status"] == status
        assert row["error_message"].startswith(error)
        assert row["next_retry_at"] > row["created_at"]
        assert bot.execute(
            "select response_status, error_message from bridge.delivery_attempts"
            " where delivery_id = %s",
            (number,),
        ).fetchall() == [(status, row["error_message"])]
    assert receiver.at("/elsewhere") == []
    assert bot.execute(
        "select success_count, failure_count from bridge.webhooks order by id"
    ).fetchall() == [(0, 1)] * len(FAILURES) + [(20, 0)]


async def test_unreachable_url_is_recorded(bridge_url: str, bot: Bot) -> None:
    async with delivering(bridge_url):
        numbers = {url: enqueue(bot, add_webhook(bot, url))[0] for url in UNREACHABLE}
        await until_true(bot, SETTLED)
    for url, error in UNREACHABLE.items():
        row = delivery(bot, numbers[url])
        assert (row["status"], row["response_status"]) == ("pending", None)
        assert row["error_message"].startswith(error)


async def test_endless_response_is_cut_and_its_status_counts(bridge_url: str, bot: Bot) -> None:
    async def endless(_request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"1000\r\n" + b"y" * 4096 + b"\r\n")

    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/endless"] = endless
        [number] = enqueue(bot, add_webhook(bot, receiver.url("/endless")))
        await until_true(bot, SETTLED)
    row = delivery(bot, number)
    assert (row["status"], row["response_body"]) == ("success", "y" * RESPONSE_BYTES)


async def test_binary_response_is_stored_as_far_as_possible(bridge_url: str, bot: Bot) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/nul"] = answer(body=b"a\x00b\xff")
        receiver.behaviours["/bomb"] = answer(body=bomb, headers=("Content-Encoding: gzip",))
        [nul] = enqueue(bot, add_webhook(bot, receiver.url("/nul")))
        [packed] = enqueue(bot, add_webhook(bot, receiver.url("/bomb")))
        await until_true(bot, SETTLED)
    assert delivery(bot, nul)["response_body"] == "a\ufffdb\ufffd"
    assert len(delivery(bot, packed)["response_body"]) <= RESPONSE_BYTES, "decompressed"


async def test_cookies_are_not_kept(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/"] = answer(headers=("Set-Cookie: spy=1; Path=/",))
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=1), count=3)
        await receiver.until(lambda: len(receiver.requests) == 3)
    assert not any("cookie" in map(str.lower, request.headers) for request in receiver.requests)


async def test_retry_has_the_same_webhook_id(bridge_url: str, bot: Bot) -> None:
    answers = iter([answer("503 Busy"), answer("500 Oops"), answer()])

    async def recovering(request: Request, stream: trio.SocketStream) -> None:
        await next(answers)(request, stream)

    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 0, 0, 0)):
        receiver.behaviours["/"] = recovering
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    row = delivery(bot, number)
    assert (row["status"], row["attempt_number"], row["error_message"]) == ("success", 3, None)
    assert bot.execute(
        "select attempt_number, response_status from bridge.delivery_attempts order by 1"
    ).fetchall() == [(1, 503), (2, 500), (3, 200)]


async def test_delivery_fails_after_the_last_attempt(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url, schedule=(0, 0)):
        receiver.behaviours["/"] = answer("500 Oops")
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
    row = delivery(bot, number)
    assert (row["status"], row["attempt_number"], row["error_message"], row["delivered_at"]) == (
        "failed",
        2,
        "HTTP 500",
        None,
    )
    assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (0,)


async def test_410_disables_the_webhook_and_keeps_its_queue(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/"] = answer("410 Gone")
        webhook = add_webhook(bot, receiver.url(), max_concurrency=1)
        [first, *rest] = enqueue(bot, webhook, count=50)
        await until_true(bot, "not is_active from bridge.webhooks")
    assert delivery(bot, first)["status"] == "failed"
    assert bot.execute("select disabled_reason from bridge.webhooks").fetchone() == (
        "the receiver answered 410 Gone",
    )
    assert delivery(bot, rest[-1])["status"] == "pending"


async def test_max_concurrency_limits_attempts_in_flight(bridge_url: str, bot: Bot) -> None:
    in_flight, most, release = 0, 0, trio.Event()

    async def counting(request: Request, stream: trio.SocketStream) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await release.wait()
        in_flight -= 1
        await answer()(request, stream)

    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/counting"] = counting
        webhook = add_webhook(bot, receiver.url("/counting"), max_concurrency=3)
        enqueue(bot, webhook, count=12)
        await receiver.until(lambda: in_flight == 3)
        # Another webhook's deliveries continue meanwhile, so the courier could have claimed more.
        enqueue(bot, add_webhook(bot, receiver.url("/other")), count=5)
        await receiver.until(lambda: len(receiver.at("/other")) == 5)
        release.set()
        await until_true(bot, SETTLED)
    assert most == 3


async def test_webhook_deleted_during_an_attempt_loses_its_queue(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        release = trio.Event()

        async def wait(request: Request, stream: trio.SocketStream) -> None:
            await release.wait()
            await answer()(request, stream)

        receiver.behaviours["/wait"] = wait
        async with delivering(bridge_url):
            enqueue(bot, add_webhook(bot, receiver.url("/wait"), max_concurrency=1), count=3)
            await receiver.until(lambda: len(receiver.requests) == 1)
            bot.execute("delete from bridge.webhooks")
            release.set()
            [number] = enqueue(bot, add_webhook(bot, receiver.url("/other")))
            await until_true(bot, "count(*) = 1 from bridge.delivery_log")
        assert delivery(bot, number)["status"] == "success"
        assert len(receiver.at("/wait")) == 1


async def test_unsendable_payload_fails_only_its_delivery(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(payload: str) -> bytes:
        if payload == '"poison"':
            raise MemoryError("too large")
        return canonical_body(payload)

    monkeypatch.setattr(attempt_module, "canonical_body", fragile)
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        [poison] = enqueue(bot, webhook, '"poison"')
        [fine] = enqueue(bot, webhook)
        await until_true(bot, SETTLED)
    assert delivery(bot, fine)["status"] == "success"
    row = delivery(bot, poison)
    assert (row["status"], row["error_message"]) == (
        "pending",
        "cannot send: too large",
    )


async def test_deep_payload_fails_only_its_delivery(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        with capture_logs() as lines:
            [deep] = enqueue(bot, webhook, "[" * 3000 + "]" * 3000)
            [fine] = enqueue(bot, webhook)
            await until_true(bot, SETTLED)
    assert delivery(bot, fine)["status"] == "success"
    row = bot.execute("select delivery_id, failure, error_message from bridge.delivery_attempts")
    assert row.fetchone() == (deep, "internal", "the payload is nested too deeply")
    # Users of the application could otherwise fill the log with tracebacks.
    assert "attempt_crashed" not in [line["event"] for line in lines]


async def test_undecryptable_secret_is_retried(bridge_url: str, bot: Bot) -> None:
    sealed = Vault([Fernet.generate_key().decode()]).seal(new_secret())
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url(), secret=sealed))
        await until_true(bot, SETTLED)
    assert receiver.requests == []
    assert delivery(bot, number)["status"] == "pending"
    assert bot.execute("select failure from bridge.delivery_attempts").fetchone() == ("secret",)


async def test_both_secrets_sign_during_a_rotation(bridge_url: str, bot: Bot) -> None:
    vault = Vault([Fernet.generate_key().decode()])
    old, new = new_secret(), new_secret()
    async with receiving() as receiver, delivering(bridge_url, vault=vault):
        webhook = add_webhook(bot, receiver.url(), secret=vault.seal(new))
        bot.execute(
            "update bridge.webhooks set previous_secret = %s,"
            " previous_secret_expires_at = now() + interval '1 minute'",
            (vault.seal(old),),
        )
        enqueue(bot, webhook)
        await until_true(bot, "success_count = 1 from bridge.webhooks")
        bot.execute("update bridge.webhooks set previous_secret_expires_at = now()")
        enqueue(bot, webhook)
        await until_true(bot, "success_count = 2 from bridge.webhooks")
    overlap, after = receiver.requests
    for secret in (old, new):
        assert Webhook(secret).verify(overlap.body, overlap.headers) == {}
    assert len(overlap.headers["webhook-signature"].split()) == 2
    assert Webhook(new).verify(after.body, after.headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(after.body, after.headers)
