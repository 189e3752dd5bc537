"""Every committed event is logged, published and enqueued once, whatever happens to the relay."""

import json
import random
import threading
from collections.abc import Callable

import psycopg
import structlog
import trio

from bridge.database.clock import ServerClock
from bridge.database.pool import open_database
from bridge.relay.deferral import Deferral
from bridge.relay.drain import Drainer
from bridge.relay.watermark import Watermark
from tests.integration.relaying import Bot, names, relaying, sign_up


async def test_commit_is_published_with_its_payload(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "Иван 🎉")
        await relayed.until_count(1)
        [event] = relayed.events
        assert (event.id, event.event_type, names(relayed)) == (1, "user.created", ["Иван 🎉"])
        assert bot.execute("select count(*) from bridge.outbox").fetchone() == (0,)
        assert bot.execute("select id, event_type from bridge.events").fetchall() == [
            (1, "user.created")
        ]


async def test_events_captured_without_a_bridge_are_not_lost(bridge_url: str, bot: Bot) -> None:
    for number in range(25):
        sign_up(bot, str(number))
    async with relaying(bridge_url, batch=10) as relayed:
        await relayed.until_count(25)
        assert names(relayed) == [str(number) for number in range(25)]
        assert [event.id for event in relayed.events] == list(range(1, 26))


async def test_late_commits_are_not_lost(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url) as relayed:
        with psycopg.connect(bridge_url) as early, psycopg.connect(bridge_url) as rolled_back:
            sign_up(early, "wrote first, commits last")
            sign_up(rolled_back, "never")
            sign_up(bot, "wrote last, commits first")
            await relayed.until_count(1)
            # More events pass while the first writer is still open.
            for number in range(5):
                sign_up(bot, str(number))
            await relayed.until_count(6)
            rolled_back.rollback()
            early.commit()
            await relayed.until_count(7)
        sign_up(bot, "end")
        await relayed.until_count(8)
        assert names(relayed) == [
            "wrote last, commits first", "0", "1", "2", "3", "4",
            "wrote first, commits last", "end",
        ]  # fmt: skip
        assert [event.id for event in relayed.events] == sorted(e.id for e in relayed.events)


async def test_newest_transaction_that_commits_last_is_not_lost(
    bridge_url: str,
) -> None:
    async with open_database(bridge_url) as database, database.connect() as connection:
        drainer = Drainer(
            connection, Watermark(0), 1000, ServerClock(), Deferral(database, lambda: None), 0
        )
        with psycopg.connect(bridge_url) as older, psycopg.connect(bridge_url) as newer:
            older.execute("select pg_current_xact_id()")
            sign_up(newer, "newer")
            sign_up(older, "older")
            # The newer transaction is the newest one, so a snapshot's xmax is not above it.
            older.commit()
            taken = [(await drainer.drain())[0] for _ in range(4)]
            assert [len(rows) for rows in taken] == [1, 0, 0, 0]
            newer.commit()
        [row], _ = await drainer.drain()
        assert json.loads(row["payload"])["username"] == "newer"


async def test_published_events_are_committed_synchronously(bridge_url: str, bot: Bot) -> None:
    [(database,)] = bot.execute("select current_database()")
    bot.execute(f"alter database {database} set synchronous_commit = off".encode())
    bot.execute(
        """
        create table public.noted (value text);
        create function public.note() returns trigger language plpgsql as $$ begin
            insert into public.noted values (current_setting('synchronous_commit'));
            return new;
        end $$;
        create trigger note before insert on bridge.events
            for each row execute function public.note();
        """
    )
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "a")
        await relayed.until_count(1)
    assert bot.execute("select value from public.noted").fetchall() == [("on",)]


async def test_rolled_back_transactions_publish_nothing(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url) as relayed:
        with bot.transaction(force_rollback=True):
            sign_up(bot, "never")
        with bot.transaction():
            sign_up(bot, "kept")
            with bot.transaction(force_rollback=True):
                sign_up(bot, "rolled back to a savepoint")
        await relayed.until_count(1)
        sign_up(bot, "end")
        await relayed.until_count(2)
        assert names(relayed) == ["kept", "end"]


async def test_event_is_enqueued_once_per_matching_active_webhook(
    bridge_url: str, bot: Bot
) -> None:
    for name, event_type, active in [
        ("exact", "user.created", True),
        ("prefix", "user.*", True),
        ("all", "*", True),
        ("other type", "ticket.created", True),
        ("other prefix", "users.*", True),
        ("paused", "*", False),
    ]:
        bot.execute(
            "insert into bridge.webhooks (name, url, event_type, is_active)"
            " values (%s, 'http://127.0.0.1:1/', %s, %s)",
            (name, event_type, active),
        )
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "a")
        sign_up(bot, "b")
        await relayed.until_count(2)
        await relayed.until(lambda: relayed.announcements > 0)
        assert bot.execute(
            "select q.event_id, w.name from bridge.delivery_queue q"
            " join bridge.webhooks w on w.id = q.webhook_id order by q.event_id, w.id"
        ).fetchall() == [
            (event_id, name) for event_id in (1, 2) for name in ("exact", "prefix", "all")
        ]


async def test_failed_capture_is_logged(bridge_url: str, bot: Bot) -> None:
    bot.execute("alter table public.users drop column referral_code")
    async with relaying(bridge_url) as relayed:
        with structlog.testing.capture_logs() as logs:
            sign_up(bot, "a")
            await relayed.until_count(1)
        assert {"capture_failed"} <= {entry["event"] for entry in logs}
        assert json.loads(relayed.events[0].payload)["id"] == 1


async def test_missing_partition_is_created_without_loss(bridge_url: str, bot: Bot) -> None:
    partitions = bot.execute(
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent = 'bridge.events'::regclass"
    ).fetchall()
    for (partition,) in partitions:
        bot.execute(f"drop table {partition}".encode())
    async with relaying(bridge_url) as relayed:
        sign_up(bot, "a")
        await relayed.until_count(1)


async def test_two_bridges_publish_the_same_events_in_order(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url) as first, relaying(bridge_url) as second:
        for number in range(20):
            sign_up(bot, str(number))
        await first.until_count(20)
        await second.until_count(20)
        assert [event.id for event in first.events] == [event.id for event in second.events]
        assert names(first) == names(second) == [str(number) for number in range(20)]
        assert first.relay.leading != second.relay.leading


async def test_next_leader_loses_nothing(bridge_url: str, bot: Bot) -> None:
    async with (
        relaying(bridge_url, poll_seconds=0.2) as first,
        relaying(bridge_url, poll_seconds=0.2) as second,
    ):
        sign_up(bot, "0")
        await first.until_count(1)
        await second.until_count(1)
        leader, follower = (first, second) if first.relay.leading else (second, first)
        for number in range(1, 10):
            sign_up(bot, str(number))
        leader.scope.cancel()
        for number in range(10, 20):
            sign_up(bot, str(number))
        await follower.until_count(20)
        assert sorted(names(follower), key=int) == [str(number) for number in range(20)]
        assert (leader.relay.leading, follower.relay.leading) == (False, True)


def start_writers(url: str, writers: int, commits: int) -> Callable[[], list[str]]:
    """Start threads that sign users up, with some savepoints and rollbacks.

    Returns:
        A function that waits for them and returns the names they committed.
    """
    committed: list[str] = []
    lock = threading.Lock()

    def write(writer: int) -> None:
        chance = random.Random(writer)
        with psycopg.connect(url) as connection:
            for number in range(commits):
                names = [f"{writer}-{number}-{each}" for each in range(chance.randint(1, 3))]
                for each in names:
                    sign_up(connection, each)
                if chance.random() < 0.3:
                    with connection.transaction(force_rollback=True):
                        sign_up(connection, "never: rolled back to a savepoint")
                if chance.random() < 0.2:
                    connection.rollback()
                    continue
                connection.commit()
                with lock:
                    committed.extend(names)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()

    def wait() -> list[str]:
        for thread in threads:
            thread.join()
        return sorted(committed)

    return wait


async def test_concurrent_writers_are_published_exactly_once(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url, batch=7) as relayed:
        wait = start_writers(bridge_url, writers=6, commits=60)
        committed = await trio.to_thread.run_sync(wait)
        await relayed.until_count(len(committed))
        sign_up(bot, "end")
        await relayed.until_count(len(committed) + 1)
        assert sorted(names(relayed)) == sorted([*committed, "end"])
        ids = [event.id for event in relayed.events]
        assert ids == sorted(set(ids))


async def test_terminated_connections_under_load_lose_nothing(bridge_url: str, bot: Bot) -> None:
    async with relaying(bridge_url, poll_seconds=0.2) as relayed:
        wait = start_writers(bridge_url, writers=4, commits=60)
        for round_ in range(1, 6):
            await relayed.until_count(20 * round_)
            bot.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'pgbridge'"
            )
        committed = await trio.to_thread.run_sync(wait)
        await relayed.until_count(len(committed))
        assert sorted(names(relayed)) == committed
        ids = [event.id for event in relayed.events]
        assert ids == sorted(set(ids))
