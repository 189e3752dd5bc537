"""The parts of the bridge that routes work with; ``build_api`` keeps them in the state."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol

from fastapi import Depends, Request

from bridge.access.vault import Vault
from bridge.database.pool import Row
from bridge.database.shares import Share
from bridge.web.api.auth import actor_of
from bridge.web.api.refusals import invalid


class Queries(Protocol):
    """Runs the named queries of ``sql/queries``."""

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run a query, and return its rows."""


class Acting:
    """The database for a request that changes something: what changes is its sender's doing."""

    def __init__(self, database: Share, actor: str) -> None:
        self._database = database
        self._actor = actor

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run a query, and return its rows."""
        return await self._database.change(self._actor, name, *values)


async def _database(request: Request) -> Queries:
    database: Share = request.app.state.database
    # A HEAD comes here as the GET that it is answered like.
    return database if request.method == "GET" else Acting(database, actor_of(request))


UrlCheck = Callable[[str], Awaitable[None]]


async def _url_check(request: Request) -> UrlCheck:
    """Give what answers 422, as for any wrong field, to a URL that no delivery may go to."""

    async def check(url: str) -> None:
        if refusal := await request.app.state.url_refusal(url):
            raise invalid("body", "url", message=refusal, kind="url_refused")

    return check


async def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


InDatabase = Annotated[Queries, Depends(_database)]
InVault = Annotated[Vault, Depends(_vault)]
ChecksUrl = Annotated[UrlCheck, Depends(_url_check)]
