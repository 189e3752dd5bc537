"""The fault run from its beginning to its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import psycopg
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, create_roles, init
from tests.stress.chaos.application import Application
from tests.stress.chaos.dashboards import Dashboard
from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.receivers import HABITS, Receiver
from tests.stress.chaos.scene import RECORDER, Scene
from tests.stress.chaos.verdict import (
    Account,
    Books,
    contradictions,
    delivered,
    disagreements,
    lost,
    misled,
)
from tests.stress.chaos.workers import Worker

ROLES = ("worker_1", "worker_2")
#: What the dashboards subscribe to: all, nearly all, and what only the bridge itself tells.
PATTERNS = ("*", "*", "user.*", "webhook.*")
#: How long a fault may take to come about, to be over, and to be recovered from.
FAULT_SECONDS = 60.0
#: How long everything may take to arrive in the end: a lease of the longest kind, a breaker's
#: probes, and the backlog of those who were hostile.
SETTLING_SECONDS = 150.0
#: Answers are cut, so whatever receivers send, this must do.
MOST_BYTES = 400 * 1024 * 1024

# An honest receiver always answers at once; a machine that stands still for a second or two must
# not make that a time-out, or there would be repeats that no fault explains.
HONEST_TIMEOUT_SECONDS = 10
HOSTILE_TIMEOUT_SECONDS = 1


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    seed: int
    committed: int
    delivered: int
    lost: int
    #: At honest receivers.
    duplicates: int
    #: To honest receivers.
    in_flight_at_faults: int
    faults: Mapping[str, int]
    #: A line for everything that must not be; losses are among it.
    problems: Sequence[str]


def run(
    server: EmbeddedPostgres,
    *,
    seed: int,
    report: Callable[[str], None],
    rounds: float = math.inf,
    seconds: float = math.inf,
    is_patient: bool = True,
    per_second: float = 6.0,
) -> Outcome:
    """Let every fault happen once a round, in any order, and return what came of it.

    Args:
        server: PostgreSQL of the run's own; it is stopped and started.
        rounds: how many rounds at most.
        seconds: how long faults happen at most; what is pending then is delivered after it.
        is_patient: whether leases of the dead are now and then left to run out by themselves, and
            a breaker to try again by itself; else it is done for them, to save time.
        per_second: transactions of the application.
    """
    url = _prepare(server)
    application = Application(url, per_second=per_second)
    chance = Random(seed)
    receivers = _receivers(chance)
    scene = Scene(
        server=server,
        url=url,
        application=application,
        receivers=receivers,
        workers=[Worker(url, role) for role in ROLES],
        dashboards=[Dashboard(pattern, chance) for pattern in PATTERNS],
        chance=chance,
        is_patient=is_patient,
        report=report,
    )
    try:
        trio.run(partial(_play, scene, rounds=rounds, seconds=seconds))
    finally:
        application.stop()
        scene.disconnect()
    return _judge(scene, seed)


def _prepare(server: EmbeddedPostgres) -> str:
    """Create the application's database, with pgbridge and the recorder; return its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        # A crash loses what was not on disk: without this the run would find losses of its own.
        assert connection.execute("show fsync").fetchone() == ("on",)
        connection.execute("create database shop")
        create_roles(connection)
        for role in ROLES:
            connection.execute(f"create role {role} login in role bridge_service".encode())
    url = server.url("shop")
    with psycopg.connect(url) as connection:
        connection.execute(BOT_TABLES.read_bytes())
    init(url)
    with psycopg.connect(url) as connection:
        connection.execute(RECORDER)
    return url


def _receivers(chance: Random) -> list[Receiver]:
    def everything(_key: str) -> bool:
        return True

    def fifths(key: str) -> bool:
        return int(key.removeprefix("u")) % 5 == 1

    def nothing(_key: str) -> bool:
        return False

    honest = [
        Account("all", honest=True, ordered=False, takes=everything, event_type="*"),
        Account("users", honest=True, ordered=False, takes=everything, event_type="user.*"),
        Account("created", honest=True, ordered=False, takes=everything),
        Account("fifths", honest=True, ordered=False, takes=fifths, filter=FIFTHS),
        Account("tickets", honest=True, ordered=False, takes=nothing, event_type="ticket.*"),
        Account("in_order", honest=True, ordered=True, takes=everything),
    ]
    hostile = [Account(name, honest=False, ordered=False, takes=everything) for name in HABITS]
    moody = Account("in_order_failing", honest=False, ordered=True, takes=everything)
    return [
        *(Receiver(account, None, chance) for account in honest),
        *(Receiver(account, HABITS[account.name], chance) for account in hostile),
        Receiver(moody, HABITS["fails_now_and_then"], chance),
    ]


#: What ``fifths`` asks for, in the language of webhooks.filter.
FIFTHS = '$.username like_regex "[16]$"'


async def _play(scene: Scene, *, rounds: float, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        for receiver in scene.receivers:
            await receiver.listen(nursery)
        await _add_webhooks(scene)
        async with scene.on(), trio.open_nursery() as following:
            await scene.all_run()
            for dashboard in scene.dashboards:
                following.start_soon(dashboard.follow, scene.workers)
            await _strike(scene, rounds=rounds, until=trio.current_time() + seconds)
            await _settle(scene)
            following.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _add_webhooks(scene: Scene) -> None:
    for receiver in scene.receivers:
        account = receiver.account
        [(account.webhook_id,)] = await scene.fetch(
            "insert into bridge.webhooks"
            " (name, url, event_type, secret, ordered, filter, timeout_seconds)"
            " values (%s, %s, %s, %s, %s, %s, %s) returning id",
            account.name,
            receiver.url,
            account.event_type,
            receiver.secret,
            account.ordered,
            account.filter,
            HONEST_TIMEOUT_SECONDS if account.honest else HOSTILE_TIMEOUT_SECONDS,
        )


async def _strike(scene: Scene, *, rounds: float, until: float) -> None:
    """Let faults happen, one after the other, each on a run that has recovered from the last."""
    done = 0
    while done < rounds:
        for name in scene.chance.sample(list(FAULTS), len(FAULTS)):
            if trio.current_time() >= until:
                return
            before = len(scene.in_flight)
            with trio.move_on_after(FAULT_SECONDS) as patience:
                await FAULTS[name](scene)
                await scene.until_recovered()
            scene.faults[name] += 1
            scene.report(f"{name}: {len(scene.in_flight) - before} deliveries were in flight")
            if patience.cancelled_caught:
                scene.problems.append(
                    f"{name}: not recovered from within {FAULT_SECONDS:g} s; the run ended there"
                )
                return
        done += 1


async def _settle(scene: Scene) -> None:
    """Have everybody behave, and wait until nothing is pending; then end the workers."""
    await trio.to_thread.run_sync(scene.application.stop)
    for receiver in scene.receivers:
        receiver.habit = None
    scene.report(f"no more faults; {len(scene.application.committed)} keys are committed")
    with trio.move_on_after(SETTLING_SECONDS) as patience:
        await scene.all_run()
        if not scene.is_patient:
            await _save_time(scene)
        await scene.until(
            "select not exists (select from bridge.outbox)"
            " and not exists (select from bridge.delivery_queue)"
        )
        [(last_id,)] = await scene.fetch("select max(id) from bridge.events")
        while not all(each.has_come_to(last_id) for each in scene.dashboards):  # noqa: ASYNC110
            await trio.sleep(0.05)
    if patience.cancelled_caught:
        scene.problems.append(f"not everything has arrived after {SETTLING_SECONDS:g} s")
    async with trio.open_nursery() as nursery:
        for worker in scene.workers:
            if worker.is_running:
                nursery.start_soon(worker.terminate)


async def _save_time(scene: Scene) -> None:
    """Do what time does: let leases that nobody knows of run out, and breakers try again."""
    # A worker whose claim was answered into a broken connection does not know that it has leases.
    # When all have given back what they know of, what is leased still is of that kind.
    async with trio.open_nursery() as nursery:
        for worker in scene.workers:
            nursery.start_soon(worker.terminate)
    await scene.expire(await scene.struck(*scene.workers))
    for worker in scene.workers:
        scene.restart(worker)
    for receiver in scene.receivers:
        await scene.fetch("select bridge.resume_webhook(%s)", receiver.account.webhook_id)


def _judge(scene: Scene, seed: int) -> Outcome:
    application = scene.application
    books = Books(application.committed, application.unknown, application.rolled_back)
    accounts = [receiver.account for receiver in scene.receivers]
    in_flight = len(scene.to_honest(scene.in_flight))
    losses = lost(books, accounts)
    record = scene.record()
    problems = [
        *losses,
        *contradictions(books, accounts, in_flight_at_faults=in_flight),
        *disagreements(record, accounts),
        *misled(record.log, [dashboard.watched for dashboard in scene.dashboards]),
        *scene.problems,
        *(f"the application was refused: {line}" for line in application.refused),
    ]
    for worker in scene.workers:
        problems += worker.problems
        if worker.peak_bytes > MOST_BYTES:
            problems.append(f"{worker.role} took {worker.peak_bytes >> 20} MiB")
    return Outcome(
        seed=seed,
        committed=len(application.committed),
        delivered=delivered(accounts),
        lost=len(losses),
        duplicates=sum(account.duplicates for account in accounts if account.honest),
        in_flight_at_faults=in_flight,
        faults=dict(scene.faults),
        problems=problems,
    )
