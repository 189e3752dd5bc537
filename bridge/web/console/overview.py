"""What one looks at first."""

from fastapi import Request
from fastapi.responses import Response

from bridge.web.console.guard import page_router
from bridge.web.console.rendering import page

looking = page_router(None)
ROUTERS = (looking,)


@looking.get("/console")
async def overview_page(request: Request) -> Response:
    """The figures of now and of the last while."""
    return page(request, "overview")
