"""Bounds the heads of HTTP messages before h11 parses them.  (pure)

h11 takes as much time for each header as for hundreds of bytes. White space in front of an invalid
value takes quadratic time: a second for 16 KiB, while nothing else runs.
"""

import re
from typing import Final

#: Most headers of a request or response. Browsers behind proxies send about thirty; Python's own
#: client accepts as many as this.
MOST_HEADERS: Final = 100

#: The end of a head; h11 also accepts bare line feeds.
END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_PADDING = re.compile(rb":[ \t]{100}")


def head_problem(head: bytes) -> str | None:
    """Return why a complete head must not be parsed, or None if it may be."""
    if head.count(b"\n") > MOST_HEADERS + 2:  # also the first line and the empty one
        return f"more than {MOST_HEADERS} headers"
    return "a header with 100 leading spaces" if is_padded(head) else None


def is_padded(received: bytes) -> bool:
    """Return whether a value has so much white space in front of it that parsing would be slow.

    Trailers need this check as well. They are found only by parsing, so check chunked bodies.
    """
    return _PADDING.search(received) is not None
