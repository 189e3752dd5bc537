"""Changes are audited, whatever made them."""

import json
from typing import Any

import pytest
import trio
from psycopg.rows import dict_row

from bridge.access.vault import Vault
from bridge.database.pool import open_database
from bridge.relay.upkeep import Upkeep
from tests.integration.calling import TOKEN, Bot, add_token, calling
from tests.system.processes import pgbridge

FORM = {"name": "crm", "url": "https://crm.example/hook", "event_type": "user.created"}
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def written(bot: Bot) -> list[dict[str, Any]]:
    """Return the audit log, oldest first."""
    with bot.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from bridge.audit_log order by id").fetchall()


def forget(bot: Bot) -> None:
    bot.execute("truncate bridge.audit_log")


@pytest.fixture(autouse=True)
def empty_audit_log(bot: Bot) -> None:
    """Empty the audit log, which records that init created the rules."""
    forget(bot)


async def test_rest_changes_are_attributed_to_the_token(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "token", "webhooks:write")
    forget(bot)
    async with calling(bridge_url, token="token", address="198.51.100.7") as client:
        webhook = (await client.post("/webhooks", json=FORM)).json()
        path = f"/webhooks/{webhook['id']}"
        await client.patch(path, json={"name": "crm 2", "is_active": False})
        await client.patch(path, json={"name": "crm 2"})  # changes nothing
        await client.post(f"{path}/pause")
        await client.delete(path)
    rows = written(bot)
    assert [row["action"] for row in rows] == [
        "webhook.created",
        "webhook.updated",
        "webhook.updated",
        "webhook.deleted",
    ]
    for row in rows:
        assert (row["via"], row["actor"]) == ("api", f"bridge token {token_id} (t)")
        assert (row["address"], row["target_id"]) == ("198.51.100.7", webhook["id"])
        assert row["db_role"] == "postgres"
    assert [row["target"] for row in rows] == ["crm", "crm 2", "crm 2", "crm 2"]
    assert rows[1]["changes"] == {
        "name": {"from": "crm", "to": "crm 2"},
        "is_active": {"from": True, "to": False},
    }
    assert rows[2]["changes"].keys() == {"paused_at"}
    assert rows[3]["changes"]["url"] == {"from": FORM["url"], "to": None}


async def test_secrets_are_not_recorded(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        form = {**FORM, "secret": "the-first-secret"}
        path = f"/webhooks/{(await client.post('/webhooks', json=form)).json()['id']}"
        await client.patch(path, json={"secret": "the-second-secret"})
        rotated = (await client.post(f"{path}/rotate-secret")).json()["secret"]
        await client.patch(path, json={"secret": None})
        made = (await client.post("/tokens", json={"name": "t", "scopes": ["admin"]})).json()
        page = await client.get("/audit")
    rows = written(bot)
    changes = [
        {name: change for name, change in row["changes"].items() if "secret" in name}
        for row in rows[:4]
    ]
    there, none = "(secret)", None
    assert changes == [
        {"secret": {"from": none, "to": there}},
        {"secret": {"from": there, "to": there}},
        {
            "secret": {"from": there, "to": there},
            "previous_secret": {"from": none, "to": there},
        },
        {
            "secret": {"from": there, "to": none},
            "previous_secret": {"from": there, "to": none},
        },
    ]
    assert rows[4]["changes"]["token_hash"] == {"from": none, "to": there}
    everything = json.dumps([{**row, "changed_at": None} for row in rows]) + page.text
    for secret in ("the-first-secret", "the-second-secret", rotated, made["token"], TOKEN):
        assert secret not in everything


async def test_redelivery_is_audited_but_not_a_dry_run(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = (await client.post("/webhooks", json=FORM)).json()["id"]
        bot.execute(
            """with event as (
                   insert into bridge.events (event_type, payload, occurred_at)
                   values ('user.created', '{}', now()) returning id, recorded_at
               )
               insert into bridge.delivery_queue
                   (webhook_id, event_id, event_recorded_at, event_type)
               select %s, id, recorded_at, 'user.created' from event""",
            [webhook],
        )
        [(delivery,)] = bot.execute("select id from bridge.delivery_queue").fetchall()
        forget(bot)
        await client.post(f"/deliveries/{delivery}/redeliver")
        since = {"since": "2020-01-01"}
        await client.post(f"/webhooks/{webhook}/redeliver", json=since)
        await client.post(f"/webhooks/{webhook}/redeliver", json={**since, "dry_run": False})
    first, second = written(bot)
    assert (first["action"], first["target_id"]) == ("delivery.redelivered", delivery)
    assert first["changes"] == {"webhook_id": webhook, "was_pending": True}
    assert (second["action"], second["target_id"]) == ("webhook.redelivered", webhook)
    assert second["changes"]["count"] == 0
    assert {first["actor"], second["actor"]} == {"BRIDGE_TOKEN"}


async def test_pages_of_large_changes_are_short(bridge_url: str, bot: Bot) -> None:
    forget(bot)
    for value in ("repeat('x', 175000)", "md5('a')", "repeat('x', 375000)", "repeat('x', 175000)"):
        bot.execute(
            f"select bridge.audit('thing.done', 1, null, jsonb_build_object('a', {value}))".encode()
        )
    pages: list[list[int]] = []
    before: int | None = None
    async with calling(bridge_url) as client:
        while before is not None or not pages:
            asked: dict[str, int] = {} if before is None else {"before_id": before}
            page = (await client.get("/audit", params=asked)).json()
            pages.append([len(item["changes"]["a"]) for item in page["items"]])
            before = page["next_before_id"]
    # A page has at least one change, and ends with the one that exceeds its size.
    assert pages == [[175_000, 375_000], [32, 175_000]]


def test_commands_are_attributed_to_their_user(bridge_url: str, bot: Bot) -> None:
    create = ("--name", "crm", "--url", "https://crm.example/", "--event-type", "*")
    for command, stdin in (
        (("token", "create", "--name", "dashboard", "--scope", "admin"), ""),
        (("token", "revoke", "1"), ""),
        (("webhooks", "create", *create, "--secret-stdin"), "the-secret-of-stdin"),
        (("webhooks", "pause", "1"), ""),
        (("capture", "pause", "user.created"), ""),
    ):
        done = pgbridge(*command, url=bridge_url, stdin=stdin, secret_key=KEY)
        assert done.returncode == 0, done.stderr
    rows = written(bot)
    assert [(row["action"], row["target"]) for row in rows] == [
        ("token.created", "dashboard"),
        ("token.updated", "dashboard"),
        ("webhook.created", "crm"),
        ("webhook.updated", "crm"),
        ("rule.updated", "user.created"),
    ]
    assert {row["via"] for row in rows} == {"cli"}
    assert all("@" in row["actor"] for row in rows)
    assert rows[1]["changes"].keys() == {"revoked_at"}
    assert "the-secret-of-stdin" not in str(rows)


def test_changes_in_psql_are_audited_with_the_role(bridge_url: str, bot: Bot) -> None:
    bot.execute("set application_name = psql")
    bot.execute(
        "insert into bridge.webhooks (name, url, event_type) values ('x', 'http://x/', '*')"
    )
    bot.execute("select bridge.pause_webhook(1)")
    bot.execute("update bridge.webhooks set success_count = 7, last_triggered_at = now()")
    created, paused = written(bot)
    assert created["action"] == "webhook.created"
    assert (paused["via"], paused["actor"], paused["db_role"]) == ("sql", "psql", "postgres")


def test_truncate_is_audited(bridge_url: str, bot: Bot) -> None:
    bot.execute("set application_name = psql")
    add_token(bot, "a", "admin")
    add_token(bot, "b", "admin")
    bot.execute(
        "insert into bridge.webhooks (name, url, event_type) values ('x', 'http://x/', '*')"
    )
    forget(bot)
    bot.execute("truncate bridge.api_tokens")
    bot.execute("truncate bridge.webhooks cascade")
    bot.execute("truncate bridge.capture_rules")
    rows = [row for row in written(bot) if (row["via"], row["db_role"]) == ("sql", "postgres")]
    emptied = {row["action"]: row["changes"]["count"] for row in rows}
    assert emptied == {"token.truncated": 2, "webhook.truncated": 1, "rule.truncated": 8}


@pytest.mark.parametrize(
    "setting",
    ["nonsense", "[]", "7", '{"via": "bridge", "actor": "x"}', '{"via": 7}', "{}", '"api"'],
)
def test_invalid_actor_setting_does_no_harm(bot: Bot, setting: str) -> None:
    bot.execute("select set_config('bridge.actor', %s, false)", [setting])
    bot.execute(
        "insert into bridge.webhooks (name, url, event_type) values ('x', 'http://x/', '*')"
    )
    [row] = written(bot)
    assert row["via"] == "sql"


async def test_automatic_changes_are_attributed_to_the_bridge(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.webhooks (name, url, event_type, secret)"
        " values ('x', 'http://x/', '*', 'in the clear')"
    )
    forget(bot)
    async with open_database(bridge_url) as database:
        await Upkeep(database, {}, Vault([KEY])).seal_secrets()
    [row] = written(bot)
    assert (row["via"], row["actor"]) == ("bridge", "pgbridge")
    assert row["changes"] == {"secret": {"from": "(secret)", "to": "(secret)"}}


async def test_actor_does_not_stay_in_the_session(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url, pool_size=1) as database:
        actor = json.dumps({"via": "api", "actor": "an actor"})
        add_token(bot, "a", "admin")
        add_token(bot, "b", "admin")
        forget(bot)
        await database.change(actor, "revoke_token", 1)
        await database.fetch("revoke_token", 2)
    assert [(row["via"], row["actor"]) for row in written(bot)] == [
        ("api", "an actor"),
        ("bridge", "pgbridge"),
    ]


async def test_actors_do_not_mix_behind_a_pooler(
    bridge_url: str, pooled_url: str, bot: Bot
) -> None:
    ids = [add_token(bot, f"token{number}", "admin") for number in range(40)]
    forget(bot)
    async with open_database(pooled_url, listen_url=bridge_url) as database:

        async def revoke(token_id: int) -> None:
            actor = json.dumps({"via": "api", "actor": f"actor {token_id}"})
            await database.change(actor, "revoke_token", token_id)

        async with trio.open_nursery() as nursery:
            for token_id in ids:
                nursery.start_soon(revoke, token_id)
    assert {row["target_id"]: row["actor"] for row in written(bot)} == {
        token_id: f"actor {token_id}" for token_id in ids
    }


async def test_failed_change_is_not_audited(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        assert (await client.post("/webhooks", json={**FORM, "filter": "$.("})).status_code == 422
        assert (await client.delete("/webhooks/7")).status_code == 404
    assert written(bot) == []


async def test_admin_reads_the_audit_log_in_pages(bridge_url: str, bot: Bot) -> None:
    for number in range(3):
        add_token(bot, f"token{number}", "webhooks:read")
    ids = [row["id"] for row in written(bot)][::-1]
    async with calling(bridge_url) as client:
        page = (await client.get("/audit?limit=2")).json()
        assert [each["id"] for each in page["items"]] == ids[:2]
        assert page["items"][0]["changes"]["name"] == {"from": None, "to": "t"}
        assert page["next_before_id"] == ids[1]
        page = (await client.get(f"/audit?limit=2&before_id={ids[1]}")).json()
        assert [each["id"] for each in page["items"]] == ids[2:]
        assert page["next_before_id"] is None


async def test_audit_entries_are_kept_at_least_a_month(bridge_url: str, bot: Bot) -> None:
    for days in (400, 100, 29):
        bot.execute(
            """insert into bridge.audit_log (changed_at, action, via, actor, changes)
               values (now() - make_interval(days => %s), 'x', 'sql', 'x', '{}')""",
            [days],
        )

    async def kept(days: int) -> int:
        async with open_database(bridge_url) as database:
            await database.fetch("forget_audit", days)
        return len(written(bot))

    assert await kept(365) == 2
    assert await kept(1) == 1


def test_every_webhook_column_is_audited_or_bookkeeping(bot: Bot) -> None:
    """A new column must be listed here or audited."""
    bookkeeping = {
        "id", "created_at", "updated_at", "last_triggered_at", "success_count", "failure_count",
        "failure_share", "failing_since", "probe_at", "paced_until", "delivered_count",
        "failed_count", "previous_secret_expires_at", "state",
    }  # fmt: skip
    columns = {
        name
        for (name,) in bot.execute(
            "select attname::text from pg_attribute"
            " where attrelid = 'bridge.webhooks'::regclass and attnum > 0 and not attisdropped"
        )
    }
    [(definition,)] = bot.execute(
        "select pg_get_triggerdef(oid) from pg_trigger"
        " where tgrelid = 'bridge.webhooks'::regclass and tgname = 'audit_update'"
    ).fetchall()
    audited = set(str(definition).rpartition("audit_change(")[2].replace("'", " ").split())
    assert columns - bookkeeping <= audited
    assert not bookkeeping & audited
