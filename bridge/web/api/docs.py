"""The page on which people try the API in a browser."""

import base64
import hashlib
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

# These exact files of one release: people type tokens into the page, and should not have to trust
# the CDN.
_SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
_SCRIPT_HASH = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE_HASH = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"

_START = """
const url = location.pathname.replace(/[^/]*\\/?$/, 'openapi.json');
document.querySelector('#swagger-ui a').href = url;
SwaggerUIBundle({
  url,
  dom_id: '#swagger-ui',
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
});
"""

# The page finds the document next to itself, behind any prefix of a proxy and with or without a
# trailing slash. Its text shows until the scripts have loaded, or if they cannot.
PAGE: Final = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pgbridge</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_SWAGGER_UI}/swagger-ui.css"
      integrity="{_STYLE_HASH}" crossorigin="anonymous">
</head>
<body>
<div id="swagger-ui">
<p>This page needs scripts from cdn.jsdelivr.net. If nothing else appears, your browser does not run
scripts or cannot reach that server.</p>
<p>The REST API is described in <a href="openapi.json">openapi.json</a>, which this bridge
serves itself.</p>
</div>
<script src="{_SWAGGER_UI}/swagger-ui-bundle.js"
        integrity="{_SCRIPT_HASH}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


#: The page may run those two scripts and call this bridge. Swagger UI also sets inline styles and
#: draws icons from data: URLs.
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_SWAGGER_UI}/swagger-ui-bundle.js 'sha256-{_hash(_START)}'",
        f"style-src {_SWAGGER_UI}/swagger-ui.css 'unsafe-inline'",
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
