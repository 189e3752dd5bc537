"""The REST API on a real database, as a dashboard calls it."""

import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from typing import Any
from unittest.mock import ANY

import httpx
import psycopg
import pytest
import trio
import trio.testing
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from bridge.access.vault import Vault
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.resolve import url_refusal
from bridge.web.app import TRIALS
from bridge.web.http.body import MAX_BODY_BYTES
from bridge.webhooks.trial import Trial
from tests.integration.calling import (
    FORM,
    MANAGED,
    MAX_BIGINT,
    NOT_FOUND,
    PREFLIGHT,
    PROTECTED,
    TOKEN,
    Bot,
    add_finished,
    add_pending,
    add_token,
    assert_refused,
    calling,
    create,
    secrets_of,
)
from tests.resolver import Resolver, resolving

SHAPE = {
    "id",
    "name",
    "url",
    "event_type",
    "is_active",
    "description",
    "created_at",
    "updated_at",
    "last_triggered_at",
    "failure_count",
    "success_count",
    "disabled_reason",
    "timeout_seconds",
    "max_concurrency",
    "filter",
    "rate_per_second",
    "ordered",
    "retry_schedule",
    "paused_at",
    "failing_since",
    "probe_at",
}
NO_DELIVERY = {"detail": "Delivery not found"}
NOW = datetime.now(UTC).isoformat()


def secret_of(bot: Bot, webhook_id: int) -> object:
    row = bot.execute("select secret from bridge.webhooks where id = %s", [webhook_id]).fetchone()
    assert row is not None
    return row[0]


def everything_stored(bot: Bot) -> str:
    """Return all columns of all webhooks, as text."""
    return str(bot.execute("select w::text from bridge.webhooks w").fetchall())


def moment(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None
    return parsed


# Creating


async def test_a_created_webhook_is_answered_whole(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        before = datetime.now(UTC) - timedelta(minutes=1)
        webhook = await create(client, secret="s3cret", description="Для новых пользователей")
        assert set(webhook) == SHAPE
        assert webhook["id"] > 0
        assert {name: webhook[name] for name in FORM} == FORM
        assert webhook["description"] == "Для новых пользователей"
        assert webhook["is_active"] is True
        assert webhook["disabled_reason"] is None
        assert webhook["last_triggered_at"] is None
        assert (webhook["success_count"], webhook["failure_count"]) == (0, 0)
        assert (webhook["timeout_seconds"], webhook["max_concurrency"]) == (15, 4)
        assert moment(webhook["created_at"]) > before
        assert webhook["updated_at"] == webhook["created_at"]
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook


async def test_no_answer_shows_the_secret(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="s3cret")
        path = f"/webhooks/{webhook['id']}"
        assert secret_of(bot, webhook["id"]) == "s3cret"
        answers = [
            await client.get(path),
            await client.get("/webhooks"),
            await client.patch(path, json={"secret": "s3cret-2"}),
            await client.patch(path, json={"secret": "s3cret\0"}),
            await client.post("/webhooks", json={**FORM, "secret": "s3cret\0"}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 422]
        assert not any("s3cret" in answer.text for answer in answers)


async def test_empty_texts_of_the_create_form_are_stored_as_none(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="", description="", is_active=True)
        assert webhook["description"] is None
        assert secret_of(bot, webhook["id"]) is None


async def test_a_webhook_can_be_created_switched_off_and_with_limits(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, is_active=False, timeout_seconds=120, max_concurrency=1000)
        assert webhook["is_active"] is False
        assert (webhook["timeout_seconds"], webhook["max_concurrency"]) == (120, 1000)


async def test_a_whole_webhook_can_be_sent_back_as_a_new_one(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        first = await create(client)
        second = await create(client, **{**first, "success_count": 99, "unknown": 1})
        assert second["id"] != first["id"]
        assert second["success_count"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "n" * 256),
        ("name", "a\0"),
        ("name", "\ud800"),
        ("url", "ftp://example.com"),
        ("url", "https://user:password@example.com"),
        ("event_type", "user created"),
        ("event_type", "a" * 256),
        ("secret", "\udc00"),
        ("secret", "whsec_tooshort"),
        ("secret", "fernet:abc"),
        ("generate_secret", "perhaps"),
        ("generate_secret", 1),
        ("description", "\0"),
        ("timeout_seconds", 0),
        ("max_concurrency", 1001),
        ("is_active", None),
    ],
)
async def test_a_bad_field_is_refused(bridge_url: str, field: str, value: object) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        body = json.dumps({**FORM, field: value})
        assert_refused(await client.post("/webhooks", content=body, headers=headers), field)
        assert (await client.get("/webhooks")).json()["total"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"NaN",
        b"\xff\xfe\xff",
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"timeout_seconds": ' + b"9" * 5000 + b"}",
        b"\0",
    ],
    ids=repr,
)
async def test_a_body_that_is_no_object_is_refused(bridge_url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        for method, path in ("POST", "/webhooks"), ("PATCH", f"/webhooks/{webhook['id']}"):
            answer = await client.request(method, path, content=body, headers=headers)
            assert answer.status_code == 422, answer.text
            assert all(each["loc"][0] == "body" for each in answer.json()["detail"])


async def test_a_number_too_large_for_a_float_is_refused(bridge_url: str) -> None:
    body = json.dumps(FORM)[:-1] + ', "timeout_seconds": 1e999}'
    async with calling(bridge_url) as client:
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/webhooks", content=body, headers=headers)
        assert_refused(answer, "timeout_seconds")


async def test_a_form_that_is_not_json_is_refused(bridge_url: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with calling(bridge_url) as client:
        answer = await client.post("/webhooks", content="name=a", headers=headers)
        assert answer.status_code == 422


async def test_a_body_without_end_is_cut_off(bridge_url: str) -> None:
    class Endless(httpx.AsyncByteStream):
        size = 0

        def __aiter__(self) -> "Endless":
            return self

        async def __anext__(self) -> bytes:
            self.size += 60_000
            return b" " * 60_000

    body = Endless()
    async with calling(bridge_url) as client:
        headers = {**client.headers, "Content-Type": "application/json"}
        answer = await client.send(
            httpx.Request("POST", "http://bridge/webhooks", headers=headers, stream=body)
        )
        assert answer.status_code == 413
        assert answer.json() == {"detail": "Request body too large"}
        assert body.size <= MAX_BODY_BYTES + 60_000


async def test_a_body_of_the_largest_size_is_read(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        body = json.dumps(FORM).encode().ljust(MAX_BODY_BYTES)
        answer = await client.post("/webhooks", content=body, headers=headers)
        assert answer.status_code == 201


# Lists


async def test_with_no_webhooks_the_list_is_empty(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        answer = await client.get("/webhooks")
        assert answer.status_code == 200
        assert answer.json() == {"items": [], "total": 0, "limit": 50, "offset": 0}


async def test_webhooks_are_listed_newest_first_and_page_by_page(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        ids = [(await create(client, name=f"n{number}"))["id"] for number in range(5)]
        newest_first = sorted(ids, reverse=True)
        whole = (await client.get("/webhooks")).json()
        assert [item["id"] for item in whole["items"]] == newest_first
        assert all(set(item) == SHAPE for item in whole["items"])
        for offset, expected in (
            (0, newest_first[:2]),
            (2, newest_first[2:4]),
            (4, newest_first[4:]),
        ):
            page = (await client.get("/webhooks", params={"limit": 2, "offset": offset})).json()
            assert [item["id"] for item in page["items"]] == expected
            assert (page["total"], page["limit"], page["offset"]) == (5, 2, offset)


@pytest.mark.parametrize("offset", [1, 1000, MAX_BIGINT])
async def test_beyond_the_end_the_total_stays_right(bridge_url: str, bot: Bot, offset: int) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        add_finished(bot, webhook["id"], "success")
        page = {"items": [], "total": 1, "limit": 200, "offset": offset}
        for path, expected in (
            ("/webhooks", page),
            (f"/webhooks/{webhook['id']}/deliveries", {**page, "next_before_id": None}),
        ):
            answer = await client.get(path, params={"limit": 200, "offset": offset})
            assert answer.json() == expected


async def test_webhooks_are_filtered_by_type_and_activity(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        on = await create(client)
        off = await create(client, is_active=False)
        pattern = await create(client, event_type="user.*")

        async def ids(**params: Any) -> list[int]:
            page = (await client.get("/webhooks", params=params)).json()
            assert page["total"] == len(page["items"])
            return [item["id"] for item in page["items"]]

        assert await ids(event_type="user.created") == [off["id"], on["id"]]
        assert await ids(event_type="user.*") == [pattern["id"]]
        assert await ids(event_type="nothing.like.it") == []
        assert await ids(is_active="true") == [pattern["id"], on["id"]]
        assert await ids(is_active="false") == [off["id"]]
        assert await ids(event_type="user.created", is_active="true") == [on["id"]]
        assert await ids(event_type="", is_active="") == [pattern["id"], off["id"], on["id"]]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "many"),
        ("limit", ""),
        ("offset", "-1"),
        ("offset", str(2**63)),
        ("offset", "9" * 5000),
        ("offset", "NaN"),
        ("is_active", "perhaps"),
        ("event_type", "\0"),
    ],
)
async def test_a_bad_parameter_is_refused(bridge_url: str, parameter: str, value: str) -> None:
    async with calling(bridge_url) as client:
        assert_refused(await client.get("/webhooks", params={parameter: value}), parameter)


@pytest.mark.parametrize("limit", [1, 200])
async def test_the_bounds_of_the_limit_are_allowed(bridge_url: str, limit: int) -> None:
    async with calling(bridge_url) as client:
        assert (await client.get("/webhooks", params={"limit": limit})).json()["limit"] == limit


# One webhook


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/deliveries"),
        ("POST", "/rotate-secret"),
    ],
)
async def test_an_id_that_no_webhook_has_is_not_found(
    bridge_url: str, method: str, suffix: str
) -> None:
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    async with calling(bridge_url) as client:
        for unknown in 1, 0, -1, MAX_BIGINT, 2**63, -(2**64), 10**30, "9" * 5000:
            answer = await client.request(method, f"/webhooks/{unknown}{suffix}", json=body)
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND), unknown
        for no_number in "one", "1.5", "1e3", "0x1", "%00", "1%00", "null", "NaN":
            answer = await client.request(method, f"/webhooks/{no_number}{suffix}", json=body)
            assert_refused(answer, "webhook_id")


async def test_a_patch_changes_what_it_names_and_the_time(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, description="d")
        changes = {"name": "Updated Name", "is_active": False}
        answer = await client.patch(f"/webhooks/{webhook['id']}", json=changes)
        assert answer.status_code == 200
        changed = answer.json()
        assert moment(changed["updated_at"]) > moment(webhook["updated_at"])
        assert changed == {**webhook, **changes, "updated_at": changed["updated_at"]}
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == changed


async def test_the_whole_edit_form_can_be_patched(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="kept")
        other = await create(client)
        form = {
            **webhook,
            "name": "Имя 🎫",
            "url": "http://other.example/hook",
            "event_type": "ticket.*",
            "secret": "",
            "description": "",
            "timeout_seconds": 30,
            "max_concurrency": 8,
            "id": other["id"],
            "created_at": "1970-01-01T00:00:00Z",
            "success_count": 99,
            "failure_count": 99,
            "last_triggered_at": "yesterday",
            "disabled_reason": "because",
            "unknown": {"a": 1},
        }
        answer = await client.patch(f"/webhooks/{webhook['id']}", json=form)
        assert answer.status_code == 200
        changed = answer.json()
        assert changed == {
            **webhook,
            "name": "Имя 🎫",
            "url": "http://other.example/hook",
            "event_type": "ticket.*",
            "timeout_seconds": 30,
            "max_concurrency": 8,
            "updated_at": changed["updated_at"],
        }
        assert secret_of(bot, webhook["id"]) == "kept"
        assert (await client.get(f"/webhooks/{other['id']}")).json() == other


async def test_an_empty_patch_changes_only_the_time(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="kept", description="kept")
        changed = (await client.patch(f"/webhooks/{webhook['id']}", json={})).json()
        assert changed == {**webhook, "updated_at": changed["updated_at"]}
        assert changed["updated_at"] != webhook["updated_at"]
        assert secret_of(bot, webhook["id"]) == "kept"


async def test_a_secret_is_changed_kept_and_removed(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        for sent, stored in ("second", "second"), ("", "second"), (None, None), ("", None):
            answer = await client.patch(f"/webhooks/{webhook['id']}", json={"secret": sent})
            assert answer.status_code == 200
            assert secret_of(bot, webhook["id"]) == stored


@pytest.mark.parametrize("empty", ["", None])
async def test_a_description_is_removed_by_an_empty_one(bridge_url: str, empty: object) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, description="d")
        answer = await client.patch(f"/webhooks/{webhook['id']}", json={"description": empty})
        assert answer.json()["description"] is None


async def test_only_switching_on_clears_the_reason_for_being_off(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        bot.execute("update bridge.webhooks set is_active = false, disabled_reason = 'gone'")
        for changes in {}, {"name": "n"}, {"is_active": False}, {"is_active": None}:
            answer = (await client.patch(path, json=changes)).json()
            assert (answer["is_active"], answer["disabled_reason"]) == (False, "gone")
        answer = (await client.patch(path, json={"is_active": True})).json()
        assert (answer["is_active"], answer["disabled_reason"]) == (True, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("url", ""),
        ("url", "https://"),
        ("event_type", ""),
        ("event_type", "*.*"),
        ("secret", "\0"),
        ("secret", "whsec_tooshort"),
        ("secret", "fernet:abc"),
        ("description", "\ud800"),
        ("is_active", "perhaps"),
        ("timeout_seconds", 121),
    ],
)
async def test_a_bad_change_changes_nothing(bridge_url: str, field: str, value: object) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        body = json.dumps({"name": "Updated", field: value})
        path = f"/webhooks/{webhook['id']}"
        assert_refused(await client.patch(path, content=body, headers=headers), field)
        assert (await client.get(path)).json() == webhook


async def test_a_deleted_webhook_is_gone_with_its_queue(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook, other = await create(client), await create(client)
        add_pending(bot, webhook["id"])
        kept = add_pending(bot, other["id"])
        answer = await client.delete(f"/webhooks/{webhook['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.get(f"/webhooks/{webhook['id']}")).status_code == 404
        assert (await client.delete(f"/webhooks/{webhook['id']}")).json() == NOT_FOUND
        assert (await client.get("/webhooks")).json()["total"] == 1
        assert bot.execute("select id from bridge.delivery_queue").fetchall() == [(kept,)]


async def test_a_deletion_that_gives_way_to_a_courier_is_tried_again(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        delivery = add_pending(bot, webhook["id"])
        with psycopg.connect(bridge_url) as courier:
            # Of two that wait for each other the deletion, which looks first, gives way.
            courier.execute("set deadlock_timeout = '60s'")
            courier.execute(
                "select from bridge.delivery_queue where id = %s for update", [delivery]
            )

            def settle() -> None:
                while not bot.execute("select from pg_locks where not granted").fetchall():
                    pass
                courier.execute("update bridge.webhooks set success_count = 1")
                courier.commit()

            settling = threading.Thread(target=settle)
            settling.start()
            answer = await client.delete(f"/webhooks/{webhook['id']}")
            await trio.to_thread.run_sync(settling.join)
        assert answer.status_code == 204
        assert bot.execute("select from bridge.webhooks").fetchall() == []


# Tests of webhooks


async def test_a_test_is_sent_with_the_webhooks_own_secrets_and_its_answer_shown(
    bridge_url: str, bot: Bot
) -> None:
    tried: list[dict[str, Any]] = []

    async def send_trial(webhook: Mapping[str, Any]) -> Trial:
        tried.append(dict(webhook))
        return Trial(503, "busy", "HTTP 503", 0.25)

    async with calling(bridge_url, send_trial=send_trial) as client:
        webhook = await create(client, secret="old", url="http://a.test/")
        await client.post(f"/webhooks/{webhook['id']}/rotate-secret", json={"secret": "new"})
        answer = await client.post(f"/webhooks/{webhook['id']}/test")
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "response_status": 503,
                "response_body": "busy",
                "error_message": "HTTP 503",
                "seconds": 0.25,
            },
        )
        assert (await client.post("/webhooks/99/test")).status_code == 404
    assert tried == [
        {
            "id": webhook["id"],
            "url": "http://a.test/",
            "secret": "new",
            "previous_secret": "old",
            "timeout_seconds": 15,
        }
    ]


async def test_few_tests_are_under_way_at_once(bridge_url: str) -> None:
    under_way, may_end = trio.Semaphore(0), trio.Event()

    async def send_trial(_webhook: object) -> Trial:
        under_way.release()
        await may_end.wait()
        return Trial(200, "ok", None, 0.1)

    statuses: list[int] = []
    async with calling(bridge_url, send_trial=send_trial) as client:
        path = f"/webhooks/{(await create(client))['id']}/test"

        async def try_it() -> None:
            statuses.append((await client.post(path)).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(TRIALS):
                nursery.start_soon(try_it)
            for _ in range(TRIALS):
                await under_way.acquire()
            assert (await client.post(path)).status_code == 429
            may_end.set()
        assert statuses == [200] * TRIALS
        assert (await client.post(path)).status_code == 200


# Secrets


async def test_a_secret_that_is_asked_for_is_made_and_shown_once(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, generate_secret=True)
        assert set(webhook) == SHAPE | {"secret"}
        secret = webhook.pop("secret")
        Webhook(secret)
        assert secret_of(bot, webhook["id"]) == secret
        answer = await client.get(f"/webhooks/{webhook['id']}")
        assert answer.json() == webhook
        other = await create(client, generate_secret=True, secret="")
        assert other["secret"] != secret
        assert "secret" not in await create(client, generate_secret=False)


async def test_a_secret_is_given_or_asked_for_and_not_both(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        answer = await client.post(
            "/webhooks", json={**FORM, "generate_secret": True, "secret": "s3cret"}
        )
        assert_refused(answer, "generate_secret")
        assert "s3cret" not in answer.text


@pytest.mark.parametrize("body", [None, {}, {"secret": None}, {"secret": ""}, {"unknown": 1}])
async def test_a_rotation_without_a_secret_makes_one(
    bridge_url: str, bot: Bot, body: dict[str, Any] | None
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}"
        answer = await client.post(f"{path}/rotate-secret", json=body)
        assert answer.status_code == 200
        rotated = answer.json()
        assert set(rotated) == {"secret", "previous_secret_expires_at"}
        Webhook(rotated["secret"])
        assert secrets_of(bot, webhook["id"]) == [rotated["secret"], "old"]
        changed = (await client.get(path)).json()
        assert set(changed) == SHAPE
        overlap = moment(rotated["previous_secret_expires_at"]) - moment(changed["updated_at"])
        assert overlap == timedelta(hours=24)
        assert moment(changed["updated_at"]) > moment(webhook["updated_at"])


async def test_a_rotation_to_a_secret_that_is_given_does_not_show_it(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        answer = await client.post(path, json={"secret": "новый"})
        assert answer.json()["secret"] is None
        assert moment(answer.json()["previous_secret_expires_at"]) > datetime.now(UTC)
        assert secrets_of(bot, webhook["id"]) == ["новый", "old"]


async def test_of_two_rotations_within_a_day_the_second_ends_the_overlap_of_the_first(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        first = (await client.post(path, json={"secret": "second"})).json()
        second = (await client.post(path, json={"secret": "third"})).json()
        end = "previous_secret_expires_at"
        assert moment(first[end]) < moment(second[end])
        assert secrets_of(bot, webhook["id"]) == ["third", "second"]


async def test_where_there_was_no_secret_a_rotation_sets_one_and_nothing_overlaps(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        answer = await client.post(f"/webhooks/{webhook['id']}/rotate-secret")
        assert answer.json()["previous_secret_expires_at"] is None
        assert secrets_of(bot, webhook["id"]) == [answer.json()["secret"], None]


@pytest.mark.parametrize("secret", ["whsec_tooshort", "fernet:abc", "\0", 5])
async def test_a_rotation_to_what_can_be_no_secret_changes_nothing(
    bridge_url: str, bot: Bot, secret: object
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        assert_refused(await client.post(path, json={"secret": secret}), "secret")
        assert secrets_of(bot, webhook["id"]) == ["old", None]


@pytest.mark.parametrize("secret", ["next", None])
async def test_a_secret_that_is_set_or_removed_takes_effect_at_once(
    bridge_url: str, bot: Bot, secret: str | None
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        path = f"/webhooks/{webhook['id']}"
        await client.post(f"{path}/rotate-secret", json={"secret": "second"})
        for no_change in {"secret": ""}, {"name": "n"}:
            await client.patch(path, json=no_change)
            assert secrets_of(bot, webhook["id"]) == ["second", "first"]
        assert (await client.patch(path, json={"secret": secret})).status_code == 200
        assert secrets_of(bot, webhook["id"]) == [secret, None]


async def test_with_a_key_the_database_never_has_a_secret_in_the_clear(
    bridge_url: str, bot: Bot
) -> None:
    vault = Vault([Fernet.generate_key().decode()])
    async with calling(bridge_url, vault=vault) as client:
        webhook = await create(client, secret="s3cret-1", description="seen")
        path = f"/webhooks/{webhook['id']}"

        def assert_stored(*secrets: str | None) -> None:
            assert secrets_of(bot, webhook["id"], vault) == list(secrets)
            stored = everything_stored(bot)
            assert "seen" in stored
            assert not any(secret in stored for secret in secrets if secret)

        assert_stored("s3cret-1", None)
        await client.post(f"{path}/rotate-secret", json={"secret": "s3cret-2"})
        assert_stored("s3cret-2", "s3cret-1")
        made = (await client.post(f"{path}/rotate-secret")).json()["secret"]
        assert_stored(made, "s3cret-2")
        await client.patch(path, json={"secret": "s3cret-3"})
        assert_stored("s3cret-3", None)
        await client.patch(path, json={"secret": None})
        assert_stored(None, None)
        made = await create(client, generate_secret=True)
        assert secrets_of(bot, made["id"], vault) == [made["secret"], None]
        assert made["secret"] not in everything_stored(bot)


# Where a webhook leads


PRIVATE = (
    "intra.example: 10.0.0.7 is a private address; "
    "to allow it, add 10.0.0.7/32 to BRIDGE_ALLOWED_NETWORKS"
)


#: The names that resolve while URLs are checked.
NAMES = {"example.com": ["198.41.0.4"], "intra.example": ["10.0.0.7"]}


@asynccontextmanager
async def checking_urls(
    url: str, *allowed: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Resolver]]:
    """Build an API that checks URLs as a bridge does with these networks allowed."""
    policy = AddressPolicy([ip_network(network) for network in allowed])
    check = partial(url_refusal, policy=policy)
    with resolving(NAMES) as resolver:
        async with calling(url, url_refusal=check) as client:
            yield client, resolver


def assert_url_refused(answer: httpx.Response, msg: str) -> None:
    assert answer.status_code == 422
    assert answer.json() == {
        "detail": [{"type": "url_refused", "loc": ["body", "url"], "msg": msg}]
    }


async def test_a_new_webhook_must_not_lead_to_a_private_address(bridge_url: str, bot: Bot) -> None:
    async with checking_urls(bridge_url) as (client, _):
        await create(client)
        for url, msg in (
            ("https://intra.example/hook", PRIVATE),
            (
                "http://127.0.0.1:9000/hook",
                "127.0.0.1 is a loopback address; "
                "to allow it, add 127.0.0.1/32 to BRIDGE_ALLOWED_NETWORKS",
            ),
            (
                "http://[::1]/",
                "::1 is a loopback address; to allow it, add ::1/128 to BRIDGE_ALLOWED_NETWORKS",
            ),
        ):
            assert_url_refused(await client.post("/webhooks", json={**FORM, "url": url}), msg)
    assert bot.execute("select url from bridge.webhooks").fetchall() == [(FORM["url"],)]


async def test_a_webhook_may_lead_to_a_private_address_that_is_allowed(bridge_url: str) -> None:
    async with checking_urls(bridge_url, "10.0.0.0/8", "::1") as (client, _):
        webhook = await create(client, url="https://intra.example/hook")
        answer = await client.patch(f"/webhooks/{webhook['id']}", json={"url": "http://[::1]/"})
        assert (answer.status_code, answer.json()["url"]) == (200, "http://[::1]/")


async def test_a_webhook_may_lead_to_a_name_that_does_not_resolve_yet(bridge_url: str) -> None:
    async with checking_urls(bridge_url) as (client, _):
        await create(client, url="https://not-yet.example/hook")


async def test_a_change_must_not_lead_to_a_private_address(bridge_url: str) -> None:
    async with checking_urls(bridge_url) as (client, _):
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        changes = {"name": "Other", "url": "https://intra.example/hook"}
        assert_url_refused(await client.patch(path, json=changes), PRIVATE)
        assert (await client.get(path)).json() == webhook


async def test_a_form_with_the_url_as_it_was_is_refused_if_nothing_could_go_there(
    bridge_url: str,
) -> None:
    async with calling(bridge_url) as lenient:
        webhook = await create(lenient, url="https://intra.example/hook")
    path = f"/webhooks/{webhook['id']}"
    async with checking_urls(bridge_url) as (client, _):
        assert_url_refused(await client.patch(path, json={**webhook, "name": "Other"}), PRIVATE)
        answer = await client.patch(path, json={"name": "Other", "url": None})
        assert (answer.status_code, answer.json()["name"]) == (200, "Other")


async def test_no_name_is_resolved_for_a_request_that_is_refused_anyway(bridge_url: str) -> None:
    url = {"url": "https://intra.example/hook"}
    async with checking_urls(bridge_url) as (client, resolver):
        for answer in (
            await client.post("/webhooks", json={**FORM, **url, "event_type": "a..b"}),
            await client.post("/webhooks", json={**FORM, **url}, headers={"Authorization": ""}),
            await client.patch("/webhooks/0", json=url),
        ):
            assert answer.status_code in (401, 404, 422)
        assert resolver.asked == []


# Deliveries


async def test_a_pending_a_successful_and_a_failed_delivery(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        success = add_finished(bot, webhook["id"], "success")
        failed = add_finished(bot, webhook["id"], "failed")
        waiting = add_pending(bot, webhook["id"])
        retrying = add_pending(bot, webhook["id"], attempts=2)
        page = (await client.get(f"/webhooks/{webhook['id']}/deliveries")).json()
        assert (page["total"], page["limit"], page["offset"]) == (4, 50, 0)
        by_id = {item["id"]: item for item in page["items"]}
        assert list(by_id) == [retrying, waiting, failed, success]
        for item in page["items"]:
            assert moment(item.pop("created_at")) <= datetime.now(UTC)
        common = {
            "webhook_id": webhook["id"],
            "event_type": "user.created",
            "payload": {"user_id": 1},
            "response_status": None,
            "response_body": None,
            "error_message": None,
            "delivered_at": None,
            "next_retry_at": None,
        }
        delivered_at = by_id[success]["delivered_at"]
        next_retry_at = by_id[retrying]["next_retry_at"]
        assert moment(delivered_at)
        assert moment(next_retry_at)
        assert by_id == {
            success: {
                **common,
                "id": success,
                "status": "success",
                "attempt_number": 1,
                "response_status": 200,
                "response_body": "answer",
                "delivered_at": delivered_at,
            },
            failed: {
                **common,
                "id": failed,
                "status": "failed",
                "attempt_number": 1,
                "response_status": 500,
                "response_body": "answer",
                "error_message": "HTTP 500",
            },
            waiting: {**common, "id": waiting, "status": "pending", "attempt_number": 0},
            retrying: {
                **common,
                "id": retrying,
                "status": "pending",
                "attempt_number": 2,
                "error_message": "refused",
                "next_retry_at": next_retry_at,
            },
        }


async def test_deliveries_are_filtered_by_status_and_paged(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook, other = await create(client), await create(client)
        path = f"/webhooks/{webhook['id']}/deliveries"
        ids: dict[str, list[int]] = {"pending": [], "success": [], "failed": []}
        # Mixed, so that a page takes from the queue and from both logs.
        for _ in range(3):
            add_finished(bot, other["id"], "failed")
            ids["pending"].append(add_pending(bot, webhook["id"]))
            ids["failed"].append(add_finished(bot, webhook["id"], "failed"))
            ids["success"].append(add_finished(bot, webhook["id"], "success"))
        ids[""] = sorted(ids["pending"] + ids["failed"] + ids["success"])

        for status, expected in ids.items():
            newest_first = expected[::-1]
            for limit, offset in (50, 0), (2, 0), (2, 2), (1, 1), (200, 2):
                params: dict[str, Any] = {"status": status, "limit": limit, "offset": offset}
                page = (await client.get(path, params=params)).json()
                assert [item["id"] for item in page["items"]] == (
                    newest_first[offset : offset + limit]
                )
                assert (page["total"], page["limit"], page["offset"]) == (
                    len(expected),
                    limit,
                    offset,
                )
                assert all(item["status"] == status for item in page["items"] if status)


async def test_deliveries_are_paged_by_id_to_the_end_whatever_is_added_meanwhile(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}/deliveries"
        ids = []
        for outcome in "success", "failed", "success", "failed":
            ids += [add_finished(bot, webhook["id"], outcome), add_pending(bot, webhook["id"])]
        for limit, status in (1, ""), (3, ""), (4, ""), (8, ""), (9, ""), (2, "pending"):
            seen: list[int] = []
            params: dict[str, Any] = {"limit": limit, "status": status}
            while True:
                page = (await client.get(path, params=params)).json()
                seen += [item["id"] for item in page["items"]]
                assert page["offset"] == 0
                if page["next_before_id"] is None:
                    break
                assert len(page["items"]) == limit
                params["before_id"] = page["next_before_id"]
                add_finished(bot, webhook["id"], "success")
            known = set(ids) if not status else set(ids[1::2])
            assert [each for each in seen if each in ids] == sorted(known, reverse=True)
            assert len(seen) == len(set(seen))


async def test_a_page_by_offset_names_the_page_after_it(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}/deliveries"
        ids = [add_pending(bot, webhook["id"]) for _ in range(5)]
        page = (await client.get(path, params={"limit": 2, "offset": 2})).json()
        assert page["next_before_id"] == ids[1]
        last = (await client.get(path, params={"limit": 2, "before_id": ids[1]})).json()
        assert [item["id"] for item in last["items"]] == [ids[0]]
        assert (last["total"], last["next_before_id"]) == (5, None)


@pytest.mark.parametrize("offset", ["0", "1"])
async def test_an_id_and_an_offset_to_begin_at_are_one_too_many(
    bridge_url: str, offset: str
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        params = {"offset": offset, "before_id": "5"}
        answer = await client.get(f"/webhooks/{webhook['id']}/deliveries", params=params)
        assert_refused(answer, "before_id")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("status", "done"),
        ("status", "\0"),
        ("limit", "0"),
        ("limit", "201"),
        ("offset", "-1"),
        ("before_id", "0"),
        ("before_id", ""),
        ("before_id", "9" * 5000),
    ],
)
async def test_a_bad_parameter_of_deliveries_is_refused(
    bridge_url: str, parameter: str, value: str
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}/deliveries"
        assert_refused(await client.get(path, params={parameter: value}), parameter)


async def test_a_webhook_without_deliveries_has_an_empty_list(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        answer = await client.get(f"/webhooks/{webhook['id']}/deliveries")
        assert answer.status_code == 200
        assert answer.json() == {
            "items": [],
            "total": 0,
            "limit": 50,
            "offset": 0,
            "next_before_id": None,
        }


async def test_a_delivery_whose_event_has_expired_has_no_payload(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        add_finished(bot, webhook["id"], "failed")
        bot.execute("delete from bridge.events")
        page = (await client.get(f"/webhooks/{webhook['id']}/deliveries")).json()
        assert [item["payload"] for item in page["items"]] == [None]


async def test_a_payload_with_numbers_beyond_python_is_shown(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        add_pending(bot, webhook["id"])
        bot.execute(
            "update bridge.events set payload = "
            "jsonb_build_object('i', 10::numeric ^ 5000, 'f', 10::numeric ^ 400 + 0.5, 'n', 0.1)"
        )
        answer = await client.get(f"/webhooks/{webhook['id']}/deliveries")
        payload = answer.json()["items"][0]["payload"]
        assert payload["n"] == 0.1
        assert payload["i"].startswith("1000")
        assert payload["f"].startswith("1000")


# Statistics


async def test_with_nothing_in_it_all_statistics_are_zero(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        answer = await client.get("/webhooks/stats")
        assert answer.status_code == 200
        assert answer.json() == {
            "total_webhooks": 0,
            "active_webhooks": 0,
            "total_deliveries": 0,
            "successful_deliveries": 0,
            "failed_deliveries": 0,
            "success_rate": 0.0,
        }


async def test_statistics_count_the_queue_and_the_log(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        await create(client, is_active=False)
        for outcome in "success", "success", "failed":
            add_finished(bot, webhook["id"], outcome)
        stats = (await client.get("/webhooks/stats")).json()
        assert stats["success_rate"] == 66.67
        for _ in range(4):
            add_pending(bot, webhook["id"])
        assert (await client.get("/webhooks/stats")).json() == {
            "total_webhooks": 2,
            "active_webhooks": 1,
            "total_deliveries": 7,
            "successful_deliveries": 2,
            "failed_deliveries": 1,
            "success_rate": 28.57,
        }


async def test_statistics_count_what_is_logged_of_deleted_webhooks(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        for outcome in "success", "failed", "failed":
            add_finished(bot, webhook["id"], outcome)
        add_pending(bot, webhook["id"])
        await client.delete(f"/webhooks/{webhook['id']}")
        stats = (await client.get("/webhooks/stats")).json()
        assert stats == {
            "total_webhooks": 0,
            "active_webhooks": 0,
            "total_deliveries": 3,
            "successful_deliveries": 1,
            "failed_deliveries": 2,
            "success_rate": 33.33,
        }


# What a webhook may have


OPTIONS: dict[str, Any] = {
    "filter": '($."amount" >= 1000)',
    "rate_per_second": 2.5,
    "ordered": True,
    "retry_schedule": [0.0, 1.5, 2592000.0],
}


async def test_a_webhook_is_created_with_all_that_it_may_have(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, **{**OPTIONS, "filter": "$.amount>=1000"})
        assert {name: webhook[name] for name in OPTIONS} == OPTIONS
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


async def test_without_them_a_webhook_takes_all_at_any_rate(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, filter="")
        assert {name: webhook[name] for name in OPTIONS} == {
            "filter": None,
            "rate_per_second": None,
            "ordered": False,
            "retry_schedule": None,
        }
        times = ("paused_at", "failing_since", "probe_at")
        assert {webhook[name] for name in times} == {None}


async def test_what_a_webhook_may_have_is_patched_and_removed(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        changed = (await client.patch(path, json=OPTIONS)).json()
        assert {name: changed[name] for name in OPTIONS} == OPTIONS
        kept = (await client.patch(path, json={"name": "n", "ordered": None})).json()
        assert {name: kept[name] for name in OPTIONS} == OPTIONS
        removed = (await client.patch(path, json=dict.fromkeys(OPTIONS))).json()
        assert {name: removed[name] for name in OPTIONS} == {
            **dict.fromkeys(OPTIONS),
            "ordered": True,
        }
        # As PostgreSQL writes a filter it can be sent back.
        again = await client.patch(path, json={**changed, "secret": ""})
        assert {name: again.json()[name] for name in OPTIONS} == OPTIONS


BAD_OPTIONS: list[tuple[str, object]] = [
    ("filter", "$.a >"),
    ("filter", '$.** == "x"'),
    ("filter", "$.a ? (exists($.b ? (@ > 1))) == 1"),
    ("filter", '$.a like_regex "("'),
    ("filter", '$.a like_regex "a" flag "x"'),
    ("filter", r'$.a like_regex "^(a*)(a*)\\1\\2$"'),
    ("filter", r'$.b == "\"" || $.a like_regex "\"(.)\u005c\u0031"'),
    ("filter", "$.a == 1e999999"),
    ("filter", "$amount > 5"),
    ("filter", '$.currency == "US$" && $"b" == 1'),
    ("filter", "(" * 3000 + "$.a" + ")" * 900),
    ("filter", "a" * 4001),
    ("filter", "\0"),
    ("filter", 5),
    ("rate_per_second", 0),
    ("rate_per_second", 100_001),
    ("rate_per_second", True),
    ("timeout_seconds", True),
    ("max_concurrency", True),
    ("ordered", "perhaps"),
    ("ordered", 1),
    ("ordered", "true"),
    ("retry_schedule", []),
    ("retry_schedule", [0] * 101),
    ("retry_schedule", "soon"),
]


async def test_a_bad_option_is_refused_and_changes_nothing(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        for field, value in BAD_OPTIONS:
            body = json.dumps({**FORM, "name": "Changed", field: value})
            assert_refused(await client.post("/webhooks", content=body, headers=headers), field)
            assert_refused(await client.patch(path, content=body, headers=headers), field)
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


async def test_a_dollar_in_a_text_is_no_variable(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        texts = '$.currency == "US$" || $."$x" == "\\"$" || $.a == "$\\"b"'
        assert '"US$"' in (await create(client, filter=texts))["filter"]


# Operating


async def test_a_paused_webhook_says_so_until_it_is_resumed(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        paused = await client.post(f"{path}/pause")
        assert paused.status_code == 200
        assert set(paused.json()) == SHAPE
        assert moment(paused.json()["paused_at"])
        assert (await client.get(f"{path}/health")).json()["state"] == "paused"
        again = await client.post(f"{path}/pause")
        assert again.json()["paused_at"] == paused.json()["paused_at"]
        bot.execute(
            "update bridge.webhooks set is_active = false, disabled_reason = 'gone',"
            " probe_at = now(), failing_since = now(), failure_share = 1"
        )
        resumed = await client.post(f"{path}/resume")
        assert resumed.status_code == 200
        assert resumed.json() == {**webhook, "updated_at": resumed.json()["updated_at"]}


async def test_the_health_of_a_webhook_is_its_row_of_the_view(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        add_pending(bot, webhook["id"])
        bot.execute(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
               select 1, %s, n, now() - interval '250 ms', now(), case when n = 1 then 'no' end
               from generate_series(1, 3) as n""",
            [webhook["id"]],
        )
        health = (await client.get(f"/webhooks/{webhook['id']}/health")).json()
        assert (health["state"], health["pending"], health["due"]) == ("delivering", 1, 1)
        assert (health["attempts_hour"], health["success_rate_hour"]) == (3, 66.67)
        assert health["answer_p95_day"] == 0.25
        assert health["commit_to_acknowledged_p50_hour"] is None
        columns = bot.execute("select * from bridge.webhook_health").description
        assert columns is not None
        assert list(health) == [column.name for column in columns]


async def test_one_delivery_is_shown_with_its_times_and_attempts(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        delivery_id = add_finished(bot, webhook["id"], "success")
        bot.execute(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at,
                    response_status, response_body, failure, error_message)
               values (%(d)s, %(w)s, 2, '2026-01-01 10:00:05Z', now(), 200, 'ok', null, null),
                      (%(d)s, %(w)s, 1, '2026-01-01 10:00Z', now(), null, null, 'dns', 'no name'),
                      (%(d)s + 1, %(w)s, 1, now(), now(), 200, 'another', null, null)""",
            {"d": delivery_id, "w": webhook["id"]},
        )
        times = ("committed_at", "captured_at", "claimed_at", "sent_at", "acknowledged_at")
        bot.execute(
            "update bridge.delivery_log set "
            + ", ".join(f"{name} = '2026-01-0{day} 00:00Z'" for day, name in enumerate(times, 1))
        )
        (listed,) = (await client.get(f"/webhooks/{webhook['id']}/deliveries")).json()["items"]
        shown = (await client.get(f"/deliveries/{delivery_id}")).json()
        assert shown.pop("attempts") == [
            {
                "number": 1,
                "started_at": "2026-01-01T10:00:00Z",
                "finished_at": ANY,
                "response_status": None,
                "response_body": None,
                "failure": "dns",
                "error_message": "no name",
            },
            {
                "number": 2,
                "started_at": "2026-01-01T10:00:05Z",
                "finished_at": ANY,
                "response_status": 200,
                "response_body": "ok",
                "failure": None,
                "error_message": None,
            },
        ]
        assert shown.pop("event_id") > 0
        assert [shown.pop(name) for name in times] == [
            f"2026-01-0{day}T00:00:00Z" for day in range(1, 6)
        ]
        assert shown == listed


async def test_a_pending_delivery_is_shown_without_attempts(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        shown = (await client.get(f"/deliveries/{add_pending(bot, webhook['id'])}")).json()
        assert (shown["status"], shown["attempts"], shown["sent_at"]) == ("pending", [], None)


@pytest.mark.parametrize("outcome", ["success", "failed"])
async def test_a_finished_delivery_is_sent_again(bridge_url: str, bot: Bot, outcome: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        delivery_id = add_finished(bot, webhook["id"], outcome)
        answer = await client.post(f"/deliveries/{delivery_id}/redeliver")
        assert answer.status_code == 202
        shown = answer.json()
        assert (shown["id"], shown["status"]) == (delivery_id, "pending")
        assert shown == (await client.get(f"/deliveries/{delivery_id}")).json()
        # A second time it is pending already.
        again = await client.post(f"/deliveries/{delivery_id}/redeliver")
        assert (again.status_code, again.json()["status"]) == (202, "pending")


async def test_what_cannot_be_sent_again_is_a_conflict(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        kept, deleted = await create(client), await create(client)
        lost = add_finished(bot, kept["id"], "failed")
        orphan = add_finished(bot, deleted["id"], "failed")
        await client.delete(f"/webhooks/{deleted['id']}")
        answer = await client.post(f"/deliveries/{orphan}/redeliver")
        assert (answer.status_code, answer.json()) == (
            409,
            {"detail": f"the webhook of delivery {orphan} is deleted"},
        )
        bot.execute("delete from bridge.events")
        answer = await client.post(f"/deliveries/{lost}/redeliver")
        assert (answer.status_code, answer.json()) == (
            409,
            {"detail": f"the event of delivery {lost} is no longer in the log"},
        )
        assert (await client.get(f"/deliveries/{orphan}")).json()["status"] == "failed"


async def test_failed_deliveries_are_counted_and_only_then_sent_again(
    bridge_url: str, bot: Bot
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        for outcome in "failed", "failed", "success":
            add_finished(bot, webhook["id"], outcome)
        hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        for body, answered in (
            ({"since": hour_ago}, {"count": 2, "dry_run": True}),
            ({"since": hour_ago, "until": hour_ago}, {"count": 0, "dry_run": True}),
            ({"since": "2999-01-01T00:00:00"}, {"count": 0, "dry_run": True}),
            ({"since": hour_ago, "dry_run": False}, {"count": 2, "dry_run": False}),
            ({"since": hour_ago, "dry_run": False}, {"count": 0, "dry_run": False}),
        ):
            answer = await client.post(f"{path}/redeliver", json=body)
            assert (answer.status_code, answer.json()) == (200, answered)
        page = (await client.get(f"{path}/deliveries", params={"status": "pending"})).json()
        assert page["total"] == 2


async def test_a_bad_range_is_refused(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    bad: list[tuple[str, object]] = [
        ("since", None),
        ("since", "yesterday"),
        ("since", "0001-01-01T00:00:00+14:00"),
        ("until", "9999-12-31T23:59:59-14:00"),
        # Seconds since 1970 would mean nearly everything that ever failed.
        ("since", 0),
        ("since", 1_700_000_000.5),
        ("since", "0"),
        ("since", True),
        ("until", "1700000000"),
        ("dry_run", None),
        ("dry_run", 0),
        ("dry_run", "false"),
        ("per_second", 0),
        ("per_second", True),
    ]
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}/redeliver"
        for field, value in bad:
            body = json.dumps({"since": NOW, field: value})
            assert_refused(await client.post(path, content=body, headers=headers), field)


async def test_operating_what_there_is_not_is_not_found(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for method, path, missing in (
            ("GET", "/webhooks/{}/health", NOT_FOUND),
            ("POST", "/webhooks/{}/pause", NOT_FOUND),
            ("POST", "/webhooks/{}/resume", NOT_FOUND),
            ("POST", "/webhooks/{}/redeliver", NOT_FOUND),
            ("GET", "/deliveries/{}", NO_DELIVERY),
            ("POST", "/deliveries/{}/redeliver", NO_DELIVERY),
        ):
            body = {"since": NOW} if path == "/webhooks/{}/redeliver" else None
            for unknown in 1, 0, -1, MAX_BIGINT, 2**63, "9" * 5000:
                answer = await client.request(method, path.format(unknown), json=body)
                assert (answer.status_code, answer.json()) == (404, missing), (path, unknown)
            answer = await client.request(method, path.format("one"), json=body)
            assert answer.status_code == 422


# Who may


SCOPES = {("GET", "/events"): "events:read"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic eDp5"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
    ],
)
async def test_without_a_token_nothing_is_answered(
    bridge_url: str, headers: dict[str, str]
) -> None:
    async with calling(bridge_url, token=None) as client:
        for method, path in PROTECTED + MANAGED:
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"detail": "Missing API key"})
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_without_a_token_a_body_is_not_even_read(bridge_url: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url, token=None) as client:
        for method, path in PROTECTED + MANAGED:
            answer = await client.request(method, path, content=unread(), headers=headers)
            assert answer.status_code == 401


async def test_a_token_that_is_not_valid_is_refused(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "expired", "admin", expires="now() - interval '1 second'")
    add_token(bot, "revoked", "admin", revoked="now()")
    async with calling(bridge_url, token=None) as client:
        for token in "unknown", "expired", "revoked", TOKEN + "x", "x" * 5000:
            for headers in {"Authorization": f"Bearer {token}"}, {"X-API-Key": token}:
                for method, path in PROTECTED + MANAGED:
                    answer = await client.request(method, path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.json() == {"detail": "Invalid or expired API key"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer {TOKEN}"},
        {"X-API-Key": TOKEN},
        {"X-API-Key": TOKEN, "Authorization": "Basic eDp5"},
        {"X-API-Key": TOKEN, "Authorization": "Bearer of-the-proxy"},
    ],
)
async def test_a_token_comes_in_either_header(bridge_url: str, headers: dict[str, str]) -> None:
    async with calling(bridge_url, token=None) as client:
        assert (await client.get("/webhooks", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["events:read"], {"events:read"}),
        (["webhooks:read"], {"webhooks:read"}),
        (["webhooks:write"], {"webhooks:read", "webhooks:write"}),
        (["admin"], {"events:read", "webhooks:read", "webhooks:write"}),
        (["events:read", "webhooks:read"], {"events:read", "webhooks:read"}),
    ],
)
async def test_a_token_may_what_its_scopes_say(
    bridge_url: str, bot: Bot, scopes: list[str], allowed: set[str]
) -> None:
    add_token(bot, "token", *scopes, expires="now() + interval '1 hour'")
    async with calling(bridge_url, token="token") as client:
        for method, path in PROTECTED:
            answer = await client.request(method, path)
            by_method = "webhooks:read" if method == "GET" else "webhooks:write"
            scope = SCOPES.get((method, path), by_method)
            assert (answer.status_code != 403) is (scope in allowed), (method, path)
            if scope not in allowed:
                assert answer.json() == {"detail": f"This API key does not have the scope {scope}"}


# The bridge itself


async def test_health_and_documents_need_no_token(bridge_url: str) -> None:
    async with calling(bridge_url, token=None) as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.parametrize(
    ("troubles", "code", "answered"),
    [
        ({}, 200, {"status": "ready", "checks": {}, "reasons": {}}),
        (
            {"drain": None, "listen": None},
            200,
            {"status": "ready", "checks": {"drain": True, "listen": True}, "reasons": {}},
        ),
        (
            {"drain": None, "listen": "nothing is heard"},
            503,
            {
                "status": "not ready",
                "checks": {"drain": True, "listen": False},
                "reasons": {"listen": "nothing is heard"},
            },
        ),
    ],
    ids=["no parts", "all well", "one not"],
)
async def test_ready_is_what_every_part_says(
    bridge_url: str, troubles: Mapping[str, str | None], code: int, answered: object
) -> None:
    async with calling(bridge_url, token=None, troubles=lambda: troubles) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == code
        assert answer.json() == answered


async def test_readiness_is_asked_anew_each_time(bridge_url: str) -> None:
    troubles: dict[str, str | None] = {"drain": "it does not"}
    async with calling(bridge_url, troubles=lambda: troubles) as client:
        assert (await client.get("/readyz")).status_code == 503
        troubles["drain"] = None
        assert (await client.get("/readyz")).status_code == 200


@contextmanager
def away(url: str) -> Iterator[None]:
    """Take a database away for the time of the context: its sessions end, and nobody gets in."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    elsewhere = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    with psycopg.connect(elsewhere, autocommit=True) as operator:

        def run(sql: str) -> None:
            operator.execute(sql.encode())

        run(f"alter database {name} with allow_connections false")
        run(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
            f"where datname = '{name}'"
        )
        run(f"alter database {name} rename to {name}_away")
        try:
            yield
        finally:
            run(f"alter database {name}_away rename to {name}")
            run(f"alter database {name} with allow_connections true")


async def test_a_database_that_is_away_is_answered_with_503(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        with away(bridge_url):
            # The pool has yet to see its connections end.
            await trio.testing.wait_all_tasks_blocked(0.1)
            for method, path in PROTECTED:
                body = {**FORM, "since": NOW} if method in ("POST", "PATCH") else None
                for headers in {}, {"X-API-Key": "a-token-to-look-up"}:
                    answer = await client.request(method, path, headers=headers, json=body)
                    assert answer.status_code == 503
                    assert answer.json() == {"detail": "Database unavailable"}
            assert (await client.get("/healthz")).status_code == 200
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook


async def test_a_dashboard_elsewhere_may_call_when_its_origin_is_named(bridge_url: str) -> None:
    origins = ["https://admin.example"]
    async with calling(bridge_url, cors_origins=origins, token=None) as client:
        allowed = await client.options("/webhooks/1", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://admin.example"
        methods = allowed.headers["Access-Control-Allow-Methods"]
        assert {"GET", "POST", "PATCH", "DELETE"} <= set(methods.split(", "))
        headers = allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"authorization", "x-api-key", "content-type"} <= set(headers)
        # An answer that the browser hides from the dashboard would explain nothing.
        refused = await client.get("/webhooks", headers={"Origin": "https://admin.example"})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://admin.example"
        stranger = await client.options(
            "/webhooks/1", headers={**PREFLIGHT, "Origin": "https://evil.example"}
        )
        assert stranger.status_code == 400
        assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_without_origins_there_is_no_cors(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        assert (await client.options("/webhooks/1", headers=PREFLIGHT)).status_code == 405
        answer = await client.get("/webhooks", headers={"Origin": "https://admin.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_openapi_document_says_what_is_answered(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["info"]["title"] == "pgbridge"
    assert document["components"]["securitySchemes"] == {
        "Bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `pgbridge token create`.",
        },
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The same token.",
        },
    }
    answers = {
        (method.upper(), path): set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    guarded = {"401", "403", "408", "422", "429", "500", "503"}
    with_body = guarded | {"413", "415"}
    assert answers == {
        ("GET", "/healthz"): {"200", "500"},
        ("GET", "/readyz"): {"200", "500", "503"},
        ("GET", "/metrics"): {"200", "500"},
        ("GET", "/events"): {"200"} | guarded,
        ("GET", "/webhooks"): {"200"} | guarded,
        ("POST", "/webhooks"): {"201"} | with_body,
        ("GET", "/webhooks/stats"): {"200"} | guarded,
        ("GET", "/webhooks/{webhook_id}"): {"200", "404"} | guarded,
        ("PATCH", "/webhooks/{webhook_id}"): {"200", "404"} | with_body,
        ("DELETE", "/webhooks/{webhook_id}"): {"204", "404"} | guarded,
        ("GET", "/webhooks/{webhook_id}/deliveries"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/test"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/rotate-secret"): {"200", "404"} | with_body,
        ("GET", "/webhooks/{webhook_id}/health"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/pause"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/resume"): {"200", "404"} | guarded,
        ("POST", "/webhooks/{webhook_id}/redeliver"): {"200", "404"} | with_body,
        ("GET", "/deliveries/{delivery_id}"): {"200", "404"} | guarded,
        ("POST", "/deliveries/{delivery_id}/redeliver"): {"202", "404", "409"} | guarded,
        ("POST", "/ws/tickets"): {"201"} | guarded,
        ("GET", "/tokens"): {"200"} | guarded,
        ("POST", "/tokens"): {"201"} | with_body,
        ("DELETE", "/tokens/{token_id}"): {"204", "404"} | guarded,
        ("GET", "/audit"): {"200"} | guarded,
    }
    for method, path in PROTECTED:
        path = path.replace("deliveries/1", "deliveries/{delivery_id}")
        path = path.replace("1", "{webhook_id}")
        security = document["paths"][path][method.lower()]["security"]
        assert security == [{"Bearer": []}, {"ApiKey": []}]
    for path in "/healthz", "/readyz":
        assert "security" not in document["paths"][path]["get"]
    (webhook_id,) = document["paths"]["/webhooks/{webhook_id}"]["get"]["parameters"]
    assert webhook_id["schema"]["type"] == "integer"
    operations = [
        operation for operations in document["paths"].values() for operation in operations.values()
    ]
    tags = {tag["name"] for tag in document["tags"]}
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        assert operation["description"]
        assert operation["summary"] != operation["operationId"].replace("_", " ").title()
        assert set(operation["tags"]) <= tags
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
        responses = operation["responses"]
        for status, answer in responses.items():
            assert ("Retry-After" in answer.get("headers", {})) is (
                status == "429" or (status == "503" and "401" in responses)
            )
            assert ("WWW-Authenticate" in answer.get("headers", {})) is (status == "401")
    schemas = document["components"]["schemas"]
    for name in "NewWebhook", "WebhookChanges", "SecretRotation", "Redelivery":
        assert schemas[name]["examples"]
    assert schemas["Webhook"]["properties"]["id"]["format"] == "int64"
    assert schemas["Webhook"]["properties"]["url"]["format"] == "uri"
    assert schemas["Webhook"]["properties"]["created_at"]["format"] == "date-time"
    assert {"type": "null"} in schemas["Webhook"]["properties"]["paused_at"]["anyOf"]
    assert set(schemas["Webhook"]["properties"]) == SHAPE
    assert set(schemas["ValidationError"]["required"]) == {"loc", "msg", "type"}
    assert "secret" in schemas["NewWebhook"]["properties"]
