"""Who a token or a ticket that is shown belongs to, and how often somebody may show one."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final

import structlog
import trio

from bridge.access.proxies import origin
from bridge.access.scopes import ADMIN
from bridge.access.throttle import Throttle
from bridge.access.tokens import BotTokens, Grant, Source, TokenKey, hash_token
from bridge.database.errors import DatabaseError, DatabaseUnavailable, UnfitTableError
from bridge.database.pool import Database, Row
from bridge.database.shares import Share
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Connections of the pool that look tokens up, and those that do so in the bot's table, whose
#: migrations may lock it for long.
LOOKUP_CONNECTIONS: Final = 2
BOT_LOOKUP_CONNECTIONS: Final = 1
#: Apart from those: whoever floods the bridge with tokens does not keep it from seeing that a token
#: is not valid any more.
GRANT_CONNECTIONS: Final = 1
#: Lookups that wait or are under way for one address. Whoever comes beyond that is told to come
#: again, for each of them has a connection and its memory as long as the database does not answer.
MOST_AT_ONCE: Final = 1_000
#: How long a ticket is good.
TICKET_SECONDS: Final = 30.0
#: How long somebody stays signed in to the console.
SESSION_SECONDS: Final = 12 * 3600.0
#: Tokens that are known to have been valid at an address, and for how long: they are looked up each
#: time all the same, but whoever brings one from there is not held for somebody who guesses. Only
#: from there: else whoever is held could go on, and see by who is let in that a guess was right.
KNOWN_TOKENS: Final = 10_000
KNOWN_SECONDS: Final = 3600.0
#: How often it is logged that the bot's tokens cannot be read, or that an address is held.
REPEAT_SECONDS: Final = 60.0

# Where something that is shown was valid before, and its hash; None for a ticket, which was made
# here, to be used from anywhere.
_Shown = tuple[str | None, bytes]


class TooManyFailuresError(Exception):
    """Somebody at this address has shown too many tokens that are none, or too many at once."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__(f"too many failed attempts; try again in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


class TokenStore:
    """Knows all tokens: those of the tables, and the static one of the settings.

    Args:
        database: where the tables are.
        static_token: of the settings.
        bot: how to read the bot's own tokens; None: they are not valid here.
        failures: how often an address may show a token that is none; None: without end.
    """

    def __init__(
        self,
        database: Database,
        static_token: str | None,
        *,
        bot: BotTokens | None = None,
        failures: Throttle | None = None,
    ) -> None:
        # A lookup that has begun cannot be cancelled, and whoever has left is kept for it.
        self._lookups = Share(database, LOOKUP_CONNECTIONS)
        self._bot_lookups = Share(database, BOT_LOOKUP_CONNECTIONS)
        self._grant_lookups = Share(database, GRANT_CONNECTIONS)
        self._static_hash = None if static_token is None else hash_token(static_token)
        self._bot = bot
        self._failures = failures
        # What was valid, and until when that counts; the latest last.
        self._known: OrderedDict[_Shown, float] = OrderedDict()
        #: By address.
        self._under_way: dict[str, int] = {}
        self._told = Throttle(1 / REPEAT_SECONDS, 1)

    async def authenticate(self, token: str, address: str = "") -> Grant | None:
        """Return what the token allows, or None for an unknown, expired or revoked one.

        Args:
            address: of who shows it.

        Raises:
            TooManyFailuresError: whoever has this address has guessed too often, or asks too much
                at once, and this token has not been valid there lately. It was not looked up.
            DatabaseUnavailable: it cannot be looked up now.
        """
        key = origin(address)
        shown = key, hash_token(token)
        self._hold(key, shown)
        grant: Grant | None
        if self._static_hash is not None and hmac.compare_digest(shown[1], self._static_hash):
            grant = _static_grant()
        else:
            with self._attempt(key, shown):
                grant = await self._look_up(token, key, shown)
        self._count(key, shown, failed=grant is None)
        if grant is not None:
            self._remember(shown, KNOWN_SECONDS)
        return grant

    async def use_ticket(self, ticket: str, address: str = "") -> Grant | None:
        """Return what the token allows that a ticket was got with; the ticket is good no more.

        None for one that is unknown, used or expired, or whose token is not valid any more.

        Raises:
            TooManyFailuresError, DatabaseUnavailable: as :meth:`authenticate`.
        """
        key = origin(address)
        shown = None, hash_token(ticket)
        self._hold(key, shown)
        with self._attempt(key, shown):
            async with self._turn(self._lookups, key, shown) as database:
                rows = await database.fetch("use_ticket", self._possibly_stored(ticket))
            grants = await self.grants((row["token_source"], row["token_id"]) for row in rows)
        self._count(key, shown, failed=not grants)
        self._known.pop(shown, None)
        return grants[0] if grants else None

    async def create_ticket(self, grant: Grant) -> tuple[str, datetime]:
        """Return a fresh ticket that opens one WebSocket, and until when it is good.

        Raises:
            DatabaseUnavailable: it cannot be stored now.
        """
        ticket = f"pgt_{secrets.token_urlsafe(32)}"
        stored = self._stored(ticket, grant)
        [row] = await self._lookups.fetch(
            "create_ticket", stored, grant.source, grant.id, TICKET_SECONDS
        )
        self._remember((None, hash_token(ticket)), TICKET_SECONDS)
        return ticket, row["expires_at"]

    async def create_session(self, grant: Grant) -> str:
        """Return a fresh session of the console, which is good for ``SESSION_SECONDS``.

        Raises:
            DatabaseUnavailable: it cannot be stored now.
        """
        session = f"pgs_{secrets.token_urlsafe(32)}"
        stored = self._stored(session, grant)
        await self._lookups.fetch("create_session", stored, grant.source, grant.id, SESSION_SECONDS)
        return session

    async def use_session(self, session: str, address: str = "") -> Grant | None:
        """Return what the token allows that a session was begun with.

        None for one that is unknown or over, or whose token is not valid any more. It is not
        counted as a failure: nobody guesses 256 bits, and browsers bring old cookies.

        Raises:
            TooManyFailuresError: too much is looked up for this address at once.
            DatabaseUnavailable: it cannot be looked up now.
        """
        key = origin(address)
        with self._attempt(key, (key, hash_token(session))):
            rows = await self._lookups.fetch("use_session", self._possibly_stored(session))
            grants = await self.grants((row["token_source"], row["token_id"]) for row in rows)
        return grants[0] if grants else None

    async def end_session(self, session: str) -> None:
        """Have a session be good no more.

        Raises:
            DatabaseUnavailable: it cannot be ended now.
        """
        await self._lookups.fetch("end_session", self._possibly_stored(session))

    async def grants(self, keys: Iterable[TokenKey]) -> list[Grant]:
        """Return what those of some tokens allow that are still valid.

        Raises:
            DatabaseUnavailable: they cannot be looked up now.
        """
        found: list[Grant] = []
        ids: dict[Source, list[int]] = {"bridge": [], "bot": []}
        for source, token_id in keys:
            if token_id is not None:
                ids[source].append(token_id)
            elif self._static_hash is not None:
                found.append(_static_grant())
        if ids["bridge"]:
            rows = await self._grant_lookups.fetch("valid_tokens", ids["bridge"])
            found += map(_grant, rows)
        if ids["bot"] and self._bot is not None:
            async with self._bot_lookups.turn() as database:
                bot_rows = await self._read_bots(database, "valid_bot_tokens", ids["bot"])
            found += [_bot_grant(row, self._bot) for row in bot_rows]
        return found

    @contextmanager
    def _attempt(self, key: str, shown: _Shown) -> Iterator[None]:
        """Have something looked up meanwhile, unless too much is for this address."""
        under_way = self._under_way.get(key, 0)
        if under_way >= MOST_AT_ONCE and not self._is_known(shown):
            raise TooManyFailuresError(1.0)
        self._under_way[key] = under_way + 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def _is_known(self, shown: _Shown) -> bool:
        return self._known.get(shown, 0.0) > trio.current_time()

    def _hold(self, key: str, shown: _Shown) -> None:
        """Refuse whoever has guessed too often, unless this was valid lately."""
        if self._failures is None or self._is_known(shown):
            return
        if wait := self._failures.wait(key, trio.current_time()):
            self._tell(key)
            raise TooManyFailuresError(wait)

    def _count(self, key: str, shown: _Shown, *, failed: bool) -> None:
        """Count what was looked up and was nothing."""
        if failed:
            metrics.logins_failed.inc()
            self._known.pop(shown, None)
            if self._failures is not None:
                self._failures.take(key, trio.current_time())

    def _tell(self, key: str) -> None:
        """Log whom it holds, now and then."""
        if not self._told.take(key, trio.current_time()):
            log.warning(
                "failed_logins_refused",
                address=key,
                fix="if that is a proxy of yours, name it in BRIDGE_TRUSTED_PROXIES",
            )

    def _remember(self, shown: _Shown, seconds: float) -> None:
        self._known[shown] = trio.current_time() + seconds
        self._known.move_to_end(shown)
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)

    def _stored(self, shown: str, grant: Grant) -> bytes:
        """Return what is stored of a ticket or session that was got with a token."""
        of_table, *of_setting = self._possibly_stored(shown)
        return of_setting[0] if grant.source == "setting" else of_table

    def _possibly_stored(self, shown: str) -> list[bytes]:
        """Return what may be stored of a ticket or session: for a token of a table, the setting's.

        The latter depends on the setting, and ends with it: a bridge that has another one does not
        find it.
        """
        digest = hash_token(shown)
        if self._static_hash is None:
            return [digest]
        return [digest, hmac.digest(self._static_hash, digest, "sha256")]

    async def _look_up(self, token: str, key: str, shown: _Shown) -> Grant | None:
        _, digest = shown
        async with self._turn(self._lookups, key, shown) as database:
            rows = await database.fetch("authenticate", digest)
        if rows:
            return _grant(rows[0])
        if self._bot is None:
            return None
        async with self._turn(self._bot_lookups, key, shown) as database:
            rows = await self._read_bots(database, "bot_token", self._bot.hash(token))
        return _bot_grant(rows[0], self._bot) if rows else None

    @asynccontextmanager
    async def _turn(self, share: Share, key: str, shown: _Shown) -> AsyncIterator[Database]:
        """Wait for a turn to look up what is shown, unless the address is held when it comes.

        What has failed is counted, and not what is under way: of a hundred who come at once from
        one address after a restart, all may be right.
        """
        async with share.turn() as database:
            self._hold(key, shown)
            yield database

    async def _read_bots(self, database: Database, name: str, value: object) -> list[Row]:
        """Run a query on the bot's table, which its next release may alter or drop."""
        try:
            return await database.read_foreign("bot_tokens_table", name, value)
        except (DatabaseError, UnfitTableError) as error:
            if not self._told.take("bot tokens", trio.current_time()):
                log.error("bot_tokens_unreadable", reason=str(error))
            raise DatabaseUnavailable("the bot's tokens cannot be read") from None


def _grant(row: Row) -> Grant:
    return Grant(row["id"], row["name"], frozenset(row["scopes"]))


def _static_grant() -> Grant:
    return Grant(None, "BRIDGE_TOKEN", frozenset([ADMIN]), "setting")


def _bot_grant(row: Row, bot: BotTokens) -> Grant:
    return Grant(row["id"], row["name"], bot.scopes, "bot")
