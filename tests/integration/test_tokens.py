"""API tokens over REST: create, use, list, revoke; scopes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from bridge.access.tokens import Grant, hash_token
from bridge.bot.tokens import BotTokens
from tests.integration.bot_tokens import SCOPES
from tests.integration.calling import Bot, add_token, calling


async def test_token_is_shown_once_and_works_until_revoked(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        form = {"name": "dashboard", "scopes": ["webhooks:write", "events:read:ticket.*"]}
        answer = await client.post("/tokens", json=form)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert made["token"].startswith(made["prefix"])
        assert made["scopes"] == ["events:read:ticket.*", "webhooks:write"]
        assert (made["state"], made["expires_at"], made["last_used_at"]) == ("valid", None, None)

        with_it = {"Authorization": f"Bearer {made['token']}"}
        assert (await client.get("/webhooks", headers=with_it)).status_code == 200
        page = (await client.get("/tokens")).json()
        assert page["total"] == 1
        assert made["token"] not in str(page)
        assert page["items"][0]["last_used_at"] is not None

        path = f"/tokens/{made['id']}"
        assert (await client.delete(path)).status_code == 204
        assert (await client.get("/webhooks", headers=with_it)).status_code == 401
        again = await client.delete(path)
        assert (again.status_code, again.json()) == (404, {"detail": "Token not found"})
        assert (await client.get("/tokens")).json()["items"][0]["state"] == "revoked"
    [(stored,)] = bot.execute("select to_jsonb(t)::text from bridge.api_tokens t").fetchall()
    assert made["token"] not in stored


async def test_expired_token_is_rejected(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        form = {"name": "t", "scopes": ["webhooks:read"], "expires_at": soon}
        made = (await client.post("/tokens", json=form)).json()
        assert datetime.fromisoformat(made["expires_at"]) == datetime.fromisoformat(soon)
        with_it = {"X-API-Key": made["token"]}
        assert (await client.get("/webhooks", headers=with_it)).status_code == 200
        bot.execute("update bridge.api_tokens set expires_at = now()")
        assert (await client.get("/webhooks", headers=with_it)).status_code == 401
        assert (await client.get("/tokens")).json()["items"][0]["state"] == "expired"


async def test_tokens_are_listed_newest_first(bridge_url: str, bot: Bot) -> None:
    ids = [add_token(bot, f"token{number}", "admin") for number in range(3)]
    async with calling(bridge_url) as client:
        page = (await client.get("/tokens?limit=2")).json()
        assert [each["id"] for each in page["items"]] == [ids[2], ids[1]]
        assert page["total"] == 3
        page = (await client.get("/tokens?limit=2&offset=2")).json()
        assert [each["id"] for each in page["items"]] == [ids[0]]
        assert (await client.get("/tokens?offset=9")).json() == {
            "items": [], "total": 3, "limit": 50, "offset": 9,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"name": "t", "scopes": []}, "scopes"),
        ({"name": "t", "scopes": ["root"]}, "scopes"),
        ({"name": "t", "scopes": ["events:read:ticket"] * 101}, "scopes"),
        ({"name": "t", "scopes": ["events:read:a*"]}, "scopes"),
        ({"name": "t", "scopes": ["admin\n"]}, "scopes"),
        ({"name": "t", "scopes": "admin"}, "scopes"),
        ({"name": "", "scopes": ["admin"]}, "name"),
        ({"name": "a\0b", "scopes": ["admin"]}, "name"),
        ({"name": "x" * 256, "scopes": ["admin"]}, "name"),
        ({"name": "t", "scopes": ["admin"], "expires_at": "soon"}, "expires_at"),
        ({"scopes": ["admin"]}, "name"),
    ],
    ids=range(11),
)
async def test_invalid_token_form_is_rejected(
    bridge_url: str, form: dict[str, Any], field: str
) -> None:
    async with calling(bridge_url) as client:
        answer = await client.post("/tokens", json=form)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


async def test_tokens_and_audit_log_need_scope_admin(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "webhooks:write", "events:read")
    async with calling(bridge_url, token="token") as client:
        for method, path in (
            ("GET", "/tokens"), ("POST", "/tokens"), ("DELETE", "/tokens/1"), ("GET", "/audit"),
        ):  # fmt: skip
            answer = await client.request(method, path)
            assert answer.status_code == 403
            assert answer.json() == {"detail": "This API key does not have the scope admin"}


def test_database_rejects_unknown_scopes(bot: Bot) -> None:
    for scopes in (
        [],
        ["root"],
        ["events:read:a*"],
        ["admin "],
        ["admin", " admin"],
        ["admin admin"],
        ["admin\n"],
        [None],
        ["a" * 300],
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            bot.execute(
                "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
                " values ('t', 'x', 'p', %s)",
                [scopes],
            )
    add_token(bot, "t", "events:read:*", "events:read:ticket.*", "events:read:a-b_c.D.*", "admin")


async def test_last_use_is_stored_once_a_minute(bridge_url: str, bot: Bot) -> None:
    def used_at() -> object:
        [(moment,)] = bot.execute("select last_used_at from bridge.api_tokens").fetchall()
        return moment

    add_token(bot, "token", "webhooks:read")
    async with calling(bridge_url, token="token") as client:
        await client.get("/webhooks")
        first = used_at()
        assert first is not None
        await client.get("/webhooks")
        assert used_at() == first
        bot.execute("update bridge.api_tokens set last_used_at = now() - interval '61 seconds'")
        await client.get("/webhooks")
        assert used_at() > first  # type: ignore[operator]


async def test_polling_is_limited_to_the_tokens_event_types(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "events:read:ticket.*", "events:read:user.created")
    for event_type in ("ticket.created", "user.created", "user.deleted", "ticket.closed"):
        bot.execute(
            "insert into bridge.events (event_type, payload, occurred_at) values (%s, '{}', now())",
            [event_type],
        )
    async with calling(bridge_url, token="token") as client:

        async def types(query: str) -> list[str]:
            answer = await client.get(f"/events{query}")
            assert answer.status_code == 200, answer.text
            return [each["type"] for each in answer.json()["items"]]

        assert await types("") == ["ticket.created", "user.created", "ticket.closed"]
        assert await types("?event_type=*") == ["ticket.created", "user.created", "ticket.closed"]
        assert await types("?event_type=user.*,ticket.closed") == ["user.created", "ticket.closed"]
        refused = await client.get("/events?event_type=ticket.*,user.deleted")
        assert refused.status_code == 403
        assert refused.json() == {"detail": "This API key cannot read user.deleted"}


def test_printed_grants_contain_no_secret() -> None:
    grant = Grant(3, "dashboard", SCOPES, "bot")
    assert str(grant) == "bot token 3 (dashboard)"
    assert "key" not in repr(BotTokens("sha256", b"key", SCOPES))
    assert hash_token("\ud800") != hash_token("?")  # not UTF-8, but still one token
