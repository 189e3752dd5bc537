"""Run one of several bridges on one port, as a child process of the supervisor."""

import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import structlog
import trio

from bridge.daemon.app import serve
from bridge.daemon.start import StartError
from bridge.daemon.supervisor import BACKLOG, Address, Orders
from bridge.tasks import first_error
from bridge.telemetry.exposition import merge_metrics, render_metrics
from bridge.telemetry.logs import configure_logs
from bridge.terminal.output import show_json

log = structlog.get_logger()

#: Timeout for the metrics of another worker; one that is shutting down is left out.
METRICS_SECONDS = 1.0
#: Marks a complete exposition; without it the worker died while sending.
METRICS_END = b"# EOF\n"


class NoOrdersError(Exception):
    """This process was not started by a supervisor. The message says what to run instead."""


def run_worker(number: int) -> bool:
    """Run a bridge as the supervisor ordered, until SIGTERM or until the supervisor ends.

    Args:
        number: the number of this worker, from 1.

    Returns:
        Whether it served.

    Raises:
        NoOrdersError: no supervisor started this process.
    """
    try:
        orders: Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    except Exception:  # invalid pickles may raise anything
        raise NoOrdersError(
            "only a supervisor starts workers; run: pgbridge run --workers 2"
        ) from None
    configure_logs(orders.settings.log_level, orders.settings.log_format, worker=number)
    served = False
    try:
        trio.run(_work, number, orders)
        served = True
    except* StartError as errors:
        _report("fails", str(first_error(errors)))
    except* Exception:
        log.exception("worker_crashed")
    return served


async def _work(number: int, orders: Orders) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_supervisor)
        nursery.start_soon(_serve_metrics, orders.metrics_fd)
        await serve(
            orders.settings,
            partial(_report, "serves"),
            open_listeners=partial(_open_listeners, orders.addresses),
            exposition=partial(_collect_metrics, number, orders.metrics_addresses),
        )
        nursery.cancel_scope.cancel()


def _report(what: str, line: str) -> None:
    with suppress(BrokenPipeError):  # the supervisor has died; this process follows
        show_json({what: line})


async def _end_with_supervisor() -> None:
    """Stop as on SIGTERM when the supervisor ends for any reason."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
        async for _ in orders:
            pass
    log.warning("supervisor_died")
    signal.raise_signal(signal.SIGTERM)


async def _open_listeners(addresses: tuple[Address, ...]) -> list[trio.SocketListener]:
    listeners = []
    for family, name in addresses:
        listening = socket.create_server(name, family=family, backlog=BACKLOG, reuse_port=True)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(listening)))
    return listeners


# --- metrics: any worker returns the metrics of all


async def _serve_metrics(fd: int) -> None:
    """Serve this worker's metrics to the other workers."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
    await trio.serve_listeners(_send_metrics, [listener])


async def _send_metrics(stream: trio.SocketStream) -> None:
    async with stream:
        # The peer may hang up or not read.
        with suppress(trio.BrokenResourceError), trio.move_on_after(METRICS_SECONDS):
            await stream.send_all(await render_metrics() + METRICS_END)


async def _collect_metrics(number: int, addresses: Mapping[int, bytes]) -> bytes:
    """Return the merged metrics of all workers, asked concurrently."""
    by_worker = {number: await render_metrics()}

    async def ask(other: int) -> None:
        with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(METRICS_SECONDS):
            async with await trio.open_unix_socket(addresses[other]) as stream:
                received = b"".join([chunk async for chunk in stream])
                if received.endswith(METRICS_END):
                    by_worker[other] = received

    async with trio.open_nursery() as nursery:
        for other in addresses.keys() - {number}:
            nursery.start_soon(ask, other)
    return merge_metrics(by_worker)
