"""Validate database URLs without ever showing a password."""

import re
from typing import Final
from urllib.parse import urlsplit

_ESCAPES: Final = "in a password, write / as %2F, ? as %3F, # as %23 and @ as %40"


def checked_url(url: str) -> str:
    """Return a URL as libpq accepts it; SQLAlchemy's ``postgresql+driver://`` is converted.

    Raises:
        ValueError: says what is wrong. libpq's own message could show parts of the password.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.split("+", 1)[0]
    if scheme not in ("postgresql", "postgres"):
        raise ValueError("must begin with postgresql://")
    if "," not in parts.netloc:  # several hosts have several ports
        try:
            _ = parts.port
        except ValueError:
            raise ValueError(f"has a port that is not a number up to 65535; {_ESCAPES}") from None
    if parts.netloc.count("@") > 1:
        raise ValueError("has a second @; in a password, write @ as %40")
    if "@" in parts.path + parts.fragment or any(
        part and "=" not in part for part in parts.query.split("&")
    ):
        raise ValueError(f"has a misplaced @ or ?; {_ESCAPES}")
    if re.search("%(?!(?!00)[0-9A-Fa-f]{2})", url):
        raise ValueError("has an invalid % escape; in a password, write % as %25")
    return "postgresql" + url[len(parts.scheme) :]
