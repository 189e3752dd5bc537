"""Health, readiness and metrics for monitoring, without a token."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel

from bridge.telemetry.exposition import CONTENT_TYPE
from bridge.web.api.refusals import FAILED

open_to_all = APIRouter(tags=["bridge"], responses=FAILED)
ROUTERS = (open_to_all,)


class Health(BaseModel):
    """The process responds."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether the bridge makes progress, which checks fail, and why."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
    reasons: dict[str, str]


@open_to_all.get("/healthz", summary="Check that the process responds")
async def healthz() -> Health:
    """Check that the process responds."""
    return Health(status="ok")


@open_to_all.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "At least one check fails"}},
    summary="Check that the bridge makes progress",
)
async def readyz(request: Request, response: Response) -> Readiness:
    """Check every part of the bridge; `reasons` explains failed checks.

    - `relay`: this bridge drains the outbox, or follows the bridge that does.
    - `outbox`: the oldest event leaves the outbox within ten seconds, whichever bridge drains it.
    - `listen`: notifications arrive.
    - `claim`: this bridge looks for due deliveries.
    - `settle`: the results of attempts are stored.
    - `database`: the database responds.

    Failing receivers do not affect readiness. The response never waits for the database.
    """
    troubles = request.app.state.troubles()
    reasons = {name: why for name, why in troubles.items() if why is not None}
    response.status_code = 503 if reasons else 200
    return Readiness(
        status="not ready" if reasons else "ready",
        checks={name: why is None for name, why in troubles.items()},
        reasons=reasons,
    )


@open_to_all.get("/metrics", response_class=PlainTextResponse, summary="Show metrics")
async def prometheus_metrics(request: Request) -> Response:
    """Show the metrics of this bridge and all its workers in Prometheus' text format."""
    return Response(await request.app.state.exposition(), media_type=CONTENT_TYPE)
