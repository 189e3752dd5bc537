"""Who a request comes from."""

from starlette.datastructures import Headers
from starlette.types import Scope

from bridge.access.proxies import client_address


def address_of(scope: Scope) -> str:
    """Return the client's address, read from X-Forwarded-For behind trusted proxies."""
    peer = scope["client"][0] if scope.get("client") else ""
    forwarded_for = Headers(scope=scope).getlist("X-Forwarded-For")
    return client_address(peer, forwarded_for, scope["app"].state.proxies)
