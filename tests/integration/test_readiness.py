"""Readiness is progress: what stops it is named, and what is merely slow does not."""

from __future__ import annotations

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
from bridge.operations.readiness import ListenProof, Readiness
from bridge.telemetry import exposition
from tests.integration.delivering import delivering, enqueue
from tests.integration.relaying import Relayed, relaying, sign_up
from tests.receiver import hang_until, receiving
from tests.waiting import until
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]

#: So that it need not take ten seconds.
STALL_SECONDS = 0.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "STALL_SECONDS", STALL_SECONDS)
    monkeypatch.setattr(couriers, "STALL_SECONDS", STALL_SECONDS)
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "REST", 1)
    monkeypatch.setattr(readiness, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "REPEAT_SECONDS", 0.05)


@asynccontextmanager
async def watching(database: Database) -> AsyncIterator[Readiness]:
    """Run the checks of the outbox and of the database, once they have begun."""
    async with trio.open_nursery() as nursery:
        ready = Readiness(database, {}, stall_seconds=0)
        nursery.start_soon(ready.run)
        await until(lambda: ready.troubles()["database"] is None)
        yield ready
        nursery.cancel_scope.cancel()


# --- the outbox


async def test_an_event_that_stays_the_first_is_named_with_who_should_drain_it(
    bridge_url: str, bot: Bot
) -> None:
    with trio.fail_after(60):
        async with open_database(bridge_url) as database, watching(database) as ready:
            sign_up(bot, "ivan")
            await until(lambda: ready.troubles()["outbox"])
            reason = ready.troubles()["outbox"]
            assert reason is not None
            assert reason.startswith("row 1 of bridge.outbox is the first and has waited for ")
            assert reason.endswith(" s; no bridge drains")
            async with relaying(bridge_url) as relayed:
                await relayed.until_count(1)
                await until(lambda: ready.troubles()["outbox"] is None)


async def test_a_table_that_somebody_has_locked_stops_the_drain_and_not_the_check(
    bridge_url: str, bot: Bot
) -> None:
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


async def test_a_backlog_that_is_being_drained_is_no_trouble(bridge_url: str) -> None:
    async with open_database(bridge_url) as database:
        ready = Readiness(database, {}, stall_seconds=10)
        for seconds in range(0, 3600, 9):
            seen = {"oldest_id": seconds, "oldest_seconds": 3600.0, "is_drained": False}
            ready._compare(float(seconds), seen)
            assert ready.troubles()["outbox"] is None
        # One that stays the first for as long is.
        ready._compare(3600.0, seen)
        assert ready.troubles()["outbox"] is None
        ready._seen = seen
        ready._compare(3602.0, seen)
        assert ready.troubles()["outbox"] is not None


# --- listening


@asynccontextmanager
async def proving(
    relayed: Relayed,
    listens: Callable[[], bool] = lambda: True,
    *,
    held_up: Callable[[], bool] = lambda: False,
    needed: bool = True,
) -> AsyncIterator[ListenProof]:
    async with trio.open_nursery() as nursery:
        proof = ListenProof(relayed.database, listens=listens, held_up=held_up, needed=needed)
        nursery.start_soon(proof.run)
        yield proof
        nursery.cancel_scope.cancel()


async def test_what_is_notified_is_heard(bridge_url: str) -> None:
    listens: list[object] = []
    async with (
        relaying(bridge_url) as relayed,
        proving(relayed, lambda: bool(listens)) as proof,
        relayed.database.connect() as connection,
    ):
        assert proof.trouble() is not None  # not yet
        await connection.listen(proof.channel, proof.heard)
        listens.append(connection)
        await until(lambda: proof.trouble() is None)
        assert b"pgbridge_listening 1.0" in await exposition.render_metrics()
        assert b"pgbridge_listen_round_trip_seconds 0." in await exposition.render_metrics()


async def test_a_connection_that_hears_nothing_is_no_connection(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "HEARING_SECONDS", 0.2)
    monkeypatch.setattr(readiness, "PROOF_SECONDS", 0.2)
    async with (
        relaying(bridge_url) as relayed,
        proving(relayed) as proof,
        relayed.database.connect() as connection,
    ):
        await connection.listen(proof.channel, proof.heard)
        await until(lambda: proof.trouble() is None)
        # As behind a pooler: the LISTEN was taken, and another session is notified.
        await connection.unlisten(proof.channel)
        await until(proof.trouble)
        assert "set BRIDGE_LISTEN_URL" in str(proof.trouble())
        await connection.listen(proof.channel, proof.heard)
        await until(lambda: proof.trouble() is None)


async def test_a_connection_that_a_lock_holds_up_is_not_called_a_poolers(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "HEARING_SECONDS", 0.2)
    async with relaying(bridge_url) as relayed, proving(relayed, held_up=lambda: True) as proof:
        await until(lambda: proof._failed)
        assert str(proof.trouble()).startswith("the connection that listens is held up")


async def test_without_a_connection_nothing_is_heard(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "HEARING_SECONDS", 0.2)
    async with (
        relaying(bridge_url) as relayed,
        proving(relayed, lambda: False) as proof,
    ):
        await until(lambda: proof._failed)
        assert str(proof.trouble()).startswith("there is no connection that listens")


async def test_a_bridge_that_polls_need_not_listen(bridge_url: str) -> None:
    async with (
        relaying(bridge_url, mode="poll") as relayed,
        proving(relayed, lambda: False, needed=False) as proof,
    ):
        assert proof.trouble() is None


# --- delivery


async def test_receivers_that_hang_or_refuse_are_no_trouble_of_a_full_courier(
    bridge_url: str, bot: Bot
) -> None:
    async with receiving() as receiver:
        released = trio.Event()
        receiver.behaviours["/hang"] = hang_until(released)
        enqueue(bot, add_webhook(bot, receiver.url("/hang"), timeout_seconds=120), count=8)
        enqueue(bot, add_webhook(bot, "http://127.0.0.1:9/"), count=8)
        async with delivering(bridge_url, concurrency=4) as courier:
            await receiver.until(lambda: len(receiver.requests) == 4)
            assert courier.in_flight == 4
            # It gets around to looking, again and again, though there is room for nothing more.
            for _ in range(20):
                polled_at = courier._polled_at
                await until(lambda: courier._polled_at > polled_at)  # noqa: B023
                assert courier.claim_trouble() is None
                assert courier.settle_trouble() is None
            assert bot.execute(
                "select count(*) from bridge.delivery_attempts where failure = 'connect'"
            ).fetchone() != (0,)
            released.set()


async def test_a_courier_that_cannot_look_for_deliveries_says_so(bridge_url: str, bot: Bot) -> None:
    async with delivering(bridge_url) as courier:
        with psycopg.connect(bridge_url) as locker:
            locker.execute("lock table bridge.delivery_queue")
            await until(courier.claim_trouble)
            assert "polled for deliveries" in str(courier.claim_trouble())
        await until(lambda: courier.claim_trouble() is None)


async def test_an_attempt_that_cannot_be_written_down_is_told(bridge_url: str, bot: Bot) -> None:
    async with receiving() as receiver, delivering(bridge_url) as courier:
        with psycopg.connect(bridge_url) as locker:
            locker.execute("lock table bridge.delivery_attempts")
            enqueue(bot, add_webhook(bot, receiver.url()))
            await until(courier.settle_trouble)
            assert "has not been saved for" in str(courier.settle_trouble())
            # It looks for deliveries all the while.
            polled_at = courier._polled_at
            await until(lambda: courier._polled_at > polled_at)
        await until(lambda: courier.settle_trouble() is None)


# --- telling


async def test_what_changes_is_logged_once_and_shown(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(60), capture_logs() as logged:
        async with open_database(bridge_url) as database, watching(database) as ready:
            logged.clear()
            sign_up(bot, "ivan")
            await until(lambda: any(line["event"] == "readiness_lost" for line in logged))
            await until(lambda: b'ready{check="outbox"} 0.0' in _shown())
            await trio.sleep(4 * readiness.WATCH_SECONDS)
            bot.execute("delete from bridge.outbox")
            await until(lambda: b'ready{check="outbox"} 1.0' in _shown())
            await until(lambda: any(line["event"] == "readiness_regained" for line in logged))
            assert ready.troubles() == {"outbox": None, "database": None}
    told = [line for line in logged if line["event"] in ("readiness_lost", "readiness_regained")]
    assert [line["event"] for line in told] == ["readiness_lost", "readiness_regained"]
    assert list(told[0]["reasons"]) == ["outbox"]


def _shown() -> bytes:
    return generate_latest(exposition.registry)
