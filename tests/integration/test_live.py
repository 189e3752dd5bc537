"""The stream of several bridges on one database, with concurrent writers and roaming clients."""

import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
import pytest
import trio
from fastapi import FastAPI
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from bridge.access import tokens
from bridge.access.authenticator import Authenticator
from bridge.database.clock import ServerClock
from bridge.database.pool import open_database
from bridge.database.restart import keep_running
from bridge.database.sessions import fetch
from bridge.live import history as history_module
from bridge.live.connection import StreamLimits
from bridge.live.history import History, read_log
from bridge.live.hub import Hub
from bridge.live.stream import LiveStream
from bridge.relay.relay import TAKEOVER_SECONDS, Relay
from bridge.web.http.front import Front
from tests.waiting import PATIENCE_SECONDS, until

TOKEN = "the-test-token"


@dataclass
class Bridge:
    """A bridge inside the test process, without REST and deliveries."""

    port: int
    relay: Relay
    hub: Hub
    live: LiveStream
    scope: trio.CancelScope

    @asynccontextmanager
    async def connected(
        self, query: str = "", token: str = TOKEN
    ) -> AsyncIterator[WebSocketConnection]:
        """Connect and receive the welcome; the connection is cut at the end."""
        # With our own stream, because trio-websocket leaves its socket open when cancelled.
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, trio.open_nursery() as nursery:
            target = f"/ws?token={token}{query}"
            # trio-websocket does not notice a connection that ends during the handshake.
            with trio.fail_after(5):
                client = await wrap_client_stream(nursery, stream, "127.0.0.1", target)
            assert json.loads(await client.get_message())["type"] == "connection"
            yield client
            nursery.cancel_scope.cancel()

    def kill(self) -> None:
        """End the bridge without a shutdown, as far as that is possible within a process."""
        self.scope.cancel()


@asynccontextmanager
async def bridging(url: str, *, poll_seconds: float = 1.0) -> AsyncIterator[Bridge]:
    """Run a bridge inside the context."""
    async with open_database(url) as database, trio.open_nursery() as nursery:
        [row] = await database.fetch("newest_event")
        clock = ServerClock()
        history = History(row["newest_id"], partial(read_log, database), recent_bytes=20_000)
        hub = Hub(history, clock)
        live = LiveStream(hub, Authenticator(database, TOKEN), StreamLimits())
        relay = Relay(
            database,
            clock,
            last_event_id=row["newest_id"],
            publish=hub.publish,
            went_back=live.start_over,
            enqueued=lambda: None,
            woken=lambda: None,
            poll_seconds=poll_seconds,
            batch=100,
        )
        front = Front(FastAPI(), live.serve, handshake_seconds=5.0)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                async with trio.open_nursery() as parts:
                    parts.start_soon(keep_running, "relay", relay.run)
                    parts.start_soon(live.run)
                    parts.start_soon(front.accept, [listener], parts)

        nursery.start_soon(run)
        yield Bridge(port, relay, hub, live, scope)
        nursery.cancel_scope.cancel()


class Writers:
    """Threads that sign users up, with pauses and rollbacks."""

    def __init__(self, url: str, *, threads: int, transactions: int) -> None:
        self._threads = [
            threading.Thread(target=self._write, args=(url, each, transactions))
            for each in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _write(self, url: str, number: int, transactions: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(url) as connection:
            for _ in range(transactions):
                for _ in range(chance.choice([1, 1, 1, 2, 7])):
                    connection.execute("insert into public.users (auth_type) values ('telegram')")
                connection.execute("select pg_sleep(%s)", (chance.choice([0, 0, 0.002, 0.01]),))
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()


class Wanderer:
    """A client that moves between bridges and keeps what it received."""

    def __init__(self, number: int) -> None:
        self._chance = random.Random(number)
        self.position = 0
        self.ids: list[int] = []

    async def wander(self, bridges: Callable[[], list[Bridge]], last_id: Callable[[], int]) -> None:
        """Reconnect until the position is ``last_id``, once that is known."""
        while self.position != last_id():
            bridge = self._chance.choice(bridges())
            try:
                async with bridge.connected(f"&since={self.position}") as client:
                    await self._read(client, last_id)
                    if self._chance.random() < 0.5:
                        await client.aclose()
            except* (OSError, ConnectionClosed, HandshakeError, trio.TooSlowError):
                await trio.sleep(0.01)

    async def _read(self, client: WebSocketConnection, last_id: Callable[[], int]) -> None:
        for _ in range(self._chance.randint(1, 60)):
            with trio.move_on_after(0.2):
                got = json.loads(await client.get_message())
                if got["type"] == "resumed":
                    self.position = got["to"]
                else:
                    assert got["type"] == "user.created"
                    self.ids.append(got["id"])
                    self.position = got["id"]
            if self.position == last_id():
                return


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit pages of the log to ten events."""
    monkeypatch.setattr(history_module, "PAGE_EVENTS", 10)


@pytest.mark.usefixtures("small_pages")
async def test_client_gets_every_event_once_across_bridges(
    bridge_url: str,
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with bridging(bridge_url) as first, bridging(bridge_url) as second:
            async with bridging(bridge_url) as third, trio.open_nursery() as nursery:
                bridges = [first, second, third]
                logged: list[int] = []
                wanderers = [Wanderer(number) for number in range(12)]
                writers = Writers(bridge_url, threads=3, transactions=100)
                for wanderer in wanderers:
                    nursery.start_soon(
                        wanderer.wander, lambda: bridges, lambda: logged[-1] if logged else -1
                    )
                # The leader dies under load, and another bridge takes over.
                await until(lambda: first.hub.last_event_id > 150)
                [leader] = [each for each in bridges if each.relay.leading]
                bridges.remove(leader)
                leader.kill()
                await until(lambda: writers.done)
                with psycopg.connect(bridge_url) as connection:
                    [(committed,)] = connection.execute("select count(*) from public.users")

                    def all_are_logged() -> bool:
                        rows = connection.execute("select id from bridge.events order by id")
                        ids = [row[0] for row in rows]
                        connection.rollback()
                        if len(ids) == committed:
                            logged.extend(ids)
                        return bool(logged)

                    await until(all_are_logged)
            for wanderer in wanderers:
                assert wanderer.ids == logged


async def test_dead_leader_is_replaced_without_loss(
    bridge_url: str, bot: psycopg.Connection[tuple[object, ...]]
) -> None:
    assert TAKEOVER_SECONDS <= 1, "a dead leader is replaced within two seconds"
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            bridging(bridge_url, poll_seconds=60) as first,
            bridging(bridge_url, poll_seconds=60) as second,
        ):
            bridges = [first, second]
            await until(lambda: any(each.relay.leading for each in bridges))
            [leader] = [each for each in bridges if each.relay.leading]
            [other] = [each for each in bridges if not each.relay.leading]
            async with other.connected() as client:
                bot.execute("insert into public.users (auth_type) values ('telegram')")
                assert json.loads(await client.get_message())["id"] == 1
                leader.kill()
                bot.execute("insert into public.users (auth_type) values ('telegram')")
                assert json.loads(await client.get_message())["id"] == 2
                # The old leader may still have drained the second event while it was dying.
                await until(lambda: other.relay.leading)


async def test_bridges_send_the_same_events_with_the_same_ids(
    bridge_url: str, bot: psycopg.Connection[tuple[object, ...]]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            bridging(bridge_url) as first,
            bridging(bridge_url) as second,
            first.connected() as one,
            second.connected() as other,
        ):
            for _ in range(50):
                bot.execute("insert into public.users (auth_type) values ('telegram')")
            streams = [[await each.get_message() for _ in range(50)] for each in (one, other)]
            assert streams[0] == streams[1]
            assert [json.loads(each)["id"] for each in streams[0]] == list(range(1, 51))


@pytest.mark.parametrize(
    "end",
    [
        "revoked_at = now()",
        "expires_at = now() - interval '1 second'",
        "scopes = '{webhooks:read}'",
    ],
)
async def test_ended_token_closes_its_connections(
    bridge_url: str, bot: psycopg.Connection[tuple[object, ...]], end: str
) -> None:
    token = tokens.new_token()
    fetch(bot, "create_token", *tokens.new_row("dashboard", token, ["events:read"], None, 10))
    with trio.fail_after(PATIENCE_SECONDS):
        async with bridging(bridge_url) as bridge, bridge.connected(token=token) as client:
            bot.execute(f"update bridge.api_tokens set {end}".encode())
            with pytest.raises(ConnectionClosed) as closed:
                await client.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1008


async def test_locked_token_row_delays_no_client(
    bridge_url: str, bot: psycopg.Connection[tuple[object, ...]]
) -> None:
    token = tokens.new_token()
    fetch(bot, "create_token", *tokens.new_row("dashboard", token, ["events:read"], None, 10))
    with trio.fail_after(PATIENCE_SECONDS):
        async with bridging(bridge_url) as bridge:
            with psycopg.connect(bridge_url) as operator:
                operator.execute("update bridge.api_tokens set name = 'renamed'")
                async with bridge.connected(token=token):
                    operator.rollback()


@pytest.mark.parametrize("log", ["shorter", "overtaken", "shorter, with skipped ids"])
async def test_restored_database_is_reported_as_a_gap(
    bridge_url: str, bot: psycopg.Connection[tuple[object, ...]], log: str
) -> None:
    """The database was restored from a backup, or failed over to a lagging standby."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            bridging(bridge_url) as first,
            bridging(bridge_url) as second,
            first.connected() as one,
            second.connected() as other,
        ):
            for client in (one, other):
                for _ in range(5 if client is one else 0):
                    bot.execute("insert into public.users (auth_type) values ('telegram')")
                assert [json.loads(await client.get_message())["id"] for _ in range(5)] == [
                    *range(1, 6)
                ]
            newest = 5 if log == "overtaken" else 2
            # A standby's sequence is ahead of its rows.
            given_out = newest + 32 if "skipped" in log else newest
            bot.execute("delete from bridge.events where id > 2")
            bot.execute("select setval('bridge.event_id', %s)", (given_out,))
            if log == "overtaken":
                bot.execute(
                    "insert into bridge.events (id, event_type, payload, occurred_at)"
                    " select id, 'another.event', '{}', now() from generate_series(3, 5) as id"
                )
            bot.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'pgbridge' and datname = current_database()"
            )
            for client in (one, other):
                gap = json.loads(await client.get_message())
                assert gap == {"type": "gap", "since": 5, "available_from": newest + 1}
                with pytest.raises(ConnectionClosed, match="1001"):
                    await client.get_message()
            bot.execute("insert into public.users (auth_type) values ('telegram')")
            for bridge in (first, second):
                async with bridge.connected(f"&since={newest}") as client:
                    got = json.loads(await client.get_message())
                    if got["type"] == "resumed":  # it connected before the event
                        got = json.loads(await client.get_message())
                    # Above every id that was ever published.
                    assert got["id"] == max(given_out, 5) + 1
