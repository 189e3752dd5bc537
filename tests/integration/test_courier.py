"""Deliveries reach their receivers, and what became of each is written down."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import trio
from asyncpg import DiskFullError
from cryptography.fernet import Fernet
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.access.vault import Vault, new_secret
from bridge.assets import query
from bridge.database.errors import DatabaseUnavailable, DeadlockError
from bridge.database.pool import Database, Row
from bridge.delivery import attempt as attempt_module
from bridge.delivery import courier as courier_module
from bridge.delivery.settling import Settler
from bridge.delivery.signing import canonical_body
from bridge.delivery.transport import RESPONSE_BYTES
from tests.integration.delivering import (
    SETTLED,
    Bot,
    delivering,
    delivery,
    enqueue,
)
from tests.receiver import Behaviour, Request, answer, hang, receiving
from tests.waiting import until_true
from tests.webhook_rows import add_webhook


async def test_a_delivery_is_sent_as_the_contract_says_and_logged(
    bridge_url: str, bot: Bot
) -> None:
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
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)


async def _drip(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b".")
        await trio.sleep(0.1)


async def _endless_headers(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-Header: value\r\n" * 100)


async def _broken_off(_request: Request, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npartial")


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (answer("500 Oops", b"sorry"), 500, "HTTP 500"),
        (answer("404 Not Found"), 404, "HTTP 404"),
        (
            answer("302 Found", headers=("Location: /elsewhere",)),
            302,
            "HTTP 302: redirects are not followed",
        ),
        (_hang_up, None, "connection lost: closed without a response"),
        (_garbage, None, "invalid HTTP response: "),
        (hang, None, "no response within 1 s"),
        (_drip, 200, "no complete response within 1 s"),
        (_endless_headers, None, "the response head exceeds 65536 bytes"),
        (_broken_off, 200, "connection lost: "),
    ],
)
async def test_a_receiver_that_fails_is_recorded_as_such_and_retried(
    bridge_url: str, bot: Bot, behaviour: Behaviour, status: int | None, error: str
) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/bad"] = behaviour
        bad = add_webhook(bot, receiver.url("/bad"), timeout_seconds=1)
        good = add_webhook(bot, receiver.url("/good"))
        [number] = enqueue(bot, bad)
        # The good one is not kept waiting by the bad one.
        enqueue(bot, good, count=20)
        await receiver.until(lambda: len(receiver.at("/good")) == 20)
        await until_true(bot, SETTLED)
    row = delivery(bot, number)
    assert (row["status"], row["attempt_number"]) == ("pending", 1)
    assert row["response_status"] == status
    assert row["error_message"].startswith(error)
    assert row["next_retry_at"] > row["created_at"]
    assert receiver.at("/elsewhere") == []
    assert bot.execute(
        "select response_status, error_message from bridge.delivery_attempts"
        " where delivery_id = %s",
        (number,),
    ).fetchall() == [(status, row["error_message"])]
    assert bot.execute(
        "select success_count, failure_count from bridge.webhooks order by id"
    ).fetchall() == [(0, 1), (20, 0)]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/", "cannot connect: "),
        ("http://does-not-exist.invalid/", "cannot resolve the host: "),
        ("http://[::1", "invalid URL: "),
        ("ftp://127.0.0.1/", "invalid URL: "),
        ("http://127.0.0.1:99999/", "cannot connect: "),
    ],
)
async def test_an_address_that_leads_nowhere_is_recorded_as_such(
    bridge_url: str, bot: Bot, url: str, error: str
) -> None:
    async with delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, url))
        await until_true(bot, SETTLED)
    row = delivery(bot, number)
    assert (row["status"], row["response_status"]) == ("pending", None)
    assert row["error_message"].startswith(error)


async def test_tls_is_spoken_and_checked(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url().replace("http:", "https:")))
        await until_true(bot, SETTLED)
    assert "SSL" in delivery(bot, number)["error_message"]


async def test_an_endless_answer_is_cut_and_counts_by_its_status(bridge_url: str, bot: Bot) -> None:
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


async def test_an_answer_that_is_no_text_is_kept_as_far_as_it_can_be(
    bridge_url: str, bot: Bot
) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/nul"] = answer(body=b"a\x00b\xff")
        receiver.behaviours["/bomb"] = answer(body=bomb, headers=("Content-Encoding: gzip",))
        [nul] = enqueue(bot, add_webhook(bot, receiver.url("/nul")))
        [packed] = enqueue(bot, add_webhook(bot, receiver.url("/bomb")))
        await until_true(bot, SETTLED)
    assert delivery(bot, nul)["response_body"] == "a\ufffdb\ufffd"
    assert len(delivery(bot, packed)["response_body"]) <= RESPONSE_BYTES, "it was not unpacked"


async def test_cookies_are_not_kept(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url):
        receiver.behaviours["/"] = answer(headers=("Set-Cookie: spy=1; Path=/",))
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=1), count=3)
        await receiver.until(lambda: len(receiver.requests) == 3)
    assert not any("cookie" in map(str.lower, request.headers) for request in receiver.requests)


async def test_a_retry_has_the_same_identity_and_then_it_succeeds(
    bridge_url: str, bot: Bot
) -> None:
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


async def test_after_the_last_attempt_the_delivery_has_failed(bridge_url: str, bot: Bot) -> None:
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


async def test_no_more_than_max_concurrency_are_in_flight_to_a_webhook(
    bridge_url: str, bot: Bot
) -> None:
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
        # Another webhook's deliveries go on while these hang; they also show that the courier
        # has had its chance to claim more.
        enqueue(bot, add_webhook(bot, receiver.url("/other")), count=5)
        await receiver.until(lambda: len(receiver.at("/other")) == 5)
        release.set()
        await until_true(bot, SETTLED)
    assert most == 3


async def test_two_couriers_never_send_the_same_delivery(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver:
        webhook = add_webhook(bot, receiver.url(), max_concurrency=8)
        async with delivering(bridge_url), delivering(bridge_url):
            enqueue(bot, webhook, count=300)
            await until_true(bot, SETTLED)
    sent = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(sent) == len(set(sent)) == 300
    assert bot.execute("select success_count from bridge.webhooks").fetchone() == (300,)


def test_a_claim_locks_no_more_than_it_takes(bridge_url: str, bot: Bot) -> None:
    for number in range(10):
        enqueue(bot, add_webhook(bot, "http://192.0.2.1/", ordered=number % 2 == 0), count=3)
    with psycopg.connect(bridge_url) as claimer, psycopg.RawCursor(claimer) as cursor:
        claimed = cursor.execute(query("claim").encode(), ([], [], [], None, 4, 4, [])).fetchall()
        assert len(claimed) == 4
        assert (
            len(bot.execute("select from bridge.delivery_queue for update skip locked").fetchall())
            == 30 - 4
        )


async def test_a_lease_that_ran_out_is_taken_over_and_its_holder_changes_nothing_any_more(
    bridge_url: str, bot: Bot
) -> None:
    release = trio.Event()

    async def slow_first(request: Request, stream: trio.SocketStream) -> None:
        if len(receiver.requests) == 1:
            await release.wait()
            await answer("500 Oops")(request, stream)
        else:
            await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = slow_first
        async with delivering(bridge_url):
            [number] = enqueue(bot, add_webhook(bot, receiver.url(), timeout_seconds=20))
            await receiver.until(lambda: len(receiver.requests) == 1)
            bot.execute("update bridge.delivery_queue set leased_until = now() - interval '1 s'")
            async with delivering(bridge_url):
                await until_true(bot, "count(*) = 1 from bridge.delivery_log")
                release.set()
                await until_true(bot, "count(*) = 2 from bridge.delivery_attempts")
    assert [request.headers["webhook-id"] for request in receiver.requests] == [
        receiver.requests[0].headers["webhook-id"]
    ] * 2
    assert delivery(bot, number)["status"] == "success"
    assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (0,)


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        # After minutes without the database: its holder does not send it again.
        ("leased_until = now() - interval '1 s'", 1),
        # A server that lost the lease: it cannot know, and the courier lives through it.
        ("leased_until = null, lease_token = null", 2),
    ],
    ids=["ran out", "is gone"],
)
async def test_a_delivery_whose_lease_ends_before_it_is_settled_ends_no_courier(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch, change: str, sent: int
) -> None:
    settle, ended, can_settle = Settler._settle, trio.Event(), trio.Event()

    async def settle_late(settler: Settler, batch: Sequence[Any]) -> None:
        ended.set()
        await can_settle.wait()
        await settle(settler, batch)

    monkeypatch.setattr(Settler, "_settle", settle_late)
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await ended.wait()
        bot.execute(f"update bridge.delivery_queue set {change}".encode())
        enqueue(bot, add_webhook(bot, receiver.url("/other")))
        await receiver.until(lambda: len(receiver.at("/other")) == 1)
        can_settle.set()
        await until_true(bot, "count(*) = 2 from bridge.delivery_log")
    assert len(receiver.at("/")) == sent
    assert delivery(bot, number)["status"] == "success"


async def test_stopping_ends_what_is_in_flight_and_gives_back_the_rest(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "STOP_SECONDS", 0.5)
    asked = trio.Event()

    async def ends_in_time(request: Request, stream: trio.SocketStream) -> None:
        await asked.wait()
        await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/in-time"] = ends_in_time
        receiver.behaviours["/never"] = hang
        async with delivering(bridge_url) as courier:
            [in_time] = enqueue(bot, add_webhook(bot, receiver.url("/in-time")))
            [never] = enqueue(bot, add_webhook(bot, receiver.url("/never"), timeout_seconds=60))
            await receiver.until(lambda: len(receiver.requests) == 2)
            courier.stop()
            asked.set()
        assert delivery(bot, in_time)["status"] == "success"
        assert bot.execute(
            "select id, leased_until, lease_token, attempt_number from bridge.delivery_queue"
        ).fetchall() == [(never, None, None, 0)]


async def test_a_deleted_webhook_takes_its_queue_along(bridge_url: str, bot: Bot) -> None:
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


async def test_the_database_lost_while_sending_loses_no_result(bridge_url: str, bot: Bot) -> None:
    async def cut(request: Request, stream: trio.SocketStream) -> None:
        bot.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'pgbridge'"
        )
        await answer()(request, stream)

    async with receiving() as receiver:
        receiver.behaviours["/"] = cut
        async with delivering(bridge_url):
            enqueue(bot, add_webhook(bot, receiver.url()), count=5)
            await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 5


async def test_a_missing_partition_is_made_and_the_result_is_kept(
    bridge_url: str, bot: Bot
) -> None:
    partitions = bot.execute(
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent = 'bridge.delivery_log_success'::regclass"
    ).fetchall()
    for (partition,) in partitions:
        bot.execute(f"drop table {partition}".encode())
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url()))
        await until_true(bot, SETTLED)
    assert delivery(bot, number)["status"] == "success"
    assert len(receiver.requests) == 1


async def test_a_refusal_that_passes_loses_no_result(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, refusals = Settler._settle, 4

    async def refused_at_first(settler: Settler, batch: Sequence[Any]) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise DiskFullError("no space left on device")
        await settle(settler, batch)

    monkeypatch.setattr(Settler, "_settle", refused_at_first)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url()), count=3)
        await until_true(bot, "count(*) = 3 from bridge.delivery_log")
    assert len(receiver.requests) == 3


async def test_a_result_that_no_partition_can_take_does_not_stand_in_the_way_of_others(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Settler._settle

    async def first_long_ago(settler: Settler, batch: Sequence[Any]) -> None:
        await settle(
            settler,
            [
                replace(each, finished_at=datetime(1999, 1, 1, tzinfo=UTC))
                if each.delivery.id == poison
                else each
                for each in batch
            ],
        )

    monkeypatch.setattr(Settler, "_settle", first_long_ago)
    async with receiving() as receiver, delivering(bridge_url):
        webhook = add_webhook(bot, receiver.url())
        poison, fine = enqueue(bot, webhook, count=2)
        await until_true(bot, "count(*) = 1 from bridge.delivery_log")
    assert delivery(bot, fine)["status"] == "success"


async def test_the_only_slot_of_a_courier_tries_failing_webhooks_too(
    bridge_url: str, bot: Bot
) -> None:
    async with receiving() as receiver, delivering(bridge_url, concurrency=1):
        [number] = enqueue(bot, add_webhook(bot, receiver.url(), failure_share=0.9))
        await until_true(bot, SETTLED)
    assert delivery(bot, number)["status"] == "success"


async def test_a_payload_that_cannot_be_sent_is_one_deliverys_trouble(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(payload: str) -> bytes:
        if payload == '"poison"':
            raise RecursionError("too deep")
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
        "cannot send: RecursionError('too deep')",
    )


async def test_a_settle_that_gives_way_to_another_transaction_is_done_again(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_way = 0
    fetch = Database.fetch

    async def first_settle_gives_way(self: Database, name: str, *values: object) -> list[Row]:
        nonlocal given_way
        if name == "settle" and not given_way:
            given_way += 1
            raise DeadlockError("deadlock detected")
        return await fetch(self, name, *values)

    monkeypatch.setattr(Database, "fetch", first_settle_gives_way)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url()), count=5)
        await until_true(bot, "count(*) = 5 from bridge.delivery_log")
    assert given_way == 1
    assert len(receiver.requests) == 5


def refuse_attempts_of(bot: Bot, number: int) -> None:
    """Have the database refuse whatever is settled of a delivery."""
    bot.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise 'refused'; end $$"
    )
    bot.execute(
        "create trigger refuse before insert on bridge.delivery_attempts"
        f" for each row when (new.delivery_id = {number}) execute function refuse()".encode()
    )


async def test_a_result_that_the_database_refuses_holds_up_no_other(
    bridge_url: str, bot: Bot
) -> None:
    refuse_attempts_of(bot, 3)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url()), count=5)
        await until_true(bot, "count(*) = 4 from bridge.delivery_log")
    assert bot.execute("select id from bridge.delivery_queue").fetchall() == [(3,)]


async def test_what_was_kept_while_a_refused_result_is_looked_for_is_not_written_again(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_attempts_of(bot, 3)
    sizes: list[int] = []
    fetch = Database.fetch

    async def lost_at_the_fourth_alone(self: Database, name: str, *values: Any) -> list[Row]:
        if name == "settle":
            size = len(values[0])
            if size < 5 and not sizes:
                # So that all five come together.
                await trio.sleep(0.01)
                raise DeadlockError("deadlock detected")
            sizes.append(size)
            if sizes == [5, 1, 1, 1, 1]:
                raise DatabaseUnavailable("gone")
        return await fetch(self, name, *values)

    monkeypatch.setattr(Database, "fetch", lost_at_the_fourth_alone)
    async with receiving() as receiver, delivering(bridge_url):
        enqueue(bot, add_webhook(bot, receiver.url(), max_concurrency=5), count=5)
        await until_true(bot, "count(*) = 4 from bridge.delivery_log")
    assert sizes[:5] == [5, 1, 1, 1, 1]
    assert bot.execute("select success_count from bridge.webhooks").fetchone() == (4,)


async def test_a_secret_that_cannot_be_opened_is_a_failure_that_is_tried_again(
    bridge_url: str, bot: Bot
) -> None:
    sealed = Vault([Fernet.generate_key().decode()]).seal(new_secret())
    async with receiving() as receiver, delivering(bridge_url):
        [number] = enqueue(bot, add_webhook(bot, receiver.url(), secret=sealed))
        await until_true(bot, SETTLED)
    assert receiver.requests == []
    assert delivery(bot, number)["status"] == "pending"
    assert bot.execute("select failure from bridge.delivery_attempts").fetchone() == ("secret",)


async def test_with_a_sealed_secret_that_was_rotated_both_sign(bridge_url: str, bot: Bot) -> None:
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
