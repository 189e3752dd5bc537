"""Webhooks over REST: create, list, change, operate, delete."""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from bridge.database.sessions import fetch
from bridge.web.app import TRIALS
from bridge.webhooks.trial import Trial
from tests.integration.calling import (
    FORM,
    MAX_BIGINT,
    NOT_FOUND,
    SHAPE,
    Bot,
    add_finished,
    add_pending,
    assert_refused,
    calling,
    create,
    moment,
    secret_of,
)
from tests.integration.delivering import enqueue


async def test_created_webhook_is_returned_completely(bridge_url: str) -> None:
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


async def test_empty_optional_texts_are_stored_as_null(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="", description="", is_active=True)
        assert webhook["description"] is None
        assert secret_of(bot, webhook["id"]) is None


async def test_read_only_fields_are_ignored_on_creation(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        first = await create(client)
        second = await create(client, **{**first, "success_count": 99})
        assert second["id"] != first["id"]
        assert second["success_count"] == 0


async def test_list_without_webhooks_is_empty(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        answer = await client.get("/webhooks")
        assert answer.status_code == 200
        assert answer.json() == {"items": [], "total": 0, "limit": 50, "offset": 0}


async def test_webhooks_are_listed_newest_first_in_pages(bridge_url: str) -> None:
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
async def test_page_beyond_the_end_has_the_right_total(
    bridge_url: str, bot: Bot, offset: int
) -> None:
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


async def test_parameters_have_bounds(bridge_url: str) -> None:
    invalid = [
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
    ]
    async with calling(bridge_url) as client:
        for parameter, value in invalid:
            assert_refused(await client.get("/webhooks", params={parameter: value}), parameter)
        for limit in 1, 200:
            assert (await client.get("/webhooks", params={"limit": limit})).json()["limit"] == limit


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
async def test_unknown_webhook_id_is_not_found(bridge_url: str, method: str, suffix: str) -> None:
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    async with calling(bridge_url) as client:
        for unknown in 1, 0, -1, MAX_BIGINT, 2**63, -(2**64), 10**30, "9" * 5000:
            answer = await client.request(method, f"/webhooks/{unknown}{suffix}", json=body)
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND), unknown
        for no_number in "one", "1.5", "1e3", "0x1", "%00", "1%00", "null", "NaN":
            answer = await client.request(method, f"/webhooks/{no_number}{suffix}", json=body)
            assert_refused(answer, "webhook_id")


async def test_patch_changes_the_named_fields_and_updated_at(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, description="d")
        changes = {"name": "Updated Name", "is_active": False}
        answer = await client.patch(f"/webhooks/{webhook['id']}", json=changes)
        assert answer.status_code == 200
        changed = answer.json()
        assert moment(changed["updated_at"]) > moment(webhook["updated_at"])
        assert changed == {**webhook, **changes, "updated_at": changed["updated_at"]}
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == changed


async def test_complete_edit_form_can_be_patched(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="kept")
        other = await create(client)
        form = {
            **webhook,
            "name": "Имя 🎫",
            "url": "https://example.com/other",
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
        }
        answer = await client.patch(f"/webhooks/{webhook['id']}", json=form)
        assert answer.status_code == 200
        changed = answer.json()
        assert changed == {
            **webhook,
            "name": "Имя 🎫",
            "url": "https://example.com/other",
            "event_type": "ticket.*",
            "timeout_seconds": 30,
            "max_concurrency": 8,
            "updated_at": changed["updated_at"],
        }
        assert secret_of(bot, webhook["id"]) == "kept"
        assert (await client.get(f"/webhooks/{other['id']}")).json() == other


async def test_empty_patch_changes_only_updated_at(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="kept", description="kept")
        changed = (await client.patch(f"/webhooks/{webhook['id']}", json={})).json()
        assert changed == {**webhook, "updated_at": changed["updated_at"]}
        assert changed["updated_at"] != webhook["updated_at"]
        assert secret_of(bot, webhook["id"]) == "kept"


async def test_only_activation_clears_disabled_reason(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        bot.execute("update bridge.webhooks set is_active = false, disabled_reason = 'gone'")
        for changes in {}, {"name": "n"}, {"is_active": False}, {"is_active": None}:
            answer = (await client.patch(path, json=changes)).json()
            assert (answer["is_active"], answer["disabled_reason"]) == (False, "gone")
        answer = (await client.patch(path, json={"is_active": True})).json()
        assert (answer["is_active"], answer["disabled_reason"]) == (True, None)


async def test_deleting_a_webhook_deletes_its_queue(bridge_url: str, bot: Bot) -> None:
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


async def test_webhook_with_a_long_queue_is_deleted_in_batches(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook, other = await create(client), await create(client)
        for each, count in ((webhook, 12_000), (other, 6_000)):
            enqueue(bot, each["id"], count=count)
        [row] = fetch(bot, "delete_webhook", webhook["id"])
        assert not row["is_deleted"]
        assert bot.execute(
            "select w.is_active, count(*) from bridge.webhooks w"
            " join bridge.delivery_queue q on q.webhook_id = w.id group by w.id order by w.id"
        ).fetchall() == [(False, 7_000), (True, 6_000)]
        assert (await client.delete(f"/webhooks/{webhook['id']}")).status_code == 204
        assert bot.execute(
            "select w.id, count(*) from bridge.webhooks w"
            " join bridge.delivery_queue q on q.webhook_id = w.id group by w.id"
        ).fetchall() == [(other["id"], 6_000)]


async def test_deletion_is_retried_after_a_deadlock(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        delivery = add_pending(bot, webhook["id"])
        with psycopg.connect(bridge_url) as courier:
            # The deletion checks for a deadlock first, so it is the victim.
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


async def test_test_request_uses_the_secrets_and_shows_the_response(
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


async def test_number_of_running_tests_is_limited(bridge_url: str) -> None:
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


REMOVABLE: dict[str, Any] = {
    "description": "d",
    "filter": '($."amount" >= 1000)',
    "rate_per_second": 2.5,
    "retry_schedule": [0.0, 1.5, 2592000.0],
}
OPTIONS = {
    **REMOVABLE,
    "is_active": False,
    "max_concurrency": 1000,
    "ordered": True,
    "timeout_seconds": 120,
}


async def test_webhook_is_created_with_all_options(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, **{**OPTIONS, "filter": "$.amount>=1000"})
        assert {name: webhook[name] for name in OPTIONS} == OPTIONS
        assert (await client.get(f"/webhooks/{webhook['id']}")).json() == webhook
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


async def test_options_have_defaults(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, filter="")
        assert {name: webhook[name] for name in OPTIONS} == {
            **dict.fromkeys(REMOVABLE),
            "is_active": True,
            "max_concurrency": 4,
            "ordered": False,
            "timeout_seconds": 15,
        }
        times = ("paused_at", "failing_since", "probe_at")
        assert {webhook[name] for name in times} == {None}


async def test_options_are_patched_and_removed(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        changed = (await client.patch(path, json=OPTIONS)).json()
        assert {name: changed[name] for name in OPTIONS} == OPTIONS
        kept = (await client.patch(path, json={"name": "n", "ordered": None})).json()
        assert {name: kept[name] for name in OPTIONS} == OPTIONS
        removed = (await client.patch(path, json=dict.fromkeys(OPTIONS))).json()
        assert {name: removed[name] for name in OPTIONS} == {**OPTIONS, **dict.fromkeys(REMOVABLE)}
        # PostgreSQL's spelling of a filter is accepted.
        again = await client.patch(path, json={**changed, "secret": ""})
        assert {name: again.json()[name] for name in OPTIONS} == OPTIONS


INVALID: list[tuple[str, object]] = [
    ("name", ""),
    ("name", "n" * 256),
    ("name", "a\0"),
    ("name", "\ud800"),
    ("url", ""),
    ("url", "https://"),
    ("url", "ftp://example.com"),
    ("url", "https://user:password@example.com"),
    ("event_type", ""),
    ("event_type", "*.*"),
    ("event_type", "user created"),
    ("event_type", "a" * 256),
    ("secret", "\udc00"),
    ("secret", "whsec_tooshort"),
    ("secret", "fernet:abc"),
    ("description", "\0"),
    ("description", "d" * 4001),
    ("is_active", "perhaps"),
    ("timeout_seconds", 0),
    ("timeout_seconds", 121),
    ("max_concurrency", 1001),
    ("filter", "$.a >"),
    ("filter", "$.a"),
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


async def test_invalid_field_is_rejected(bridge_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        for flag in "perhaps", 1:
            answer = await client.post("/webhooks", json={**FORM, "generate_secret": flag})
            assert_refused(answer, "generate_secret")
        for field, value in INVALID:
            body = json.dumps({**FORM, "name": "Changed", field: value})
            assert_refused(await client.post("/webhooks", content=body, headers=headers), field)
            assert_refused(await client.patch(path, content=body, headers=headers), field)
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


async def test_webhook_is_paused_and_resumed(bridge_url: str, bot: Bot) -> None:
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


async def test_health_is_the_row_of_the_view(bridge_url: str, bot: Bot) -> None:
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


@pytest.mark.parametrize(
    ("event_type", "meant"),
    [
        ("paymnt.completed", "payment.completed"),
        ("Payment.Completed", "payment.completed"),
        ("user", "user.*"),
        ("paymnt.*", "payment.*"),
        ("shipment.sent", None),
        ("zoo.*", None),
    ],
)
async def test_event_type_that_nothing_makes_is_saved_with_a_warning(
    bridge_url: str, event_type: str, meant: str | None
) -> None:
    async with calling(bridge_url) as client:
        known = await create(client, generate_secret=True)
        assert "warnings" not in known
        created = await create(client, event_type=event_type)
        assert created["event_type"] == event_type
        [warning] = created.pop("warnings")
        assert warning.startswith(f'no rule captures "{event_type}"')
        suggestion = f'did you mean "{meant}"?' if meant else "only if bridge.emit() makes them"
        assert warning.endswith(suggestion)
        path = f"/webhooks/{known['id']}"
        changed = (await client.patch(path, json={"event_type": event_type})).json()
        assert changed.pop("warnings") == [warning]
        assert set(changed) == set(created) == SHAPE
        # The dashboard sends back what it was shown.
        again = await client.patch(path, json={**changed, "warnings": [], "event_type": "*"})
        assert (again.status_code, set(again.json())) == (200, SHAPE)


async def test_logged_and_own_event_types_need_no_warning(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.events (event_type, payload, occurred_at)"
        " values ('shipment.sent', '{}', now())"
    )
    async with calling(bridge_url) as client:
        types = "shipment.sent", "shipment.*", "ticket.*", "webhook.disabled", "webhook.*", "*"
        for event_type in types:
            assert "warnings" not in await create(client, event_type=event_type)
        bot.execute("delete from bridge.capture_rules")
        assert "warnings" not in await create(client, event_type="paymnt.completed")
