"""The sign that there may be something to do."""

import trio


class WakeUp:
    """Wakes one waiting task. Signals that come before it waits are kept, and count as one."""

    def __init__(self) -> None:
        self._signalled = trio.Event()

    def signal(self) -> None:
        """Wake the task that waits, or have its next wait return at once."""
        self._signalled.set()

    async def wait(self, seconds: float) -> None:
        """Return when there was a signal since the last return, or after ``seconds``."""
        with trio.move_on_after(seconds):
            await self._signalled.wait()
        self._signalled = trio.Event()
