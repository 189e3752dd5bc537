"""How much may be created: webhooks, tokens, tickets and sessions, and what happens beyond that."""

import httpx
import pytest
import trio

from bridge.access import authenticator
from bridge.access.authenticator import Authenticator, TooManyTicketsError
from bridge.access.tokens import Grant
from bridge.database.pool import open_database
from tests.integration.calling import FORM, TOKEN, Bot, add_token, calling, create
from tests.integration.console_pages import shown, signed_in
from tests.system.processes import complaint, pgbridge
from tests.waiting import PATIENCE_SECONDS
from tests.webhook_rows import add_webhook

SCOPED = {"name": "x", "scopes": ["events:read"]}
FIRST = Grant(1, "first", frozenset(["admin"]))
SECOND = Grant(2, "second", frozenset(["admin"]))
#: Of the settings, so without an id.
STATIC = Grant(None, "BRIDGE_TOKEN", frozenset(["admin"]), "setting")


def counted(bot: Bot, table: str) -> int:
    [(count,)] = bot.execute(f"select count(*) from bridge.{table}".encode()).fetchall()
    return int(count)


# --- webhooks and tokens


async def test_webhooks_above_the_limit_are_refused(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url, max_webhooks=2) as client:
        webhooks = [await create(client, is_active=False) for _ in range(2)]
        refused = await client.post("/webhooks", json=FORM)
        assert refused.status_code == 409
        assert refused.json() == {
            "detail": "there are already 2 webhooks, the limit of BRIDGE_MAX_WEBHOOKS; delete "
            "some, or raise it"
        }
        path = f"/webhooks/{webhooks[0]['id']}"
        assert (await client.patch(path, json={"name": "Other"})).status_code == 200
        assert (await client.delete(path)).status_code == 204
        await create(client)
    # The operator is not limited, and a lower limit deletes nothing.
    add_webhook(bot)
    assert counted(bot, "webhooks") == 3


async def test_valid_tokens_above_the_limit_are_refused(bridge_url: str, bot: Bot) -> None:
    add_token(bot, "expired", "admin", expires="now()")
    add_token(bot, "revoked", "admin", revoked="now()")
    async with calling(bridge_url, max_tokens=1) as client:
        created = await client.post("/tokens", json=SCOPED)
        assert created.status_code == 201
        refused = await client.post("/tokens", json=SCOPED)
        assert refused.status_code == 409
        assert refused.json() == {
            "detail": "there are already 1 valid tokens, the limit of BRIDGE_MAX_TOKENS; revoke "
            "some, or raise it"
        }
        await client.delete(f"/tokens/{created.json()['id']}")
        assert (await client.post("/tokens", json=SCOPED)).status_code == 201


@pytest.mark.parametrize(
    ("path", "form", "table"), [("/webhooks", FORM, "webhooks"), ("/tokens", SCOPED, "api_tokens")]
)
async def test_concurrent_requests_exceed_the_limit_by_at_most_one_each(
    bridge_url: str, bot: Bot, path: str, form: dict[str, object], table: str
) -> None:
    at_once, most = 8, 3
    answers: list[int] = []

    async def post(client: httpx.AsyncClient) -> None:
        answers.append((await client.post(path, json=form)).status_code)

    async with calling(bridge_url, max_webhooks=most, max_tokens=most) as client:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(post, client)
    assert set(answers) <= {201, 409}
    assert most <= counted(bot, table) == answers.count(201) < most + at_once


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Nothing was created"), ("ru", "Ничего не создано")]
)
async def test_forms_name_the_setting(bridge_url: str, bot: Bot, language: str, words: str) -> None:
    add_webhook(bot)
    add_token(bot, "t", "admin")
    async with signed_in(bridge_url, max_webhooks=1, max_tokens=1) as browser:
        browser.headers["Accept-Language"] = language
        usual = {"timeout_seconds": "15", "max_concurrency": "4", "secret_choice": "generate"}
        page = await browser.post("/console/webhooks/new", data={**FORM, **usual})
        assert page.status_code == 409
        assert words in shown(page)
        assert "BRIDGE_MAX_WEBHOOKS" in shown(page)
        assert FORM["url"] in page.text, "the input is kept"
        token = {"name": "mine", "scopes": "events:read", "expiry": "never"}
        page = await browser.post("/console/tokens/new", data=token)
        assert page.status_code == 409
        assert words in shown(page)
        assert "BRIDGE_MAX_TOKENS" in shown(page)
        assert "mine" in page.text
    assert (counted(bot, "webhooks"), counted(bot, "api_tokens")) == (1, 1)


def test_commands_fail_in_one_line(bridge_url: str, bot: Bot) -> None:
    add_webhook(bot)
    add_token(bot, "t", "admin")
    create_webhook = ("webhooks", "create", "--name", "x", "--url", "http://x/", "--event-type")
    done = pgbridge(*create_webhook, "*", url=bridge_url, max_webhooks=1)
    assert "the limit of BRIDGE_MAX_WEBHOOKS" in complaint(done, 1)
    done = pgbridge("token", "create", "--name", "x", url=bridge_url, max_tokens=1)
    assert "the limit of BRIDGE_MAX_TOKENS" in complaint(done, 1)
    assert (counted(bot, "webhooks"), counted(bot, "api_tokens")) == (1, 1)


def test_import_above_the_limit_copies_nothing(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "create table public.webhooks as select 'a' as name, 'http://x/' || n as url,"
        " '*' as event_type, null as secret, null as description from generate_series(1, 3) n"
    )
    done = pgbridge("webhooks", "import", url=bridge_url, max_webhooks=2)
    assert "the limit of BRIDGE_MAX_WEBHOOKS" in complaint(done, 1)
    assert counted(bot, "webhooks") == 0


# --- tickets and sessions


@pytest.mark.parametrize("grant", [FIRST, STATIC], ids=["of a table", "of the settings"])
async def test_unused_tickets_of_a_token_are_bounded(
    bridge_url: str, bot: Bot, grant: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "MOST_TICKETS_OF_TOKEN", 2)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database:
            store = Authenticator(database, TOKEN)
            ticket, _ = await store.create_ticket(grant)
            await store.create_ticket(grant)
            with pytest.raises(TooManyTicketsError):
                await store.create_ticket(grant)
            await store.create_ticket(SECOND)
            # Used and expired ones do not count.
            await store.use_ticket(ticket)
            await store.create_ticket(grant)
            bot.execute("update bridge.ws_tickets set expires_at = now() - interval '1 second'")
            await store.create_ticket(grant)
    assert counted(bot, "ws_tickets") == 1


async def test_unused_tickets_are_bounded_in_all(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "MOST_TICKETS", 2)
    async with calling(bridge_url) as client:
        for _ in range(2):
            assert (await client.post("/ws/tickets")).status_code == 201
        refused = await client.post("/ws/tickets")
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "30"
        assert refused.json()["detail"].startswith("Too many unused tickets")
    assert counted(bot, "ws_tickets") == 2


async def test_oldest_session_of_a_token_ends(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "MOST_SESSIONS_OF_TOKEN", 2)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database:
            store = Authenticator(database, TOKEN)
            for name in ("first", "second"):
                add_token(bot, name, "admin")
            other = await store.create_session(SECOND)
            of_setting = await store.create_session(STATIC)
            sessions = [await store.create_session(FIRST) for _ in range(4)]
            valid = [bool(await store.use_session(each)) for each in sessions]
            assert valid == [False, False, True, True]
            assert await store.use_session(other)
            assert await store.use_session(of_setting)
    assert counted(bot, "console_sessions") == 4


async def test_oldest_session_of_all_ends(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "MOST_SESSIONS", 2)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database:
            store = Authenticator(database, TOKEN)
            for name in ("first", "second"):
                add_token(bot, name, "admin")
            oldest = await store.create_session(FIRST)
            newer = await store.create_session(SECOND)
            newest = await store.create_session(STATIC)
            assert await store.use_session(oldest) is None
            assert await store.use_session(newer)
            assert await store.use_session(newest)


# --- texts


async def test_texts_that_are_copied_often_have_a_maximum(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, description="d" * 4000, secret="s" * 1024)
        path = f"/webhooks/{webhook['id']}"
        for changes in ({"description": "d" * 4001}, {"secret": "s" * 1025}):
            assert (await client.patch(path, json=changes)).status_code == 422
            assert (await client.post("/webhooks", json={**FORM, **changes})).status_code == 422
        rotated = await client.post(f"{path}/rotate-secret", json={"secret": "s" * 1025})
        assert rotated.status_code == 422
