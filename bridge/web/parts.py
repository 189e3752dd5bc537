"""The parts of the bridge that routes work with; ``build_api`` keeps them in the state."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from bridge.db import Database
from bridge.secrets import Vault
from bridge.web.refusals import invalid


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


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


InDatabase = Annotated[Database, Depends(_database)]
InVault = Annotated[Vault, Depends(_vault)]
ChecksUrl = Annotated[UrlCheck, Depends(_url_check)]
