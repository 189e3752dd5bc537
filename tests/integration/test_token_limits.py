"""Rate limits per token, and limits of failed attempts per address."""

from ipaddress import ip_network
from typing import Any

import pytest
import structlog
import trio

from bridge.access.authenticator import LOOKUP_CONNECTIONS, Authenticator, TooManyFailuresError
from bridge.access.throttle import Throttle
from bridge.bot.tokens import BotTokenTable
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from tests.integration.bot_tokens import PLAIN, add_bot_token, sha256
from tests.integration.calling import TOKEN, Bot, add_token, calling


async def test_token_over_its_rate_gets_429_and_others_do_not(bridge_url: str, bot: Bot) -> None:
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


async def test_guessing_blocks_new_tokens_from_that_address_only(bridge_url: str, bot: Bot) -> None:
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
        # Tokens seen before still work from this address, which may be an untrusted proxy.
        assert await status("right") == 200
        assert await status(TOKEN) == 200
        assert await status("new") == 429
        bot.execute("update bridge.api_tokens set revoked_at = now()")
        assert await status("right") == 401
        with structlog.testing.capture_logs() as logs:
            assert [await status("right") for _ in range(3)] == [429] * 3
    assert logs == []  # logged at most once a minute


async def test_concurrent_guesses_do_not_exceed_the_limit(bridge_url: str) -> None:
    async with calling(bridge_url, token=None, failures=Throttle(0.01, 5)) as client:
        statuses: list[int] = []

        async def guess(number: int) -> None:
            answer = await client.get("/webhooks", headers={"X-API-Key": f"wrong{number}"})
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(guess, number)
    # Plus those whose lookup was already running.
    refused = statuses.count(401)
    assert 5 <= refused < 5 + LOOKUP_CONNECTIONS
    assert statuses.count(429) == 40 - refused


async def test_concurrent_valid_tokens_are_not_blocked(bridge_url: str, bot: Bot) -> None:
    tokens = [f"right{number}" for number in range(10)]
    for token in tokens:
        add_token(bot, token, "webhooks:read")
    # As after a restart, with an office behind one address.
    async with calling(bridge_url, token=None, failures=Throttle(0.01, 2)) as client:
        statuses: list[int] = []

        async def come(token: str) -> None:
            answer = await client.get("/webhooks", headers={"X-API-Key": token})
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for token in tokens * 4:
                nursery.start_soon(come, token)
    assert statuses == [200] * 40


async def test_blocked_address_does_not_learn_of_a_right_guess(
    bridge_url: str, bot: Bot, bot_tokens: Bot
) -> None:
    add_token(bot, "ours", "webhooks:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    attacker, dashboard = "198.51.100.1", "198.51.100.2"
    async with open_database(bridge_url) as database:
        store = Authenticator(
            database, TOKEN, bot=BotTokenTable(database, PLAIN), failures=Throttle(0.01, 2)
        )
        tokens = (TOKEN, "ours", "bot-token")
        for number in range(2):
            assert await store.authenticate(f"wrong{number}", attacker) is None
        # Another client uses these tokens.
        for token in tokens:
            assert await store.authenticate(token, dashboard) is not None
        for token in ("wrong", *tokens):
            with pytest.raises(TooManyFailuresError):
                await store.authenticate(token, attacker)
        # They keep working there, even after failures from the same address.
        for number in range(2):
            assert await store.authenticate(f"wrong{number}", dashboard) is None
        for token in tokens:
            assert await store.authenticate(token, dashboard) is not None


async def test_only_trusted_proxies_name_the_guessing_client(bridge_url: str) -> None:
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


async def test_guessed_tickets_count_as_failed_attempts(bridge_url: str, bot: Bot) -> None:
    async with open_database(bridge_url) as database:
        store = Authenticator(database, TOKEN, failures=Throttle(0.01, 2))
        assert await store.use_ticket("pgt_wrong", "198.51.100.1") is None
        assert await store.authenticate("wrong", "198.51.100.1") is None
        with pytest.raises(TooManyFailuresError) as caught:
            await store.use_ticket("pgt_wrong", "198.51.100.1")
        assert caught.value.retry_seconds == pytest.approx(100, rel=0.2)
        assert await store.use_ticket("pgt_wrong", "198.51.100.2") is None


async def test_valid_ticket_passes_after_failures_from_its_address(
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


async def test_database_outage_is_not_a_failed_attempt(bridge_url: str) -> None:
    class Away:
        async def fetch(self, *_: object) -> None:
            raise DatabaseUnavailable("away")

    store = Authenticator(Away(), None, failures=Throttle(0.01, 1))  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("token", "198.51.100.1")
        with pytest.raises(DatabaseUnavailable):
            await store.use_ticket("ticket", "198.51.100.1")
