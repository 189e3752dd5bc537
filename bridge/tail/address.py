"""Parse the address of a stream."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit


class AddressError(ValueError):
    """An invalid address. The message says why without repeating it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bridge serves its stream."""

    host: str
    port: int
    path: str = "/ws"
    tls: bool = False

    def __str__(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Parse ``ws://host:port/path`` or ``wss://…``; the path defaults to ``/ws``.

    Raises:
        AddressError: the URL is invalid or contains credentials.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressError("is not a URL such as ws://127.0.0.1:8080/ws") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise AddressError("is not a URL such as ws://127.0.0.1:8080/ws")
    if parts.query or parts.username or parts.password or parts.fragment:
        raise AddressError("must end with the path; the token is read from BRIDGE_TOKEN")
    if not re.fullmatch("[!-~]+", url):
        raise AddressError("contains characters not allowed in a URL")
    tls = parts.scheme == "wss"
    path = parts.path if parts.path not in ("", "/") else "/ws"
    return Address(parts.hostname, (443 if tls else 80) if port is None else port, path, tls)
