"""Renders pages from templates."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FunctionLoader, StrictUndefined

from bridge import assets
from bridge.access.scopes import ADMIN, EVENTS_READ, WEBHOOKS_READ, WEBHOOKS_WRITE
from bridge.operations import formatting
from bridge.web.console import charts, figures
from bridge.web.console.language import Translate, chosen_language, translator
from bridge.web.http.middleware import SLASHED

if TYPE_CHECKING:
    from bridge.access.tokens import Grant

#: Pages may load our files, call this bridge and submit forms to it. They contain no inline scripts
#: or styles, so injected ones never run.
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)

#: Sections of the console: name, path, title and required scope.
ROOMS: Final = (
    ("overview", "", "Overview", None),
    ("events", "events", "Events", EVENTS_READ),
    ("webhooks", "webhooks", "Webhooks", WEBHOOKS_READ),
    ("deliveries", "deliveries", "Deliveries", WEBHOOKS_READ),
    ("dead_letters", "dead-letters", "Dead letters", WEBHOOKS_READ),
    ("tokens", "tokens", "Tokens", ADMIN),
    ("changes", "audit", "Changes", ADMIN),
)


def page(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """Render ``templates/console/<template>.html.j2``.

    Args:
        values: variables of the template. It also gets ``grant`` (None without a session), ``base``
            (the prefix of links), and filters and texts in the reader's language.
    """
    language = chosen_language(request.headers.get("Accept-Language", ""))
    grant: Grant | None = getattr(request.state, "grant", None)
    text = (
        _environment(language)
        .get_template(f"{template}.html.j2")
        .render(
            base=base_of(request),
            grant=grant,
            csrf=getattr(request.state, "csrf", ""),
            rooms=[room for room in ROOMS if grant and (room[3] is None or grant.allows(room[3]))],
            may_write=grant is not None and grant.allows(WEBHOOKS_WRITE),
            **values,
        )
    )
    return HTMLResponse(
        text,
        status,
        {**(headers or {}), "Content-Security-Policy": POLICY, "Content-Language": language},
    )


def error_page(
    request: Request,
    status: int,
    detail: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Render the error page.

    Args:
        detail: adds to what the status says.
    """
    return page(request, "error", status=status, headers=headers, code=status, detail=detail)


def redirect(request: Request, path: str, **query: object) -> Response:
    """Redirect to a page of the console after a form was processed."""
    return RedirectResponse(f"{base_of(request)}{path}?{urlencode(query)}", 303)


def translator_of(request: Request) -> Translate:
    """Return the translation function for the browser's language."""
    return translator(chosen_language(request.headers.get("Accept-Language", "")))


def base_of(request: Request) -> str:
    """Return the relative path from a page to the console: ``""``, ``console/`` or ``../``.

    Links are relative so that the console works behind any proxy prefix.
    """
    below = request.scope["path"].strip("/").split("/")[1:]
    depth = len(below) + (1 if request.scope.get(SLASHED) else 0)
    return "console/" if depth == 0 else "../" * (depth - 1)


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: assets.template(f"console/{name}")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    translate: Translate = translator(language)
    environment.globals.update(
        _=translate,
        language=language,
        version=assets.version(),
        size={
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
            "left": charts.LEFT,
            "bottom": charts.BOTTOM,
        },
    )
    environment.filters.update(
        number=lambda value, digits=0: formatting.number(value, digits, translate),
        rate=lambda value: formatting.rate(value, translate),
        percent=lambda share: formatting.percent(share, translate),
        period=lambda seconds: formatting.period(seconds, translate),
        duration=lambda seconds: formatting.duration(seconds, translate),
        moment=figures.moment,
        pretty=figures.pretty,
        cut=figures.cut,
        breakable=figures.breakable,
    )
    return environment
