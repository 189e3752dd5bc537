"""Looking tokens up, without a database."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import pytest
import trio
import trio.testing

from bridge.access.authenticator import LOOKUP_CONNECTIONS, Authenticator, TooManyFailuresError
from bridge.access.throttle import Throttle
from bridge.access.tokens import hash_token
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import SHARE_SECONDS


class Silent:
    """A database that does not answer."""

    async def fetch(self, *_arguments: Any) -> None:
        with trio.CancelScope(shield=True):  # as a statement is
            await trio.sleep(1000 * SHARE_SECONDS)


async def test_who_waits_for_a_database_that_does_not_answer_can_leave_or_is_told_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Authenticator(cast(Database, Silent()), "static")
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
    monkeypatch.setattr("bridge.access.authenticator.MOST_AT_ONCE", 5)
    store = Authenticator(cast(Database, Silent()), "static")
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

    store = Authenticator(cast(Database, Flooded()), None)

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


class Table:
    """A database that knows the tokens that begin with ``right``, and takes a moment."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._rows = {
            hash_token(token): {"id": number, "name": token, "scopes": ["events:read"]}
            for number, token in enumerate(tokens)
            if token.startswith("right")
        }
        self.lookups = 0

    async def fetch(self, _name: str, digest: bytes) -> list[dict[str, Any]]:
        self.lookups += 1
        await trio.sleep(0.001)
        return [self._rows[digest]] if digest in self._rows else []


async def outcomes(store: Authenticator, tokens: Iterable[str]) -> Counter[str]:
    """Show all tokens at once, from one address; return what came of how many."""
    came: Counter[str] = Counter()

    async def show(token: str) -> None:
        try:
            grant = await store.authenticate(token, "192.0.2.1")
        except (TooManyFailuresError, DatabaseUnavailable) as error:
            came[type(error).__name__] += 1
        else:
            came["nobody" if grant is None else "valid"] += 1

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(show, token)
    return came


RIGHT = [f"right {number}" for number in range(100)]
WRONG = [f"wrong {number}" for number in range(100)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param(RIGHT, {"valid": 100}, id="a hundred of an office"),
        pytest.param(RIGHT[:1] * 200, {"valid": 200}, id="a page that asks for much at once"),
        pytest.param(WRONG, {"nobody": 10, "TooManyFailuresError": 90}, id="guesses"),
        pytest.param(
            [*WRONG[:9], *RIGHT], {"nobody": 9, "valid": 100}, id="an office where some are wrong"
        ),
    ],
)
async def test_valid_tokens_at_once_are_not_taken_for_failures_and_guesses_at_once_are_held(
    tokens: list[str], expected: dict[str, int], autojump_clock: trio.testing.MockClock
) -> None:
    database = Table(tokens)
    # So rarely that time allows none beside.
    store = Authenticator(cast(Database, database), None, failures=Throttle(1e-6, 10))
    assert await outcomes(store, tokens) == expected
    assert database.lookups <= expected.get("nobody", 0) + expected.get("valid", 0)
    # Nothing of it is left: who has failed too often is refused at once, and who is known is not.
    if "TooManyFailuresError" in expected:
        assert await outcomes(store, ["wrong again"]) == {"TooManyFailuresError": 1}
    if "valid" in expected:
        assert await outcomes(store, RIGHT[:1] * 20) == {"valid": 20}
