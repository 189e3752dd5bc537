"""Run the chaos test from setup to verdict."""

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
from tests.waiting import until

ROLES = ("worker_1", "worker_2")
#: Subscriptions of the clients: all, nearly all, and the bridge's own events.
PATTERNS = ("*", "*", "user.*", "webhook.*")
#: Time limit for one fault and the recovery from it.
FAULT_SECONDS = 60.0
#: Time limit for the last deliveries: the probes of open circuit breakers, and the backlog of
#: hostile receivers.
SETTLING_SECONDS = 120.0
#: Memory limit of a worker, whatever receivers send.
MOST_BYTES = 400 * 1024 * 1024

# Honest receivers answer at once, but a stalled machine must not cause timeouts: they would lead to
# duplicates that no fault explains.
HONEST_TIMEOUT_SECONDS = 10
HOSTILE_TIMEOUT_SECONDS = 1


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    seed: int
    committed: int
    delivered: int
    lost: int
    #: Duplicates at honest receivers.
    duplicates: int
    #: Deliveries to honest receivers.
    in_flight_at_faults: int
    faults: Mapping[str, int]
    #: One line per problem, losses included.
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
    """Cause every fault once per round, in random order.

    Args:
        server: a PostgreSQL for this run alone, which is stopped and restarted.
        rounds: maximum number of rounds.
        seconds: maximum duration of the faults; pending deliveries finish afterwards.
        is_patient: whether circuit breakers are left to close by themselves. If not, the run closes
            them to save time.
        per_second: transactions per second of the application.
    """
    url = prepare(server)
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


def prepare(server: EmbeddedPostgres) -> str:
    """Create a database with pgbridge and the recorder; return its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        # Without fsync a crash would lose commits.
        assert connection.execute("show fsync").fetchone() == ("on",)
        connection.execute("create database shop")
        create_roles(connection)
        for role in ROLES:
            connection.execute(f"create role {role} login in role bridge_service".encode())
            # To take over from each other.
            connection.execute(f"grant pg_signal_backend, pg_read_all_stats to {role}".encode())
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
        return key.endswith(("1", "6"))

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


#: The webhook filter of ``fifths``.
FIFTHS = '$.first_name == "1" || $.first_name == "6"'


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
    """Cause faults one by one, each after recovery from the previous one."""
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
            scene.report(f"{name}: {len(scene.in_flight) - before} deliveries in flight")
            if patience.cancelled_caught:
                scene.problems.append(
                    f"{name}: no recovery within {FAULT_SECONDS:g} s; the run ended there"
                )
                return
        done += 1


async def _settle(scene: Scene) -> None:
    """Turn all receivers honest, wait until nothing is pending, and stop the workers."""
    await trio.to_thread.run_sync(scene.application.stop)
    for receiver in scene.receivers:
        receiver.habit = None
    scene.report(f"no more faults; {len(scene.application.committed)} keys committed")
    with trio.move_on_after(SETTLING_SECONDS) as patience:
        await scene.all_run()
        if not scene.is_patient:
            for receiver in scene.receivers:
                await scene.fetch("select bridge.resume_webhook(%s)", receiver.account.webhook_id)
        await scene.until(
            "select not exists (select from bridge.outbox)"
            " and not exists (select from bridge.delivery_queue)"
        )
        [(last_id,)] = await scene.fetch("select max(id) from bridge.events")
        await until(lambda: all(each.has_come_to(last_id) for each in scene.dashboards))
    if patience.cancelled_caught:
        scene.problems.append(f"not everything arrived within {SETTLING_SECONDS:g} s")
    async with trio.open_nursery() as nursery:
        for worker in scene.workers:
            if worker.is_running:
                nursery.start_soon(worker.terminate)


def _judge(scene: Scene, seed: int) -> Outcome:
    application = scene.application
    books = Books(
        [key for key in application.committed if key not in scene.blind],
        application.unknown,
        application.rolled_back,
        scene.late,
    )
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
        *(f"the application got an error: {line}" for line in application.refused),
    ]
    for worker in scene.workers:
        problems += worker.problems
        if worker.peak_bytes > MOST_BYTES:
            problems.append(f"{worker.role} used {worker.peak_bytes >> 20} MiB")
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
