"""Static files of the pages: style, scripts and icon. They are public."""

import hashlib
from functools import cache
from typing import Final

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from bridge import assets

#: The files and their media types.
TYPES: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "feed.js": "text/javascript",
    "deliveries.js": "text/javascript",
    "pgbridge.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

open_to_all = APIRouter()
ROUTERS = (open_to_all,)


@open_to_all.get("/console/static/{name}", include_in_schema=False)
async def static(request: Request, name: str) -> Response:
    """Serve one file, or 304 if the browser has the current version."""
    if name not in TYPES:
        raise HTTPException(404)
    content, etag = _file(name)
    # Browsers revalidate each time and download again only after an upgrade.
    headers = {"Cache-Control": "no-cache", "ETag": etag}
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[name], headers=headers)


@cache
def _file(name: str) -> tuple[bytes, str]:
    content = assets.console_file(name)
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
