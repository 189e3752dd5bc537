"""The REST API on a database, called without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg

from bridge.db import open_database
from bridge.secrets import Vault
from bridge.throttle import Throttle
from bridge.tokens import BotTokens, TokenStore, hash_token
from bridge.web.api import build_api

#: The static token.
TOKEN = "static-token"

Bot = psycopg.Connection[tuple[Any, ...]]


async def no_url_is_refused(_url: str) -> None:
    """Let webhooks lead anywhere."""


@asynccontextmanager
async def calling(
    url: str,
    *,
    token: str | None = TOKEN,
    bot_tokens: BotTokens | None = None,
    failures: Throttle | None = None,
    address: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Build the API on this database; give a client that brings the token.

    Args:
        address: of the client.
        options: of ``build_api``.
    """
    options.setdefault("ready", dict)
    options.setdefault("vault", Vault())
    options.setdefault("url_refusal", no_url_is_refused)
    options.setdefault("send_trial", None)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with open_database(url) as database:
        store = TokenStore(database, TOKEN, bot=bot_tokens, failures=failures)
        transport = httpx.ASGITransport(
            app=build_api(database, store, **options), client=(address, 4711)
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://bridge", headers=headers
        ) as client:
            yield client


def add_token(
    bot: Bot, token: str, *scopes: str, expires: str = "null", revoked: str = "null"
) -> int:
    """Add a token, and return its id.

    Args:
        expires, revoked: when, in SQL.
    """
    [(token_id,)] = bot.execute(
        f"""insert into bridge.api_tokens (name, token_hash, prefix, scopes, expires_at, revoked_at)
            values ('t', %s, 'pgb_', %s, {expires}, {revoked}) returning id""".encode(),
        [hash_token(token), list(scopes)],
    ).fetchall()
    assert isinstance(token_id, int)
    return token_id
