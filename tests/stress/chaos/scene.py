"""Where the fault run takes place: a database with its recorder, workers, receivers, dashboards."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
import trio

from bridge.assets import query
from bridge.demo.postgres import EmbeddedPostgres
from tests.stress.chaos.application import Application
from tests.stress.chaos.dashboards import Dashboard
from tests.stress.chaos.receivers import Receiver, Trap
from tests.stress.chaos.verdict import Record
from tests.stress.chaos.workers import Worker

#: Enters each lease that is given, in the transaction that gives it. A worker is known by the role
#: as which it connects.
RECORDER = """
create schema chaos;
create table chaos.leases (
    delivery_id bigint, webhook_id bigint, event_id bigint, lease_token uuid,
    worker text, is_overlap boolean
);
create index on chaos.leases (lease_token);
create function chaos.record_lease() returns trigger language plpgsql security definer as $$
begin
    insert into chaos.leases
    values (new.id, new.webhook_id, new.event_id, new.lease_token, session_user,
            coalesce(old.leased_until > now(), false));
    return null;
end $$;
create trigger record_lease after update of lease_token on bridge.delivery_queue
for each row when (new.lease_token is not null and new.lease_token is distinct from old.lease_token)
execute function chaos.record_lease();
"""
LEASES = """
select q.id, q.lease_token, q.webhook_id
from bridge.delivery_queue q
join chaos.leases l on l.lease_token = q.lease_token and l.delivery_id = q.id
where l.worker = any (%s)
"""
# What time does, faster: the leases run out. They are made due as of now, too, as what is given
# back is: what was due long ago couriers may look through only now and then.
EXPIRE = """
update bridge.delivery_queue q
set leased_until = now(), next_attempt_at = greatest(next_attempt_at, now())
from unnest(%s::bigint[], %s::uuid[]) as expired(id, lease_token)
where q.id = expired.id and q.lease_token = expired.lease_token
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery that a worker has, or had when something befell it."""

    delivery_id: int
    token: object
    webhook_id: int


@dataclass
class Scene:
    """What the faults act on, and what they leave behind in the books."""

    server: EmbeddedPostgres
    url: str
    application: Application
    receivers: Sequence[Receiver]
    workers: Sequence[Worker]
    dashboards: Sequence[Dashboard]
    chance: Random
    #: Whether the leases of the dead may be left to run out by themselves, now and then.
    is_patient: bool
    report: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    #: Leases that were held when a fault struck whoever held them.
    in_flight: set[Lease] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    _restarts: trio.Nursery | None = None
    _connection: psycopg.Connection[Any] | None = None

    @property
    def honest(self) -> list[Receiver]:
        return [receiver for receiver in self.receivers if receiver.account.honest]

    @property
    def prompt(self) -> list[Receiver]:
        """Those to which one lease that has to run out does not hold up what comes after it."""
        return [receiver for receiver in self.honest if not receiver.account.ordered]

    def to_honest(self, leases: Collection[Lease]) -> list[Lease]:
        """Return those of the leases that are of honest receivers' webhooks."""
        honest = {receiver.account.webhook_id for receiver in self.honest}
        return [lease for lease in leases if lease.webhook_id in honest]

    @asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        """Run the workers for the time of the context; then end them, if need be by force."""
        try:
            async with trio.open_nursery() as self._restarts:
                for worker in self.workers:
                    self.restart(worker)
                yield
                self._restarts.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for worker in self.workers:
                    await worker.discard()

    def restart(self, worker: Worker) -> None:
        """Start a worker that has ended, beside whatever happens next."""
        assert self._restarts is not None
        self._restarts.start_soon(worker.start)

    async def all_run(self) -> None:
        """Wait until every worker serves."""
        for worker in self.workers:
            await worker.serves.wait()

    # What the database is asked, in a thread: the receivers go on meanwhile.

    async def fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement on the run's own connection and return its rows, if it has any."""

        def run() -> list[tuple[Any, ...]]:
            if self._connection is None:
                self._connection = psycopg.connect(self.url, autocommit=True)
            cursor = self._connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

        return await trio.to_thread.run_sync(run)

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def until(self, sql: str, *values: object) -> None:
        """Wait until a query's first value is true."""
        while not (await self.fetch(sql, *values))[0][0]:  # noqa: ASYNC110
            await trio.sleep(0.02)

    @asynccontextmanager
    async def locked(self, table: str, mode: str) -> AsyncIterator[None]:
        """Hold a lock on a table of schema bridge for the time of the context."""
        connection = psycopg.connect(self.url)
        try:
            statement = f"lock table bridge.{table} in {mode} mode"
            await trio.to_thread.run_sync(connection.execute, statement.encode())
            yield
        finally:
            connection.close()

    async def until_waiting(self, name: str) -> Worker:
        """Wait until a worker waits for a lock in the named query; return which."""
        # pg_stat_activity shows the first 1024 bytes.
        beginning = query(name)[:200]
        while True:
            waiting = await self.fetch(
                "select usename from pg_stat_activity where wait_event_type = 'Lock'"
                " and usename = any (%s) and starts_with(query, %s)",
                [worker.role for worker in self.workers if worker.is_running],
                beginning,
            )
            if waiting:
                return next(worker for worker in self.workers if worker.role == waiting[0][0])
            await trio.sleep(0.01)

    async def end_sessions(self, worker: Worker) -> None:
        """End the server's side of all that a worker has open, and what it does there."""
        await self.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", worker.role
        )

    async def until_gone(self, worker: Worker) -> None:
        """Wait until the server has finished, and noticed that nobody is there to be answered."""
        await self.until(
            "select not exists (select from pg_stat_activity where usename = %s)", worker.role
        )

    # The leases of those who were struck.

    async def struck(self, *workers: Worker) -> set[Lease]:
        """Enter what these workers have leased as in flight at a fault, and return it."""
        rows = await self.fetch(LEASES, [worker.role for worker in workers])
        leases = {Lease(*row) for row in rows}
        self.in_flight |= leases
        return leases

    async def expire(self, leases: Collection[Lease]) -> None:
        """Have leases run out now."""
        await self.fetch(
            EXPIRE,
            [lease.delivery_id for lease in leases],
            [str(lease.token) for lease in leases],
        )

    async def bury(self, worker: Worker) -> set[Lease]:
        """Enter what a dead worker had leased; let it run out, at once or when its time comes."""
        await self.until_gone(worker)
        leases = await self.struck(worker)
        if not (self.is_patient and self.chance.random() < 0.5):
            await self.expire(leases)
        return leases

    @asynccontextmanager
    async def caught(self) -> AsyncIterator[tuple[Worker, Trap]]:
        """Hold back the answer to a request; yields, when it has come, who sent it, and the trap.

        The answer is given at the end of the context.
        """
        receiver = self.chance.choice([each for each in self.prompt if each.account.takes("u1")])
        with receiver.trap() as trap:
            await trap.caught.wait()
            # A worker that was killed a moment ago may have left a request behind.
            while (sender := self._sender(trap.sender_port)) is None:
                trap.rearm()
                await trap.caught.wait()
            yield sender, trap

    def _sender(self, port: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.owns(port)), None)

    async def until_recovered(self) -> None:
        """Wait until what is committed from now on arrives where nothing can be in its way."""
        seen = len(self.application.committed)
        while len(self.application.committed) <= seen:  # noqa: ASYNC110 - a thread counts them
            await trio.sleep(0.01)
        for receiver in self.prompt:
            account = receiver.account
            wanted = {key for key in self.application.committed[seen:] if account.takes(key)}
            looked_at = 0
            while wanted:
                wanted -= {arrival.key for arrival in account.arrivals[looked_at:]}
                looked_at = len(account.arrivals)
                await trio.sleep(0.01)

    def record(self) -> Record:
        """Return what the database says of the whole run."""
        with psycopg.connect(self.url) as connection:
            deliveries: list[tuple[int, int, str]] = connection.execute(
                "select webhook_id, event_id, status from bridge.webhook_deliveries"
            ).fetchall()
            leases: list[tuple[int, int, bool]] = connection.execute(
                "select webhook_id, event_id, is_overlap from chaos.leases"
            ).fetchall()
            [(pending, leased, delivered_count)] = connection.execute(
                "select count(*), count(lease_token),"
                " (select sum(delivered_count)::bigint from bridge.webhooks)"
                " from bridge.delivery_queue"
            ).fetchall()
            log: list[tuple[int, str]] = connection.execute(
                "select id, event_type from bridge.events order by id"
            ).fetchall()
        return Record(deliveries, leases, pending, leased, delivered_count, log)
