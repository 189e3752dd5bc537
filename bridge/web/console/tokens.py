"""Token pages: list, create, revoke."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from fastapi import HTTPException, Request
from fastapi.responses import Response
from pydantic import ValidationError

from bridge.access.scopes import ADMIN, EVENTS_READ, MOST_SCOPES, SCOPES
from bridge.events import PATTERN
from bridge.web.api import tokens
from bridge.web.api.fields import Offset, TokenId
from bridge.web.api.parts import InDatabase
from bridge.web.api.refusals import found
from bridge.web.api.tokens import NewToken
from bridge.web.console.forms import LIMIT, Form, Problems, problems_of, status_of
from bridge.web.console.guard import form_of, page_router
from bridge.web.console.rendering import page, redirect
from bridge.webhooks.errors import InvalidInputError

#: Tokens on a page of the list.
ON_A_PAGE: Final = 50
#: Default and longest validity of a token, in days.
USUAL_DAYS, MOST_DAYS = 90, 36_500

#: The fields of the form, besides the scopes.
_TEXTS: Final = ("name", "patterns", "expiry", "days", "date")

managing = page_router(ADMIN)
ROUTERS = (managing,)


@managing.get("/console/tokens")
async def tokens_page(
    request: Request, database: InDatabase, offset: Offset = 0, done: str = ""
) -> Response:
    """A page of the list, newest first."""
    listed = await tokens.list_tokens(database, ON_A_PAGE, offset)
    return page(request, "tokens", listed=listed, own=_own(request), done=done)


@managing.get("/console/tokens/new")
async def new_token_page(request: Request) -> Response:
    """The form of a new token."""
    return _form_page(request, _typed(Form({})) | {"expiry": "days", "days": str(USUAL_DAYS)})


@managing.post("/console/tokens/new")
async def create_token(request: Request, database: InDatabase) -> Response:
    """Create a token. Only this response ever shows it."""
    form = form_of(request, "scopes", *_TEXTS)
    try:
        wanted = NewToken(name=form.text("name"), scopes=_scopes(form), expires_at=_expiry(form))
    except (ValidationError, InvalidInputError) as error:
        return _form_page(request, _typed(form), problems_of(error))
    try:
        token = await tokens.create_token(request, database, wanted)
    except HTTPException as error:  # there are too many
        return _form_page(request, _typed(form), {LIMIT: str(error.detail)})
    return page(request, "token_made", status=201, token=token)


@managing.get("/console/tokens/{token_id}/revoke")
async def revoke_token_page(request: Request, database: InDatabase, token_id: TokenId) -> Response:
    """Ask for confirmation before revoking a token."""
    rows = await database.fetch("list_tokens", token_id, 1, 0)
    token = found([row for row in rows if row["id"] is not None], "Token")
    return page(request, "token_revoke", token=token, own=_own(request))


@managing.post("/console/tokens/{token_id}/revoke")
async def revoke_token(request: Request, database: InDatabase, token_id: TokenId) -> Response:
    """Revoke a token permanently."""
    await tokens.revoke_token(database, token_id)
    return redirect(request, "tokens", done="revoked")


def _own(request: Request) -> int | None:
    """Return the id of the reader's own token if it is in the list."""
    grant = request.state.grant
    return grant.id if grant.source == "bridge" else None


def _form_page(
    request: Request, shown: dict[str, Any], problems: Problems | None = None
) -> Response:
    status = status_of(problems)
    return page(request, "token_form", status=status, shown=shown, problems=problems or {})


def _typed(form: Form) -> dict[str, Any]:
    """Return the input to show again in the form."""
    return {
        **{name: form.text(name) for name in _TEXTS},
        "scopes": form.texts("scopes"),
    }


def _scopes(form: Form) -> list[str]:
    """Return the ticked scopes and one scope per event-type pattern."""
    patterns = re.findall(r"[^\s,;]+", form.text("patterns"))
    if len(patterns) > MOST_SCOPES or not all(PATTERN.fullmatch(pattern) for pattern in patterns):
        raise InvalidInputError("patterns", "")
    ticked = [scope for scope in form.texts("scopes") if scope in SCOPES]
    return ticked + [f"{EVENTS_READ}:{pattern}" for pattern in patterns]


def _expiry(form: Form) -> datetime | None:
    """Return when the token expires; None for never."""
    now = datetime.now(UTC)
    match form.text("expiry"):
        case "never":
            return None
        case "date":
            try:
                last = date.fromisoformat(form.text("date"))
                ends_at = datetime.combine(last + timedelta(days=1), time(), UTC)
            except (ValueError, OverflowError):
                ends_at = now
            if ends_at <= now:
                raise InvalidInputError("date", "")
            return ends_at
    days = form.text("days")
    if not re.fullmatch(r"[0-9]{1,5}", days) or not 1 <= int(days) <= MOST_DAYS:
        raise InvalidInputError("days", "")
    return now + timedelta(days=int(days))
