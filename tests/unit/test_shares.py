"""Clients that share database connections take turns."""

from collections.abc import Hashable

import pytest
import trio
import trio.testing

from bridge.database import shares
from bridge.database.errors import DatabaseUnavailable
from bridge.database.shares import Turns


class Office:
    """Tasks that take places and hold them until they are released."""

    def __init__(self, nursery: trio.Nursery, places: int) -> None:
        self.turns = Turns(places)
        self._nursery = nursery
        #: Who holds places, in the order in which they got them.
        self.holding: list[str] = []
        self._leave: dict[str, trio.Event] = {}

    async def come(self, *names: str) -> None:
        """Let a task come for each name; the first letter is its client, ``-`` the bridge."""
        for name in names:
            self._nursery.start_soon(self._hold, name)
            await trio.testing.wait_all_tasks_blocked()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await trio.testing.wait_all_tasks_blocked()

    async def _hold(self, name: str) -> None:
        key: Hashable = None if name[0] == "-" else name[0]
        self._leave[name] = trio.Event()
        await self.turns.take(key)
        self.holding.append(name)
        await self._leave[name].wait()
        self.holding.remove(name)
        self.turns.give_back(key)


async def test_flood_of_one_client_leaves_a_place_to_others(nursery: trio.Nursery) -> None:
    office = Office(nursery, 3)
    await office.come("a1", "a2", "a3", "a4")
    assert office.holding == ["a1", "a2"]
    await office.come("b1")
    assert office.holding == ["a1", "a2", "b1"]
    await office.leave("b1")
    assert office.holding == ["a1", "a2"]
    nursery.cancel_scope.cancel()


async def test_waiting_clients_take_turns(nursery: trio.Nursery) -> None:
    office = Office(nursery, 2)
    await office.come("a1", "b1", "a2", "a3", "a4", "b2", "c1")
    order = []
    for _ in range(4):
        await office.leave(office.holding[0])
        order.append(office.holding[-1])
    assert order == ["a2", "b2", "c1", "a3"]
    await office.leave("c1")
    assert office.holding == ["a3"]  # a4 waits, for another client might come
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("places", [1, 2, 5])
async def test_tasks_of_the_bridge_may_use_all_places(nursery: trio.Nursery, places: int) -> None:
    office = Office(nursery, places)
    names = [f"-{number}" for number in range(places + 1)]
    await office.come(*names)
    assert office.holding == names[:-1]
    await office.leave("-0")
    assert office.holding == names[1:]
    nursery.cancel_scope.cancel()


async def test_single_place_goes_round(nursery: trio.Nursery) -> None:
    office = Office(nursery, 1)
    await office.come("a1", "a2", "a3", "b1")
    order = []
    for _ in range(3):
        await office.leave(office.holding[0])
        order += office.holding
    assert order == ["a2", "b1", "a3"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_called", [False, True])
async def test_cancelled_wait_takes_no_place(nursery: trio.Nursery, *, is_called: bool) -> None:
    turns = Turns(1)
    await turns.take("a")
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await turns.take("b")
            turns.give_back("b")

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    if is_called:
        turns.give_back("a")
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    if not is_called:
        turns.give_back("a")
    with trio.fail_after(5):
        await turns.take("c")


async def test_wait_for_a_turn_is_limited(autojump_clock: trio.testing.MockClock) -> None:
    share = shares.Share(None, 1)  # type: ignore[arg-type]
    async with share.turn():
        with pytest.raises(DatabaseUnavailable, match="too slow"):
            async with share.turn():
                pass
    async with share.turn():
        pass
