"""Name this process in the database."""

import os
import socket


def bridge_name() -> str:
    """Return ``host:pid``, as stored in ``bridge.drainer`` and ``bridge.activity``."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_ended(name: str) -> bool:
    """Return whether the process with this name is known to have ended.

    It is known on its own host, and only where a process may ask. Containers that share a host's
    name but not its process ids look as if they had ended, so do not rely on this alone.
    """
    host, _, pid = name.rpartition(":")
    if os.name != "posix" or host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False
