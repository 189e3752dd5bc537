"""What the hostile run measures: honest clients, the bridge's process, and the server."""

import itertools
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
import trio

from tests.system.processes import TOKEN
from tests.waiting import PATIENCE_SECONDS

MIB = 1024 * 1024
#: How often the memory of processes is read, and how often the server is asked.
SAMPLE_SECONDS, ASK_SECONDS = 0.05, 0.25
#: Pause of the honest REST client between two requests.
CALL_SECONDS = 0.05

# Sessions and their processes; the oldest event that waits for a drain, and how many do.
_LOOK = """
select (select jsonb_object_agg(pid, concat_ws(' ', backend_type, usename, application_name))
        from pg_catalog.pg_stat_activity),
       (select min(id) from bridge.outbox),
       (select count(*) from bridge.outbox)
"""


@dataclass(frozen=True)
class Sample:
    """A latency of an honest client."""

    began_at: float
    seconds: float


def p99_ms(samples: Sequence[Sample], since: float, until: float) -> float:
    """Return the 99th percentile of the samples that began in a period; NaN without samples."""
    ordered = sorted(each.seconds for each in samples if since <= each.began_at < until)
    return 1000 * ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.nan


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
            await trio.sleep(SAMPLE_SECONDS)


@dataclass
class Caller:
    """An honest REST client and its record."""

    url: str
    webhook_id: int
    requests: int = 0
    #: Answers 503, which a bridge without its share of the processors gives as well.
    unavailable: int = 0
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Call during the context."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call)
            yield
            nursery.cancel_scope.cancel()

    async def _call(self) -> None:
        """Call ten or twenty times per second until cancelled."""
        own = f"{self.url}/webhooks/{self.webhook_id}"
        paths = (f"{self.url}/webhooks/stats", own, f"{own}/deliveries?limit=20")
        async with httpx.AsyncClient(
            headers={"X-API-Key": TOKEN}, timeout=PATIENCE_SECONDS
        ) as client:
            for path in itertools.cycle(paths):
                began_at = time.monotonic()
                try:
                    with trio.CancelScope(shield=True):  # every request is counted and answered
                        answer = await client.get(path)
                except httpx.HTTPError as error:
                    self.problems.append(f"an honest request failed: {error!r}")
                else:
                    self.samples.append(Sample(began_at, time.monotonic() - began_at))
                    if answer.status_code == 503:
                        self.unavailable += 1
                    elif answer.status_code != 200:
                        self.problems.append(f"an honest request got {answer.status_code}")
                self.requests += 1
                await trio.sleep(CALL_SECONDS)


class ServerWatch:
    """A thread that watches the drain and the memory of every process of a PostgreSQL server.

    Args:
        url: a database of the server, for a superuser.
    """

    def __init__(self, url: str) -> None:
        #: Largest private memory of any process, and the name of that process.
        self.peak_bytes = 0
        self.peak_of = ""
        #: The longest time for which the same event was the oldest in the outbox.
        self.drain_wait_seconds = 0.0
        #: The most events in the outbox.
        self.most_waiting = 0
        self._connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        [(shared_mib,)] = self._connection.execute(
            "select setting::bigint from pg_catalog.pg_settings where name = 'shared_memory_size'"
        ).fetchall()
        self._shared_bytes = shared_mib * MIB
        self._processes: dict[str, str] = {}
        self._oldest: tuple[int, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server watch")
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with self._connection:
            asked_at = -math.inf
            while not self._stop.wait(SAMPLE_SECONDS):
                if time.monotonic() - asked_at >= ASK_SECONDS:
                    self._ask()
                    asked_at = time.monotonic()
                for pid, name in self._processes.items():
                    private = _private_bytes(pid, self._shared_bytes)
                    if private > self.peak_bytes:
                        self.peak_bytes, self.peak_of = private, name

    def _ask(self) -> None:
        row = self._connection.execute(_LOOK).fetchone()
        assert row is not None
        self._processes, oldest_id, waiting = row
        now = time.monotonic()
        self.most_waiting = max(self.most_waiting, waiting)
        if oldest_id is None:
            self._oldest = None
        elif self._oldest is None or self._oldest[0] != oldest_id:
            self._oldest = (oldest_id, now)
        else:
            self.drain_wait_seconds = max(self.drain_wait_seconds, now - self._oldest[1])


def _private_bytes(pid: str, shared_bytes: int) -> int:
    """Return the private memory of a process of the server: now or, if it must have been more, at
    its peak. 0 if it has ended.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in ("VmHWM", "RssAnon", "RssFile", "VmSwap")
    }
    if not kib:  # a zombie
        return 0
    return max(
        1024 * (kib["RssAnon"] + kib["VmSwap"]),
        # A peak between two samples.
        1024 * (kib["VmHWM"] - kib["RssFile"]) - shared_bytes,
    )


#: Reports what the run does.
Report = Callable[[str], None]
