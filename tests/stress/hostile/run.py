"""Run the hostile test from setup to verdict."""

import dataclasses
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import trio
from trio_websocket import ConnectionClosed

from tests.stress.chaos.application import Application
from tests.stress.chaos.receivers import Receiver
from tests.stress.chaos.verdict import Account
from tests.stress.hostile.attackers import NAMES, attack_from_a_process
from tests.stress.hostile.measures import (
    MIB,
    Caller,
    Report,
    Sample,
    ServerWatch,
    Vitals,
    p99_ms,
)
from tests.stress.hostile.scene import GROUP, SHOP, TENANT, build, ran_as, rights
from tests.stress.hostile.target import Target
from tests.stress.hostile.token_holder import PREFIX
from tests.stress.hostile.verdict import (
    Bounds,
    Figures,
    Latency,
    Outcome,
    broken,
    gained,
    misled,
)
from tests.system.processes import TOKEN, Bridge, as_role, connected, pgbridge, running
from tests.waiting import until

#: Large enough that a client that does not read blocks the response.
LARGE_WEBHOOKS, LARGE_BYTES = 200, 8_000
#: Time limit after the attack for the last deliveries and for releasing resources.
SETTLING_SECONDS = 60.0
#: What a crash leaves in the log.
_CRASHES = ("Traceback", '"level": "critical"', "_crashed")


@dataclass(frozen=True)
class Size:
    """How large the attack is.

    Attributes:
        seconds: duration of the attack, after a quiet phase and a warm-up of a quarter of it each.
        logins: number of failed logins.
        handshake_seconds: the bridge's setting.
        per_second: transactions per second of the honest application.
        webhooks, rows, row_bytes: as in ``Target``.
    """

    seconds: float = 60.0
    logins: int = 1000
    handshake_seconds: float = 10.0
    per_second: float = 20.0
    webhooks: int = 1000
    rows: int = 500
    row_bytes: int = MIB


def run(url: str, *, size: Size, bounds: Bounds, report: Report) -> Outcome:
    """Attack a bridge.

    Args:
        url: an empty database of a server with the roles of ``init``, for a superuser.
    """
    build(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into bridge.webhooks (name, url, event_type, is_active, description)"
            " select 'large ' || n, 'http://127.0.0.1:9/', 'never', false, repeat('x', %s)"
            " from generate_series(1, %s) as n",
            [LARGE_BYTES, LARGE_WEBHOOKS],
        )
    return trio.run(_Stage(url, size, bounds, report).play)


@dataclass
class _Stage:
    url: str
    size: Size
    bounds: Bounds
    report: Report
    #: IDs and usernames that the stream client received, in order, and when.
    received: list[tuple[int, str]] = field(default_factory=list)
    received_at: dict[str, float] = field(default_factory=dict)
    attacks: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    async def play(self) -> Outcome:
        write_token = pgbridge(
            "token", "create", "--name", "attacker", "--scope", "webhooks:write", url=self.url
        ).stdout.strip()
        async with trio.open_nursery() as nursery:
            receiver = await self._receiver(nursery)
            settings = {"ws_handshake_seconds": self.size.handshake_seconds}
            async with running(self.url, **settings) as bridge:
                outcome = await self._among_attackers(bridge, receiver, write_token)
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

    async def _among_attackers(
        self, bridge: Bridge, receiver: Receiver, write_token: str
    ) -> Outcome:
        size = self.size
        target = Target(
            port=bridge.port,
            token=TOKEN,
            write_token=write_token,
            owner_url=as_role(self.url, TENANT),
            seconds=size.seconds,
            logins=size.logins,
            webhooks=size.webhooks,
            rows=size.rows,
            row_bytes=size.row_bytes,
        )
        with psycopg.connect(self.url, autocommit=True) as admin:
            rights_before = rights(admin)
        vitals = Vitals(psutil.Process(bridge.process.pid), bridge.port)
        caller = Caller(bridge.rest_url, receiver.account.webhook_id)
        fresh_bytes = vitals.bytes
        async with (
            self._listening(bridge),
            self._writing() as application,
            self._watching() as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(vitals.watch)
            self.report(f"fresh: {fresh_bytes / MIB:.1f} MiB; quiet")
            quiet_at = time.monotonic()
            async with caller.calling():
                psutil.cpu_percent()  # since the last call
                await trio.sleep(size.seconds / 4)
                quiet_cpu_percent = psutil.cpu_percent()
            self.report(f"warming up; the processors were {quiet_cpu_percent:.0f} % busy")
            warm_at = time.monotonic()
            await self._attack(target, size.seconds / 4)
            await trio.to_thread.run_sync(self._clean_up)
            await self._until_left(vitals)
            before_bytes, descriptors_before = vitals.bytes, vitals.descriptors
            self.report(f"before: {before_bytes / MIB:.1f} MiB, {descriptors_before} files")
            attack_at = time.monotonic()
            async with caller.calling():
                await self._attack(target, size.seconds)
            calm_at = time.monotonic()
            await trio.to_thread.run_sync(self._clean_up)
            self.report(f"at most {vitals.peak_bytes / MIB:.1f} MiB; the attackers are gone")
            most_mib = self.bounds.most_after_mib(before_bytes / MIB)
            await self._until_left(vitals, most_mib * MIB, descriptors_before)
            after_bytes, descriptors_after = vitals.bytes, vitals.descriptors
            await trio.to_thread.run_sync(application.stop)
            await self._until_arrived(application, receiver)
            nursery.cancel_scope.cancel()
        if code := await bridge.terminate():
            self.problems.append(f"the bridge ended with {code}")
        with psycopg.connect(self.url, autocommit=True) as admin:
            gains = list(gained(rights_before, rights(admin), ran_as(admin), {GROUP, TENANT}))
        streamed = [
            Sample(committed_at, max(0.0, self.received_at[key] - committed_at))
            for key, committed_at in application.committed_at.items()
            if key in self.received_at
        ]

        def latency(samples: list[Sample]) -> Latency:
            return Latency(
                round(p99_ms(samples, quiet_at, warm_at), 1),
                round(p99_ms(samples, attack_at, calm_at), 1),
            )

        figures = Figures(
            quiet_cpu_percent=quiet_cpu_percent,
            rest=latency(caller.samples),
            stream=latency(streamed),
            requests=caller.requests,
            answered=len(caller.samples),
            unavailable=caller.unavailable,
            fresh_mib=round(fresh_bytes / MIB, 1),
            before_mib=round(before_bytes / MIB, 1),
            peak_mib=round(vitals.peak_bytes / MIB, 1),
            after_mib=round(after_bytes / MIB, 1),
            descriptors_before=descriptors_before,
            descriptors_after=descriptors_after,
            backend_mib=round(server.peak_bytes / MIB, 1),
            backend=server.peak_of,
            drain_wait_seconds=round(server.drain_wait_seconds, 1),
            most_waiting=server.most_waiting,
            drain_timeouts=len(bridge.logged("drain_timed_out")),
            tracebacks=self._read_log(bridge),
            rights=gains,
        )
        self.problems += [f"the application got an error: {line}" for line in application.refused]
        self.problems += caller.problems
        self.problems += broken(figures, self.bounds)
        arrivals = receiver.account.arrivals
        self.problems += misled(application.committed, self.received, arrivals)
        committed = set(application.committed)
        verified = {each.key for each in arrivals if each.verified}
        received = {key for _, key in self.received}
        return Outcome(
            seconds=size.seconds,
            committed=len(committed),
            received=len(received & committed),
            delivered=len(verified & committed),
            missing=len(committed - received) + len(committed - verified),
            figures=figures,
            attacks=self.attacks,
            problems=self.problems,
        )

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Application]:
        application = Application(as_role(self.url, SHOP), per_second=self.size.per_second)
        try:
            yield application
        finally:
            application.stop()

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[ServerWatch]:
        watch = ServerWatch(self.url)
        try:
            yield watch
        finally:
            watch.stop()

    @asynccontextmanager
    async def _listening(self, bridge: Bridge) -> AsyncIterator[None]:
        """Follow the stream on one connection and record the events."""
        async with (
            connected(bridge, f"{TOKEN}&events=user.created") as client,
            trio.open_nursery() as nursery,
        ):
            assert '"connected"' in str(await client.get_message())

            async def follow() -> None:
                try:
                    while True:
                        message = json.loads(await client.get_message())
                        key = message["payload"]["username"]
                        self.received_at[key] = time.monotonic()
                        self.received.append((message["id"], key))
                except ConnectionClosed as closed:
                    self.problems.append(f"the honest client was disconnected: {closed.reason}")

            nursery.start_soon(follow)
            yield
            nursery.cancel_scope.cancel()

    async def _attack(self, target: Target, seconds: float) -> None:
        logins = math.ceil(target.logins * seconds / target.seconds)
        found: Any = await attack_from_a_process(
            dataclasses.replace(target, seconds=seconds, logins=logins)
        )
        self.attacks = found["rounds"]
        self.problems += found["unexpected"]
        self.problems += [
            f"the attack {name} never ran" for name in NAMES if not self.attacks.get(name)
        ]

    def _clean_up(self) -> None:
        """Delete the attackers' webhooks, as an operator does."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            own = admin.execute(
                "select id, (select count(*) from bridge.delivery_queue where webhook_id = w.id)"
                " from bridge.webhooks w where name like %s",
                [f"{PREFIX}%"],
            ).fetchall()
            self.report(f"left: {len(own)} webhooks with {sum(each for _, each in own)} deliveries")
            for webhook_id, _ in own:
                self._delete(admin, webhook_id)

    def _delete(self, admin: psycopg.Connection[Any], webhook_id: int) -> None:
        while True:
            # A courier may have locked one of its deliveries and wait for the webhook.
            with suppress(psycopg.errors.DeadlockDetected):
                admin.execute("delete from bridge.webhooks where id = %s", [webhook_id])
                return

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
        bad = [line for line in lines if any(sign in line for sign in _CRASHES)]
        self.problems += [f"the bridge logged: {line[:1000]}" for line in bad]
        return sum("Traceback" in line for line in lines)
