"""Tokens: create, list, revoke."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import HTTPException, Request
from pydantic import AfterValidator, BaseModel, Field

from bridge.access.scopes import ADMIN, MOST_SCOPES, SCOPES, checked_scopes
from bridge.access.tokens import new_row, new_token, too_many
from bridge.events import PATTERN
from bridge.web.api.auth import guarded_router
from bridge.web.api.fields import Limit, Offset, TokenId
from bridge.web.api.parts import InDatabase
from bridge.web.api.refusals import NO_TOKEN, TOO_MANY, WITH_BODY, found
from bridge.webhooks.body import Body
from bridge.webhooks.fields import Count, Id, Moment, Name, example

managing = guarded_router(ADMIN, "tokens")
ROUTERS = (managing,)

Scope = Annotated[
    str,
    Field(
        max_length=255,
        pattern=(
            f"^({'|'.join(SCOPES)}"
            rf"|events:read:(?:{PATTERN.pattern}))$"
        ),
        examples=["events:read:ticket.*"],
    ),
]
Scopes = Annotated[
    list[Scope], Field(min_length=1, max_length=MOST_SCOPES), AfterValidator(checked_scopes)
]


class Token(BaseModel):
    """A token, without the secret itself."""

    id: Id
    name: str
    prefix: str = Field(description="The first characters of the token.")
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="Rounded to the minute.")
    state: Literal["valid", "expired", "revoked"]


class CreatedToken(Token):
    """A new token, with the secret itself."""

    token: str = Field(repr=False, description="The token. It is shown only once.")


class NewToken(Body):
    """A token to create. Read-only fields are ignored."""

    read_only = frozenset(Token.model_fields)
    model_config = example(name="dashboard", scopes=["events:read", "webhooks:write"])

    name: Name = Field(description="What the token is for.")
    scopes: Scopes = Field(description="What the token may do.")
    expires_at: Moment | None = Field(
        default=None, description="When it expires; UTC if there is no time zone. Null: never."
    )


class TokenList(BaseModel):
    """A page of tokens, newest first."""

    items: list[Token]
    total: Count = Field(description="The number of tokens on all pages.")
    limit: int
    offset: Count


@managing.get("/tokens", summary="List tokens")
async def list_tokens(database: InDatabase, limit: Limit = 50, offset: Offset = 0) -> TokenList:
    """List tokens, newest first, including expired and revoked ones."""
    rows = await database.fetch("list_tokens", None, limit, offset)
    return TokenList(
        items=[Token(**row) for row in rows if row["id"] is not None],
        total=rows[0]["total"],
        limit=limit,
        offset=offset,
    )


@managing.post(
    "/tokens", status_code=201, responses={**WITH_BODY, **TOO_MANY}, summary="Create a token"
)
async def create_token(request: Request, database: InDatabase, wanted: NewToken) -> CreatedToken:
    """Create a token. Only this response contains it."""
    token, most = new_token(), request.app.state.max_tokens
    row = new_row(wanted.name, token, wanted.scopes, wanted.expires_at, most)
    for created in await database.fetch("create_token", *row):
        return CreatedToken(**created, token=token)
    raise HTTPException(409, too_many(most))


@managing.delete(
    "/tokens/{token_id}",
    status_code=204,
    responses=NO_TOKEN,
    summary="Revoke a token",
)
async def revoke_token(database: InDatabase, token_id: TokenId) -> None:
    """Revoke a token permanently. Streams opened with it close within seconds."""
    found(await database.fetch("revoke_token", token_id), "Token")
