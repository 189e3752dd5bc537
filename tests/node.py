"""The Node of this machine, for the tests of clients in JavaScript."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

from tests.system.processes import environment


@cache
def node() -> tuple[str, ...]:
    """Return how to run a Node that has a WebSocket; nothing if there is none."""
    for command in (["node"], ["node", "--experimental-websocket"]):
        if _runs([*command, "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]):
            return tuple(command)
    if _runs(["node", "-e", "require('ws')"]):
        return ("node",)
    return ()


def _runs(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, env=node_environment(), capture_output=True).returncode == 0


def node_environment(**settings: object) -> dict[str, str]:
    """Return the environment of a Node with these settings: BRIDGE_<NAME>."""
    # Where Debian's node-ws is.
    paths = [os.environ.get("NODE_PATH", ""), "/usr/share/nodejs"]
    return {**environment(None, **settings), "NODE_PATH": ":".join(filter(None, paths))}


def needs_node() -> None:
    """Skip the test where there is none."""
    if not node():
        pytest.skip("no usable Node: it needs 20 or newer, or 18 with `ws` (Debian: node-ws)")
