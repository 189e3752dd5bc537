"""Token lookups against a simulated database."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
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
    """A database that does not respond."""

    async def fetch(self, *_arguments: Any) -> None:
        with trio.CancelScope(shield=True):  # as a statement is
            await trio.sleep(1000 * SHARE_SECONDS)


async def test_waiting_for_a_silent_database_ends(
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


async def test_lookups_waiting_per_address_are_bounded(
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
        # They have left, so others may wait.
        with pytest.raises(DatabaseUnavailable):
            await store.authenticate("unknown", attacker)


async def test_flood_of_tokens_does_not_hide_a_revocation(
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


async def test_flood_of_sessions_does_not_delay_tokens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Flooded(Silent):
        async def fetch(self, name: str, *arguments: Any) -> Any:
            if name != "authenticate":
                await super().fetch(name, *arguments)
            return []

    store = Authenticator(cast(Database, Flooded()), None)

    async def invent(address: str) -> None:
        with suppress(DatabaseUnavailable):
            await store.use_session("invented", address)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(invent, f"198.51.100.{number}")
        await trio.testing.wait_all_tasks_blocked()
        started = autojump_clock.current_time()
        assert await store.authenticate("unknown", "203.0.113.1") is None
        assert autojump_clock.current_time() == started


class Table:
    """A slow database with the tokens that begin with ``right``."""

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
    """Authenticate all tokens concurrently from one address, and count the outcomes."""
    came: Counter[str] = Counter()

    async def show(token: str) -> None:
        try:
            grant = await store.authenticate(token, "192.0.2.1")
        except (TooManyFailuresError, DatabaseUnavailable) as error:
            came[type(error).__name__] += 1
        else:
            came["invalid" if grant is None else "valid"] += 1

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(show, token)
    return came


RIGHT = [f"right {number}" for number in range(100)]
WRONG = [f"wrong {number}" for number in range(100)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param(RIGHT, {"valid": 100}, id="office"),
        pytest.param(RIGHT[:1] * 200, {"valid": 200}, id="busy page"),
        pytest.param(WRONG, {"invalid": 10, "TooManyFailuresError": 90}, id="guesses"),
        pytest.param(
            [*WRONG[:9], *RIGHT], {"invalid": 9, "valid": 100}, id="office with some wrong"
        ),
    ],
)
async def test_concurrent_valid_tokens_pass_and_guesses_are_blocked(
    tokens: list[str], expected: dict[str, int], autojump_clock: trio.testing.MockClock
) -> None:
    database = Table(tokens)
    # The refill is negligible.
    store = Authenticator(cast(Database, database), None, failures=Throttle(1e-6, 10))
    assert await outcomes(store, tokens) == expected
    assert database.lookups <= expected.get("invalid", 0) + expected.get("valid", 0)
    # Afterwards, new guesses are blocked at once, and known tokens are not.
    if "TooManyFailuresError" in expected:
        assert await outcomes(store, ["wrong again"]) == {"TooManyFailuresError": 1}
    if "valid" in expected:
        assert await outcomes(store, RIGHT[:1] * 20) == {"valid": 20}
