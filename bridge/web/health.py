"""How the bridge is, for who watches it: no token is asked for."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from bridge import metrics
from bridge.web.refusals import FAILED
from bridge.web.schemas import Health, Readiness

open_to_all = APIRouter(tags=["bridge"])
ROUTERS = (open_to_all,)


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
    """Whether every part of the bridge does its work."""
    checks = dict(request.app.state.ready())
    all_well = all(checks.values())
    answer = Readiness(status="ready" if all_well else "not ready", checks=checks)
    return JSONResponse(answer.model_dump(), 200 if all_well else 503)


@open_to_all.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses=FAILED,
    summary="Give Prometheus its metrics",
)
async def prometheus_metrics(request: Request) -> Response:
    """What this bridge, with all its workers, has counted since it was started, for Prometheus."""
    return Response(await request.app.state.exposition(), media_type=metrics.CONTENT_TYPE)
