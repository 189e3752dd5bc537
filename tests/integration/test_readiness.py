"""Readiness means progress. Its problems are named, and slowness alone is fine."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from bridge.database.pool import Database, open_database
from bridge.delivery import courier as couriers
from bridge.operations import readiness
from bridge.operations.readiness import ListenProbe, Readiness
from tests.integration.delivering import delivering, enqueue
from tests.integration.relaying import Relayed, relaying, sign_up
from tests.receiver import hang_until, receiving
from tests.waiting import PATIENCE_SECONDS, until
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]

#: Instead of ten seconds.
STALL_SECONDS = 0.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "STALL_SECONDS", STALL_SECONDS)
    monkeypatch.setattr(couriers, "STALL_SECONDS", STALL_SECONDS)
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("bridge.operations.pacing.PAUSE_FACTOR", 1)
    monkeypatch.setattr(readiness, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "RETRY_SECONDS", 0.05)


@asynccontextmanager
async def watching(database: Database) -> AsyncIterator[Readiness]:
    """Run the checks of outbox and database; yield when they have started."""
    async with trio.open_nursery() as nursery:
        ready = Readiness(database, {}, stall_seconds=0)
        nursery.start_soon(ready.run)
        await until(lambda: ready.troubles()["database"] is None)
        yield ready
        nursery.cancel_scope.cancel()


# --- the outbox


async def test_stuck_event_is_named_with_its_drainer(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_database(bridge_url) as database, watching(database) as ready:
            sign_up(bot, "ivan")
            await until(lambda: ready.troubles()["outbox"])
            reason = ready.troubles()["outbox"]
            assert reason is not None
            assert reason.startswith("row 1, the oldest in bridge.outbox, has waited for ")
            assert reason.endswith(" s; no bridge is draining")
            async with relaying(bridge_url) as relayed:
                await relayed.until_count(1)
                await until(lambda: ready.troubles()["outbox"] is None)


async def test_locked_table_stops_the_drain_but_not_the_check(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url) as relayed, watching(relayed.database) as ready:
        sign_up(bot, "before")
        await relayed.until_count(1)
        with psycopg.connect(bridge_url) as locker:
            locker.execute("lock table bridge.webhooks")
            sign_up(bot, "after")
            await until(lambda: ready.troubles()["outbox"])
            assert "the drainer is " in str(ready.troubles()["outbox"])
            assert ready.troubles()["database"] is None
        await relayed.until_count(2)
        await until(lambda: ready.troubles()["outbox"] is None)


async def test_moving_backlog_is_no_problem(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        ready = Readiness(database, {}, stall_seconds=10)
        ready._compare(0.0, {"oldest_id": None, "oldest_seconds": None, "is_drained": False})
        for seconds in range(0, 3600, 9):
            seen = {"oldest_id": seconds, "oldest_seconds": 3600.0, "is_drained": False}
            ready._compare(float(seconds), seen)
            assert ready.troubles()["outbox"] is None
        ready._seen = seen
        ready._compare(3602.0, seen)  # the last one again, 11 s after it was first seen
        assert ready.troubles()["outbox"] is not None


async def test_new_bridge_sees_an_older_stall_at_once(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        ready = Readiness(database, {}, stall_seconds=10)
        ready._seen = {"oldest_id": 7, "oldest_seconds": 60.0, "is_drained": False}
        ready._answered = True
        ready._compare(0.0, ready._seen)
        assert "has waited for 60 s" in str(ready.troubles()["outbox"])
        # It has drained the event since: what is left is a moving backlog.
        ready._compare(2.0, {"oldest_id": 8, "oldest_seconds": 61.0, "is_drained": True})
        assert ready.troubles()["outbox"] is None


# --- listening


@asynccontextmanager
async def probing(
    relayed: Relayed,
    listens: Callable[[], bool] = lambda: True,
    *,
    held_up: Callable[[], bool] = lambda: False,
    needed: bool = True,
) -> AsyncIterator[ListenProbe]:
    async with trio.open_nursery() as nursery:
        probe = ListenProbe(relayed.database, listens=listens, held_up=held_up, needed=needed)
        nursery.start_soon(probe.run)
        yield probe
        nursery.cancel_scope.cancel()


async def test_arriving_notifications_pass_the_check(bridge_url: str) -> None:
    listens: list[object] = []
    async with (
        relaying(bridge_url) as relayed,
        probing(relayed, lambda: bool(listens)) as probe,
        relayed.database.connect() as connection,
    ):
        assert probe.trouble() is not None  # nothing listens yet
        await connection.listen(probe.channel, probe.arrived)
        listens.append(connection)
        await until(lambda: probe.trouble() is None)
        assert b"pgbridge_listening 1.0" in _shown()
        assert b"pgbridge_listen_round_trip_seconds 0." in _shown()


async def test_lost_notifications_fail_the_check(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ARRIVAL_SECONDS", 0.2)
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.2)
    async with (
        relaying(bridge_url) as relayed,
        probing(relayed) as probe,
        relayed.database.connect() as connection,
    ):
        await connection.listen(probe.channel, probe.arrived)
        await until(lambda: probe.trouble() is None)
        # As behind a pooler that accepts LISTEN and notifies another session.
        await connection.unlisten(probe.channel)
        await until(probe.trouble)
        assert "set BRIDGE_LISTEN_URL" in str(probe.trouble())
        await connection.listen(probe.channel, probe.arrived)
        await until(lambda: probe.trouble() is None)


async def test_blocked_connection_is_not_mistaken_for_a_pooler(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ARRIVAL_SECONDS", 0.2)
    async with relaying(bridge_url) as relayed, probing(relayed, held_up=lambda: True) as probe:
        await until(lambda: probe._failed)
        assert str(probe.trouble()).startswith("the LISTEN connection is blocked")


async def test_missing_connection_fails_the_check(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ARRIVAL_SECONDS", 0.2)
    async with (
        relaying(bridge_url) as relayed,
        probing(relayed, lambda: False) as probe,
    ):
        await until(lambda: probe._failed)
        assert str(probe.trouble()).startswith("the LISTEN connection is down")


async def test_polling_bridge_needs_no_notifications(bridge_url: str) -> None:
    async with (
        relaying(bridge_url, mode="poll") as relayed,
        probing(relayed, lambda: False, needed=False) as probe,
    ):
        assert probe.trouble() is None


# --- delivery


async def test_failing_receivers_do_not_fail_the_check(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "STALL_SECONDS", 30)
    async with receiving() as receiver:
        released = trio.Event()
        receiver.behaviours["/hang"] = hang_until(released)
        enqueue(bot, add_webhook(bot, receiver.url("/hang"), timeout_seconds=120), count=8)
        enqueue(bot, add_webhook(bot, "http://127.0.0.1:9/"), count=8)
        async with delivering(bridge_url, concurrency=4) as courier:
            await receiver.until(lambda: len(receiver.requests) == 4)
            assert courier.in_flight == 4
            # It keeps polling, although all its slots are taken.
            for _ in range(20):
                polled_at = courier._polled_at
                await until(lambda: courier._polled_at > polled_at)  # noqa: B023
                assert courier.claim_trouble() is None
                assert courier.settle_trouble() is None
            assert bot.execute(
                "select count(*) from bridge.delivery_attempts where failure = 'connect'"
            ).fetchone() != (0,)
            released.set()


async def test_courier_that_cannot_claim_fails_the_check(bridge_url: str, bot: Bot) -> None:
    async with delivering(bridge_url) as courier:
        with psycopg.connect(bridge_url) as locker:
            locker.execute("lock table bridge.delivery_queue")
            await until(courier.claim_trouble)
            assert "polled for deliveries" in str(courier.claim_trouble())
        await until(lambda: courier.claim_trouble() is None)


async def test_result_that_cannot_be_saved_fails_the_check(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url) as courier:
        with psycopg.connect(bridge_url) as locker:
            locker.execute("lock table bridge.delivery_attempts")
            enqueue(bot, add_webhook(bot, receiver.url()))
            await until(courier.settle_trouble)
            assert "has not been saved for" in str(courier.settle_trouble())
            # It still polls for deliveries.
            polled_at = courier._polled_at
            await until(lambda: courier._polled_at > polled_at)
        await until(lambda: courier.settle_trouble() is None)


# --- log and metrics


def changes(logged: list[Any]) -> list[Any]:
    return [line for line in logged if line["event"].startswith("readiness_")]


async def test_each_change_is_logged_once_and_shown(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(PATIENCE_SECONDS), capture_logs() as logged:
        async with open_database(bridge_url) as database, watching(database) as ready:
            # A slow start may also be reported.
            await until(lambda: not any(ready.troubles().values()) and len(changes(logged)) != 1)
            logged.clear()
            sign_up(bot, "ivan")
            await until(lambda: any(line["event"] == "readiness_lost" for line in logged))
            await until(lambda: b'ready{check="outbox"} 0.0' in _shown())
            await trio.sleep(4 * readiness.WATCH_SECONDS)
            bot.execute("delete from bridge.outbox")
            await until(lambda: b'ready{check="outbox"} 1.0' in _shown())
            await until(lambda: any(line["event"] == "readiness_regained" for line in logged))
            assert ready.troubles() == {"outbox": None, "database": None}
    lost, regained = changes(logged)
    assert (lost["event"], regained["event"]) == ("readiness_lost", "readiness_regained")
    assert list(lost["reasons"]) == ["outbox"]


def _shown() -> bytes:
    return generate_latest()
