"""Deliveries and statistics over REST."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest

from bridge.webhooks.operations import PAYLOAD_BYTES
from tests.integration.calling import (
    MAX_BIGINT,
    NOT_FOUND,
    NOW,
    Bot,
    add_finished,
    add_pending,
    assert_refused,
    calling,
    create,
    moment,
)
from tests.webhook_rows import add_failures

NO_DELIVERY = {"detail": "Delivery not found"}
NO_REDELIVERY = {"detail": "Redelivery of webhook not found"}


async def test_deliveries_are_listed_with_status_and_result(bridge_url: str, bot: Bot) -> None:
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
            "payload_omitted": False,
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


async def test_paging_by_id_is_stable_while_deliveries_are_added(bridge_url: str, bot: Bot) -> None:
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


async def test_page_by_offset_has_next_before_id(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}/deliveries"
        ids = [add_pending(bot, webhook["id"]) for _ in range(5)]
        page = (await client.get(path, params={"limit": 2, "offset": 2})).json()
        assert page["next_before_id"] == ids[1]
        last = (await client.get(path, params={"limit": 2, "before_id": ids[1]})).json()
        assert [item["id"] for item in last["items"]] == [ids[0]]
        assert (last["total"], last["next_before_id"]) == (5, None)


async def test_invalid_delivery_parameter_is_rejected(bridge_url: str) -> None:
    invalid = [
        {"status": "done"},
        {"status": "\0"},
        {"limit": "0"},
        {"limit": "201"},
        {"offset": "-1"},
        {"before_id": "0"},
        {"before_id": ""},
        {"before_id": "9" * 5000},
        # They exclude each other.
        {"before_id": "5", "offset": "0"},
        {"before_id": "5", "offset": "1"},
    ]
    async with calling(bridge_url) as client:
        path = f"/webhooks/{(await create(client))['id']}/deliveries"
        for params in invalid:
            assert_refused(await client.get(path, params=params), next(iter(params)))


async def test_list_without_deliveries_is_empty(bridge_url: str) -> None:
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


async def test_delivery_of_an_expired_event_has_no_payload(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        add_finished(bot, webhook["id"], "failed")
        bot.execute("delete from bridge.events")
        page = (await client.get(f"/webhooks/{webhook['id']}/deliveries")).json()
        assert [item["payload"] for item in page["items"]] == [None]


async def test_payload_with_huge_numbers_is_shown(bridge_url: str, bot: Bot) -> None:
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


def with_payloads(bot: Bot, webhook_id: int, *payloads: str) -> list[int]:
    """Queue deliveries with payloads, which are given in SQL; return their ids."""
    deliveries = []
    for payload in payloads:
        deliveries.append(add_pending(bot, webhook_id))
        bot.execute(
            f"update bridge.events set payload = {payload}"
            " where id = (select max(id) from bridge.events)".encode()
        )
    return deliveries


#: A payload of five megabytes, in SQL, that parses into two million lists.
HUGE = "(select jsonb_agg('[]'::jsonb) from generate_series(1, 1250000))"
#: Payloads of 175,000 bytes, the first of which is stored in a hundredth of that.
COMPRESSED = "jsonb_build_object('text', repeat('x', 175000))"
RANDOM = (
    "(select jsonb_build_object('text', string_agg(md5(n::text), ''))"
    " from generate_series(1, 5468) as n)"
)


#: The number is stored in a few bytes.
NUMBERS = "(select jsonb_agg(1e131000) from generate_series(1, 1))"


@pytest.mark.parametrize("large", [COMPRESSED, RANDOM, NUMBERS], ids=["x", "random", "numbers"])
async def test_list_omits_the_largest_payloads(bridge_url: str, bot: Bot, large: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        payloads = [large, "'1'", HUGE, large, "'2'", "'3'"]
        numbers = with_payloads(bot, webhook["id"], *payloads)
        answer = await client.get(f"/webhooks/{webhook['id']}/deliveries?limit=5")
        assert len(answer.content) < PAYLOAD_BYTES + 10_000
        page = answer.json()
        # Paging by offset or by id misses none.
        assert [item["id"] for item in page["items"]] == numbers[:0:-1]
        assert (page["total"], page["next_before_id"]) == (6, numbers[1])
        shown = [item["payload"] for item in page["items"]]
        assert [shown[0], shown[1], shown[4]] == [3, 2, 1]
        assert [item["payload_omitted"] for item in page["items"]] == [False] * 3 + [True, False]
        assert shown[3] is None


async def test_many_large_payloads_make_a_small_list(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        with_payloads(bot, webhook["id"], *[COMPRESSED] * 20)
        answer = await client.get(f"/webhooks/{webhook['id']}/deliveries")
        assert len(answer.content) < PAYLOAD_BYTES
        assert [item["payload"] is None for item in answer.json()["items"]].count(False) == 1


async def test_huge_payload_is_shown_whole_and_unparsed(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        [number] = with_payloads(bot, webhook["id"], HUGE)
        monkeypatch.setattr("bridge.webhooks.model.readable_payload", None)
        whole = await client.get(f"/deliveries/{number}")
        assert whole.status_code == 200
        assert whole.headers["Content-Type"] == "application/json"
        assert whole.json()["payload"] == [[]] * 1_250_000
        assert (whole.json()["payload_omitted"], whole.json()["attempts"]) == (False, [])
        again = await client.post(f"/deliveries/{number}/redeliver")
        assert (again.status_code, again.json()) == (202, whole.json() | {"next_retry_at": None})


@pytest.mark.parametrize(("depth", "kind"), [(100, list), (101, str)])
async def test_huge_nested_payload_is_shown_as_text(
    bridge_url: str, bot: Bot, depth: int, kind: type
) -> None:
    nested = f"'{'[' * (depth - 1)}{{}}{']' * (depth - 1)}'::jsonb"
    async with calling(bridge_url) as client:
        webhook = await create(client)
        huge = f"jsonb_build_array(repeat('x', 2000000)) || {nested}"
        [number] = with_payloads(bot, webhook["id"], huge)
        payload = (await client.get(f"/deliveries/{number}")).json()["payload"]
        assert isinstance(payload, kind)


async def test_statistics_of_an_empty_database_are_zero(bridge_url: str) -> None:
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


async def test_statistics_include_deleted_webhooks(bridge_url: str, bot: Bot) -> None:
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


async def test_delivery_is_shown_with_timestamps_and_attempts(bridge_url: str, bot: Bot) -> None:
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


async def test_delivery_is_shown_with_its_latest_attempts(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        number = add_pending(bot, webhook["id"])
        bot.execute(
            "insert into bridge.delivery_attempts"
            " (delivery_id, webhook_id, attempt_number, started_at, finished_at, response_body)"
            " select %s, %s, n, now(), now(), repeat('x', 16384) from generate_series(1, 203) n",
            [number, webhook["id"]],
        )
        attempts = (await client.get(f"/deliveries/{number}")).json()["attempts"]
        assert [attempt["number"] for attempt in attempts] == list(range(4, 204))


async def test_pending_delivery_is_shown_without_attempts(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        shown = (await client.get(f"/deliveries/{add_pending(bot, webhook['id'])}")).json()
        assert (shown["status"], shown["attempts"], shown["sent_at"]) == ("pending", [], None)


@pytest.mark.parametrize("outcome", ["success", "failed"])
async def test_finished_delivery_is_redelivered(bridge_url: str, bot: Bot, outcome: str) -> None:
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


async def test_impossible_redelivery_is_a_conflict(bridge_url: str, bot: Bot) -> None:
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


async def test_failed_deliveries_are_counted_then_redelivered(bridge_url: str, bot: Bot) -> None:
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


async def test_large_redelivery_is_followed_and_cancelled(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        path = f"/webhooks/{(await create(client))['id']}"
        for method, part in ("GET", "redelivery"), ("POST", "redelivery/cancel"):
            answer = await client.request(method, f"{path}/{part}")
            assert (answer.status_code, answer.json()) == (404, NO_REDELIVERY)
        add_failures(bot, int(path.rpartition("/")[2]), 1005)
        body = {"since": "2020-01-01T00:00:00Z", "dry_run": False}
        answer = await client.post(f"{path}/redeliver", json=body)
        assert (answer.status_code, answer.json()) == (200, {"count": 1005, "dry_run": False})
        progress = (await client.get(f"{path}/redelivery")).json()
        figures = {"state": "running", "matched": 1005, "requeued": 1000, "per_second": 20.0}
        assert figures.items() <= progress.items()
        assert moment(progress["since"]) == datetime(2020, 1, 1, tzinfo=UTC)
        assert (progress["finished_at"], progress["cancelled_at"]) == (None, None)
        again = await client.post(f"{path}/redeliver", json=body)
        said = f"webhook {path.rpartition('/')[2]} has a running redelivery"
        assert (again.status_code, again.json()) == (409, {"detail": said})
        cancelled = await client.post(f"{path}/redelivery/cancel")
        assert cancelled.status_code == 200
        assert (cancelled.json()["state"], cancelled.json()["requeued"]) == ("cancelled", 1000)
        # Harmless if it has ended meanwhile.
        assert (await client.post(f"{path}/redelivery/cancel")).json() == cancelled.json()


async def test_invalid_redelivery_range_is_rejected(bridge_url: str) -> None:
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


async def test_operations_on_unknown_ids_are_not_found(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        for method, path, missing in (
            ("GET", "/webhooks/{}/health", NOT_FOUND),
            ("POST", "/webhooks/{}/pause", NOT_FOUND),
            ("POST", "/webhooks/{}/resume", NOT_FOUND),
            ("POST", "/webhooks/{}/redeliver", NOT_FOUND),
            ("GET", "/webhooks/{}/redelivery", NO_REDELIVERY),
            ("POST", "/webhooks/{}/redelivery/cancel", NOT_FOUND),
            ("GET", "/deliveries/{}", NO_DELIVERY),
            ("POST", "/deliveries/{}/redeliver", NO_DELIVERY),
        ):
            body = {"since": NOW} if path == "/webhooks/{}/redeliver" else None
            for unknown in 1, 0, -1, MAX_BIGINT, 2**63, "9" * 5000:
                answer = await client.request(method, path.format(unknown), json=body)
                assert (answer.status_code, answer.json()) == (404, missing), (path, unknown)
            answer = await client.request(method, path.format("one"), json=body)
            assert answer.status_code == 422
