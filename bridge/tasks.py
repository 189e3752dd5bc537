"""Small helpers for trio tasks."""

import trio


class WakeUp:
    """Wakes one waiting task. Signals sent before it waits are kept and count as one."""

    def __init__(self) -> None:
        self._signalled = trio.Event()

    def signal(self) -> None:
        """Wake the waiting task, or make its next wait return at once."""
        self._signalled.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a signal since the last return, for at most ``seconds``."""
        with trio.move_on_after(seconds):
            await self._signalled.wait()
        self._signalled = trio.Event()


def first_error(error: BaseException) -> BaseException:
    """Return the first leaf of an exception group; return any other exception unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
