"""Who changed what, and when."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field

from bridge.access.scopes import ADMIN
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import BeforeId, Limit
from bridge.web.api.parts import InDatabase
from bridge.webhooks.fields import Id

managing = guarded_router(ADMIN)
ROUTERS = (managing,)


class Change(BaseModel):
    """One change."""

    id: Id
    changed_at: datetime
    action: str = Field(examples=["webhook.updated", "token.created", "delivery.redelivered"])
    target_id: Id | None = Field(description="The id of what was changed.")
    target: str | None = Field(description="Its name, as it was then.")
    via: Literal["api", "console", "cli", "sql", "bridge"] = Field(
        description="By which way; `bridge`: by itself."
    )
    actor: str = Field(description="The token, or user and machine.")
    address: str | None = Field(description="Where the request came from.")
    db_role: str = Field(description="Who was logged in to the database.")
    changes: Annotated[dict[str, Any], BeforeValidator(json.loads)] = Field(
        description="What changed, from what to what; of secrets, only whether there is one."
    )


class ChangeList(BaseModel):
    """A page of changes, newest first."""

    items: list[Change]
    next_before_id: Id | None = Field(
        description="The next page is the one with this `before_id`; null: this is the last."
    )


@managing.get("/audit", tags=["audit"], summary="List changes")
async def list_audit(
    database: InDatabase,
    limit: Annotated[Limit, Query()] = 50,
    before_id: Annotated[
        BeforeId | None,
        Query(description="Only older ones: the `next_before_id` of the page before."),
    ] = None,
) -> ChangeList:
    """A page of what was changed, by whichever way: webhooks, tokens, rules, redeliveries."""
    rows = await database.fetch("list_audit", before_id, limit + 1)
    return ChangeList(
        items=[Change.model_validate(dict(row)) for row in rows[:limit]],
        next_before_id=rows[limit - 1]["id"] if len(rows) > limit else None,
    )
