"""Run one asyncpg statement inside the calling trio task."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import trio

Result = TypeVar("Result")


async def stepped(work: Coroutine[asyncio.Future[Any], None, Result]) -> Result:
    """Run a coroutine of asyncpg in this task instead of a separate asyncio task.

    This saves a third of the round trip, which delays every event. It works for coroutines that
    await nothing but futures, as a statement on one connection does.
    """
    task = trio.lowlevel.current_task()
    future: asyncio.Future[Any]

    def resume(_: object) -> None:
        trio.lowlevel.reschedule(task)

    def cancel(_: object) -> trio.lowlevel.Abort:
        # asyncpg then cancels on the server; the statement itself reports the outcome.
        future.cancel()
        return trio.lowlevel.Abort.FAILED

    try:
        while True:
            future = work.send(None)
            # An asyncio task does the same with every future that it receives.
            future._asyncio_future_blocking = False
            future.add_done_callback(resume)
            await trio.lowlevel.wait_task_rescheduled(cancel)
    except StopIteration as done:
        result: Result = done.value
        return result
    except asyncio.CancelledError:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise
