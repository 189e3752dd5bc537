"""A relay on a test's database that records what it publishes."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import trio

from bridge.database.clock import ServerClock
from bridge.database.pool import Database, open_database
from bridge.database.restart import keep_running
from bridge.events import Event
from bridge.relay import drain
from bridge.relay.doorbell import Mode, State
from bridge.relay.relay import Relay
from tests.waiting import PATIENCE_SECONDS, until

#: Parameters of the drain statement that takes up to 100 events of a new outbox.
DRAIN: tuple[object, ...] = (0, [], [], 100, drain.DRAIN_BYTES, drain.DRAIN_DELIVERIES, None, 0)

Bot = psycopg.Connection[tuple[object, ...]]


@dataclass
class Relayed:
    """The events a relay has published and the number of times it announced deliveries."""

    database: Database
    relay: Relay
    #: Cancelling this ends only the relay.
    scope: trio.CancelScope
    events: list[Event] = field(default_factory=list)
    #: The same events, as they were published together.
    batches: list[Sequence[Event]] = field(default_factory=list)
    announcements: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def publish(self, events: Sequence[Event]) -> None:
        self.events += events
        self.batches.append(events)
        self._wake()

    def enqueued(self) -> None:
        self.announcements += 1
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked after every event."""
        while not holds():
            await self.changed.wait()

    @property
    def state(self) -> State | None:
        """The state of the doorbell; None unless this relay leads."""
        return self.relay.doorbell.state if self.relay.doorbell else None

    async def until_state(self, state: State) -> None:
        """Wait until the doorbell is in a state, which lasts until the caller awaits."""
        await until(lambda: self.state is state)

    async def until_count(self, count: int) -> None:
        await self.until(lambda: len(self.events) >= count)


@asynccontextmanager
async def relaying(
    url: str,
    *,
    batch: int = 1000,
    mode: Mode = "adaptive",
    poll_seconds: float = 1.0,
    quiet_poll_seconds: float = 0.005,
) -> AsyncIterator[Relayed]:
    """Run a relay inside the context."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(url) as database, trio.open_nursery() as nursery:
            relay = Relay(
                database,
                ServerClock(),
                last_event_id=0,
                publish=lambda events: relayed.publish(events),
                went_back=lambda _: None,
                enqueued=lambda: relayed.enqueued(),
                woken=lambda: None,
                mode=mode,
                poll_seconds=poll_seconds,
                quiet_poll_seconds=quiet_poll_seconds,
                batch=batch,
            )
            relayed = Relayed(database, relay, trio.CancelScope())

            async def run() -> None:
                with relayed.scope:
                    await keep_running("relay", relay.run)

            nursery.start_soon(run)
            nursery.start_soon(keep_running, "deferral", relay.deferral.run)
            yield relayed
            nursery.cancel_scope.cancel()


def sign_up(connection: Bot, name: str) -> None:
    connection.execute(
        "insert into public.users (auth_type, username) values ('telegram', %s)", (name,)
    )


def names(relayed: Relayed) -> list[str]:
    return [json.loads(event.payload)["username"] for event in relayed.events]
