"""The installed Node, for tests of JavaScript clients."""

import os
import shutil
import subprocess
from functools import cache

import pytest

from tests.system.processes import environment


@cache
def node() -> tuple[str, ...]:
    """Return the command of a Node with WebSocket, or an empty tuple."""
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
    """Return the environment for Node with the given BRIDGE_<NAME> settings."""
    # The location of Debian's node-ws.
    paths = [os.environ.get("NODE_PATH", ""), "/usr/share/nodejs"]
    return {**environment(None, **settings), "NODE_PATH": ":".join(filter(None, paths))}


def needs_node() -> None:
    """Skip the test without a usable Node."""
    if not node():
        pytest.skip(
            "no usable Node: version 20 or newer is needed, or 18 with `ws` (Debian: node-ws)"
        )
