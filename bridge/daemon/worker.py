"""One of several bridges on one port: a process that ``bridge/daemon/supervisor.py`` started."""

from __future__ import annotations

import json
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

from bridge.daemon.app import StartError, serve
from bridge.daemon.supervisor import BACKLOG, Address, Orders
from bridge.tasks import first_error
from bridge.telemetry.exposition import merge_metrics, render_metrics
from bridge.telemetry.logs import configure_logs

log = structlog.get_logger()

#: How long another worker may take to tell what it has counted; one that is ending is left out.
METRICS_SECONDS = 1.0
#: Ends what a worker tells. Without it the worker died over it.
METRICS_END = b"# EOF\n"


class NoOrdersError(Exception):
    """Nobody gave orders. The message says what to run instead."""


def run_worker(number: int) -> bool:
    """Run a bridge as the supervisor ordered, until SIGTERM or the supervisor's own end.

    Args:
        number: which of the workers it is, from 1.

    Returns:
        Whether it has served.

    Raises:
        NoOrdersError: it was not a supervisor that started it.
    """
    try:
        orders: Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    except Exception:  # what is not a pickle may raise anything
        raise NoOrdersError("only a supervisor starts workers: pgbridge run --workers 2") from None
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
        nursery.start_soon(_tell_metrics, orders.metrics_fd)
        await serve(
            orders.settings,
            partial(_report, "serves"),
            open_listeners=partial(_open_listeners, orders.addresses),
            exposition=partial(_collect_metrics, number, orders.metrics_addresses),
        )
        nursery.cancel_scope.cancel()


def _report(what: str, line: str) -> None:
    with suppress(BrokenPipeError):  # the supervisor is gone, and we go, too
        print(json.dumps({what: line}), flush=True)


async def _end_with_supervisor() -> None:
    """Stop as by SIGTERM when the supervisor has ended, however that came."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
        async for _ in orders:
            pass
    log.warning("supervisor_died")
    signal.raise_signal(signal.SIGTERM)


async def _open_listeners(addresses: tuple[Address, ...]) -> list[trio.SocketListener]:
    listeners = []
    for address in addresses:
        listening = address.bind()
        listening.listen(BACKLOG)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(listening)))
    return listeners


# --- metrics: whichever worker is asked answers for all


async def _tell_metrics(fd: int) -> None:
    """Tell whoever connects what is counted here."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
    await trio.serve_listeners(_tell, [listener])


async def _tell(stream: trio.SocketStream) -> None:
    async with stream:
        # It hung up, or does not read.
        with suppress(trio.BrokenResourceError), trio.move_on_after(METRICS_SECONDS):
            await stream.send_all(await render_metrics() + METRICS_END)


async def _collect_metrics(number: int, addresses: Mapping[int, bytes]) -> bytes:
    """Ask the other workers, all at once, and return what they and this one have counted."""
    by_worker = {number: await render_metrics()}

    async def ask(other: int) -> None:
        with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(METRICS_SECONDS):
            async with await trio.open_unix_socket(addresses[other]) as stream:
                told = b"".join([chunk async for chunk in stream])
                if told.endswith(METRICS_END):
                    by_worker[other] = told

    async with trio.open_nursery() as nursery:
        for other in addresses.keys() - {number}:
            nursery.start_soon(ask, other)
    return merge_metrics(by_worker)
