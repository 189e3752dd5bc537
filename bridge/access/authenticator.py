"""Authenticates tokens, tickets and console sessions, and limits guessing."""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final, Protocol

import structlog
import trio

from bridge.access.proxies import origin
from bridge.access.scopes import ADMIN
from bridge.access.throttle import Throttle
from bridge.access.tokens import Grant, Source, TokenKey, hash_token
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database, Row
from bridge.database.shares import Share
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Pooled connections that look up tokens.
LOOKUP_CONNECTIONS: Final = 2
#: Reserved for rechecking tokens in use: a flood of logins must not delay noticing a revocation.
GRANT_CONNECTIONS: Final = 1
#: Reserved for the console: invented session cookies do not count as failed attempts, so a flood of
#: them must not delay lookups of tokens.
SESSION_CONNECTIONS: Final = 1
#: Lookups queued or running for one address. Further ones are refused, because each holds a
#: connection and its memory for as long as the database does not answer.
MOST_AT_ONCE: Final = 1_000
#: Lifetime of a ticket, in seconds.
TICKET_SECONDS: Final = 30.0
#: Most unused tickets of one token and of all. Beyond that, new ones are refused. At the default
#: rate of requests, a token can get 3,500 in that time.
MOST_TICKETS_OF_TOKEN: Final = 1_000
MOST_TICKETS: Final = 20_000
#: Lifetime of a console session, in seconds.
SESSION_SECONDS: Final = 12 * 3600.0
#: Most console sessions of one token and of all. Beyond that, the oldest end: refusals would last
#: for hours.
MOST_SESSIONS_OF_TOKEN: Final = 100
MOST_SESSIONS: Final = 10_000
#: How many tokens are remembered as recently valid at an address, and for how long. They are still
#: looked up every time, but a client that shows one there is exempt from the limit on failures.
#: Only there: otherwise a blocked client could continue guessing and learn which guess was right.
KNOWN_TOKENS: Final = 10_000
KNOWN_SECONDS: Final = 3600.0
#: Seconds between log lines about a blocked address.
REPEAT_SECONDS: Final = 60.0

_STATIC_GRANT: Final = Grant(None, "BRIDGE_TOKEN", frozenset([ADMIN]), "setting")

# A credential as presented: the address it is tied to and its hash. The address is None for a
# ticket, which may be used from anywhere.
_Credential = tuple[str | None, bytes]


class TooManyFailuresError(Exception):
    """This address has sent too many invalid tokens, or too many at the same time."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__(f"too many failed attempts; try again in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


class TooManyTicketsError(Exception):
    """Too many tickets are unused."""

    retry_seconds = TICKET_SECONDS

    def __init__(self) -> None:
        super().__init__(
            f"Too many unused tickets: at most {MOST_TICKETS_OF_TOKEN} per API key, and "
            f"{MOST_TICKETS} in all"
        )


class UnreadableTokensError(DatabaseUnavailable):
    """The bot's tokens cannot be read until someone repairs that. All other tokens work."""

    def __init__(self) -> None:
        super().__init__("the bot's tokens cannot be read")


class BotTokenTable(Protocol):
    """The class of this name in ``bridge.bot.tokens``, so that this room need not know the bot."""

    share: Share

    async def find(self, database: Database, token: str) -> Grant | None: ...

    async def still_valid(self, database: Database, token_ids: list[int]) -> list[Grant]: ...


class Authenticator:
    """Authenticates the tokens of the tables and the static token of the settings.

    Args:
        database: holds the tables.
        static_token: ``BRIDGE_TOKEN``, if set.
        bot: the bot's own tokens; None if they are not accepted.
        failures: limits failed attempts per address; None for no limit.
    """

    def __init__(
        self,
        database: Database,
        static_token: str | None,
        *,
        bot: BotTokenTable | None = None,
        failures: Throttle | None = None,
    ) -> None:
        # A lookup that has started cannot be cancelled, even if its client has gone.
        self._lookups = Share(database, LOOKUP_CONNECTIONS)
        self._grant_lookups = Share(database, GRANT_CONNECTIONS)
        self._session_lookups = Share(database, SESSION_CONNECTIONS)
        self._static_hash = None if static_token is None else hash_token(static_token)
        self._bot = bot
        self._failures = failures
        # Recently valid credentials and when that expires, in order of use.
        self._known: OrderedDict[_Credential, float] = OrderedDict()
        # Number of lookups by address.
        self._under_way: dict[str, int] = {}
        self._logged = Throttle(1 / REPEAT_SECONDS, 1)

    async def authenticate(self, token: str, address: str = "") -> Grant | None:
        """Return the grant of a token, or None if it is unknown, expired or revoked.

        Args:
            address: of the client.

        Raises:
            TooManyFailuresError: this address has failed too often or has too many lookups running,
                and the token was not recently valid there. It was not looked up.
            DatabaseUnavailable: the token cannot be looked up now.
        """
        key = origin(address)
        credential = key, hash_token(token)
        self._refuse_blocked(key, credential)
        grant: Grant | None
        if self._static_hash is not None and hmac.compare_digest(credential[1], self._static_hash):
            grant = _STATIC_GRANT
        else:
            with self._attempt(key, credential):
                grant = await self._look_up(token, key, credential)
        self._count(key, credential, failed=grant is None)
        if grant is not None:
            self._remember(credential, KNOWN_SECONDS)
        return grant

    async def use_ticket(self, ticket: str, address: str = "") -> Grant | None:
        """Use up a ticket and return the grant of the token that requested it.

        Return None if the ticket is unknown, used or expired, or its token is no longer valid.

        Raises:
            TooManyFailuresError, DatabaseUnavailable: as :meth:`authenticate`.
        """
        key = origin(address)
        credential = None, hash_token(ticket)
        self._refuse_blocked(key, credential)
        with self._attempt(key, credential):
            async with self._turn(self._lookups, key, credential) as database:
                rows = await database.fetch("use_ticket", self._possibly_stored(ticket))
            grants = await self.grants((row["token_source"], row["token_id"]) for row in rows)
        self._count(key, credential, failed=not grants)
        self._known.pop(credential, None)
        return grants[0] if grants else None

    async def create_ticket(self, grant: Grant) -> tuple[str, datetime]:
        """Return a new ticket, which opens one WebSocket, and when it expires.

        Raises:
            TooManyTicketsError: the token has too many unused ones, or all tokens together.
            DatabaseUnavailable: the ticket cannot be stored now.
        """
        ticket = f"pgt_{secrets.token_urlsafe(32)}"
        stored = self._stored(ticket, grant)
        most = MOST_TICKETS_OF_TOKEN, MOST_TICKETS
        rows = await self._lookups.fetch("create_ticket", stored, *grant.key, TICKET_SECONDS, *most)
        if not rows:
            raise TooManyTicketsError
        self._remember((None, hash_token(ticket)), TICKET_SECONDS)
        return ticket, rows[0]["expires_at"]

    async def create_session(self, grant: Grant) -> str:
        """Return a new console session, valid for ``SESSION_SECONDS``.

        Raises:
            DatabaseUnavailable: the session cannot be stored now.
        """
        session = f"pgs_{secrets.token_urlsafe(32)}"
        stored = self._stored(session, grant)
        most = MOST_SESSIONS_OF_TOKEN, MOST_SESSIONS
        await self._lookups.fetch("create_session", stored, *grant.key, SESSION_SECONDS, *most)
        return session

    async def use_session(self, session: str, address: str = "") -> Grant | None:
        """Return the grant of the token that a console session was opened with.

        Return None if the session is unknown or over, or its token is no longer valid. This is not
        counted as a failed attempt: 256 bits cannot be guessed, and browsers send old cookies.

        Raises:
            TooManyFailuresError: this address has too many lookups running.
            DatabaseUnavailable: the session cannot be looked up now.
        """
        key = origin(address)
        with self._attempt(key, (key, hash_token(session))):
            rows = await self._session_lookups.fetch("use_session", self._possibly_stored(session))
            grants = await self.grants((row["token_source"], row["token_id"]) for row in rows)
        return grants[0] if grants else None

    async def end_session(self, session: str) -> None:
        """Revoke a session.

        Raises:
            DatabaseUnavailable: the session cannot be revoked now.
        """
        await self._lookups.fetch("end_session", self._possibly_stored(session))

    async def grants(self, keys: Iterable[TokenKey]) -> list[Grant]:
        """Return the grants of those of the given tokens that are still valid.

        Raises:
            DatabaseUnavailable: the tokens cannot be looked up now.
        """
        found: list[Grant] = []
        ids: dict[Source, list[int]] = {"bridge": [], "bot": []}
        for source, token_id in keys:
            if token_id is not None:
                ids[source].append(token_id)
            elif self._static_hash is not None:
                found.append(_STATIC_GRANT)
        if ids["bridge"]:
            rows = await self._grant_lookups.fetch("valid_tokens", ids["bridge"])
            found += map(_grant, rows)
        if ids["bot"] and self._bot is not None:
            async with self._bot.share.turn() as database:
                found += await self._bot.still_valid(database, ids["bot"])
        return found

    @contextmanager
    def _attempt(self, key: str, credential: _Credential) -> Iterator[None]:
        """Count a lookup as running for an address; refuse it if there are too many."""
        under_way = self._under_way.get(key, 0)
        if under_way >= MOST_AT_ONCE and not self._is_known(credential):
            raise TooManyFailuresError(1.0)
        self._under_way[key] = under_way + 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def _is_known(self, credential: _Credential) -> bool:
        return self._known.get(credential, 0.0) > trio.current_time()

    def _refuse_blocked(self, key: str, credential: _Credential) -> None:
        """Refuse an address with too many failures, unless the credential was recently valid."""
        if self._failures is None or self._is_known(credential):
            return
        now = trio.current_time()
        if wait := self._failures.wait(key, now):
            if not self._logged.take(key, now):
                log.warning(
                    "address_blocked",
                    address=key,
                    hint="if this is your own proxy, add it to BRIDGE_TRUSTED_PROXIES",
                )
            raise TooManyFailuresError(wait)

    def _count(self, key: str, credential: _Credential, *, failed: bool) -> None:
        """Count the result of a lookup against the address."""
        if failed:
            metrics.logins_failed.inc()
            self._known.pop(credential, None)
            if self._failures is not None:
                self._failures.take(key, trio.current_time())

    def _remember(self, credential: _Credential, seconds: float) -> None:
        self._known[credential] = trio.current_time() + seconds
        self._known.move_to_end(credential)
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)

    def _stored(self, secret: str, grant: Grant) -> bytes:
        """Return the hash to store for a ticket or session of a token."""
        from_table, *from_setting = self._possibly_stored(secret)
        return from_setting[0] if grant.source == "setting" else from_table

    def _possibly_stored(self, secret: str) -> list[bytes]:
        """Return the hashes under which a ticket or session may be stored.

        The first is for tokens of the tables, the second for the static token. The second depends
        on ``BRIDGE_TOKEN``: if that changes, its tickets and sessions are no longer found.
        """
        digest = hash_token(secret)
        if self._static_hash is None:
            return [digest]
        return [digest, hmac.digest(self._static_hash, digest, "sha256")]

    async def _look_up(self, token: str, key: str, credential: _Credential) -> Grant | None:
        _, digest = credential
        async with self._turn(self._lookups, key, credential) as database:
            rows = await database.fetch("authenticate", digest)
        if rows:
            return _grant(rows[0])
        if self._bot is None:
            return None
        async with self._turn(self._bot.share, key, credential) as database:
            return await self._bot.find(database, token)

    @asynccontextmanager
    async def _turn(
        self, share: Share, key: str, credential: _Credential
    ) -> AsyncIterator[Database]:
        """Wait for a connection, then check again that the address is not blocked.

        Only failures count against an address, not running lookups: of a hundred clients that
        reconnect from one address after a restart, all may be valid.
        """
        async with share.turn() as database:
            self._refuse_blocked(key, credential)
            yield database


def _grant(row: Row) -> Grant:
    return Grant(row["id"], row["name"], frozenset(row["scopes"]))
