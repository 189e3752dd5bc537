"""API tokens: how they are made, and who a token or ticket that is shown belongs to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import psycopg
import structlog
import trio

from bridge.assets import query
from bridge.db import SHARE_SECONDS, Database, DatabaseError, DatabaseUnavailable, Row, Share
from bridge.proxies import origin
from bridge.scopes import ADMIN, allows, event_patterns
from bridge.throttle import Throttle

log = structlog.get_logger()

#: Characters of a token that are kept in clear, for people to recognise it by.
PREFIX_LENGTH: Final = 12
#: Connections of the pool that look tokens up.
LOOKUP_CONNECTIONS: Final = 2
#: How long a ticket is good.
TICKET_SECONDS: Final = 30.0
#: Tokens that are known to have been valid, and for how long: they are looked up each time all the
#: same, but whoever brings one is not held for somebody who guesses.
KNOWN_TOKENS: Final = 10_000
KNOWN_SECONDS: Final = 3600.0
#: How often it is logged that the bot's tokens cannot be read, or that an address is held.
REPEAT_SECONDS: Final = 60.0

#: Where a token is: the settings, ``bridge.api_tokens``, or the bot's ``public.web_api_tokens``.
Source = Literal["setting", "bridge", "bot"]
#: What a token is known by: where it is, and its id there.
TokenKey = tuple[Source, int | None]


class TooManyFailuresError(Exception):
    """Somebody at this address has shown too many tokens that are none."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__(f"too many failed attempts; try again in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token allows."""

    #: Of the row in the table that it is in; None for the static token of the settings.
    id: int | None
    name: str
    scopes: frozenset[str]
    source: Source = "bridge"

    @property
    def key(self) -> TokenKey:
        """What the token is known by."""
        return self.source, self.id

    @property
    def events(self) -> frozenset[str]:
        """The patterns of the events that it may see."""
        return event_patterns(self.scopes)

    def allows(self, scope: str) -> bool:
        """Tell whether it may do what a scope is for."""
        return allows(self.scopes, scope)

    def __str__(self) -> str:
        """Return how it is written down who did something."""
        if self.source == "setting":
            return self.name
        return f"{self.source} token {self.id} ({self.name})"


@dataclass(frozen=True, slots=True)
class BotTokens:
    """How the bot's own tokens are stored, and what they allow here.

    Attributes:
        algorithm: ``sha256``, ``sha384`` or ``sha512``.
        secret: key of the HMAC; None: it is a plain hash.
        scopes: of each of them.
    """

    algorithm: str
    secret: bytes | None
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"<BotTokens by {self.algorithm}>"

    def hash(self, token: str) -> str:
        """Return what the bot stores of a token."""
        text = token.encode("utf-8", "surrogatepass")
        if self.secret is None:
            return hashlib.new(self.algorithm, text).hexdigest()
        return hmac.new(self.secret, text, self.algorithm).hexdigest()


def new_token() -> str:
    """Return a fresh token: ``pgb_`` and 256 random bits."""
    return f"pgb_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> bytes:
    """Return what is stored of a token: a plain SHA-256, enough for 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_of_headers(api_key: str, authorization: str) -> str | None:
    """Return the token in ``X-API-Key``, else that in ``Authorization: Bearer``, else None.

    ``X-API-Key`` goes first: a proxy may need ``Authorization`` for itself.
    """
    if api_key.strip():
        return api_key.strip()
    scheme, _, credentials = authorization.partition(" ")
    return (credentials.strip() or None) if scheme.lower() == "bearer" else None


@dataclass(slots=True)
class _Attempt:
    """Somebody shows a token or ticket."""

    has_failed: bool = False


@dataclass(slots=True)
class _UnderWay:
    """Attempts of one address that are being looked up, and those who wait for what comes of them.

    Whoever waits does so SHARE_SECONDS at most, and is one of the connections, which are bounded.
    """

    count: int = 0
    waiting: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)


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
        self._database = Share(database, LOOKUP_CONNECTIONS)
        self._static_hash = None if static_token is None else hash_token(static_token)
        self._bot = bot
        self._failures = failures
        # Hashes of tokens that were valid, and until when they count; the latest last.
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._under_way: dict[str, _UnderWay] = {}
        self._told = Throttle(1 / REPEAT_SECONDS, 1)

    async def authenticate(self, token: str, address: str = "") -> Grant | None:
        """Return what the token allows, or None for an unknown, expired or revoked one.

        Args:
            address: of who shows it.

        Raises:
            TooManyFailuresError: whoever has this address has guessed too often, and this token has
                not been valid lately. It was not looked up.
            DatabaseUnavailable: it cannot be looked up now.
        """
        digest = hash_token(token)
        if self._static_hash is not None and hmac.compare_digest(digest, self._static_hash):
            return _static_grant()
        async with self._attempt(address, digest) as attempt:
            grant = await self._look_up(token, digest)
            if grant is None:
                attempt.has_failed = True
                self._known.pop(digest, None)
            else:
                self._remember(digest)
        return grant

    async def use_ticket(self, ticket: str, address: str = "") -> Grant | None:
        """Return what the token allows that a ticket was got with; the ticket is good no more.

        None for one that is unknown, used or expired, or whose token is not valid any more.

        Raises:
            TooManyFailuresError, DatabaseUnavailable: as :meth:`authenticate`.
        """
        async with self._attempt(address, hash_token(ticket)) as attempt:
            row = await self._database.fetch_one("use_ticket", hash_token(ticket))
            grants = (
                await self.grants([(row["token_source"], row["token_id"])])
                if row is not None
                else []
            )
            attempt.has_failed = not grants
        return grants[0] if grants else None

    async def create_ticket(self, grant: Grant) -> tuple[str, datetime]:
        """Return a fresh ticket that opens one WebSocket, and until when it is good.

        Raises:
            DatabaseUnavailable: it cannot be stored now.
        """
        ticket = f"pgt_{secrets.token_urlsafe(32)}"
        [row] = await self._database.fetch(
            "create_ticket", hash_token(ticket), grant.source, grant.id, TICKET_SECONDS
        )
        return ticket, row["expires_at"]

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
            rows = await self._database.fetch("valid_tokens", ids["bridge"])
            found += map(_grant, rows)
        if ids["bot"] and self._bot is not None:
            bot_rows = await self._fetch_bots("valid_bot_tokens", ids["bot"])
            found += [_bot_grant(row, self._bot) for row in bot_rows]
        return found

    @asynccontextmanager
    async def _attempt(self, address: str, digest: bytes) -> AsyncIterator[_Attempt]:
        """Count an attempt of an address while it is looked up, and further if it has failed.

        Raises:
            TooManyFailuresError: the address has failed too often.
        """
        attempt, key = _Attempt(), origin(address)
        is_counted = self._failures is not None and await self._let_try(self._failures, key, digest)
        try:
            yield attempt
        finally:
            if self._failures is not None and is_counted:
                self._end(self._failures, key, has_failed=attempt.has_failed)

    async def _let_try(self, failures: Throttle, key: str, digest: bytes) -> bool:
        """Wait until an attempt may be made; tell whether it counts.

        As many as may fail are looked up, and the others wait for what comes of those: after a
        restart all clients of an office, with one address, come back at once with valid tokens.
        """
        wait = 0.0
        with trio.move_on_after(SHARE_SECONDS):
            while self._known.get(digest, 0.0) <= trio.current_time():
                wait = failures.take(key, trio.current_time())
                if not wait:
                    self._under_way.setdefault(key, _UnderWay()).count += 1
                    return True
                under_way = self._under_way.get(key)
                if under_way is None:
                    self._tell(key)
                    raise TooManyFailuresError(wait)
                await under_way.waiting.park()
            if wait:  # It was woken, and leaves its place to the next.
                self._let_next(key)
            return False
        raise DatabaseUnavailable("it answers too slowly for all who ask")

    def _end(self, failures: Throttle, key: str, *, has_failed: bool) -> None:
        """Count an attempt that is over no more, unless it has failed."""
        under_way = self._under_way[key]
        under_way.count -= 1
        if not has_failed:
            failures.give_back(key)
            self._let_next(key)
        if not under_way.count:
            # Nothing comes any more that they could wait for.
            del self._under_way[key]
            under_way.waiting.unpark_all()

    def _let_next(self, key: str) -> None:
        if under_way := self._under_way.get(key):
            under_way.waiting.unpark()

    def _tell(self, key: str) -> None:
        """Log whom it holds, now and then."""
        if not self._told.take(key, trio.current_time()):
            log.warning(
                "failed_logins_refused",
                address=key,
                fix="if that is a proxy of yours, name it in BRIDGE_TRUSTED_PROXIES",
            )

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = trio.current_time() + KNOWN_SECONDS
        self._known.move_to_end(digest)
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)

    async def _look_up(self, token: str, digest: bytes) -> Grant | None:
        row = await self._database.fetch_one("authenticate", digest)
        if row is not None:
            return _grant(row)
        if self._bot is None:
            return None
        rows = await self._fetch_bots("bot_token", self._bot.hash(token))
        return _bot_grant(rows[0], self._bot) if rows else None

    async def _fetch_bots(self, name: str, value: object) -> Sequence[Row]:
        """Run a query on the bot's table, which its next release may alter or drop."""
        try:
            return await self._database.fetch(name, value)
        except DatabaseError as error:
            if not self._told.take("bot tokens", trio.current_time()):
                log.error("bot_tokens_unreadable", reason=str(error))
            raise DatabaseUnavailable("the bot's tokens cannot be read") from None


def _grant(row: Row) -> Grant:
    return Grant(row["id"], row["name"], frozenset(row["scopes"]))


def _static_grant() -> Grant:
    return Grant(None, "BRIDGE_TOKEN", frozenset([ADMIN]), "setting")


def _bot_grant(row: Row, bot: BotTokens) -> Grant:
    return Grant(row["id"], row["name"], bot.scopes, "bot")


def create_token(
    connection: psycopg.Connection[Any],
    name: str,
    token: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
) -> None:
    """Make a token valid; of the token itself only hash and beginning are kept."""
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(query("create_token").encode(), new_row(name, token, scopes, expires_at))


def new_row(
    name: str, token: str, scopes: Iterable[str], expires_at: datetime | None
) -> tuple[object, ...]:
    """Return what ``create_token`` takes of a new token."""
    return name, hash_token(token), token[:PREFIX_LENGTH], list(scopes), expires_at


def list_tokens(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, ...]]:
    """Yield every token as texts: id, name, beginning, scopes, created, expires, used, state."""
    with psycopg.RawCursor(connection) as cursor:
        rows = cursor.execute(query("list_tokens").encode(), [None, 0]).fetchall()
    for _, token_id, name, prefix, scopes, *moments, state in reversed(rows):
        if token_id is None:  # there are none
            return
        yield (
            str(token_id),
            name,
            f"{prefix}…",
            " ".join(scopes),
            *("" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in moments),
            state,
        )


def revoke_token(connection: psycopg.Connection[Any], token_id: int) -> bool:
    """Make a token invalid; return False if there is no valid token with this id."""
    with psycopg.RawCursor(connection) as cursor:
        return cursor.execute(query("revoke_token").encode(), [token_id]).rowcount == 1
