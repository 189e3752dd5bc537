"""Serves an ASGI application on `$PORT`: ``python -m tests.asgi module:application``."""

import importlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.types import ASGIApp

from bridge.web.http.front import Front


@asynccontextmanager
async def serving_app(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve an application; yield its base URL."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Front(app, handshake_seconds=5.0).accept, listeners, nursery)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def main() -> None:
    """Serve the application that the command line names, until killed."""
    module, _, name = sys.argv[1].partition(":")
    app = getattr(importlib.import_module(module), name)
    async with serving_app(app, int(os.environ["PORT"])) as url:
        print(f"running on {url}/", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
