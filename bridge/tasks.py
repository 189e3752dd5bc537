"""Small helpers for trio tasks."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf

import trio

#: Longest pause of ``linger``. A statement that waited for a lock must not delay the next longer.
LONGEST_LINGER_SECONDS = 1.0


async def linger(started: float, share: float = 0.5) -> None:
    """Wait after work so that it takes at most this share of the time, and more accumulates.

    Args:
        started: when the work began, by trio's clock.
    """
    took = trio.current_time() - started
    await trio.sleep(min(took / share - took, LONGEST_LINGER_SECONDS))


class WakeUp:
    """Wakes one waiting task. Signals sent before it waits are kept and count as one."""

    def __init__(self) -> None:
        self._signalled = trio.Event()

    def signal(self) -> None:
        """Wake the waiting task, or make its next wait return at once."""
        self._signalled.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a signal since the last return, for at most ``seconds``; return if it came."""
        with trio.move_on_after(seconds):
            await self._signalled.wait()
        came = self._signalled.is_set()
        self._signalled = trio.Event()
        return came


async def hang_up(stream: trio.SocketStream, seconds: float, most_bytes: float = inf) -> None:
    """Close the sending side and read the remaining input for a moment.

    Closing with unread input would reset the connection, and a client that is still sending might
    never see the last answer, which says why.

    Args:
        seconds: how long to read at most.
        most_bytes: how much to read at most.
    """
    with (
        trio.move_on_after(seconds),
        suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        await stream.send_eof()
        while most_bytes > 0 and (data := await stream.receive_some(65_536)):
            most_bytes -= len(data)


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first leaf of an exception group instead of the group.

    Unlike ``except*``, this lets the caller raise another error: some Python versions wrap what is
    raised in an ``except*`` block in a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        raise first_error(group)  # noqa: B904 - keep its own cause


def first_error(error: BaseException) -> BaseException:
    """Return the first leaf of an exception group; return any other exception unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
