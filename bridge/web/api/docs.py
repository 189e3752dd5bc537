"""The page on which people try the API in a browser."""

import base64
import hashlib
import re
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from bridge import assets

#: The page finds the OpenAPI document next to itself, behind any prefix of a proxy and with or
#: without a trailing slash. It loads exact files of one release: people type tokens into the page,
#: and should not have to trust the CDN. Its text shows until the scripts have loaded, or if they
#: cannot.
PAGE: Final = assets.template("docs.html")

_STYLE, _SCRIPT = re.findall(r'(?:href|src)="(https:[^"]*)"', PAGE)
_INLINE = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)[0].encode()
_INLINE_HASH = base64.b64encode(hashlib.sha256(_INLINE).digest()).decode()

#: The page may run those two scripts and call this bridge. Swagger UI also sets inline styles and
#: draws icons from data: URLs.
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_SCRIPT} 'sha256-{_INLINE_HASH}'",
        f"style-src {_STYLE} 'unsafe-inline'",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

open_to_all = APIRouter()
ROUTERS = (open_to_all,)


@open_to_all.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Show the page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})
