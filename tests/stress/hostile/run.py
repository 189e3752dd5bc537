"""The hostile run from its beginning to its verdict."""

from __future__ import annotations

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

#: Large enough that a client that does not read it holds it up.
LARGE_WEBHOOKS, LARGE_BYTES = 200, 8_000
#: How long everything may take to arrive, and what strangers left to be gone, once they are.
SETTLING_SECONDS = 60.0
#: How much more memory a bridge may have than before, when they are gone.
MEMORY_SHARE, MEMORY_BYTES = 0.10, 10 * 1024 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    seconds: float
    #: Events, and those of them that the client on the stream got, each once and in order.
    committed: int
    received: int
    #: Deliveries of them that the receiver got and verified.
    delivered: int
    missing: int
    #: Requests of an honest client of REST, and the time of one in a hundred.
    requests: int
    answered: int
    p99_ms: float
    #: Memory of the bridge: after its start, after a warm-up by the same attackers, at most, and
    #: when they were gone.
    fresh_mib: float
    before_mib: float
    peak_mib: float
    after_mib: float
    descriptors_before: int
    descriptors_after: int
    tracebacks: int
    attacks: Mapping[str, int]
    #: A line for everything that must not be.
    problems: Sequence[str]


@dataclass
class Vitals:
    """A process's memory and open files."""

    process: psutil.Process
    #: Where it serves.
    port: int
    peak_bytes: int = 0

    @property
    def bytes(self) -> int:
        """What it has of the memory now."""
        resident: int = self.process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, resident)
        return resident

    @property
    def descriptors(self) -> int:
        """How many files it has open, but for the connections that it makes itself: to its
        database and to receivers there are more or fewer, by what there is to do.
        """
        own = [
            each
            for each in self.process.net_connections(kind="all")
            if each.family == socket.AF_UNIX or (each.raddr and each.laddr.port != self.port)
        ]
        count: int = self.process.num_fds() - len(own)
        return count

    async def watch(self) -> None:
        """Note the most memory, for ever."""
        while True:
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            await trio.sleep(0.1)


@dataclass
class Caller:
    """An honest client of REST, and its books."""

    url: str
    is_done: bool = False
    requests: int = 0
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def call(self) -> None:
        """Call ten times a second until it is done; then the last answer is in."""
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
    """Attack a bridge for some seconds, and return what came of it.

    Args:
        url: of a database with the bot's tables and pgbridge installed.
        seconds: how long it is attacked, after a warm-up of a quarter of that.
        logins: how many fail meanwhile.
        handshake_seconds: the bridge's own setting.
        per_second: transactions of the application.
        memory_bytes: how much more memory the bridge may have in the end, beside a tenth.
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
    #: What the honest client on the stream was sent: ids and usernames, in order.
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
            self.problems.append(f"{after_bytes} bytes of memory are left, {most_bytes} may be")
        if descriptors_after != descriptors_before:
            self.problems.append(f"{descriptors_after} files are open, not {descriptors_before}")
        tracebacks = self._read_log(bridge)
        self.problems += [f"the application was refused: {line}" for line in application.refused]
        self.problems += caller.problems
        if not caller.requests:
            self.problems.append("the honest client of REST never came to call")
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
        """Follow the stream, on one connection that has to last, and note what comes."""
        async with connected(bridge, TOKEN) as client, trio.open_nursery() as nursery:
            assert '"connected"' in str(await client.get_message())

            async def follow() -> None:
                try:
                    while True:
                        message = json.loads(await client.get_message())
                        if message["type"] == "user.created":
                            self.received.append((message["id"], message["payload"]["username"]))
                except ConnectionClosed as closed:
                    self.problems.append(f"the honest client was closed: {closed.reason}")

            nursery.start_soon(follow)
            yield
            nursery.cancel_scope.cancel()

    async def _attack(self, bridge: Bridge, seconds: float) -> None:
        logins = math.ceil(self.logins * seconds / self.seconds)
        found: Any = await attack_from_a_process(Target(bridge.port, TOKEN, seconds, logins))
        self.attacks = found["rounds"]
        self.problems += found["unexpected"]
        self.problems += [f"nobody tried {name}" for name in NAMES if not self.attacks.get(name)]

    async def _until_left(
        self, vitals: Vitals, most_bytes: float = math.inf, descriptors: int | None = None
    ) -> None:
        """Wait until nothing is left of the strangers; what is then is looked at afterwards.

        Args:
            most_bytes: how much memory may be left.
            descriptors: how many files are open then; None: as many as stay open for a second.
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
            while not (  # noqa: ASYNC110 - nobody announces it
                wanted <= {key for _, key in self.received}
                and wanted <= {each.key for each in receiver.account.arrivals}
            ):
                await trio.sleep(0.05)

    def _read_log(self, bridge: Bridge) -> int:
        """Note what the bridge must not have logged, and return how many tracebacks are there."""
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
    """Yield a line for whatever honest clients were told otherwise than it was committed.

    Args:
        committed: the application's keys, in the order of their commits.
        received: what the client on the stream was sent: ids of events, and their keys.
        arrivals: what the receiver of the webhook got.
    """
    ids = [event_id for event_id, _ in received]
    if ids != sorted(set(ids)):
        yield "the client got an event twice, or in another order"
    # One connection commits them all, one after the other.
    if [key for _, key in received] != list(committed):
        yield "the client did not get just what was committed, in order"
    for arrival in arrivals:
        if not arrival.verified:
            yield f"{arrival.message_id} has a wrong signature"
    delivered = [arrival.message_id for arrival in arrivals]
    if repeated := len(delivered) - len(set(delivered)):
        yield f"{repeated} deliveries came twice"
    if lacking := set(committed) - {arrival.key for arrival in arrivals}:
        yield f"{len(lacking)} events were not delivered"
