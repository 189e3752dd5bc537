"""Killed bridges and database restarts lose nothing."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.delivering import enqueue
from tests.receiver import Receiver, receiving
from tests.system.processes import listening, running
from tests.waiting import PATIENCE_SECONDS, until, until_true
from tests.webhook_rows import add_webhook

KILLS = 12
DELIVERIES = 5000
#: Failed attempts are retried at once.
SETTINGS = {"poll_seconds": 0.2, "retry_schedule": "0,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1"}


class Writer:
    """The bot: inserts users and records what it committed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.committed: list[str] = []
        #: Commits without a response, which may have happened.
        self.uncertain: list[str] = []
        self._thread.start()

    def _write(self) -> None:
        connection: psycopg.Connection[tuple[object, ...]] | None = None
        number = 0
        while not self._stop.wait(0.01):
            number += 1
            name = f"u{number}"
            sent = False
            try:
                if connection is None:
                    connection = psycopg.connect(self._url)
                connection.execute(
                    "insert into public.users (auth_type, username) values ('telegram', %s)",
                    (name,),
                )
                if number % 10 == 0:
                    connection.rollback()
                    continue
                sent = True
                connection.commit()
                self.committed.append(name)
            except psycopg.OperationalError:
                if sent:
                    self.uncertain.append(name)
                connection = None
        if connection is not None:
            connection.close()

    def stop(self) -> list[str]:
        """Stop, and return the names in the database."""
        self._stop.set()
        self._thread.join()
        with psycopg.connect(self._url) as connection:
            rows = connection.execute("select username from public.users").fetchall()
        names = [str(name) for (name,) in rows]
        assert set(self.committed) <= set(names) <= {*self.committed, *self.uncertain}
        return names


@contextmanager
def writing(url: str) -> Iterator[Writer]:
    writer = Writer(url)
    try:
        yield writer
    finally:
        writer._stop.set()


def names_by_identity(receiver: Receiver) -> dict[str, str]:
    """Return the user of each webhook-id; the same ID must mean the same event."""
    announced: dict[str, str] = {}
    for request in receiver.requests:
        name = json.loads(request.body)["username"]
        assert announced.setdefault(request.headers["webhook-id"], name) == name
    return announced


def assert_nothing_lost(receiver: Receiver, names: list[str], faults: int) -> None:
    announced = names_by_identity(receiver)
    assert Counter(announced.values()) == Counter(names), "each event once, under one webhook-id"
    # A fault repeats only attempts in flight, at most four per webhook.
    assert len(receiver.requests) - len(announced) <= 4 * faults


async def all_arrived(receiver: Receiver, names: list[str]) -> None:
    missing = set(names)
    looked_at = 0

    def nothing_missing() -> bool:
        nonlocal looked_at
        for request in receiver.requests[looked_at:]:
            missing.discard(json.loads(request.body)["username"])
        looked_at = len(receiver.requests)
        return not missing

    await receiver.until(nothing_missing)


async def test_sigkill_at_random_times_loses_nothing(bridge_url: str) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    with trio.fail_after(PATIENCE_SECONDS):
        async with receiving() as receiver:
            with psycopg.connect(bridge_url, autocommit=True) as bot:
                add_webhook(bot, receiver.url("/hook"), timeout_seconds=1)
            with writing(bridge_url) as writer:
                for _ in range(KILLS):
                    async with running(bridge_url, **SETTINGS) as bridge:
                        await trio.sleep(chance.uniform(0.0, 0.7))
                        await bridge.kill()
                names = await trio.to_thread.run_sync(writer.stop)
            async with running(bridge_url, **SETTINGS) as bridge:
                await all_arrived(receiver, names)
                assert await bridge.terminate() == 0
    assert len(names) > 100
    assert_nothing_lost(receiver, names, KILLS)


@pytest.mark.parametrize("stop", [EmbeddedPostgres.stop, EmbeddedPostgres.crash])
async def test_database_restart_under_load_loses_nothing(
    own_server: EmbeddedPostgres, own_url: str, stop: Callable[[EmbeddedPostgres], None]
) -> None:
    def restart() -> None:
        stop(own_server)
        own_server.start()

    with trio.fail_after(PATIENCE_SECONDS):
        async with receiving() as receiver, running(own_url, **SETTINGS) as bridge:
            with psycopg.connect(own_url, autocommit=True) as bot:
                add_webhook(bot, receiver.url("/hook"), timeout_seconds=1)
            async with listening(bridge) as dashboard, trio.open_nursery() as nursery:
                streamed: list[str] = []
                expected: list[str] = []
                complete = trio.Event()

                async def read() -> None:
                    while not expected or len(streamed) < len(expected):
                        event = json.loads(await dashboard.get_message())
                        streamed.append(event["payload"]["username"])
                    complete.set()

                nursery.start_soon(read)
                with writing(own_url) as writer:
                    for count in (50, 150, 250):
                        await receiver.until(_has(receiver, count))
                        await trio.to_thread.run_sync(restart)
                    await receiver.until(_has(receiver, 350))
                    names = await trio.to_thread.run_sync(writer.stop)
                await all_arrived(receiver, names)
                # A connected dashboard has received everything once. One more event makes it
                # read on until then.
                with psycopg.connect(own_url, autocommit=True) as connection:
                    expected += [*names, "end"]
                    connection.execute(
                        "insert into public.users (auth_type, username) values ('x', 'end')"
                    )
                await complete.wait()
                assert Counter(streamed) == Counter(expected)
                await all_arrived(receiver, expected)
            assert await bridge.terminate() == 0
    assert_nothing_lost(receiver, expected, 3)


async def test_restarted_bridge_sends_what_was_in_flight_before_leases_expire(
    bridge_url: str, bot: psycopg.Connection[Any]
) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with receiving() as receiver:
            for number in range(5):
                webhook = add_webhook(
                    bot, receiver.url(f"/{number}"), max_concurrency=40, timeout_seconds=120
                )
                enqueue(bot, webhook, count=DELIVERIES // 5)
            async with running(bridge_url, **SETTINGS) as bridge:
                await receiver.until(_has(receiver, DELIVERIES // 5))
                await bridge.kill()
            [(leased, expiry)] = bot.execute(
                "select array_agg(id), min(leased_until) from bridge.delivery_queue"
                " where leased_until is not null"
            ).fetchall()
            assert leased
            async with running(bridge_url, **SETTINGS) as bridge:
                await until_true(bot, "not exists (select from bridge.delivery_queue)")
                assert len(bridge.logged("courier_died")) == 1
    sent = Counter(request.headers["webhook-id"] for request in receiver.requests)
    assert len(sent) == DELIVERIES
    # Only what was in flight is sent twice.
    assert sent.total() - len(sent) <= 5 * 40
    assert bot.execute(
        "select max(finished_at) filter (where id = any (%s)) < %s, count(*)"
        " from bridge.delivery_log",
        [leased, expiry],
    ).fetchone() == (True, DELIVERIES)


async def test_sigterm_stops_a_bridge_without_a_database(
    own_server: EmbeddedPostgres, own_url: str
) -> None:
    async with running(own_url, **SETTINGS) as bridge:
        await trio.to_thread.run_sync(own_server.stop)
        log = trio.Path(bridge.log)
        with trio.fail_after(PATIENCE_SECONDS):
            await until(lambda: bridge.logged("database_task_failed"))
        assert await bridge.terminate() == 0
        assert "Traceback" not in await log.read_text()


def _has(receiver: Receiver, count: int) -> Callable[[], bool]:
    return lambda: len(receiver.requests) >= count
