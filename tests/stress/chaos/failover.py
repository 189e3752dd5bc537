"""A standby is promoted under load. Application and bridge know both servers."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.stress.chaos.application import Application
from tests.stress.chaos.receivers import Receiver
from tests.stress.chaos.run import ROLES, prepare
from tests.stress.chaos.verdict import Account, Books, contradictions, lost
from tests.stress.chaos.workers import SETTINGS
from tests.system.processes import Bridge, as_role, running
from tests.waiting import until, until_true

#: How many events must have arrived before the next step.
EVENTS = 20
#: Time limit for the whole run.
SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """The result of a promotion."""

    committed: int
    #: Commits that the promoted server has.
    survived: int
    delivered: int
    #: One line per problem.
    problems: Sequence[str]


def promote(
    primary: EmbeddedPostgres, *, is_synchronous: bool, report: Callable[[str], None]
) -> Outcome:
    """Stop a primary under load and promote its standby.

    Args:
        primary: a server for this run alone, new, and stopped at the end.
        is_synchronous: whether commits wait for the standby. If not, it lacks the last ones.
    """
    prepare(primary)
    with _standby(primary) as standby:
        if is_synchronous:
            _configure(primary, "synchronous_standby_names", "*")
        url = _either(primary.url("shop"), standby.url("shop"))
        application = Application(url, per_second=20)
        try:
            return trio.run(
                _play, _Pair(primary, standby, url, is_synchronous), application, report
            )
        finally:
            application.stop()


@dataclass(frozen=True)
class _Pair:
    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    url: str
    is_synchronous: bool


async def _play(pair: _Pair, application: Application, report: Callable[[str], None]) -> Outcome:
    account = Account("all", honest=True, ordered=False, takes=lambda _key: True)
    receiver = Receiver(account, None, Random(1))
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            await receiver.listen(nursery)
            with psycopg.connect(pair.url) as connection:
                [(account.webhook_id,)] = connection.execute(
                    "insert into bridge.webhooks (name, url, event_type, secret, ordered)"
                    " values ('all', %s, 'user.created', %s, false) returning id",
                    [receiver.url, receiver.secret],
                ).fetchall()
            async with running(as_role(pair.url, ROLES[0]), **SETTINGS) as bridge:
                await _arrive(account)
                if not pair.is_synchronous:
                    await trio.to_thread.run_sync(_detach, pair.standby)
                    await _arrive(account)
                report(f"{len(account.arrivals)} deliveries; the primary stops")
                await trio.to_thread.run_sync(_fail_over, pair)
                committed = len(application.committed)
                await until(lambda: len(application.committed) > committed + EVENTS)
                await trio.to_thread.run_sync(application.stop)
                report(f"{len(application.committed)} commits; the application stops")
                survived = await _until_done(pair.url)
                problems = list(_problems(pair, application, account, survived, bridge))
            nursery.cancel_scope.cancel()
    report(f"{len(survived)} commits survived, {len(account.arrivals)} deliveries")
    return Outcome(len(application.committed), len(survived), len(account.arrivals), problems)


async def _arrive(account: Account) -> None:
    before = len(account.arrivals)
    await until(lambda: len(account.arrivals) > before + EVENTS)


async def _until_done(url: str) -> list[str]:
    """Wait until nothing is pending; return the keys of the application's rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        await until_true(
            connection,
            "not exists (select from bridge.outbox)"
            " and not exists (select from bridge.delivery_queue)",
        )
        return [key for (key,) in connection.execute("select username from public.users")]


def _problems(
    pair: _Pair, application: Application, account: Account, survived: list[str], bridge: Bridge
) -> Iterator[str]:
    if pair.is_synchronous and (missing := set(application.committed) - set(survived)):
        yield f"{len(missing)} commits are not on the standby"
    books = Books(survived, application.unknown + application.committed, application.rolled_back)
    yield from lost(books, [account])
    # What the old primary had settled may be sent again, with the same id and body.
    yield from contradictions(books, [account], in_flight_at_faults=account.duplicates)
    yield from (f"the application got an error: {line}" for line in application.refused)
    has_rewound = bool(bridge.logged("event_log_rewound"))
    if has_rewound is pair.is_synchronous:
        yield f"the log is said to have lost events: {has_rewound}"
    if not pair.is_synchronous and len(survived) >= len(application.committed):
        yield "the standby lacked nothing"


def _fail_over(pair: _Pair) -> None:
    pair.primary.crash()
    with psycopg.connect(pair.standby.url(), autocommit=True) as connection:
        connection.execute("select pg_promote()")
        # Otherwise its first commit would wait for a standby of its own.
        connection.execute("alter system reset synchronous_standby_names")
        connection.execute("select pg_reload_conf()")


def _detach(standby: EmbeddedPostgres) -> None:
    """Let a standby receive nothing more."""
    _configure(standby, "primary_conninfo", "")
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        while connection.execute("select from pg_stat_wal_receiver").fetchall():
            pass


def _configure(server: EmbeddedPostgres, name: str, value: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"alter system set {name} = '{value}'".encode())
        connection.execute("select pg_reload_conf()")


@contextmanager
def _standby(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Run a standby of a server during the context."""
    data = Path(_host(primary.url())).with_name("standby")
    data.mkdir(mode=0o700)
    # PostgreSQL refuses to run as root.
    user = None if os.geteuid() else "pgserver"
    if user is not None:
        owner = Path(_host(primary.url())).stat()
        os.chown(data, owner.st_uid, owner.st_gid)
    subprocess.run(
        [
            primary.bin / "pg_basebackup",
            *("--dbname", primary.url(), "--pgdata", data),
            *("--write-recovery-conf", "--checkpoint", "fast", "--wal-method", "stream"),
        ],
        user=user,
        check=True,
    )
    for lock in data.glob(".s.PGSQL.*.lock"):  # the primary's
        lock.unlink()
    standby = EmbeddedPostgres(data)
    try:
        yield standby
    finally:
        standby.stop()


def _host(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["host"]


def _either(first: str, second: str) -> str:
    """Return a URL that leads to whichever of two servers accepts writes."""
    query = {
        "host": f"{_host(first)},{_host(second)}",
        "target_session_attrs": "read-write",
    }
    return urlunsplit(urlsplit(first)._replace(query=urlencode(query)))
