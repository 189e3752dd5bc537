"""Very many cheap WebSocket clients in one process, started by ``clients.py``.

One thread, one epoll. A client does only what its kind needs:

    counted   number of events, and the times of the first and the last
    timed     the same, and the latency of each event (its payload contains the time)
    compared  every byte: each client gets the events after an ID, in order, once
    unread    connects and never reads

A command is one line of JSON on standard input, answered by one line on standard output; the
process ends with its standard input. Times are of CLOCK_MONOTONIC, which all processes share.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from statistics import quantiles
from typing import Any

#: Appears once in every event, after its payload, and in no other message.
MARKER = b',"id":'
#: A server's ping without data; ASCII text never contains these two bytes.
PING = b"\x89\x00"
#: The response; the mask of the client's frame is zero.
PONG = b"\x8a\x80\x00\x00\x00\x00"
#: The time of sending in an event's payload.
SENT_AT = re.compile(rb'"username": "([0-9]+\.[0-9]+)"')
EVENT_ID = re.compile(rb',"id":([0-9]+)}$')
READ_BYTES = 64 * 1024
#: Concurrent handshakes; more would only wait in the server's backlog.
OPENING = 100

UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Group:
    """Clients that were opened together, and what they received."""

    def __init__(self, kind: str, port: int, path: str | None, receive_buffer: int | None) -> None:
        self.kind = kind
        self.port = port
        #: None for plain sockets without a handshake.
        self.path = path
        self.receive_buffer = receive_buffer
        self.clients: list[Client] = []
        self.to_open = 0
        self.opening = 0
        self.closed = 0
        self.failure: str | None = None
        self.caught_up = 0
        #: What compared clients must receive, recorded from the first of them.
        self.reference = bytearray()
        self.frame_ends = [0]
        self.last_id: int | None = None
        self.forget()

    def forget(self) -> None:
        """Reset the counters."""
        self.frames = 0
        self.first_at = self.last_at = 0.0
        self.latencies: list[float] = []
        for client in self.clients:
            client.frames = 0

    def came(self, frames: int, now: float) -> None:
        """Count events that a client received."""
        if frames:
            self.first_at = self.first_at or now
            self.last_at = now
            self.frames += frames

    def fail(self, reason: str) -> None:
        """Keep the first failure, which answers the next command."""
        self.failure = self.failure or reason


class Client:
    """One connection. ``take`` handles received data, first during the handshake."""

    __slots__ = ("frames", "group", "offset", "rest", "socket", "take")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.socket = socket.socket()
        if group.receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, group.receive_buffer)
        # Takes microseconds on one machine.
        self.socket.connect(("127.0.0.1", group.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.frames = 0
        #: This client's position in the group's reference.
        self.offset = 0
        #: An incomplete frame.
        self.rest = b""
        self.take: Callable[[bytes, float], None] = self._open
        if group.path is None:
            self._opened()
        else:
            self.socket.send(UPGRADE.format(group.path).encode())

    def _opened(self) -> None:
        kinds = {"counted": self._count, "timed": self._time, "compared": self._compare}
        self.take = kinds.get(self.group.kind, self._leave)
        self.group.opening -= 1

    def _open(self, data: bytes, now: float) -> None:
        """Handle the handshake and the first message."""
        self.rest += data
        head, found, rest = self.rest.partition(b"\r\n\r\n")
        if found and not head.startswith(b"HTTP/1.1 101"):
            self.group.fail(f"no handshake: {head[:100]!r}")
        elif found and (welcome := frame_at(rest, 0)) is not None:
            if b'"connected"' not in rest[: welcome[1]]:
                self.group.fail(f"no welcome: {rest[:200]!r}")
            self.rest = b""
            self._opened()
            if len(rest) > welcome[1]:
                self.take(rest[welcome[1] :], now)

    def _leave(self, _data: bytes, _now: float) -> None:
        pass

    def _count(self, data: bytes, now: float) -> None:
        known = len(self.rest)
        joined = self.rest + data
        frames = joined.count(MARKER)
        self.frames += frames
        self.group.came(frames, now)
        if joined.find(PING, max(known - 1, 0)) >= 0:
            self._answer_ping()
        # Shorter than the marker, so that none is counted twice.
        self.rest = joined[-(len(MARKER) - 1) :]

    def _time(self, data: bytes, now: float) -> None:
        joined = self.rest + data
        frames = end = 0
        for sent_at in SENT_AT.finditer(joined):
            frames += 1
            self.group.latencies.append(now - float(sent_at[1]))
            end = sent_at.end()
        self.frames += frames
        self.group.came(frames, now)
        if joined.find(PING, max(len(self.rest) - 1, 0)) >= 0:
            self._answer_ping()
        # Longer than a time and shorter than the distance between two.
        self.rest = joined[end:][-50:]

    def _compare(self, data: bytes, now: float) -> None:
        group, reference = self.group, self.group.reference
        if not self.rest and reference.startswith(data, self.offset):
            self.offset += len(data)  # the common case costs one memcmp
            return None
        at = 0
        if self.rest:
            data = self.rest + data
            self.rest = b""
        else:
            # The frame that was split between two reads.
            end = group.frame_ends[bisect_right(group.frame_ends, self.offset - 1)]
            at = end - self.offset
            if reference[self.offset : end] != data[:at]:
                return group.fail(f"at byte {self.offset} comes {data[: at + 50]!r}")
            self.offset = end
        while at < len(data):
            found = frame_at(data, at)
            if found is None:
                rest = data[at:]
                if reference.startswith(rest, self.offset):
                    self.offset += len(rest)
                else:
                    self.rest = rest
                return None
            opcode, end = found
            frame = data[at:end]
            at = end
            if opcode == 0x9:
                self._answer_ping()
            elif (event_id := EVENT_ID.search(frame)) is None:
                if b'"resumed"' not in frame:
                    return group.fail(f"comes {frame!r}")
                group.caught_up += 1
                group.last_at = now
            elif reference.startswith(frame, self.offset):
                self.offset += len(frame)
            elif self.offset == len(reference):
                if group.last_id is not None and int(event_id[1]) != group.last_id + 1:
                    return group.fail(f"after event {group.last_id} comes {frame!r}")
                group.last_id = int(event_id[1])
                reference += frame
                self.offset = len(reference)
                group.frame_ends.append(self.offset)
            else:
                return group.fail(f"at byte {self.offset} comes {frame!r}")
        return None

    def _answer_ping(self) -> None:
        with suppress(OSError):
            self.socket.send(PONG)


def frame_at(data: bytes, at: int) -> tuple[int, int] | None:
    """Return opcode and end of the frame at this offset, if it is complete."""
    if len(data) < at + 2:
        return None
    size, begin = data[at + 1], at + 2
    if size >= 126:
        form = "!H" if size == 126 else "!Q"
        begin += struct.calcsize(form)
        if len(data) < begin:
            return None
        (size,) = struct.unpack_from(form, data, at + 2)
    return (data[at] & 0xF, begin + size) if len(data) >= begin + size else None


class Loop:
    """The process with its clients and commands."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._groups: dict[str, Group] = {}
        #: The condition to wait for, its deadline, and its check.
        self._wait: tuple[Group, float, Callable[[], bool]] | None = None

    def run(self) -> None:
        """Serve until standard input ends."""
        commands = sys.stdin.fileno()
        self._poll.register(commands, select.EPOLLIN)
        read = b""
        while True:
            for descriptor, _ in self._poll.poll(0.05):
                if descriptor == commands:
                    more = os.read(commands, READ_BYTES)
                    if not more:
                        return
                    *lines, read = (read + more).split(b"\n")
                    for line in lines:
                        self._command(**json.loads(line))
                else:
                    self._read(self._clients[descriptor])
            for group in self._groups.values():
                self._open(group)
            self._answer()

    def _command(self, do: str, group: str, **given: Any) -> None:
        seconds = given.pop("seconds", 0.0)
        if do == "open":
            count = given.pop("count")
            self._groups[group] = Group(**given)
            self._groups[group].to_open = count
        chosen = self._groups[group]
        conditions: dict[str, Callable[[], bool]] = {
            "open": lambda: not chosen.to_open and not chosen.opening,
            "wait": lambda: chosen.frames >= given["frames"] * len(chosen.clients),
            "catch_up": lambda: chosen.caught_up >= len(chosen.clients),
            "report": lambda: True,
            "close": lambda: True,
        }
        self._wait = (chosen, time.monotonic() + seconds, conditions[do])
        if do == "close":
            for client in chosen.clients:
                self._clients.pop(client.socket.fileno(), None)
                client.socket.close()
            del self._groups[group]

    def _open(self, group: Group) -> None:
        while group.to_open and group.opening < OPENING:
            group.to_open -= 1
            group.opening += 1
            try:
                client = Client(group)
            except OSError as error:
                group.fail(f"cannot connect: {error}")
                return
            group.clients.append(client)
            self._clients[client.socket.fileno()] = client
            self._poll.register(client.socket.fileno(), select.EPOLLIN)

    def _read(self, client: Client) -> None:
        try:
            data = client.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            client.take(data, time.monotonic())
        else:
            client.group.closed += 1
        if not data or (client.group.kind == "unread" and client.take == client._leave):
            self._poll.unregister(client.socket.fileno())

    def _answer(self) -> None:
        if self._wait is None:
            return
        group, deadline, condition = self._wait
        if not condition() and time.monotonic() < deadline and not group.failure:
            return
        if not condition():
            group.fail(f"{group.to_open + group.opening} not open yet; {group.frames} events came")
        if len(group.latencies) > 1:
            percents = quantiles(group.latencies, n=100)
            p50, p99 = percents[49], percents[98]
        else:
            p50 = p99 = 0.0
        each = [client.frames for client in group.clients] or [0]
        answer = {
            "failure": group.failure,
            "frames": group.frames,
            "fewest": min(each),
            "most": max(each),
            "first_at": group.first_at,
            "last_at": group.last_at,
            "closed": group.closed,
            "reference_frames": len(group.frame_ends) - 1,
            "p50": p50,
            "p99": p99,
        }
        group.forget()
        self._wait = None
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Run the loop; only the parent ends it, even on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Loop().run()


if __name__ == "__main__":
    main()
