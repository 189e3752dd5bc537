"""Keep a task running while the database comes and goes."""

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable

log = structlog.get_logger()

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` until it returns, and restart it whenever the database ends it.

    It is restarted when the database is away or refuses a statement (disk full, missing privilege,
    lock timeout); both can pass on their own. Every other exception is a bug and propagates.
    Pauses grow to ``LONGEST_PAUSE_SECONDS`` and are jittered so that many bridges do not return at
    the same moment; a run that lasted longer than that resets them.

    Args:
        name: of the task, for the log.
    """
    longest = FIRST_PAUSE_SECONDS
    while True:
        started = trio.current_time()
        try:
            return await work()
        except (DatabaseUnavailable, DatabaseError) as error:
            lasted = trio.current_time() - started
            longest = min(2 * longest, LONGEST_PAUSE_SECONDS)
            if lasted > LONGEST_PAUSE_SECONDS:
                longest = FIRST_PAUSE_SECONDS
            pause = random.uniform(0.5, 1.0) * longest  # noqa: S311
            report = log.warning if isinstance(error, DatabaseUnavailable) else log.error
            seconds = round(pause, 2)
            report("database_task_failed", task=name, reason=str(error), retry_seconds=seconds)
            await trio.sleep(pause)
