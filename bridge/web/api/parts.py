"""What route handlers need of the bridge; ``build_api`` stores it in the application's state."""

from typing import Annotated

from fastapi import Depends, Request

from bridge.database.pool import Row
from bridge.database.queries import Queries
from bridge.database.shares import Share
from bridge.web.api.auth import actor_of
from bridge.webhooks.operations import Webhooks


class AuditedDatabase:
    """The database for a request that changes something; the audit log names its sender."""

    def __init__(self, database: Share, actor: str) -> None:
        self._database = database
        self._actor = actor

    async def fetch(self, name: str, *values: object) -> list[Row]:
        """Run a named query and return its rows."""
        return await self._database.change(self._actor, name, *values)


async def _database(request: Request) -> Queries:
    database: Share = request.app.state.database
    # A HEAD request arrives here as GET.
    return database if request.method == "GET" else AuditedDatabase(database, actor_of(request))


InDatabase = Annotated[Queries, Depends(_database)]


async def _webhooks(request: Request, database: InDatabase) -> Webhooks:
    state = request.app.state
    return Webhooks(database, state.vault, state.url_refusal, most=state.max_webhooks)


InWebhooks = Annotated[Webhooks, Depends(_webhooks)]
