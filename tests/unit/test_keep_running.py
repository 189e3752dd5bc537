"""What the database ends is run again, however long it is away."""

from __future__ import annotations

from trio.testing import MockClock

from bridge.database.pool import DatabaseUnavailable, keep_running


async def test_a_database_that_is_away_for_hours_is_asked_again_and_again(
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
