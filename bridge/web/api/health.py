"""How the bridge is, for who watches it: no token is asked for."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from bridge.telemetry import metrics
from bridge.web.api.refusals import FAILED

open_to_all = APIRouter(tags=["bridge"])
ROUTERS = (open_to_all,)


class Health(BaseModel):
    """The process responds."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether the bridge makes progress, which checks fail, and why."""

    status: Literal["ready", "not ready"]
    checks: dict[str, bool]
    reasons: dict[str, str]


@open_to_all.get(
    "/healthz", response_model=Health, responses=FAILED, summary="Tell whether the process answers"
)
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


@open_to_all.get(
    "/readyz",
    response_model=Readiness,
    responses={
        **FAILED,
        503: {"model": Readiness, "description": "A part does not do its work"},
    },
    summary="Tell whether the bridge makes progress",
)
async def readyz(request: Request) -> JSONResponse:
    """Whether every part of the bridge does its work, and if not, what is wrong.

    - `relay`: it gets around to draining, or to following the bridge that drains.
    - `outbox`: whoever drains, no event stays the first in the outbox for ten seconds.
    - `listen`: what is notified is heard.
    - `claim`: it gets around to looking for deliveries that are due.
    - `settle`: what became of attempts is written down.
    - `database`: it answers.

    What receivers do does not matter. The answer comes from memory, whatever the database does.
    """
    troubles = request.app.state.troubles()
    reasons = {name: why for name, why in troubles.items() if why is not None}
    answer = Readiness(
        status="not ready" if reasons else "ready",
        checks={name: why is None for name, why in troubles.items()},
        reasons=reasons,
    )
    return JSONResponse(answer.model_dump(), 503 if reasons else 200)


@open_to_all.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=FAILED,
    summary="Give Prometheus its metrics",
)
async def prometheus_metrics(request: Request) -> Response:
    """What this bridge, with all its workers, has counted since it was started, for Prometheus."""
    return Response(await request.app.state.exposition(), media_type=metrics.CONTENT_TYPE)
