"""Supervise several bridges on one port: start, replace and stop the workers.

Each worker is a complete bridge in its own process (``bridge/daemon/worker.py``); the kernel
spreads connections over those that listen. The supervisor serves no requests and needs no database.
"""

from __future__ import annotations

import errno
import json
import pickle
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from bridge.settings import Settings

log = structlog.get_logger()

#: Workers that have not ended by then are killed. Each ends by itself a little earlier.
STOP_SECONDS = 9.7
#: The pause before a worker is replaced doubles from the first of these to the second, and starts
#: over after one that lived long.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
LONG_LIFE_SECONDS = 30.0
#: Connections that wait to be accepted; the kernel has a limit of its own, too.
BACKLOG = 0xFFFF


class WorkersFailedError(Exception):
    """The workers cannot start. The message says why and what to do."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Address:
    """What to bind a socket to."""

    family: int
    #: As the ``socket`` module has it: host and port, and two numbers more for IPv6.
    name: Any

    def bind(self, *, shared: bool = True) -> socket.socket:
        """Return a socket that is bound to it and does not listen yet.

        Args:
            shared: whether other sockets of this user may listen there, too.

        Raises:
            OSError: somebody else is there, or it is none of this machine's.
        """
        bound = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self.family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(self.name)
        except BaseException:
            bound.close()
            raise
        return bound


@dataclass(frozen=True)
class Orders:
    """What a worker is told."""

    #: As the supervisor read them: what changes in the file later is for the next start of all.
    settings: Settings
    #: Where to listen, together with the other workers.
    addresses: tuple[Address, ...]
    #: The descriptor of a listening Unix socket, on which to tell the others what is counted here.
    metrics_fd: int
    #: Where each worker tells what it has counted, by its number.
    metrics_addresses: Mapping[int, bytes]


async def supervise(settings: Settings, announce: Callable[[str], None]) -> bool:
    """Run as many workers as the settings say until SIGTERM or SIGINT.

    Args:
        announce: gets one line when all of them serve.

    Returns:
        Whether all of them ended in order.

    Raises:
        WorkersFailedError: one of them could not start; there are none left.
    """
    with ExitStack() as stack:
        try:
            addresses = _reserve(stack, settings.host, settings.port)
        except OSError as error:
            raise WorkersFailedError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from None
        # Kept here, so that a replacement has the same one, and nobody else gets its name.
        metrics_sockets = {
            number: stack.enter_context(_unnamed_listener())
            for number in range(1, settings.workers + 1)
        }
        supervisor = _Supervisor(
            announce,
            {
                number: Orders(
                    settings,
                    addresses,
                    metrics_socket.fileno(),
                    {other: each.getsockname() for other, each in metrics_sockets.items()},
                )
                for number, metrics_socket in metrics_sockets.items()
            },
        )
        return await supervisor.run()


@dataclass(frozen=True)
class _Ended:
    """How a worker ended."""

    #: None if there was no process.
    pid: int | None
    #: A signal is a negative number.
    exit_code: int
    #: Why it could not serve, if it said so.
    reason: str | None

    @property
    def status(self) -> str:
        return f"exit code {self.exit_code}" if self.exit_code >= 0 else f"signal {-self.exit_code}"


class _Supervisor:
    def __init__(self, announce: Callable[[str], None], orders: Mapping[int, Orders]) -> None:
        self._announce = announce
        self._orders = orders
        self._all = trio.CancelScope()
        #: The numbers of the workers that have served.
        self._served: set[int] = set()
        self._announced = False
        self._failure: WorkersFailedError | None = None
        self._in_order = True

    async def run(self) -> bool:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as obeying:
                # To the very end: a second signal that nobody took would end us by force.
                obeying.start_soon(self._obey, signals)
                with self._all:
                    async with trio.open_nursery() as workers:
                        for number in self._orders:
                            workers.start_soon(self._keep, number)
                obeying.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        log.info("shutdown_completed")
        return self._in_order

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("shutdown_started", signal=signal.Signals(number).name)
            self._all.cancel()

    async def _keep(self, number: int) -> None:
        """Run a worker, and another in its place whenever it ends, until cancelled.

        What is retried: whatever it ended with, a database that is away among it. Only before all
        have served for the first time, the end of one is the end of all.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = trio.current_time()
            ended = await self._run_worker(number)
            if not self._announced:
                reason = ended.reason or f"worker {number} ended with {ended.status} at its start"
                self._failure = WorkersFailedError(reason, max(ended.exit_code, 1))
                self._all.cancel()
                return
            if trio.current_time() - started > LONG_LIFE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            # Jittered, so that workers that failed together do not all return together.
            seconds = random.uniform(0.5, 1.0) * pause  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            log.warning(
                "worker_exited",
                number=number,
                pid=ended.pid,
                exit_status=ended.status,
                reason=ended.reason,
                retry_seconds=round(seconds, 2),
            )
            await trio.sleep(seconds)

    async def _run_worker(self, number: int) -> _Ended:
        """Run a worker to its end; when cancelled, have it end, and wait for that."""
        orders = self._orders[number]
        try:
            process = await trio.lowlevel.open_process(
                _command(number),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(orders.metrics_fd,),
                # Ctrl-C reaches a terminal's whole process group; only we end workers.
                start_new_session=True,
            )
        except OSError as error:
            return _Ended(None, 1, f"cannot start a process: {error.strerror}")
        assert process.stdin is not None  # noqa: S101 - both were opened with a pipe
        assert process.stdout is not None  # noqa: S101
        async with process.stdin, process.stdout:
            serving = False
            try:
                with suppress(trio.BrokenResourceError):  # it has ended already
                    await process.stdin.send_all(pickle.dumps(orders))
                report = await _report(process.stdout)
                serving = "serves" in report
                if serving:
                    log.info("worker_started", number=number, pid=process.pid)
                    self._serves(number, report["serves"])
                return _Ended(process.pid, await process.wait(), report.get("fails"))
            finally:
                if process.returncode is None:
                    exit_code = await _end(process)
                    # A second SIGTERM, as systemd sends to every process, ends what has stopped.
                    if serving and exit_code not in (0, -signal.SIGTERM):
                        self._in_order = False

    def _serves(self, number: int, line: str) -> None:
        self._served.add(number)
        if not self._announced and len(self._served) == len(self._orders):
            self._announced = True
            self._announce(f"{line} with {len(self._orders)} workers")


def _reserve(stack: ExitStack, host: str, port: int) -> tuple[Address, ...]:
    """Bind a host's addresses until the stack is closed, so that the port stays ours.

    Raises:
        OSError: somebody else is there, or there is no such host.
    """
    reserved = []
    unsupported: OSError | None = None
    for family, _, _, _, name in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            if port != 0:
                # Another bridge of this user would share the port with us, and half of the clients
                # would come to it; it is noticed only so.
                Address(family, name).bind(shared=False).close()
            bound = stack.enter_context(Address(family, name).bind())
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            # Names such as localhost have IPv6 addresses where the system has no IPv6, too.
            unsupported = error
        else:
            reserved.append(Address(family, bound.getsockname()))
    if unsupported is not None and not reserved:
        raise unsupported
    return tuple(reserved)


def _unnamed_listener() -> socket.socket:
    """Return a listening Unix socket for which the kernel made a name, not one of a file."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    return listener


def _command(number: int) -> list[str]:
    """Return the command of a worker: this process's own up to ``run``, with all of its options."""
    return [
        sys.executable,
        *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1],
        "worker",
        str(number),
    ]


async def _report(stdout: trio.abc.ReceiveStream) -> dict[str, str]:
    """Return what a worker reports in its line; nothing if it ends without one."""
    received = b""
    async for chunk in stdout:
        received += chunk
        if received.endswith(b"\n"):
            report: dict[str, str] = json.loads(received)
            return report
    return {}


async def _end(process: trio.Process) -> int:
    """Have a process end in order, or by force after ``STOP_SECONDS``; return its exit code."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
        if process.returncode is None:
            log.error("worker_killed", pid=process.pid)
            process.kill()
        exit_code: int = await process.wait()
    return exit_code
