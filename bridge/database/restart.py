"""Keep a task running while the database comes and goes."""

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 5.0
#: After this many failures the pause no longer grows; 2**failures must stay within a float.
MOST_FAILURES = 10


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` until it returns, and restart it whenever the database ends it.

    It is restarted when the database is away or refuses a statement (disk full, missing privilege,
    lock timeout); both can pass on their own. Every other exception is a bug and propagates.
    Pauses grow to ``LONGEST_PAUSE_SECONDS`` and are jittered so that many bridges do not return at
    the same moment; a run that lasted longer than that resets them.

    Args:
        name: of the task, for the log.
    """
    failures = 0
    while True:
        started = trio.current_time()
        try:
            return await work()
        except (DatabaseUnavailable, DatabaseError) as error:
            lasted = trio.current_time() - started
            failures = 0 if lasted > LONGEST_PAUSE_SECONDS else min(failures + 1, MOST_FAILURES)
            pause = random.uniform(0.5, 1.0) * min(0.1 * 2**failures, LONGEST_PAUSE_SECONDS)  # noqa: S311
            report = log.warning if isinstance(error, DatabaseUnavailable) else log.error
            seconds = round(pause, 2)
            report("database_task_failed", task=name, reason=str(error), retry_seconds=seconds)
            await trio.sleep(pause)
