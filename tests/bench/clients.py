"""Control very many WebSocket clients in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.system.processes import TOKEN

PATH = f"/ws?token={TOKEN}"


@dataclass(frozen=True)
class Seen:
    """What a group of clients received since the last query. Times are of CLOCK_MONOTONIC.

    Attributes:
        failure: why the condition does not hold.
        frames: events received, of all clients together.
        fewest: events of the client with the fewest.
        most: events of the client with the most.
        first_at: when the first client received the first event.
        last_at: when the last event arrived; with ``caught_up``, when the last client caught up.
        closed: clients that the server disconnected.
        reference_frames: events that each compared client received.
        p50: median seconds from the statement to the client.
        p99: the 99th percentile of the same.
    """

    failure: str | None
    frames: int
    fewest: int
    most: int
    first_at: float
    last_at: float
    closed: int
    reference_frames: int
    p50: float
    p99: float


class Clients:
    """The clients' process. A failure raises AssertionError."""

    def __init__(self) -> None:
        # It ends with its standard input, even if this process dies.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.client_loop"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @contextmanager
    def connected(
        self,
        count: int,
        port: int,
        kind: Literal["counted", "timed", "compared", "unread"],
        *,
        path: str | None = PATH,
        receive_buffer: int | None = None,
    ) -> Iterator[str]:
        """Connect clients and wait for their welcomes; yield the name of the group.

        Args:
            kind: see ``client_loop.py``.
            path: None: plain sockets, without a handshake.
            receive_buffer: SO_RCVBUF of each.
        """
        group = self.begin_to_connect(count, port, kind, path=path, receive_buffer=receive_buffer)
        self._answer()
        yield group
        self._ask("close", group)

    def begin_to_connect(
        self,
        count: int,
        port: int,
        kind: str,
        *,
        path: str | None = PATH,
        receive_buffer: int | None = None,
    ) -> str:
        """Start connecting clients; ``opened`` waits for them."""
        group = f"{kind} {count}"
        self._tell(
            "open",
            group,
            count=count,
            port=port,
            kind=kind,
            path=path,
            receive_buffer=receive_buffer,
            seconds=60,
        )
        return group

    def opened(self) -> None:
        """Wait until the clients of ``open`` are connected."""
        self._answer()

    def got(self, group: str, frames: int, seconds: float = 60) -> Seen:
        """Wait until each client of a group has exactly this number of events."""
        seen = self._ask("wait", group, frames=frames, seconds=seconds)
        assert seen.fewest == seen.most == frames, f"{seen}"
        assert not seen.closed, f"{seen}"
        return seen

    def caught_up(self, group: str, seconds: float = 60) -> Seen:
        """Wait until each client of a group has received all missed events."""
        return self._ask("catch_up", group, seconds=seconds)

    def report(self, group: str) -> Seen:
        """Return what a group has received so far."""
        return self._ask("report", group)

    def close(self, group: str) -> None:
        """Close the connections of a group."""
        self._ask("close", group)

    def _ask(self, do: str, group: str, **given: object) -> Seen:
        self._tell(do, group, **given)
        return self._answer()

    def _tell(self, do: str, group: str, **given: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "group": group, **given}) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Seen:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process of the clients has died"
        seen = Seen(**json.loads(line))
        assert seen.failure is None, seen.failure
        return seen
