"""The bot's own tokens in ``public.web_api_tokens``, if they are accepted."""

import hashlib
import hmac
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from bridge.access.authenticator import UnreadableTokensError
from bridge.access.throttle import Throttle
from bridge.access.tokens import Grant
from bridge.database import rights
from bridge.database.errors import DatabaseError, DatabaseUnavailable, UnfitTableError
from bridge.database.pool import Database, Row
from bridge.database.shares import Share
from bridge.terminal.visible import visible

log = structlog.get_logger()

#: Pooled connections that look up tokens. The bot's migrations may lock its table for a long time.
LOOKUP_CONNECTIONS: Final = 1
#: Seconds between log lines about unreadable tokens.
REPEAT_SECONDS: Final = 60.0
#: The query that tells whether the table is safe to read.
GUARD: Final = "bot_tokens_table"
#: The table must not be read, or PostgreSQL refused that.
_REFUSED = (DatabaseError, UnfitTableError)


@dataclass(frozen=True, slots=True)
class BotTokens:
    """How the bot stores its own tokens, and which scopes they get here.

    Attributes:
        algorithm: ``sha256``, ``sha384`` or ``sha512``.
        secret: key of the HMAC; None if all hashes are plain.
        scopes: granted to each of these tokens.
    """

    algorithm: str
    secret: bytes | None
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"<BotTokens with {self.algorithm}>"

    def hash(self, token: str) -> str:
        """Return the hash under which the bot stores a token."""
        text = _bytes(token)
        if self.secret is None:
            return hashlib.new(self.algorithm, text).hexdigest()
        return hmac.new(self.secret, text, self.algorithm).hexdigest()

    def hashes(self, token: str) -> list[str]:
        """Return the hashes under which the bot may have stored a token.

        A secret can be introduced while plain hashes exist, by default of SHA-256. The bot accepts
        them, and replaces each when its token is used.
        """
        older = {"sha256", self.algorithm} if self.secret is not None else ()
        plain = [hashlib.new(algorithm, _bytes(token)).hexdigest() for algorithm in older]
        return [self.hash(token), *plain]


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")


class BotTokenTable:
    """Looks up the bot's tokens in its table, which its next release may alter or drop."""

    def __init__(self, database: Database, tokens: BotTokens) -> None:
        self.share = Share(database, LOOKUP_CONNECTIONS)
        self._tokens = tokens
        self._logged = Throttle(1 / REPEAT_SECONDS, 1)

    async def find(self, database: Database, token: str) -> Grant | None:
        """Return the grant of a token, or None if the bot does not consider it valid.

        Args:
            database: from a turn of ``share``.

        Raises:
            UnreadableTokensError: the table cannot be read until someone repairs that.
            DatabaseUnavailable: it cannot be read now.
        """
        # One query for all of them: the time does not tell which one matched.
        hashes = " ".join(self._tokens.hashes(token))
        rows = await self._read(database, "bot_token", hashes)
        return self._grant(rows[0]) if rows else None

    async def still_valid(self, database: Database, token_ids: list[int]) -> list[Grant]:
        """Return the grants of those of the tokens that are valid; as :meth:`find`."""
        rows = await self._read(database, "valid_bot_tokens", token_ids)
        return list(map(self._grant, rows))

    async def check(self) -> None:
        """Log a warning if the bot's tokens cannot be read. For the start of a bridge."""
        with suppress(DatabaseUnavailable):  # then readiness tells
            async with self.share.turn() as database:
                try:
                    await database.read_foreign(GUARD, "valid_bot_tokens", [])
                except _REFUSED as error:
                    reason, hint = await _trouble(database, error)
                    log.warning("bot_tokens_rejected", reason=reason, hint=hint)

    async def _read(self, database: Database, name: str, value: object) -> list[Row]:
        try:
            return await database.read_foreign(GUARD, name, value)
        except _REFUSED as error:
            if not self._logged.take("", trio.current_time()):
                reason, hint = await _trouble(database, error)
                log.error("bot_token_lookup_failed", reason=reason, hint=hint)
            raise UnreadableTokensError from None

    def _grant(self, row: Row) -> Grant:
        # The bot accepts any name; ours have no control characters.
        return Grant(row["id"], visible(row["name"]), self._tokens.scopes, "bot")


async def _trouble(database: Database, error: Exception) -> tuple[str, str]:
    """Return why the table was not read, and what helps."""
    if isinstance(error, UnfitTableError):
        reason = f"public.web_api_tokens is not safe to read: {error}"
        return reason, "remove the cause from the table, or set BRIDGE_BOT_TOKENS=off"
    with suppress(DatabaseError, DatabaseUnavailable):
        if trouble := rights.bot_tokens_trouble(await database.fetch("bot_tokens_trouble")):
            return trouble
    return str(error), "run: pgbridge doctor"
