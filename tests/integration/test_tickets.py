"""Tickets for the stream."""

from datetime import datetime, timedelta

import trio

from bridge.access.authenticator import Authenticator
from bridge.access.tokens import Grant
from bridge.bot.tokens import BotTokenTable
from bridge.database.pool import open_database
from tests.integration.bot_tokens import PLAIN, add_bot_token, sha256
from tests.integration.calling import TOKEN, Bot, add_token, calling


async def test_ticket_works_once_on_any_bridge(bridge_url: str, bot: Bot) -> None:
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


async def test_concurrent_uses_of_a_ticket_admit_one(bridge_url: str) -> None:
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


async def test_ticket_expires_with_its_time_and_its_token(
    bridge_url: str, bot: Bot, bot_tokens: Bot
) -> None:
    add_token(bot, "token", "events:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN, bot=BotTokenTable(database, PLAIN))

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
        # The bridge was restarted without the static token.
        assert await Authenticator(database, None).use_ticket(static) is None
        assert (await store.use_ticket(await ticket(TOKEN))) is not None


async def test_ticket_of_the_static_token_ends_with_the_setting(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        before = Authenticator(database, "the-one-that-leaked")
        grant = await before.authenticate("the-one-that-leaked")
        assert grant is not None
        ticket, _ = await before.create_ticket(grant)
        # Streams opened with the static token are not checked again, so its tickets must be.
        assert await Authenticator(database, "the-new-one").use_ticket(ticket) is None
        assert await Authenticator(database, "the-one-that-leaked").use_ticket(ticket) == grant


async def test_expired_tickets_are_deleted(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        await client.post("/ws/tickets")
        bot.execute("update bridge.ws_tickets set expires_at = now() - interval '1 second'")
        await client.post("/ws/tickets")
    assert len(bot.execute("select from bridge.ws_tickets").fetchall()) == 1


async def test_tickets_need_scope_events_read(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "token", "webhooks:write")
    async with calling(bridge_url, token="token") as client:
        assert (await client.post("/ws/tickets")).status_code == 403
