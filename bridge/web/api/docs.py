"""The page for people who try the API in a browser."""

import base64
import hashlib
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

# One release, and of it these very files: who types a token into the page trusts them with it, and
# need not trust the server that they come from.
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

# The document is beside the page, so both may be behind any prefix of a proxy, and the page's own
# path may have a slash at its end. What stands in the page is seen until the scripts have come, and
# where they cannot.
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
<p>This page is drawn by scripts from cdn.jsdelivr.net. If nothing else appears here, your browser
does not run scripts, or cannot reach that server.</p>
<p>The description of the REST API is in <a href="openapi.json">openapi.json</a>, which comes from
this bridge alone.</p>
</div>
<script src="{_SWAGGER_UI}/swagger-ui-bundle.js"
        integrity="{_SCRIPT_HASH}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


#: What the page may do: run those two scripts, call this bridge, and show what it needs for that.
#: Swagger UI sets styles of elements and draws its signs from data: URLs.
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
    """The page, with what it may do."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})
