"""Builds large request bodies in another process.

To parse and sort a payload of a megabyte can take 0.2 s, in which the event loop would serve no
other client. A thread would not help: Python's JSON parser keeps the interpreter's lock.
"""

import os
import subprocess
import sys

import structlog
import trio
from trio.abc import ReceiveStream

from bridge.delivery import body
from bridge.delivery.body import LENGTH, NO_BODY, canonical_body

log = structlog.get_logger()

#: How long a body may take, with the start of the process.
BUILD_SECONDS = 30.0


class Builder:
    """Builds large bodies in another process, one at a time. The first one starts the process."""

    def __init__(self) -> None:
        self._process: trio.Process | None = None
        self._turn = trio.Lock()

    async def build(self, payload: str) -> bytes:
        """Return what :func:`canonical_body` returns, and raise the same.

        If the other process fails, this one builds the body.
        """
        async with self._turn:
            try:
                with trio.fail_after(BUILD_SECONDS):
                    built = await self._ask(payload.encode())
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.warning("body_process_failed", reason=str(error) or type(error).__name__)
                built = canonical_body(payload)
        if built is None:
            raise RecursionError
        return built

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def _ask(self, payload: bytes) -> bytes | None:
        if self._process is None:
            self._process = await _start()
        try:
            return await _exchange(self._process, payload)
        except BaseException:
            # Later answers would be taken for those of other payloads.
            await self.close()
            raise


async def _exchange(process: trio.Process, payload: bytes) -> bytes | None:
    if process.stdin is None or process.stdout is None:
        raise trio.BrokenResourceError("the process has no pipes")
    await process.stdin.send_all(LENGTH.pack(len(payload)) + payload)
    [length] = LENGTH.unpack(await _receive(process.stdout, LENGTH.size))
    return None if length == NO_BODY else await _receive(process.stdout, length)


async def _start() -> trio.Process:
    # Of the environment it needs nothing, not even the password of the database.
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", body.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def _receive(stream: ReceiveStream, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = await stream.receive_some(length - len(received))
        if not piece:
            raise trio.BrokenResourceError("the process ended")
        received += piece
    return bytes(received)
