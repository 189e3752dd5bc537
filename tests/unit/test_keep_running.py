"""Tasks are restarted for as long as the database is away."""

from trio.testing import MockClock

from bridge.database.errors import DatabaseUnavailable
from bridge.database.restart import keep_running


async def test_task_is_retried_for_hours(
    autojump_clock: MockClock,
) -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries <= 2000:
            raise DatabaseUnavailable("away")

    await keep_running("test", work)
    assert tries == 2001
    assert 1900 * 2.5 < autojump_clock.current_time() < 2000 * 5.0
