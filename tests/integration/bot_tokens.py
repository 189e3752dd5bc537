"""The bot's own table of tokens."""

import hashlib

from bridge.bot.tokens import BotTokens
from tests.integration.calling import Bot

SCOPES = frozenset(["events:read", "webhooks:read"])
PLAIN = BotTokens("sha256", None, SCOPES)


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
