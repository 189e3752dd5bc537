"""Parses a webhook's URL into what a request needs."""

from dataclasses import dataclass, replace
from functools import lru_cache

import httpx

# "identity": responses are stored verbatim.
_COMMON_HEADERS = b"User-Agent: pgbridge\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads. Requests to the same origin share connections."""

    is_tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, in the parts that a request needs."""

    origin: Origin
    #: The request line and the headers that are the same for every request.
    head: bytes


@lru_cache(maxsize=4096)
def parse_url(url: str) -> Target:
    """Return the parts of an http or https URL.

    Raises:
        ValueError: no request can be sent there.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(str(error)) from None
    if parsed.scheme not in ("http", "https"):
        raise ValueError("the scheme is neither http nor https")
    if not parsed.host:
        raise ValueError("the host is missing")
    if parsed.userinfo:
        raise ValueError("it contains a user or password")
    is_tls = parsed.scheme == "https"
    port = parsed.port or (443 if is_tls else 80)
    origin = Origin(is_tls, parsed.raw_host.decode("ascii"), port)
    # httpx has percent-encoded everything else: both are ASCII.
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (parsed.raw_path, parsed.netloc)
    return Target(origin, head + _COMMON_HEADERS)


def same_origin(one: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port, in whatever spelling.

    A URL to which no request can be sent has no origin.
    """
    try:
        origins = [parse_url(url).origin for url in (one, other)]
    except ValueError:
        return False
    # "host." is the absolute form of "host". httpx has encoded Unicode and lowered the case.
    first, second = (replace(origin, host=origin.host.removesuffix(".")) for origin in origins)
    return first == second
