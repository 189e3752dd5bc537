"""Dead letters are listed, retried and dropped: in SQL, over REST, in the console, by commands."""

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs

from bridge.access.vault import Vault
from bridge.database.pool import open_database
from bridge.relay.upkeep import Upkeep
from bridge.webhooks import dead_letters
from tests.integration.calling import Bot, calling
from tests.integration.console_pages import HOSTILE, shown, signed_in
from tests.integration.doctor.conftest import diagnose
from tests.integration.relaying import relaying
from tests.system.processes import pgbridge
from tests.webhook_rows import add_webhook


def add_event(
    bot: Bot, payload: object = None, event_type: str = "user.created", reason: str = "no way"
) -> int:
    """Add an event that was set aside; return the dead letter's id."""
    row = bot.execute(
        "insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)"
        " values (nextval('bridge.outbox_id_seq'), %s, %s, '2026-01-15 10:30:00+00', %s)"
        " returning id",
        (event_type, Jsonb({"a": 1} if payload is None else payload), reason),
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_delivery(bot: Bot, webhook_id: int) -> int:
    """Add a delivery of a logged event; return the dead letter's id."""
    row = bot.execute(
        "with event as (insert into bridge.events (event_type, payload, occurred_at)"
        " values ('user.created', '{}', now()) returning *)"
        " insert into bridge.dead_letters"
        " (webhook_id, event_id, event_recorded_at, event_type, captured_at, reason)"
        " select %s, id, recorded_at, event_type, occurred_at, 'no way' from event returning id",
        (webhook_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def left(bot: Bot) -> list[int]:
    rows = bot.execute("select id from bridge.dead_letters order by id").fetchall()
    return [number for (number,) in rows]


async def test_retried_event_keeps_its_type_and_time(bridge_url: str, bot: Bot) -> None:
    number = add_event(bot, {"a": 1})
    bot.execute("select bridge.retry_dead_letter(%s)", (number,))
    async with relaying(bridge_url) as relayed:
        await relayed.until_count(1)
    [event] = relayed.events
    assert (event.event_type, event.payload) == ("user.created", '{"a": 1}')
    assert event.occurred_at.isoformat() == "2026-01-15T10:30:00+00:00"
    assert left(bot) == []


async def test_event_that_fails_again_is_set_aside_again(bridge_url: str, bot: Bot) -> None:
    bot.execute("alter table bridge.events add constraint foreign_check check (not payload ? 'a')")
    number = add_event(bot, {"a": 1})
    bot.execute("select bridge.retry_dead_letter(%s)", (number,))
    with capture_logs() as logs:
        async with relaying(bridge_url) as relayed:
            await relayed.until_count(1)
    [again] = left(bot)
    assert again > number
    assert json.loads(relayed.events[0].payload)["dead_letter"] == again
    assert [entry["dead_letter"] for entry in logs if entry["event"] == "event_set_aside"] == [
        again
    ]
    assert bot.execute("select payload, captured_at from bridge.dead_letters").fetchall() == (
        bot.execute("select '{\"a\": 1}'::jsonb, '2026-01-15 10:30:00+00'::timestamptz").fetchall()
    )


def test_retried_delivery_is_queued(bot: Bot) -> None:
    webhook = add_webhook(bot)
    bot.execute("select bridge.retry_dead_letter(%s)", (add_delivery(bot, webhook),))
    assert bot.execute(
        "select q.webhook_id, q.event_id = e.id from bridge.delivery_queue q, bridge.events e"
    ).fetchall() == [(webhook, True)]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("delete from bridge.webhooks", "the webhook of dead letter 1 is deleted"),
        (
            "alter table bridge.delivery_queue add constraint mine check (webhook_id > 9)",
            "dead letter 1 cannot be retried: .*mine",
        ),
    ],
)
def test_dead_letter_that_cannot_be_retried_stays(bot: Bot, damage: str, problem: str) -> None:
    number = add_delivery(bot, add_webhook(bot))
    bot.execute(damage.encode())
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=problem):
        bot.execute("select bridge.retry_dead_letter(%s)", (number,))
    assert left(bot) == [number]


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_unknown_dead_letter_is_an_error(bot: Bot, verb: str) -> None:
    with pytest.raises(psycopg.errors.NoDataFound, match="there is no dead letter 7"):
        bot.execute(f"select bridge.{verb}_dead_letter(7)".encode())


async def test_rest_lists_retries_and_drops(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot)
    numbers = [add_event(bot, {"n": n}) for n in range(3)] + [add_delivery(bot, webhook)]
    async with calling(bridge_url) as client:
        page = (await client.get("/dead-letters", params={"limit": 2})).json()
        assert [each["id"] for each in page["items"]] == numbers[:1:-1]
        assert page["items"][0] | {"recorded_at": None, "captured_at": None} == {
            "id": numbers[3],
            "event_type": "user.created",
            "webhook_id": webhook,
            "event_id": 1,
            "captured_at": None,
            "recorded_at": None,
            "reason": "no way",
            "payload": None,
            "payload_omitted": False,
        }
        before = {"limit": 2, "before_id": page["next_before_id"]}
        page = (await client.get("/dead-letters", params=before)).json()
        assert [(each["id"], each["payload"]) for each in page["items"]] == [
            (numbers[1], {"n": 1}),
            (numbers[0], {"n": 0}),
        ]
        assert page["next_before_id"] is None
        assert (await client.get(f"/dead-letters/{numbers[0]}")).json() == page["items"][1]
        assert (await client.post(f"/dead-letters/{numbers[0]}/retry")).status_code == 204
        assert (await client.delete(f"/dead-letters/{numbers[1]}")).status_code == 204
        for method, path in (("POST", "/retry"), ("DELETE", ""), ("GET", "")):
            answer = await client.request(method, f"/dead-letters/{numbers[0]}{path}")
            assert (answer.status_code, answer.json()["detail"]) == (404, "Dead letter not found")
        bot.execute("delete from bridge.webhooks")
        answer = await client.post(f"/dead-letters/{numbers[3]}/retry")
        assert answer.status_code == 409
    assert left(bot) == numbers[2:]
    assert bot.execute("select event_type, payload from bridge.outbox").fetchall() == [
        ("user.created", {"n": 0})
    ]
    assert bot.execute(
        "select action, target_id, target, via from bridge.audit_log"
        " where action like 'dead%' order by id"
    ).fetchall() == [
        ("dead_letter.retried", numbers[0], "user.created", "api"),
        ("dead_letter.dropped", numbers[1], "user.created", "api"),
    ]


async def test_page_of_dead_letters_is_bounded_in_bytes(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_BYTES", 3000)
    add_event(bot, "small")
    add_event(bot, {"text": "x" * 100_000})  # is compressed
    number = add_event(bot)
    # Each number is stored in some bytes, and has 100,000 digits.
    bot.execute(
        "update bridge.dead_letters set payload = ("
        " select jsonb_agg(('1e' || 100000 + n)::numeric) from generate_series(1, 20) as n)"
        " where id = %s",
        (number,),
    )
    add_event(bot, reason="x" * 100_000)
    bot.execute(
        "update bridge.dead_letters set payload = %s::jsonb where id = %s",
        ("[" * 150 + "]" * 150, add_event(bot)),
    )
    async with calling(bridge_url) as client:
        answer = await client.get("/dead-letters", params={"limit": 200})
    items = answer.json()["items"]
    assert [(each["payload_omitted"], type(each["payload"])) for each in items] == [
        (False, str),
        (False, dict),
        *3 * [(True, type(None))],
    ]
    assert len(answer.content) < 10_000


async def test_console_shows_retries_and_drops(bridge_url: str, bot: Bot) -> None:
    add_delivery(bot, add_webhook(bot))
    first, second = (add_event(bot, {"text": HOSTILE}, reason=HOSTILE) for _ in range(2))
    async with signed_in(bridge_url) as browser:
        page = await browser.get("/console/dead-letters")
        assert "user. created" in shown(page)
        assert "no way" in shown(page)
        assert "<script>x" not in page.text
        done = await browser.post(
            f"/console/dead-letters/{first}/retry", data={}, follow_redirects=True
        )
        assert "It was put back." in shown(done)
        done = await browser.post(
            f"/console/dead-letters/{second}/drop", data={}, follow_redirects=True
        )
        assert "It was deleted." in shown(done)
        changes = shown(await browser.get("/console/audit"))
        assert "Dead letter retried" in changes
        assert "Dead letter dropped" in changes
        missing = await browser.post(f"/console/dead-letters/{first}/drop", data={})
        assert missing.status_code == 404
        bot.execute("delete from bridge.dead_letters")
        assert "No dead letters" in shown(await browser.get("/console/dead-letters"))
    assert bot.execute("select count(*) from bridge.outbox").fetchone() == (1,)


def test_commands_list_retry_and_drop(bridge_url: str, bot: Bot) -> None:
    first, second, third = (add_event(bot, {"n": n}) for n in range(3))
    listed = pgbridge("dead-letters", "list", "--json", url=bridge_url)
    assert [each["id"] for each in json.loads(listed.stdout)] == [third, second, first]
    table = pgbridge("dead-letters", "list", "--limit", "1", url=bridge_url)
    assert "no way" in table.stdout
    assert "there are more than 1" in table.stderr
    for verb, number in (("retry", first), ("drop", second)):
        done = pgbridge("dead-letters", verb, str(number), url=bridge_url)
        assert (done.returncode, done.stdout) == (0, "")
    again = pgbridge("dead-letters", "retry", str(first), url=bridge_url)
    assert (again.returncode, again.stderr) == (
        1,
        f"pgbridge: there is no dead letter {first}; see: pgbridge dead-letters list\n",
    )
    assert left(bot) == [third]
    assert bot.execute("select payload from bridge.outbox").fetchall() == [({"n": 0},)]


def test_doctor_and_status_name_dead_letters(bridge_url: str, bot: Bot) -> None:
    assert diagnose(bridge_url)["dead_letters"].level == "ok"
    webhook = add_webhook(bot)
    numbers = [add_event(bot, reason="no\nway"), add_delivery(bot, webhook)]
    finding = diagnose(bridge_url)["dead_letters"]
    assert finding.level == "error"
    assert finding.message.startswith(f"2 dead letters; {numbers[0]}: user.created, ")
    assert "(no way)" in finding.message
    assert f"{numbers[1]}: user.created for webhook {webhook}" in finding.message
    assert "pgbridge dead-letters retry" in finding.hint
    done = pgbridge("status", url=bridge_url)
    assert "2, the oldest set aside" in done.stdout


async def test_dead_letters_expire_with_failures(bridge_url: str, bot: Bot) -> None:
    old, new = add_event(bot), add_event(bot)
    bot.execute(
        "update bridge.dead_letters set recorded_at = now() - interval '8 days' where id = %s",
        (old,),
    )
    async with open_database(bridge_url) as database:
        upkeep = Upkeep(database, {}, Vault(), keep_dead_letters_days=7)
        await upkeep._delete_all("forget_dead_letters", 7)
    assert left(bot) == [new]
