"""Looking tokens up, without a database."""

from typing import Any, cast

import pytest
import trio
import trio.testing

from bridge.db import SHARE_SECONDS, Database, DatabaseUnavailable
from bridge.tokens import LOOKUP_CONNECTIONS, TokenStore, TooManyFailuresError


class Silent:
    """A database that does not answer."""

    async def fetch(self, *_arguments: Any) -> None:
        with trio.CancelScope(shield=True):  # as a statement is
            await trio.sleep(1000 * SHARE_SECONDS)


async def test_who_waits_for_a_database_that_does_not_answer_can_leave_or_is_told_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TokenStore(cast(Database, Silent()), "static")
    async with trio.open_nursery() as nursery:
        for _ in range(LOOKUP_CONNECTIONS):
            nursery.start_soon(store.authenticate, "unknown")
        await trio.testing.wait_all_tasks_blocked()
        started = autojump_clock.current_time()
        with trio.move_on_after(1):
            await store.authenticate("unknown")
        assert autojump_clock.current_time() - started == pytest.approx(1)
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("unknown")
        assert autojump_clock.current_time() - started == pytest.approx(1 + SHARE_SECONDS)
        assert await store.authenticate("static") is not None


async def test_of_one_address_only_so_many_wait_for_a_database_that_does_not_answer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.tokens.MOST_AT_ONCE", 5)
    store = TokenStore(cast(Database, Silent()), "static")
    attacker, other = "198.51.100.1", "198.51.100.2"

    async def leave_soon() -> None:
        with trio.move_on_after(1):
            await store.authenticate("unknown", attacker)

    async with trio.open_nursery() as nursery:
        for _ in range(LOOKUP_CONNECTIONS):
            nursery.start_soon(store.authenticate, "unknown", other)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            nursery.start_soon(leave_soon)
        await trio.testing.wait_all_tasks_blocked()
        for show in store.authenticate, store.use_ticket:
            with pytest.raises(TooManyFailuresError):
                await show("unknown", attacker)
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("unknown", other)
        # They have left: there is room again.
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("unknown", attacker)


async def test_whoever_floods_with_tokens_does_not_hide_that_another_is_revoked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Flooded(Silent):
        async def fetch(self, name: str, *arguments: Any) -> Any:
            return [] if name == "valid_tokens" else await super().fetch(name, *arguments)

    store = TokenStore(cast(Database, Flooded()), None)

    async def guess(number: int) -> None:
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("unknown", f"198.51.100.{number}")

    async with trio.open_nursery() as nursery:
        for number in range(LOOKUP_CONNECTIONS):
            nursery.start_soon(store.authenticate, "unknown", f"203.0.113.{number}")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            nursery.start_soon(guess, number)
        await trio.testing.wait_all_tasks_blocked()
        started = autojump_clock.current_time()
        assert await store.grants([("bridge", 1)]) == []
        assert autojump_clock.current_time() == started
