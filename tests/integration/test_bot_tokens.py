"""The bot's own tokens, read from its table."""

import hashlib
import hmac

import pytest
import structlog
import trio

from bridge.bot.tokens import BotTokens
from bridge.database.pool import Database, Row
from tests.integration.bot_tokens import PLAIN, SCOPES, add_bot_token, sha256
from tests.integration.calling import TOKEN, Bot, add_token, calling
from tests.system.processes import SERVICE_LOGIN, as_service
from tests.waiting import PATIENCE_SECONDS


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
async def test_bot_token_is_accepted_and_its_row_unchanged(
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
    # Not even the last use is stored.
    assert bot_tokens.execute("select * from public.web_api_tokens").fetchall() == before


async def test_secret_of_the_bot_leaves_its_plain_hashes_valid(
    bridge_url: str, bot_tokens: Bot
) -> None:
    stored = {
        "of before": sha256("of before"),
        "of sha512": hashlib.sha512(b"of sha512").hexdigest(),
        "replaced": hmac.new(b"key", b"replaced", hashlib.sha512).hexdigest(),
    }
    for token_hash in stored.values():
        add_bot_token(bot_tokens, token_hash)
    others = {
        "of sha384": hashlib.sha384(b"of sha384").hexdigest(),
        "of another key": hmac.new(b"lock", b"of another key", hashlib.sha512).hexdigest(),
        "of another hash": hmac.new(b"key", b"of another hash", hashlib.sha256).hexdigest(),
    }
    for token_hash in others.values():
        add_bot_token(bot_tokens, token_hash)
    add_bot_token(bot_tokens, sha256("inactive"), active=False)
    known = BotTokens("sha512", b"key", SCOPES)
    async with calling(bridge_url, token=None, bot_tokens=known) as client:

        async def status(token: str) -> int:
            return (await client.get("/webhooks", headers={"X-API-Key": token})).status_code

        assert [await status(token) for token in stored] == [200] * 3
        refused = [*others, "inactive", *stored.values(), " ", ""]
        assert [await status(token) for token in refused] == [401] * len(refused)


async def test_bot_tokens_are_looked_up_in_one_query(
    bridge_url: str, bot_tokens: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read_foreign = Database.read_foreign

    async def counted(self: Database, guard: str, name: str, *values: object) -> list[Row]:
        asked.append(name)
        return await read_foreign(self, guard, name, *values)

    monkeypatch.setattr(Database, "read_foreign", counted)
    add_bot_token(bot_tokens, sha256("of before"))
    known = BotTokens("sha256", b"key", SCOPES)
    async with calling(bridge_url, token="of before", bot_tokens=known) as client:
        assert (await client.get("/webhooks")).status_code == 200
    assert asked == ["bot_token"]


async def test_inactive_and_expired_bot_tokens_are_rejected(
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


async def test_bot_tokens_are_off_by_default(bridge_url: str, bot_tokens: Bot) -> None:
    add_bot_token(bot_tokens, sha256("bot-token"))
    async with calling(bridge_url, token="bot-token") as client:
        assert (await client.get("/webhooks")).status_code == 401


async def test_timestamps_without_time_zone_are_utc(bridge_url: str, bot_tokens: Bot) -> None:
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


async def test_changed_bot_table_fails_bot_tokens_only(bridge_url: str, bot_tokens: Bot) -> None:
    add_bot_token(bot_tokens, sha256("bot-token"))
    add_token(bot_tokens, "ours", "webhooks:read")
    bot_tokens.execute("alter table public.web_api_tokens rename column is_active to active")
    async with calling(bridge_url, token="bot-token", bot_tokens=PLAIN) as client:
        with structlog.testing.capture_logs() as logs:
            answers = [await client.get("/webhooks") for _ in range(3)]
            ours = await client.get("/webhooks", headers={"Authorization": "Bearer ours"})
    # Not 401: a dashboard would discard its token.
    assert [each.status_code for each in answers] == [503] * 3
    assert answers[0].json() == {
        "detail": "The bot's API keys cannot be checked; see the bridge's log"
    }
    assert ours.status_code == 200
    [entry] = [each for each in logs if each["event"] == "bot_token_lookup_failed"]
    assert entry["reason"] == "public.web_api_tokens has no column is_active"


COLUMNS = "id, name, token_hash, is_active, expires_at"
SELECT = f"select ({COLUMNS}) on public.web_api_tokens"
LACKS_SELECT = f"role {SERVICE_LOGIN} lacks select on public.web_api_tokens ({COLUMNS})"
USAGE = "usage on schema public"
RENAME = "alter table public.web_api_tokens rename"


@pytest.mark.parametrize(
    ("damage", "reason", "remedy"),
    [
        (f"revoke {SELECT} from {SERVICE_LOGIN}", LACKS_SELECT, f"grant {SELECT} to"),
        (
            f"revoke select (expires_at, name) on public.web_api_tokens from {SERVICE_LOGIN}",
            "lacks select on public.web_api_tokens (name, expires_at)",
            "grant select (name, expires_at) on public.web_api_tokens to",
        ),
        (f"revoke {USAGE} from public", f"lacks {USAGE}", f"grant {USAGE} to {SERVICE_LOGIN}"),
        (
            f"revoke {USAGE} from public; revoke {SELECT} from {SERVICE_LOGIN}",
            LACKS_SELECT,
            f"grant {USAGE} to {SERVICE_LOGIN}; grant {SELECT} to {SERVICE_LOGIN}",
        ),
        (
            "create table public.copy (like public.web_api_tokens including indexes);"
            "insert into public.copy select * from public.web_api_tokens;"
            "drop table public.web_api_tokens; alter table public.copy rename to web_api_tokens",
            LACKS_SELECT,
            f"grant {SELECT} to {SERVICE_LOGIN}",
        ),
    ],
    ids=["grant", "columns", "schema", "both", "restored"],
)
async def test_lost_rights_fail_bot_tokens_until_they_are_back(
    bridge_url: str, bot_tokens: Bot, damage: str, reason: str, remedy: str
) -> None:
    bot_tokens.execute(f"grant {SELECT} to {SERVICE_LOGIN}".encode())
    add_bot_token(bot_tokens, sha256("bot-token"))
    add_token(bot_tokens, "ours", "webhooks:read")
    async with calling(as_service(bridge_url), token=None, bot_tokens=PLAIN) as client:

        async def statuses() -> list[int]:
            tokens = "bot-token", "ours", TOKEN
            answers = [await client.get("/webhooks", headers={"X-API-Key": t}) for t in tokens]
            return [each.status_code for each in answers]

        assert await statuses() == [200, 200, 200]
        bot_tokens.execute(damage.encode())
        with structlog.testing.capture_logs() as logs:
            assert await statuses() == [503, 200, 200]
        [entry] = [each for each in logs if each["event"] == "bot_token_lookup_failed"]
        assert reason in entry["reason"]
        assert remedy in entry["hint"]
        bot_tokens.execute(entry["hint"].partition("run: ")[2].encode())
        assert await statuses() == [200, 200, 200]


@pytest.mark.parametrize(
    ("damage", "repair", "reason"),
    [
        (f"{RENAME} to tokens", "alter table tokens rename to web_api_tokens", "does not exist"),
        (f"{RENAME} name to label", f"{RENAME} label to name", "has no column name"),
        (
            f"{RENAME} expires_at to ends_at; {RENAME} id to number",
            f"{RENAME} ends_at to expires_at; {RENAME} number to id",
            "has no column id, expires_at",
        ),
    ],
    ids=["table", "column", "columns"],
)
async def test_moved_bot_table_is_read_again_when_it_is_back(
    bridge_url: str, bot_tokens: Bot, damage: str, repair: str, reason: str
) -> None:
    add_bot_token(bot_tokens, sha256("bot-token"))
    async with calling(bridge_url, token="bot-token", bot_tokens=PLAIN) as client:
        bot_tokens.execute(damage.encode())
        with structlog.testing.capture_logs() as logs:
            assert (await client.get("/webhooks")).status_code == 503
        [entry] = logs
        assert entry["reason"].endswith(reason)
        assert "BRIDGE_BOT_TOKENS=off" in entry["hint"]
        bot_tokens.execute(repair.encode())
        assert (await client.get("/webhooks")).status_code == 200


async def test_locked_bot_table_delays_bot_tokens_only(
    bridge_url: str, bot: Bot, bot_tokens: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.database.shares.SHARE_SECONDS", 0.5)
    add_token(bot, "ours", "webhooks:read")
    add_bot_token(bot_tokens, sha256("bot-token"))
    answered: list[int] = []
    async with calling(bridge_url, token=None, bot_tokens=PLAIN) as client:

        async def status(token: str) -> int:
            return (await client.get("/webhooks", headers={"X-API-Key": token})).status_code

        async def come_too_early() -> None:
            answered.append(await status("bot-token"))

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                # As a migration of the bot does.
                with bot_tokens.transaction():
                    bot_tokens.execute("lock table public.web_api_tokens")
                    for _ in range(8):
                        nursery.start_soon(come_too_early)
                    while len(answered) < 7:  # one is being looked up
                        assert await status("ours") == 200
            assert answered == [503] * 7 + [200]
