"""A bridge at size: many webhooks, a long queue, huge payloads, a huge commit, hurried settings.

Everything has to move, and neither the bridge nor a backend of PostgreSQL may grow without bound.
Events go, in order:

- a queue of deliveries to an endpoint that is down;
- a commit of many small events, each for one live webhook;
- events for every one of many webhooks, whose receiver is down as well;
- a commit of events with huge payloads;
- one last small event, which has to reach the live webhook.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import trio

from tests.receiver import Request, answer, receiving
from tests.system.processes import lasting_port, running
from tests.waiting import until
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[object, ...]]

#: How often memory and progress are read.
LOOK_SECONDS = 0.1
#: Types of the events.
SMALL, WIDE, HUGE = "size.small", "size.wide", "size.huge"
LIMITS = ("statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout")


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        queued: deliveries that wait for the dead endpoint.
        events: small events in one commit.
        webhooks: webhooks that take the wide events.
        wide: events that each of them takes.
        huge: events with huge payloads.
        huge_bytes: size of one of these payloads.
        limit: what the database allows each statement, lock and idle session.
    """

    queued: int = 300_000
    events: int = 50_000
    webhooks: int = 2_000
    wide: int = 50
    huge: int = 60
    huge_bytes: int = 5_000_000
    limit: str = "1s"


@dataclass
class Outcome:
    """What was seen.

    Attributes:
        seconds: from the first commit until everything was logged and the last event delivered.
        longest_pause: longest time in seconds in which the log did not grow although events waited.
        bridge_mib: largest memory of the bridge.
        backend_mib: largest memory of any backend, without shared memory.
    """

    seconds: float = 0.0
    longest_pause: float = 0.0
    bridge_mib: float = 0.0
    backend_mib: float = 0.0
    arrived: set[str | int] = field(default_factory=set)


async def run_at_size(url: str, size: Size) -> Outcome:
    """Run everything on an installed, empty database; return what was seen."""
    outcome = Outcome()
    with psycopg.connect(url, autocommit=True) as bot:
        dead = f"http://127.0.0.1:{lasting_port()}/"
        with bot.transaction():
            for number in range(size.webhooks):
                add_webhook(bot, dead, name=f"wide {number}", event_type=WIDE)
            late = add_webhook(bot, dead, name="late", event_type="size.late")
        _queue(bot, late, size.queued)
        _hurry(bot, size.limit)

        async def take(request: Request, stream: trio.SocketStream) -> None:
            outcome.arrived.add(json.loads(request.body)["name"])
            await answer()(request, stream)

        async with (
            receiving() as receiver,
            running(url) as bridge,
            trio.open_nursery() as nursery,
        ):
            receiver.behaviours["/"] = take
            add_webhook(bot, receiver.url(), name="live", event_type=SMALL, max_concurrency=50)
            nursery.start_soon(_watch, url, bridge.process.pid, outcome)
            started = time.monotonic()
            _commit(bot, size)
            await until(lambda: "last" in outcome.arrived and _is_empty(bot))
            outcome.seconds = time.monotonic() - started
            nursery.cancel_scope.cancel()
    return outcome


def _queue(bot: Bot, webhook_id: int, count: int) -> None:
    """Queue deliveries of one event to a webhook."""
    bot.execute(
        """
        with event as (
            insert into bridge.events (event_type, payload, occurred_at)
            values ('size.late', '{}', now()) returning id, recorded_at
        )
        insert into bridge.delivery_queue (webhook_id, event_id, event_recorded_at, event_type)
        select %s, id, recorded_at, 'size.late' from event, generate_series(1, %s)
        """,
        (webhook_id, count),
    )


def _commit(bot: Bot, size: Size) -> None:
    insert = "insert into bridge.outbox (event_type, payload) "
    with bot.transaction():
        bot.execute(
            insert
            + "select %s, jsonb_build_object('name', n %% 100) from generate_series(1, %s) n",
            (SMALL, size.events),
        )
    with bot.transaction():
        bot.execute(insert + "select %s, '{}' from generate_series(1, %s)", (WIDE, size.wide))
    text = os.urandom(size.huge_bytes // 2).hex()
    with bot.transaction():
        bot.execute(
            insert + "select %s, jsonb_build_object('text', %s::text) from generate_series(1, %s)",
            (HUGE, text, size.huge),
        )
    bot.execute(insert + 'values (%s, \'{"name": "last"}\')', (SMALL,))
    bot.execute("select bridge.ring()")


def _is_empty(bot: Bot) -> bool:
    return bot.execute("select from bridge.outbox limit 1").fetchone() is None


def _hurry(bot: Bot, limit: str) -> None:
    """Give new sessions of the database short limits."""
    known = bot.execute("select name from pg_settings where name = any (%s)", (list(LIMITS),))
    for (name,) in known.fetchall():
        bot.execute(f"alter database {bot.info.dbname} set {name} = '{limit}'".encode())


async def _watch(url: str, bridge_pid: int, outcome: Outcome) -> None:
    """Record memory, and how long the log stood still while events waited."""
    newest, grew_at = 0, time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set idle_session_timeout = 0; set statement_timeout = 0")
        while True:
            [(waits, last_id, pids)] = connection.execute(
                "select exists (select from bridge.outbox),"
                " (select last_value from bridge.event_id),"
                " (select array_agg(pid) from pg_stat_activity where application_name = 'pgbridge')"
            ).fetchall()
            now = time.monotonic()
            if last_id != newest or not waits:
                newest, grew_at = last_id, now
            outcome.longest_pause = max(outcome.longest_pause, now - grew_at)
            outcome.bridge_mib = max(outcome.bridge_mib, _mib(bridge_pid, "VmRSS"))
            for pid in pids or ():
                outcome.backend_mib = max(outcome.backend_mib, _mib(pid, "RssAnon"))
            await trio.sleep(LOOK_SECONDS)


def _mib(pid: int, name: str) -> float:
    """Return a figure of a process's status in MiB; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    figures = dict(line.split(":", 1) for line in status.splitlines())
    return int(figures.get(name, "0 kB").split()[0]) / 1024
