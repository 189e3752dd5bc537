"""The audit log page."""

import json
from typing import Annotated, Any, Final

from fastapi import Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from bridge.access.scopes import ADMIN
from bridge.web.api.audit import Change, list_audit
from bridge.web.api.fields import BeforeId
from bridge.web.api.parts import InDatabase
from bridge.web.console.guard import page_router
from bridge.web.console.rendering import page
from bridge.webhooks.fields import empty_is_none

#: Rows per page.
SHOWN: Final = 50
#: Most characters shown of a value; rules include the SQL of their triggers.
MOST_OF_A_VALUE: Final = 1_000
#: Larger changes are collapsed: most columns, and most characters of their values.
MOST_AT_ONCE: Final = 4
MOST_CHARACTERS_AT_ONCE: Final = 400

managing = page_router(ADMIN)
ROUTERS = (managing,)

#: Column, old value and new value, each None if absent.
_Column = tuple[str, str | None, str | None]


@managing.get("/console/audit")
async def changes_page(
    request: Request,
    database: InDatabase,
    before_id: Annotated[BeforeId, BeforeValidator(empty_is_none)] = None,
) -> Response:
    """List all changes, however they were made, newest first."""
    changes = await list_audit(database, SHOWN, before_id)
    items = [(change, _columns(change)) for change in changes.items]
    return page(
        request,
        "changes",
        items=[(change, columns, _is_long(columns)) for change, columns in items],
        is_first=before_id is None,
        next_before_id=changes.next_before_id,
    )


def _columns(change: Change) -> list[_Column]:
    shown: list[_Column] = []
    for name, value in change.changes.items():
        if isinstance(value, dict) and value.keys() == {"from", "to"}:
            shown.append((name, _text(value["from"]), _text(value["to"])))
        elif value is not None:  # details of a redelivery or a truncation
            shown.append((name, None, _text(value)))
    return shown


def _is_long(columns: list[_Column]) -> bool:
    """Return whether the columns are collapsed."""
    texts = [text for _, before, after in columns for text in (before, after) if text]
    return len(columns) > MOST_AT_ONCE or sum(map(len, texts)) > MOST_CHARACTERS_AT_ONCE


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_OF_A_VALUE else f"{text[:MOST_OF_A_VALUE]}…"
