"""The faults: what happens to the workers and the database, each at a chosen moment.

A fault at some operation hits the worker that performs it next. A killed worker restarts in the
background.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from tests.conftest import init
from tests.stress.chaos.scene import Lease, Scene

Fault = Callable[[Scene], Awaitable[None]]

OWN_TRIGGERS = """
select tgname from pg_trigger t join pg_proc f on f.oid = t.tgfoid
where t.tgrelid = 'public.users'::regclass and f.pronamespace = 'bridge'::regnamespace
"""


async def kill_any_time(scene: Scene) -> None:
    """Kill a worker at a random time."""
    await trio.sleep(scene.chance.uniform(0, 0.3))
    victim = scene.chance.choice([worker for worker in scene.workers if worker.is_running])
    await victim.kill()
    await scene.replace(victim)


async def kill_at_claim(scene: Scene) -> None:
    """Kill a worker while its claim waits; the server then leases deliveries to a dead worker."""
    async with scene.locked("delivery_queue", "share row exclusive"):
        victim = await scene.until_waiting("claim")
        await victim.kill()
    await scene.replace(victim)


async def kill_after_post(scene: Scene) -> None:
    """Kill a worker after a receiver got its request and before the response."""
    async with scene.caught() as (victim, _):
        await victim.kill()
    await scene.replace(victim)


async def kill_before_settle(scene: Scene) -> None:
    """Kill a worker and its database session after a response and before it settles."""
    async with scene.locked("delivery_log", "exclusive"):
        victim = await scene.until_waiting("settle")
        await victim.kill()
        await scene.end_sessions(victim)
        await scene.until_gone(victim)
    await scene.replace(victim)


async def kill_during_settle(scene: Scene) -> None:
    """Kill a worker while it settles; the server still completes the statement."""
    async with scene.locked("delivery_log", "exclusive"):
        victim = await scene.until_waiting("settle")
        await victim.kill()
    await scene.replace(victim)


async def kill_during_drain(scene: Scene) -> None:
    """Kill the drainer while its drain waits, at times with its database session."""
    async with scene.locked("events", "exclusive"):
        victim = await scene.until_waiting("drain")
        await victim.kill()
        if scene.chance.random() < 0.5:
            await scene.end_sessions(victim)
            await scene.until_gone(victim)
    await scene.replace(victim)


async def freeze_past_the_lease(scene: Scene) -> None:
    """Freeze a worker that awaits a response until others have done its work, then thaw it.

    It then settles too late, which must change nothing.
    """
    settled = "select count(*) = %s from bridge.delivery_log where id = any (%s)"
    log = "select id, to_jsonb(l) from bridge.delivery_log l where id = any (%s) order by id"
    attempted = "select count(*) > %s from bridge.delivery_attempts where delivery_id = any (%s)"
    await scene.all_run()
    async with scene.caught() as (victim, _):
        victim.freeze()
    try:
        leases = await scene.struck(victim)
        # Deliveries to hostile receivers may take long.
        ids = [lease.delivery_id for lease in scene.to_honest(leases)]
        await scene.expire(leases)
        await scene.until(settled, len(ids), ids)
        before = await scene.fetch(log, ids)
    finally:
        victim.thaw()
    # A late attempt is recorded too, which shows that the thawed worker has settled. If it never
    # appears, five seconds must do.
    with trio.move_on_after(5):
        await scene.until(attempted, len(ids), ids)
    if await scene.fetch(log, ids) != before:
        scene.problems.append(f"{victim.role} overwrote what others had settled")


async def freeze_until_another_has_it(scene: Scene) -> None:
    """Freeze a worker that awaits a response until another has taken over its delivery.

    It then settles too late: the delivery must stay with the other worker.
    """
    delivery = "'evt_' || event_id || '_wh_' || webhook_id = %s"
    attempted = f"""
        select exists (select from bridge.delivery_attempts
                       where delivery_id = (select delivery_id from chaos.leases
                                            where {delivery} limit 1))
    """
    held = f"""
        select exists (select from bridge.delivery_queue q
                       where {delivery} and exists (
                           select from chaos.leases l
                           where l.lease_token = q.lease_token and l.worker <> %s))
    """
    await scene.all_run()
    async with scene.caught() as (victim, trap):
        message_id = trap.message_id
        victim.freeze()
        try:
            leases = await scene.struck(victim)
            trap.rearm(message_id)
            await scene.expire(leases)
            await trap.caught.wait()
        finally:
            victim.thaw()
        # As above: the recorded late attempt shows that the thawed worker has settled.
        with trio.move_on_after(5):
            await scene.until(attempted, message_id)
        if not (await scene.fetch(held, message_id, victim.role))[0][0]:
            scene.problems.append(f"{victim.role} settled a delivery leased to another worker")


async def freeze_the_leader(scene: Scene) -> None:
    """Freeze the worker that drains until another has taken over, then thaw it."""
    await scene.all_run()
    victim, session = await scene.leader()
    victim.freeze()
    try:
        await scene.struck(victim)
        await scene.until("select bridge.leader_pid() <> %s", session)
    finally:
        victim.thaw()


async def swallow_its_packets(scene: Scene) -> None:
    """Cut a worker off from the database, without the end of a connection, until it notices."""
    await scene.all_run()
    victim = scene.chance.choice(scene.workers)
    failures = len(victim.bridge.logged("database_task_failed"))
    try:
        await victim.network.swallow()
        await scene.struck(victim)
        while len(victim.bridge.logged("database_task_failed")) == failures:  # noqa: ASYNC110
            await trio.sleep(0.2)
    finally:
        victim.network.heal()
    await scene.struck(victim)


async def end_its_sessions(scene: Scene) -> None:
    """Terminate all database sessions of a worker, as an operator or a failover does."""
    await scene.all_run()
    victim = scene.chance.choice(scene.workers)
    await scene.end_sessions(victim)
    await scene.struck(victim)


async def crash_the_database(scene: Scene) -> None:
    """Crash PostgreSQL as ``pg_ctl -m immediate`` does, and restart it."""
    await scene.all_run()
    scene.disconnect()
    await trio.to_thread.run_sync(scene.server.crash)
    await trio.sleep(scene.chance.uniform(0, 1))
    await trio.to_thread.run_sync(scene.server.start)
    await scene.struck(*scene.workers)


async def set_sequences_back(scene: Scene) -> None:
    """Set all sequences back, as a dump does that is replayed into its own database.

    Rows of a transaction that is open meanwhile would be in the order of their ids, not of their
    statements.
    """
    async with scene.application.paused():
        await scene.fetch(
            "select setval(oid::regclass,"
            " greatest(1, coalesce(pg_sequence_last_value(oid), 0) / 2))"
            " from pg_class where relnamespace = 'bridge'::regnamespace and relkind = 'S'"
            " and relname <> 'doorbell'"
        )
    await scene.until("select not exists (select from bridge.sequences_behind(0, 0))")


async def hide_rows(scene: Scene) -> None:
    """Enable row-level security for a moment, as a script over all tables does."""
    await scene.all_run()
    await scene.struck(*scene.workers)
    table = scene.chance.choice(["outbox", "events", "delivery_queue", "delivery_log"])
    await scene.fetch(f"alter table bridge.{table} enable row level security")
    await trio.sleep(scene.chance.uniform(0.2, 1))
    await scene.struck(*scene.workers)
    await scene.fetch(f"alter table bridge.{table} disable row level security")


async def poison_an_event(scene: Scene) -> None:
    """Reject some events in the log, until one is set aside; then retry it."""
    digit = scene.chance.randrange(10)
    async with scene.constraint("events", f"payload ->> 'first_name' is distinct from '{digit}'"):
        await scene.until("select exists (select from bridge.dead_letters)")
    if not scene.logged("event_set_aside"):
        scene.problems.append("an event was set aside, and no log says so")
    for letter in await scene.retry_dead_letters():
        scene.late.add(letter.key)


async def poison_a_result(scene: Scene) -> None:
    """Reject results of a receiver's deliveries, until one is set aside; then retry it."""
    webhook_id = scene.chance.choice(scene.busy).account.webhook_id
    async with scene.constraint("delivery_log", f"webhook_id <> {webhook_id}"):
        await scene.until("select exists (select from bridge.dead_letters)")
    if not scene.logged("result_rejected"):
        scene.problems.append("a result was rejected, and no log says so")
    for letter in await scene.retry_dead_letters():
        # The receiver had accepted it.
        scene.in_flight.add(Lease(letter.id, "dead letter", webhook_id))


async def lose_the_triggers(scene: Scene) -> None:
    """Drop or disable the triggers of a table, as a migration may; install them again later."""
    application = scene.application
    async with application.paused():
        triggers = await scene.fetch(OWN_TRIGGERS)
        if scene.chance.random() < 0.5:
            await scene.fetch("alter table public.users disable trigger user")
        else:
            for (name,) in triggers:
                await scene.fetch(f'drop trigger "{name}" on public.users')
        first = len(application.committed)
    if not await scene.is_found("triggers"):
        scene.problems.append("triggers were lost, and doctor finds nothing wrong with them")
    async with application.paused():
        await trio.to_thread.run_sync(init, scene.url)
        scene.blind |= set(application.committed[first:])


async def terminate_in_mid_flight(scene: Scene) -> None:
    """Send a worker SIGTERM while a receiver delays its response."""
    known = set(scene.in_flight)
    async with trio.open_nursery() as nursery, scene.caught() as (victim, _):
        await scene.struck(victim)
        nursery.start_soon(victim.terminate)
        await trio.sleep(0.5)
        await scene.struck(victim)
    if left := await scene.bury(victim) - known:
        scene.report(f"{victim.role} left {len(left)} leases after SIGTERM")
    scene.restart(victim)


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_any_time,
        kill_at_claim,
        kill_after_post,
        kill_before_settle,
        kill_during_settle,
        kill_during_drain,
        freeze_past_the_lease,
        freeze_until_another_has_it,
        freeze_the_leader,
        swallow_its_packets,
        end_its_sessions,
        crash_the_database,
        set_sequences_back,
        hide_rows,
        poison_an_event,
        poison_a_result,
        lose_the_triggers,
        terminate_in_mid_flight,
    )
}
