"""The scene of the chaos test: database, recorder, workers, receivers and clients."""

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
from tests.system.processes import environment
from tests.waiting import until

#: Records each lease in the transaction that creates it. The role of the session identifies the
#: worker.
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
            coalesce(old.leased_until > now(), false)
            -- A courier takes over its own lease if the answer to its claim was lost.
            and old.lease_owner is distinct from new.lease_owner
            and exists (
                select from pg_locks
                where locktype = 'advisory' and granted
                  and classid::bigint << 32 | objid::bigint = old.lease_owner));
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
# Expires leases early. The deliveries become due now, like released ones: couriers scan those that
# were due long ago less often.
EXPIRE = """
update bridge.delivery_queue q
set leased_until = now(), next_attempt_at = greatest(next_attempt_at, now())
from unnest(%s::bigint[], %s::uuid[]) as expired(id, lease_token)
where q.id = expired.id and q.lease_token = expired.lease_token
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery that a worker has leased, or had leased at a fault."""

    delivery_id: int
    token: object
    webhook_id: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event or a delivery that was set aside."""

    id: int
    #: The application's key; empty if it is a delivery.
    key: str


@dataclass
class Scene:
    """What the faults act on, and what they record."""

    server: EmbeddedPostgres
    url: str
    application: Application
    receivers: Sequence[Receiver]
    workers: Sequence[Worker]
    dashboards: Sequence[Dashboard]
    chance: Random
    #: Whether circuit breakers are left to close by themselves.
    is_patient: bool
    report: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    #: Leases of workers at the time of a fault.
    in_flight: set[Lease] = field(default_factory=set)
    #: Keys that nothing captured.
    blind: set[str] = field(default_factory=set)
    #: Keys that were set aside and retried, so that they come late.
    late: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    _restarts: trio.Nursery | None = None
    _connection: psycopg.Connection[Any] | None = None

    @property
    def honest(self) -> list[Receiver]:
        return [receiver for receiver in self.receivers if receiver.account.honest]

    @property
    def prompt(self) -> list[Receiver]:
        """The honest receivers for which one expiring lease does not delay later deliveries."""
        return [receiver for receiver in self.honest if not receiver.account.ordered]

    @property
    def busy(self) -> list[Receiver]:
        """The prompt receivers that get events."""
        return [receiver for receiver in self.prompt if receiver.account.takes("u1")]

    def to_honest(self, leases: Collection[Lease]) -> list[Lease]:
        """Return the leases of deliveries to honest receivers."""
        honest = {receiver.account.webhook_id for receiver in self.honest}
        return [lease for lease in leases if lease.webhook_id in honest]

    @asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        """Run the workers during the context and kill those that are left."""
        async with AsyncExitStack() as networks:
            for worker in self.workers:
                await networks.enter_async_context(worker.connected())
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
        """Restart a worker in the background."""
        assert self._restarts is not None
        self._restarts.start_soon(worker.start)

    async def all_run(self) -> None:
        """Wait until every worker serves."""
        for worker in self.workers:
            await worker.serves.wait()

    # Queries run in a thread, so that the receivers keep answering.

    async def fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, if any."""

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
        """Lock a table of schema bridge during the context."""
        connection = psycopg.connect(self.url)
        try:
            statement = f"lock table bridge.{table} in {mode} mode"
            await trio.to_thread.run_sync(connection.execute, statement.encode())
            yield
        finally:
            connection.close()

    @asynccontextmanager
    async def constraint(self, table: str, condition: str) -> AsyncIterator[None]:
        """Let a foreign constraint check new rows of a table of schema bridge."""
        await self.fetch(
            f"alter table bridge.{table} add constraint poison check ({condition}) not valid"
        )
        try:
            yield
        finally:
            await self.fetch(f"alter table bridge.{table} drop constraint poison")

    async def retry_dead_letters(self) -> list[DeadLetter]:
        """Retry all dead letters and return them."""
        letters = await self.fetch(
            "select id, payload ->> 'username' from bridge.dead_letters order by id"
        )
        for letter_id, _ in letters:
            await self.fetch("select bridge.retry_dead_letter(%s)", letter_id)
        return [DeadLetter(*letter) for letter in letters]

    def logged(self, event: str) -> bool:
        """Return whether a running worker has logged an event."""
        return any(worker.is_running and worker.bridge.logged(event) for worker in self.workers)

    async def is_found(self, check: str) -> bool:
        """Return whether this check of doctor finds an error."""
        ran = await trio.run_process(
            [sys.executable, "-m", "bridge", "doctor", "--json"],
            env=environment(self.url),
            capture_stdout=True,
            check=False,
        )
        findings = json.loads(ran.stdout)["findings"]
        return any(each["check"] == check and each["level"] == "error" for each in findings)

    async def until_waiting(self, name: str) -> Worker:
        """Wait until a worker waits for a lock in the named query, and return the worker."""
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
        """Terminate all database sessions of a worker."""
        await self.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", worker.role
        )

    async def leader(self) -> tuple[Worker, int]:
        """Return the leading worker and the process id of its session."""
        query = """
            select usename, pid from pg_stat_activity where pid = (select bridge.leader_pid())
        """
        while not (found := await self.fetch(query)):  # noqa: ASYNC110
            await trio.sleep(0.02)
        [(role, pid)] = found
        return next(worker for worker in self.workers if worker.role == role), pid

    async def until_gone(self, worker: Worker) -> None:
        """Wait until the server has noticed that the worker is gone."""
        await self.until(
            "select not exists (select from pg_stat_activity where usename = %s)", worker.role
        )

    # The leases of workers hit by a fault.

    async def struck(self, *workers: Worker) -> set[Lease]:
        """Record the leases of these workers as in flight at a fault, and return them."""
        rows = await self.fetch(LEASES, [worker.role for worker in workers])
        leases = {Lease(*row) for row in rows}
        self.in_flight |= leases
        return leases

    async def expire(self, leases: Collection[Lease]) -> None:
        """Expire leases now."""
        await self.fetch(
            EXPIRE,
            [lease.delivery_id for lease in leases],
            [str(lease.token) for lease in leases],
        )

    async def bury(self, worker: Worker) -> set[Lease]:
        """Record and return the leases of a dead worker."""
        await self.until_gone(worker)
        return await self.struck(worker)

    async def replace(self, worker: Worker) -> None:
        """Record the leases of a dead worker and restart it."""
        await self.bury(worker)
        self.restart(worker)

    @asynccontextmanager
    async def caught(self) -> AsyncIterator[tuple[Worker, Trap]]:
        """Delay the response to a request; yield the worker that sent it, and the trap.

        The response is sent at the end of the context.
        """
        receiver = self.chance.choice(self.busy)
        with receiver.trap() as trap:
            await trap.caught.wait()
            # The request may be of a worker that was killed a moment ago.
            while (sender := self._sender(trap.sender_port)) is None:
                trap.rearm()
                await trap.caught.wait()
            yield sender, trap

    def _sender(self, port: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.owns(port)), None)

    async def until_recovered(self) -> None:
        """Wait until new commits arrive at every receiver that nothing delays."""
        seen = len(self.application.committed)
        await until(lambda: len(self.application.committed) > seen)
        for receiver in self.prompt:
            account = receiver.account
            wanted = {key for key in self.application.committed[seen:] if account.takes(key)}
            looked_at = 0
            while wanted:
                wanted -= {arrival.key for arrival in account.arrivals[looked_at:]}
                looked_at = len(account.arrivals)
                await trio.sleep(0.01)

    def record(self) -> Record:
        """Return the database's record of the run."""
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
                # Of bridges that were killed in the last minute.
                " + (select coalesce(sum(each), 0)::bigint"
                "    from bridge.uncounted_successes, unnest(delivered) as each)"
                " from bridge.delivery_queue"
            ).fetchall()
            log: list[tuple[int, str]] = connection.execute(
                "select id, event_type from bridge.events order by id"
            ).fetchall()
        return Record(deliveries, leases, pending, leased, delivered_count, log)
