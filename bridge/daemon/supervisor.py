"""Supervise several bridges on one port: start, replace and stop the workers.

Each worker is a complete bridge in its own process (``bridge/daemon/worker.py``); the kernel
spreads connections over those that listen. The supervisor serves no requests and needs no database.
"""

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

#: Workers still running after this long are killed. Each gives up by itself a little earlier.
STOP_SECONDS = 9.7
#: The pause before a worker is replaced doubles from the first value up to the second. It is reset
#: after a worker that lived for LONG_LIFE_SECONDS.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
LONG_LIFE_SECONDS = 30.0
#: Connections waiting to be accepted; the kernel may lower this.
BACKLOG = 0xFFFF


class WorkersFailedError(Exception):
    """The workers cannot start. The message says why and what to do."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


#: The family of a socket, and the address to bind it to, as the ``socket`` module has it.
Address = tuple[int, Any]


@dataclass(frozen=True)
class Orders:
    """What the supervisor sends to a worker."""

    #: As the supervisor read them; later changes of the file apply when all are restarted.
    settings: Settings
    #: Where all workers listen.
    addresses: tuple[Address, ...]
    #: The descriptor of a listening Unix socket on which the worker serves its metrics.
    metrics_fd: int
    #: Where each worker serves its metrics, by its number.
    metrics_addresses: Mapping[int, bytes]


async def supervise(settings: Settings, announce: Callable[[str], None]) -> bool:
    """Run the workers until SIGTERM or SIGINT.

    Args:
        announce: called with one line when all workers serve.

    Returns:
        Whether every worker shut down cleanly.

    Raises:
        WorkersFailedError: a worker could not start; the others were stopped.
    """
    with ExitStack() as stack:
        try:
            addresses = _reserve(stack, settings.host, settings.port)
        except OSError as error:
            raise WorkersFailedError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from None
        # Held here, so that a replacement keeps its predecessor's address.
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

    #: None if no process was started.
    pid: int | None
    #: A negative number is a signal.
    exit_code: int
    #: Why it could not serve, if it reported that.
    reason: str | None

    @property
    def status(self) -> str:
        return f"exit code {self.exit_code}" if self.exit_code >= 0 else f"signal {-self.exit_code}"


class _Supervisor:
    def __init__(self, announce: Callable[[str], None], orders: Mapping[int, Orders]) -> None:
        self._announce = announce
        self._orders = orders
        self._all = trio.CancelScope()
        #: The numbers of the workers that have ever served.
        self._served: set[int] = set()
        self._announced = False
        self._failure: WorkersFailedError | None = None
        self._in_order = True

    async def run(self) -> bool:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as obeying:
                # Until the very end: an unhandled second signal would kill this process.
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
        """Run a worker and replace it whenever it ends, until cancelled.

        Any failure is retried, an unreachable database included. But until all workers have served
        once, the end of one stops all.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = trio.current_time()
            ended = await self._run_worker(number)
            if not self._announced:
                reason = ended.reason or f"worker {number} ended with {ended.status} during startup"
                self._failure = WorkersFailedError(reason, max(ended.exit_code, 1))
                self._all.cancel()
                return
            if trio.current_time() - started > LONG_LIFE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            # Add jitter, so that workers that failed together do not restart together.
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
        """Run a worker until it ends; on cancellation, stop it and wait."""
        orders = self._orders[number]
        try:
            process = await trio.lowlevel.open_process(
                _command(number),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(orders.metrics_fd,),
                # Ctrl-C signals the whole process group; only the supervisor may stop workers.
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
                    self._served.add(number)
                    if not self._announced and len(self._served) == len(self._orders):
                        self._announced = True
                        self._announce(f"{report['serves']} with {len(self._orders)} workers")
                return _Ended(process.pid, await process.wait(), report.get("fails"))
            finally:
                if process.returncode is None:
                    exit_code = await _end(process)
                    # systemd sends SIGTERM to every process; a second one kills a stopped worker.
                    if serving and exit_code not in (0, -signal.SIGTERM):
                        self._in_order = False


def _reserve(stack: ExitStack, host: str, port: int) -> tuple[Address, ...]:
    """Bind a host's addresses until the stack is closed, which reserves the port.

    Raises:
        OSError: the port is in use, or the host does not exist.
    """
    reserved = []
    unsupported: OSError | None = None
    for family, _, _, _, name in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            if port != 0:
                # An unshared bind is the only way to notice another bridge of the same user, which
                # would get half of the clients.
                _bound(family, name, shared=False).close()
            bound = stack.enter_context(_bound(family, name, shared=True))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            # Names such as localhost have IPv6 addresses even on systems without IPv6.
            unsupported = error
        else:
            reserved.append((int(family), bound.getsockname()))
    if unsupported is not None and not reserved:
        raise unsupported
    return tuple(reserved)


def _bound(family: int, name: Any, *, shared: bool) -> socket.socket:
    """Return a bound socket that does not listen.

    Args:
        shared: whether other sockets of this user may listen on the same address.

    Raises:
        OSError: the address is in use or does not belong to this machine.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(name)
    except BaseException:
        bound.close()
        raise
    return bound


def _unnamed_listener() -> socket.socket:
    """Return a listening Unix socket with a kernel-assigned abstract address."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    return listener


def _command(number: int) -> list[str]:
    """Return a worker's command: this process's own, with ``worker`` instead of ``run``."""
    return [
        sys.executable,
        *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1],
        "worker",
        str(number),
    ]


async def _report(stdout: trio.abc.ReceiveStream) -> dict[str, str]:
    """Return a worker's report, or nothing if it ends without one."""
    received = b""
    async for chunk in stdout:
        received += chunk
        if received.endswith(b"\n"):
            report: dict[str, str] = json.loads(received)
            return report
    return {}


async def _end(process: trio.Process) -> int:
    """Stop a process, kill it after ``STOP_SECONDS``, and return its exit code."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
        if process.returncode is None:
            log.error("worker_killed", pid=process.pid)
            process.kill()
        exit_code: int = await process.wait()
    return exit_code
