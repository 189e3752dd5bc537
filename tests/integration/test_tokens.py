"""Tokens over REST: made, revoked, counted; the bot's own; tickets."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import structlog
import trio

from bridge.access.authenticator import LOOKUP_CONNECTIONS, Authenticator, TooManyFailuresError
from bridge.access.throttle import Throttle
from bridge.access.tokens import BotTokens, Grant, hash_token
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from tests.integration.calling import TOKEN, Bot, add_token, calling

SCOPES = frozenset(["events:read", "webhooks:read"])
PLAIN = BotTokens("sha256", None, SCOPES)


@pytest.fixture
def bot_tokens(bot: Bot) -> Iterator[Bot]:
    """The bot's table of tokens, as its migrations make it."""
    bot.execute("""
        create table public.web_api_tokens (
            id serial primary key,
            name varchar(255) not null,
            token_hash varchar(128) not null unique,
            token_prefix varchar(32) not null,
            description text,
            created_at timestamptz,
            updated_at timestamptz,
            expires_at timestamptz,
            last_used_at timestamptz,
            last_used_ip varchar(64),
            is_active boolean)""")
    yield bot
    bot.execute("drop table public.web_api_tokens")


def add_bot_token(
    bot: Bot, token_hash: str, *, active: bool | None = True, expires: str = "null"
) -> int:
    [(token_id,)] = bot.execute(
        "insert into public.web_api_tokens (name, token_hash, token_prefix, is_active, expires_at)"
        f" values ('admin panel', %s, 'abc', %s, {expires}) returning id".encode(),
        [token_hash, active],
    ).fetchall()
    assert isinstance(token_id, int)
    return token_id


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# --- made and revoked over REST


async def test_a_token_is_shown_once_and_works_until_it_is_revoked(
    bridge_url: str, bot: Bot
) -> None:
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


async def test_a_token_expires(bridge_url: str, bot: Bot) -> None:
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


async def test_tokens_come_in_pages_newest_first(bridge_url: str, bot: Bot) -> None:
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
async def test_a_token_that_cannot_be_is_refused(
    bridge_url: str, form: dict[str, Any], field: str
) -> None:
    async with calling(bridge_url) as client:
        answer = await client.post("/tokens", json=form)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


async def test_only_an_admin_manages_tokens_and_reads_the_audit_log(
    bridge_url: str, bot: Bot
) -> None:
    add_token(bot, "token", "webhooks:write", "events:read")
    async with calling(bridge_url, token="token") as client:
        for method, path in (
            ("GET", "/tokens"), ("POST", "/tokens"), ("DELETE", "/tokens/1"), ("GET", "/audit"),
        ):  # fmt: skip
            answer = await client.request(method, path)
            assert answer.status_code == 403
            assert answer.json() == {"detail": "This API key does not have the scope admin"}


def test_the_database_takes_no_other_scopes_either(bot: Bot) -> None:
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


# --- how often


async def test_the_use_of_a_token_is_noted_once_a_minute(bridge_url: str, bot: Bot) -> None:
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


async def test_a_token_that_asks_too_often_is_told_when_it_may_and_others_may(
    bridge_url: str, bot: Bot
) -> None:
    add_token(bot, "greedy", "webhooks:read")
    add_token(bot, "modest", "webhooks:read")
    async with calling(bridge_url, token="greedy", requests=Throttle(0.01, 3)) as client:
        answers = [await client.get("/webhooks") for _ in range(5)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429, 429]
        assert answers[3].json() == {"detail": "Too many requests with this API key"}
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 100
        for token in "modest", TOKEN:
            answer = await client.get("/webhooks", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200


async def test_who_guesses_tokens_is_held_and_nobody_else(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "right", "webhooks:read")
    add_token(bot, "new", "webhooks:read")
    async with calling(bridge_url, token=None, failures=Throttle(0.01, 3)) as client:

        async def status(token: str) -> int:
            answer = await client.get("/webhooks", headers={"X-API-Key": token})
            if answer.status_code == 429:
                assert answer.json() == {"detail": "Too many failed attempts"}
                assert 1 <= int(answer.headers["Retry-After"]) <= 100
            return answer.status_code

        assert [await status("right") for _ in range(10)] == [200] * 10
        assert await status(TOKEN) == 200
        with structlog.testing.capture_logs() as logs:
            wrong = [await status(f"wrong{number}") for number in range(5)]
        assert wrong == [401, 401, 401, 429, 429]
        [entry] = logs
        assert (entry["event"], entry["address"]) == ("address_blocked", "127.0.0.1")
        # Who was let in before still is, though from the same address: behind a proxy that is not
        # named here, all are.
        assert await status("right") == 200
        assert await status(TOKEN) == 200
        assert await status("new") == 429
        bot.execute("update bridge.api_tokens set revoked_at = now()")
        assert await status("right") == 401
        with structlog.testing.capture_logs() as logs:
            assert [await status("right") for _ in range(3)] == [429] * 3
    assert logs == []  # it was told before, and is told once a minute


async def test_of_guesses_at_once_no_more_are_looked_up_than_may_fail(bridge_url: str) -> None:
    async with calling(bridge_url, token=None, failures=Throttle(0.01, 5)) as client:
        statuses: list[int] = []

        async def guess(number: int) -> None:
            answer = await client.get("/webhooks", headers={"X-API-Key": f"wrong{number}"})
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(guess, number)
    # And as many as are looked up beside the last of them.
    refused = statuses.count(401)
    assert 5 <= refused < 5 + LOOKUP_CONNECTIONS
    assert statuses.count(429) == 40 - refused


async def test_whoever_has_a_right_token_is_not_held_for_others_who_come_at_once(
    bridge_url: str, bot: Bot
) -> None:
    tokens = [f"right{number}" for number in range(10)]
    for token in tokens:
        add_token(bot, token, "webhooks:read")
    # A bridge that has just started knows none of them, and all are behind one address.
    async with calling(bridge_url, token=None, failures=Throttle(0.01, 2)) as client:
        statuses: list[int] = []

        async def come(token: str) -> None:
            answer = await client.get("/webhooks", headers={"X-API-Key": token})
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for token in tokens * 4:
                nursery.start_soon(come, token)
    assert statuses == [200] * 40


async def test_who_is_held_does_not_learn_that_a_guess_was_right(
    bridge_url: str, bot: Bot, bot_tokens: Bot
) -> None:
    add_token(bot, "ours", "webhooks:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    attacker, dashboard = "198.51.100.1", "198.51.100.2"
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN, bot=PLAIN, failures=Throttle(0.01, 2))
        tokens = (TOKEN, "ours", "bot-token")
        for number in range(2):
            assert await store.authenticate(f"wrong{number}", attacker) is None
        # Others use these tokens all the time.
        for token in tokens:
            assert await store.authenticate(token, dashboard) is not None
        for token in ("wrong", *tokens):
            with pytest.raises(TooManyFailuresError):
                await store.authenticate(token, attacker)
        # Where they are used, they go on to be, whoever guesses there.
        for number in range(2):
            assert await store.authenticate(f"wrong{number}", dashboard) is None
        for token in tokens:
            assert await store.authenticate(token, dashboard) is not None


async def test_only_a_named_proxy_says_who_guesses(bridge_url: str) -> None:
    from ipaddress import ip_network

    async def statuses(**options: Any) -> list[int]:
        async with calling(bridge_url, token=None, failures=Throttle(0.01, 1), **options) as client:
            return [
                (
                    await client.get(
                        "/webhooks",
                        headers={"X-API-Key": "wrong", "X-Forwarded-For": f"198.51.100.{host}"},
                    )
                ).status_code
                for host in (1, 2, 1)
            ]

    assert await statuses() == [401, 429, 429]
    assert await statuses(proxies=[ip_network("10.0.0.0/8")]) == [401, 429, 429]
    assert await statuses(proxies=[ip_network("127.0.0.1/32")]) == [401, 401, 429]


# --- the bot's own tokens


@pytest.mark.parametrize(
    ("known", "stored"),
    [
        (PLAIN, sha256("bot-token")),
        (BotTokens("sha384", None, SCOPES), hashlib.sha384(b"bot-token").hexdigest()),
        (BotTokens("sha512", None, SCOPES), hashlib.sha512(b"bot-token").hexdigest()),
        (
            BotTokens("sha256", b"key", SCOPES),
            hmac.new(b"key", b"bot-token", hashlib.sha256).hexdigest(),
        ),
        (
            BotTokens("sha512", b"key", SCOPES),
            hmac.new(b"key", b"bot-token", hashlib.sha512).hexdigest(),
        ),
    ],
    ids=["sha256", "sha384", "sha512", "hmac", "hmac-sha512"],
)
async def test_a_token_of_the_bot_works_as_it_is(
    bridge_url: str, bot_tokens: Bot, known: BotTokens, stored: str
) -> None:
    add_bot_token(bot_tokens, stored)
    before = bot_tokens.execute("select * from public.web_api_tokens").fetchall()
    async with calling(bridge_url, token="bot-token", bot_tokens=known) as client:
        assert (await client.get("/webhooks")).status_code == 200
        refused = await client.post("/webhooks", json={})
        assert refused.status_code == 403
        wrong = await client.get("/webhooks", headers={"Authorization": f"Bearer {stored}"})
        assert wrong.status_code == 401
    # It is the bot's: not even its last use is written.
    assert bot_tokens.execute("select * from public.web_api_tokens").fetchall() == before


async def test_a_token_of_the_bot_is_valid_by_the_bots_rules(
    bridge_url: str, bot_tokens: Bot
) -> None:
    add_bot_token(bot_tokens, sha256("active"), expires="now() + interval '1 hour'")
    add_bot_token(bot_tokens, sha256("inactive"), active=False)
    add_bot_token(bot_tokens, sha256("never active"), active=None)
    add_bot_token(bot_tokens, sha256("expired"), expires="now() - interval '1 second'")
    async with calling(bridge_url, token=None, bot_tokens=PLAIN) as client:
        statuses = {
            token: (await client.get("/webhooks", headers={"X-API-Key": token})).status_code
            for token in ("active", "inactive", "never active", "expired", "unknown")
        }
    assert statuses == {
        "active": 200, "inactive": 401, "never active": 401, "expired": 401, "unknown": 401,
    }  # fmt: skip


async def test_without_the_setting_the_bots_tokens_are_unknown(
    bridge_url: str, bot_tokens: Bot
) -> None:
    add_bot_token(bot_tokens, sha256("bot-token"))
    async with calling(bridge_url, token="bot-token") as client:
        assert (await client.get("/webhooks")).status_code == 401


async def test_an_older_bot_has_times_without_a_zone_that_are_utc(
    bridge_url: str, bot_tokens: Bot
) -> None:
    bot_tokens.execute(
        "alter table public.web_api_tokens alter column expires_at type timestamp"
        " using expires_at at time zone 'UTC'"
    )
    utc = "now() at time zone 'UTC'"
    add_bot_token(bot_tokens, sha256("valid"), expires=f"{utc} + interval '1 minute'")
    add_bot_token(bot_tokens, sha256("expired"), expires=f"{utc} - interval '1 minute'")
    async with calling(bridge_url, token="valid", bot_tokens=PLAIN) as client:
        assert (await client.get("/webhooks")).status_code == 200
        expired = await client.get("/webhooks", headers={"Authorization": "Bearer expired"})
        assert expired.status_code == 401


async def test_a_release_of_the_bot_that_moves_its_table_shuts_out_nobody_else(
    bridge_url: str, bot_tokens: Bot
) -> None:
    add_bot_token(bot_tokens, sha256("bot-token"))
    add_token(bot_tokens, "ours", "webhooks:read")
    bot_tokens.execute("alter table public.web_api_tokens rename column is_active to active")
    async with calling(bridge_url, token="bot-token", bot_tokens=PLAIN) as client:
        with structlog.testing.capture_logs() as logs:
            answers = [await client.get("/webhooks") for _ in range(3)]
            ours = await client.get("/webhooks", headers={"Authorization": "Bearer ours"})
    # Not 401, on which a dashboard would throw its token away.
    assert [each.status_code for each in answers] == [503] * 3
    assert answers[0].json() == {"detail": "Database unavailable"}
    assert ours.status_code == 200
    [entry] = [each for each in logs if each["event"] == "bot_token_lookup_failed"]
    assert "is_active" in entry["reason"]


async def test_a_lock_on_the_bots_table_keeps_out_nobody_else(
    bridge_url: str, bot: Bot, bot_tokens: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.database.shares.SHARE_SECONDS", 0.2)
    add_token(bot, "ours", "webhooks:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    answered: list[int] = []
    async with calling(bridge_url, token=None, bot_tokens=PLAIN) as client:

        async def status(token: str) -> int:
            return (await client.get("/webhooks", headers={"X-API-Key": token})).status_code

        async def come_too_early() -> None:
            answered.append(await status("bot-token"))

        with trio.fail_after(25):
            async with trio.open_nursery() as nursery:
                # As a migration of the bot does, for as long as it takes.
                with bot_tokens.transaction():
                    bot_tokens.execute("lock table public.web_api_tokens")
                    for _ in range(8):
                        nursery.start_soon(come_too_early)
                    while len(answered) < 7:  # one is being looked up
                        assert await status("ours") == 200
            assert answered == [503] * 7 + [200]


# --- tickets


async def test_a_ticket_is_good_for_one_use_on_any_bridge(bridge_url: str, bot: Bot) -> None:
    token_id = add_token(bot, "token", "events:read:ticket.*")
    async with calling(bridge_url, token="token") as client:
        answer = await client.post("/ws/tickets")
        assert answer.status_code == 201, answer.text
        ticket = answer.json()["ticket"]
        expires_at = datetime.fromisoformat(answer.json()["expires_at"])
    [(now,)] = bot.execute("select now()").fetchall()
    assert timedelta(0) < expires_at - now <= timedelta(seconds=30)
    async with open_database(bridge_url) as database:
        another_bridge = Authenticator(database, None)
        scopes = frozenset(["events:read:ticket.*"])
        assert await another_bridge.use_ticket(ticket) == Grant(token_id, "t", scopes)
        assert await another_bridge.use_ticket(ticket) is None
    assert bot.execute("select from bridge.ws_tickets").fetchall() == []


async def test_of_many_who_use_a_ticket_at_once_one_gets_in(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN)
        grant = await store.authenticate(TOKEN)
        assert grant is not None
        ticket, _ = await store.create_ticket(grant)
        let_in: list[Grant | None] = []

        async def use() -> None:
            let_in.append(await Authenticator(database, TOKEN).use_ticket(ticket))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(use)
        assert sorted(each is not None for each in let_in) == [False] * 7 + [True]


async def test_a_ticket_ends_with_its_time_and_with_its_token(
    bridge_url: str, bot: Bot, bot_tokens: Bot
) -> None:
    add_token(bot, "token", "events:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN, bot=PLAIN)

        async def ticket(token: str) -> str:
            grant = await store.authenticate(token)
            assert grant is not None
            return (await store.create_ticket(grant))[0]

        late = await ticket("token")
        bot.execute("update bridge.ws_tickets set expires_at = now()")
        assert await store.use_ticket(late) is None

        revoked, deactivated, static = [
            await ticket(token) for token in ("token", "bot-token", TOKEN)
        ]
        bot.execute("update bridge.api_tokens set revoked_at = now()")
        bot.execute("update public.web_api_tokens set is_active = false")
        assert await store.use_ticket(revoked) is None
        assert await store.use_ticket(deactivated) is None
        # The setting was changed: the bridge was started anew with another token, or without one.
        assert await Authenticator(database, None).use_ticket(static) is None
        assert (await store.use_ticket(await ticket(TOKEN))) is not None


async def test_a_ticket_of_the_setting_ends_with_the_setting(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        before = Authenticator(database, "the-one-that-leaked")
        grant = await before.authenticate("the-one-that-leaked")
        assert grant is not None
        ticket, _ = await before.create_ticket(grant)
        # Nobody looks after a stream that is opened with the setting's token: that cannot change.
        assert await Authenticator(database, "the-new-one").use_ticket(ticket) is None
        assert await Authenticator(database, "the-one-that-leaked").use_ticket(ticket) == grant


async def test_a_ticket_is_not_held_for_who_guesses_where_it_is_used(
    bridge_url: str, bot: Bot
) -> None:
    add_token(bot, "token", "events:read")
    proxy = "198.51.100.1"
    async with open_database(bridge_url) as database:
        store = Authenticator(database, None, failures=Throttle(0.01, 1))
        grant = await store.authenticate("token", "10.0.0.1")
        assert grant is not None
        ticket, _ = await store.create_ticket(grant)
        assert await store.authenticate("wrong", proxy) is None
        assert await store.use_ticket(ticket, proxy) == grant
        for used in (ticket, "pgt_wrong"):
            with pytest.raises(TooManyFailuresError):
                await store.use_ticket(used, proxy)


async def test_tickets_that_nobody_used_are_forgotten(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        await client.post("/ws/tickets")
        bot.execute("update bridge.ws_tickets set expires_at = now() - interval '1 second'")
        await client.post("/ws/tickets")
    assert len(bot.execute("select from bridge.ws_tickets").fetchall()) == 1


async def test_who_may_not_listen_gets_no_ticket(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "webhooks:write")
    async with calling(bridge_url, token="token") as client:
        assert (await client.post("/ws/tickets")).status_code == 403


async def test_who_guesses_tickets_is_held_like_who_guesses_tokens(
    bridge_url: str, bot: Bot
) -> None:
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN, failures=Throttle(0.01, 2))
        assert await store.use_ticket("pgt_wrong", "198.51.100.1") is None
        assert await store.authenticate("wrong", "198.51.100.1") is None
        with pytest.raises(TooManyFailuresError) as caught:
            await store.use_ticket("pgt_wrong", "198.51.100.1")
        assert caught.value.retry_seconds == pytest.approx(100, rel=0.2)
        assert await store.use_ticket("pgt_wrong", "198.51.100.2") is None


async def test_a_database_that_is_away_is_nobodys_failed_attempt(bridge_url: str) -> None:
    class Away:
        async def fetch(self, *_: object) -> None:
            raise DatabaseUnavailable("away")

    store = Authenticator(Away(), None, failures=Throttle(0.01, 1))  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("token", "198.51.100.1")
        with pytest.raises(DatabaseUnavailable):
            await store.use_ticket("ticket", "198.51.100.1")


def test_nothing_of_a_token_is_in_what_is_printed_of_it() -> None:
    grant = Grant(3, "dashboard", SCOPES, "bot")
    assert str(grant) == "bot token 3 (dashboard)"
    assert "key" not in repr(BotTokens("sha256", b"key", SCOPES))
    assert hash_token("\ud800") != hash_token("?")  # what no UTF-8 is, is still one token


# --- the log


async def test_who_polls_sees_what_the_token_is_for(bridge_url: str, bot: Bot) -> None:
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
