"""Very many WebSocket clients, in a process of their own: how benches command and question them."""

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
    """What a group of clients got since it was last asked. Times are of CLOCK_MONOTONIC.

    Attributes:
        failure: why what was asked for is not so.
        frames: events that came to all of them together.
        fewest: events that came to the client that got the fewest.
        most: and to the one that got the most.
        first_at: when the first event came, to any of them.
        last_at: when the last one did or, with ``caught_up``, when the last client was.
        closed: clients whose connection the server has closed.
        reference_frames: events that each compared client got.
        p50: seconds from the statement to the client, of the median event.
        p99: and of the slowest in a hundred.
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
    """The process of the clients. What they fail at is an AssertionError."""

    def __init__(self) -> None:
        # It ends with its standard input, whatever becomes of us.
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
        """Connect so many clients, each up to its welcome; yields the name of their group.

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
        """Have so many clients connect, without waiting for it. ``opened`` does that."""
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
        """Wait until the clients that began to connect have done so."""
        self._answer()

    def got(self, group: str, frames: int, seconds: float = 60) -> Seen:
        """Wait until so many events have come to each client of a group, and to none more."""
        seen = self._ask("wait", group, frames=frames, seconds=seconds)
        assert seen.fewest == seen.most == frames, f"{seen}"
        assert not seen.closed, f"{seen}"
        return seen

    def caught_up(self, group: str, seconds: float = 60) -> Seen:
        """Wait until each client of a group has been sent all that it missed."""
        return self._ask("catch_up", group, seconds=seconds)

    def report(self, group: str) -> Seen:
        """Return what came to a group so far."""
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
