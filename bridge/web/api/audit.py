"""The audit log: who changed what, and when."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from bridge.access.scopes import ADMIN
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import BeforeId, Limit
from bridge.web.api.parts import InDatabase
from bridge.webhooks.fields import Id

managing = guarded_router(ADMIN, "audit")
ROUTERS = (managing,)

#: Changes of a page, as text. A page has at least one.
PAGE_BYTES = 256 * 1024


class Change(BaseModel):
    """A change."""

    id: Id
    changed_at: datetime
    action: str = Field(examples=["webhook.updated", "token.created", "delivery.redelivered"])
    target_id: Id | None = Field(description="The id of the changed object.")
    target: str | None = Field(description="The object's name at that time.")
    via: Literal["api", "console", "cli", "sql", "bridge"] = Field(
        description="How it was changed; `bridge`: by the bridge itself."
    )
    actor: str = Field(description="The token, or the user and machine.")
    address: str | None = Field(description="The client's address.")
    db_role: str = Field(description="The database role.")
    changes: Annotated[dict[str, Any], BeforeValidator(json.loads)] = Field(
        description="Old and new values; of secrets, only whether one is set."
    )


class ChangeList(BaseModel):
    """A page of changes, newest first."""

    items: list[Change]
    next_before_id: Id | None = Field(
        description="The `before_id` of the next page; null on the last page."
    )


@managing.get("/audit", summary="List changes")
async def list_audit(
    database: InDatabase, limit: Limit = 50, before_id: BeforeId = None
) -> ChangeList:
    """List changes of webhooks, tokens and rules, and redeliveries, newest first.

    A page of large changes has fewer than `limit`: only `next_before_id` tells whether more follow.
    """
    rows = await database.fetch("list_audit", before_id, limit, PAGE_BYTES)
    return ChangeList(
        items=[Change(**row) for row in rows],
        next_before_id=rows[-1]["id"] if rows and rows[-1]["has_more"] else None,
    )
