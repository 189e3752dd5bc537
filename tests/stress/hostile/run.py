"""Run the hostile test from setup to verdict."""

import json
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
import trio
from trio_websocket import ConnectionClosed

from tests.stress.chaos.application import Application
from tests.stress.chaos.receivers import Receiver
from tests.stress.chaos.verdict import Account, Arrival
from tests.stress.hostile.attackers import NAMES, Target, attack_from_a_process
from tests.system.processes import TOKEN, Bridge, connected, running
from tests.waiting import until

#: Large enough that a client that does not read blocks the response.
LARGE_WEBHOOKS, LARGE_BYTES = 200, 8_000
#: Time limit after the attack for the last deliveries and for releasing resources.
SETTLING_SECONDS = 60.0
#: How much more memory than before a bridge may use after the attack.
MEMORY_SHARE, MEMORY_BYTES = 0.10, 10 * 1024 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    seconds: float
    #: Events, and those that the stream client received once and in order.
    committed: int
    received: int
    #: Deliveries that the receiver verified.
    delivered: int
    missing: int
    #: Requests of the honest REST client, and the 99th percentile of their time.
    requests: int
    answered: int
    p99_ms: float
    #: Memory of the bridge: after its start, after a warm-up attack, peak, and after the attack.
    fresh_mib: float
    before_mib: float
    peak_mib: float
    after_mib: float
    descriptors_before: int
    descriptors_after: int
    tracebacks: int
    attacks: Mapping[str, int]
    #: One line per problem.
    problems: Sequence[str]


@dataclass
class Vitals:
    """A process's memory and open files."""

    process: psutil.Process
    #: The port that it serves.
    port: int
    peak_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Its resident memory."""
        resident: int = self.process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, resident)
        return resident

    @property
    def descriptors(self) -> int:
        """The number of open files, except for connections to the database and to receivers, whose
        number varies with the load.
        """
        own = [
            each
            for each in self.process.net_connections(kind="all")
            if each.family == socket.AF_UNIX or (each.raddr and each.laddr.port != self.port)
        ]
        count: int = self.process.num_fds() - len(own)
        return count

    async def watch(self) -> None:
        """Track the peak memory until cancelled."""
        while True:
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            await trio.sleep(0.1)


@dataclass
class Caller:
    """An honest REST client and its record."""

    url: str
    is_done: bool = False
    requests: int = 0
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def call(self) -> None:
        """Call ten times per second until stopped."""
        async with httpx.AsyncClient(headers={"X-API-Key": TOKEN}, timeout=30) as client:
            while not self.is_done:
                began = trio.current_time()
                self.requests += 1
                try:
                    answer = await client.get(f"{self.url}/webhooks/stats")
                except httpx.HTTPError as error:
                    self.problems.append(f"an honest request failed: {error!r}")
                else:
                    self.seconds.append(trio.current_time() - began)
                    if answer.status_code != 200:
                        self.problems.append(f"an honest request got {answer.status_code}")
                await trio.sleep(0.1)

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.nan


def run(
    url: str,
    *,
    seconds: float,
    report: Callable[[str], None],
    logins: int = 1000,
    handshake_seconds: float = 10.0,
    per_second: float = 20.0,
    memory_bytes: int = MEMORY_BYTES,
) -> Outcome:
    """Attack a bridge.

    Args:
        url: a database with the bot's tables and pgbridge.
        seconds: duration of the attack, after a warm-up of a quarter of it.
        logins: number of failed logins.
        handshake_seconds: the bridge's setting.
        per_second: transactions per second of the application.
        memory_bytes: how much more memory, besides a tenth, the bridge may use in the end.
    """
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into bridge.webhooks (name, url, event_type, is_active, description)"
            " select 'large ' || n, 'http://127.0.0.1:9/', 'never', false, repeat('x', %s)"
            " from generate_series(1, %s) as n",
            [LARGE_BYTES, LARGE_WEBHOOKS],
        )
    stage = _Stage(url, seconds, logins, handshake_seconds, per_second, memory_bytes, report)
    return trio.run(stage.play)


@dataclass
class _Stage:
    url: str
    seconds: float
    logins: int
    handshake_seconds: float
    per_second: float
    memory_bytes: int
    report: Callable[[str], None]
    #: IDs and usernames that the stream client received, in order.
    received: list[tuple[int, str]] = field(default_factory=list)
    attacks: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    async def play(self) -> Outcome:
        async with trio.open_nursery() as nursery:
            receiver = await self._receiver(nursery)
            settings = {"ws_handshake_seconds": self.handshake_seconds}
            async with running(self.url, **settings) as bridge:
                outcome = await self._among_strangers(bridge, receiver)
            nursery.cancel_scope.cancel()
        return outcome

    async def _receiver(self, nursery: trio.Nursery) -> Receiver:
        account = Account("all", honest=True, ordered=False, takes=lambda _key: True)
        receiver = Receiver(account, None, Random(1))
        await receiver.listen(nursery)
        with psycopg.connect(self.url) as connection:
            [(account.webhook_id,)] = connection.execute(
                "insert into bridge.webhooks (name, url, event_type, secret)"
                " values ('all', %s, 'user.created', %s) returning id",
                [receiver.url, receiver.secret],
            ).fetchall()
        return receiver

    async def _among_strangers(self, bridge: Bridge, receiver: Receiver) -> Outcome:
        vitals = Vitals(psutil.Process(bridge.process.pid), bridge.port)
        caller = Caller(bridge.rest_url)
        fresh_bytes = vitals.bytes
        async with self._listening(bridge), self._writing() as application:
            self.report(f"fresh: {fresh_bytes / MIB:.1f} MiB; warming up")
            await self._attack(bridge, self.seconds / 4)
            await self._until_left(vitals)
            before_bytes, descriptors_before = vitals.bytes, vitals.descriptors
            self.report(f"before: {before_bytes / MIB:.1f} MiB, {descriptors_before} files")
            vitals.peak_bytes = 0
            async with trio.open_nursery() as watching:
                watching.start_soon(vitals.watch)
                async with trio.open_nursery() as calling:
                    calling.start_soon(caller.call)
                    await self._attack(bridge, self.seconds)
                    caller.is_done = True
                watching.cancel_scope.cancel()
            self.report(f"at most {vitals.peak_bytes / MIB:.1f} MiB; the strangers are gone")
            most_bytes = int(before_bytes * (1 + MEMORY_SHARE)) + self.memory_bytes
            await self._until_left(vitals, most_bytes, descriptors_before)
            after_bytes, descriptors_after = vitals.bytes, vitals.descriptors
            await trio.to_thread.run_sync(application.stop)
            await self._until_arrived(application, receiver)
        if code := await bridge.terminate():
            self.problems.append(f"the bridge ended with {code}")
        if after_bytes > most_bytes:
            self.problems.append(f"{after_bytes} bytes in use, more than {most_bytes}")
        if descriptors_after != descriptors_before:
            self.problems.append(f"{descriptors_after} open files, before: {descriptors_before}")
        tracebacks = self._read_log(bridge)
        self.problems += [f"the application got an error: {line}" for line in application.refused]
        self.problems += caller.problems
        if not caller.requests:
            self.problems.append("the honest REST client never called")
        arrivals = receiver.account.arrivals
        self.problems += misled(application.committed, self.received, arrivals)
        committed = set(application.committed)
        verified = {each.key for each in arrivals if each.verified}
        received = {key for _, key in self.received}
        return Outcome(
            seconds=self.seconds,
            committed=len(committed),
            received=len(received & committed),
            delivered=len(verified & committed),
            missing=len(committed - received) + len(committed - verified),
            requests=caller.requests,
            answered=len(caller.seconds),
            p99_ms=round(caller.p99_ms, 1),
            fresh_mib=round(fresh_bytes / MIB, 1),
            before_mib=round(before_bytes / MIB, 1),
            peak_mib=round(vitals.peak_bytes / MIB, 1),
            after_mib=round(after_bytes / MIB, 1),
            descriptors_before=descriptors_before,
            descriptors_after=descriptors_after,
            tracebacks=tracebacks,
            attacks=self.attacks,
            problems=self.problems,
        )

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Application]:
        application = Application(self.url, per_second=self.per_second)
        try:
            yield application
        finally:
            application.stop()

    @asynccontextmanager
    async def _listening(self, bridge: Bridge) -> AsyncIterator[None]:
        """Follow the stream on one connection and record the events."""
        async with connected(bridge, TOKEN) as client, trio.open_nursery() as nursery:
            assert '"connected"' in str(await client.get_message())

            async def follow() -> None:
                try:
                    while True:
                        message = json.loads(await client.get_message())
                        if message["type"] == "user.created":
                            self.received.append((message["id"], message["payload"]["username"]))
                except ConnectionClosed as closed:
                    self.problems.append(f"the honest client was disconnected: {closed.reason}")

            nursery.start_soon(follow)
            yield
            nursery.cancel_scope.cancel()

    async def _attack(self, bridge: Bridge, seconds: float) -> None:
        logins = math.ceil(self.logins * seconds / self.seconds)
        found: Any = await attack_from_a_process(Target(bridge.port, TOKEN, seconds, logins))
        self.attacks = found["rounds"]
        self.problems += found["unexpected"]
        self.problems += [
            f"the attack {name} never ran" for name in NAMES if not self.attacks.get(name)
        ]

    async def _until_left(
        self, vitals: Vitals, most_bytes: float = math.inf, descriptors: int | None = None
    ) -> None:
        """Wait until the resources of the attack are released.

        Args:
            most_bytes: memory to fall below.
            descriptors: number of open files to reach; None: one that is stable for 1 s.
        """
        steady_since, last = trio.current_time(), vitals.descriptors
        with trio.move_on_after(SETTLING_SECONDS):
            while True:
                await trio.sleep(0.05)
                now = vitals.descriptors
                if now != last:
                    steady_since, last = trio.current_time(), now
                if descriptors is None:
                    is_back = trio.current_time() - steady_since > 1
                else:
                    is_back = now == descriptors
                if is_back and vitals.bytes <= most_bytes:
                    return

    async def _until_arrived(self, application: Application, receiver: Receiver) -> None:
        wanted = set(application.committed)
        with trio.move_on_after(SETTLING_SECONDS):
            await until(
                lambda: (
                    wanted <= {key for _, key in self.received}
                    and wanted <= {each.key for each in receiver.account.arrivals}
                )
            )

    def _read_log(self, bridge: Bridge) -> int:
        """Record crashes in the log as problems; return the number of tracebacks."""
        lines = bridge.log.read_text().splitlines()
        bad = [
            line
            for line in lines
            if "Traceback" in line or '"level": "critical"' in line or "_crashed" in line
        ]
        self.problems += [f"the bridge logged: {line[:1000]}" for line in bad]
        return sum("Traceback" in line for line in lines)


def misled(
    committed: Sequence[str], received: Sequence[tuple[int, str]], arrivals: Sequence[Arrival]
) -> Iterator[str]:
    """Yield a line for each difference between the commits and what honest clients received.

    Args:
        committed: keys in commit order.
        received: IDs and keys of the events on the stream.
        arrivals: requests to the webhook's receiver.
    """
    ids = [event_id for event_id, _ in received]
    if ids != sorted(set(ids)):
        yield "the client received events twice or out of order"
    # One connection commits them, one by one.
    if [key for _, key in received] != list(committed):
        yield "the client did not receive exactly the commits, in order"
    for arrival in arrivals:
        if not arrival.verified:
            yield f"{arrival.message_id} has an invalid signature"
    delivered = [arrival.message_id for arrival in arrivals]
    if repeated := len(delivered) - len(set(delivered)):
        yield f"{repeated} deliveries arrived twice"
    if lacking := set(committed) - {arrival.key for arrival in arrivals}:
        yield f"{len(lacking)} events were not delivered"
