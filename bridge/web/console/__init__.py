"""The console: pages for people at ``/console``, for whoever signs in with a token."""

from bridge.web.console import (
    changes,
    dead_letters,
    deliveries,
    entrance,
    events,
    overview,
    static,
    tokens,
    webhooks,
)

ROOMS = (static, entrance, overview, events, webhooks, deliveries, dead_letters, tokens, changes)
ROUTERS = tuple(router for room in ROOMS for router in room.ROUTERS)
