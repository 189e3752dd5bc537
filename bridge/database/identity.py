"""Name this process in the database."""

import os
import socket


def bridge_name() -> str:
    """Return ``host:pid``, as stored in ``bridge.drainer`` and ``bridge.activity``."""
    return f"{socket.gethostname()}:{os.getpid()}"
