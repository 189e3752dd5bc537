"""Run a bridge in this process: start, announce, stop."""

import ctypes
import gc
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import structlog
import trio

from bridge.daemon.bridge import Bridge
from bridge.daemon.start import StartError, listen, prepare_database
from bridge.database.errors import DatabaseUnavailable
from bridge.database.pool import open_database
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.resolve import Lookups, resolve
from bridge.delivery.transport import Transport
from bridge.settings import Settings, unknown_variables
from bridge.telemetry.exposition import render_metrics
from bridge.web.http.front import MOST_WAITING

log = structlog.get_logger()

#: Buffers of this size are large, and what ``mallopt`` of glibc calls the setting.
LARGE_BUFFER_BYTES, M_MMAP_THRESHOLD = 256 * 1024, -3
#: Allocations between collections of the youngest generation; Python's default is 700.
GARBAGE_OBJECTS = 10_000
#: Shorter static tokens can be guessed.
SHORTEST_TOKEN = 16
#: File descriptors besides those of WebSocket clients: connections without a request yet,
#: requests, deliveries, the database.
OTHER_DESCRIPTORS = MOST_WAITING + 500


async def serve(
    settings: Settings,
    announce: Callable[[str], None],
    *,
    open_listeners: Callable[[], Awaitable[list[trio.SocketListener]]] | None = None,
    exposition: Callable[[], Awaitable[bytes]] = render_metrics,
) -> None:
    """Run a bridge until SIGTERM or SIGINT.

    Args:
        announce: called with one line when the bridge serves.
        open_listeners: opens the listeners; by default on the host and port of the settings.
        exposition: returns the body of ``GET /metrics``.

    Raises:
        StartError: the bridge cannot start.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            try:
                database = await stack.enter_async_context(
                    open_database(settings.database_url, listen_url=settings.listen_url)
                )
            except DatabaseUnavailable as error:
                raise StartError(f"cannot connect to the database: {error}") from None
            last_event_id = await prepare_database(database)
            trio.socket.set_custom_hostname_resolver(Lookups())
            policy = AddressPolicy(settings.allowed_networks)
            transport = stack.enter_context(
                Transport(partial(resolve, policy=policy), max_idle=settings.delivery_concurrency)
            )
            listeners = await listen(settings, open_listeners)
            bridge = Bridge(
                settings,
                database,
                transport,
                policy,
                last_event_id=last_event_id,
                exposition=exposition,
            )

            def serving() -> None:
                _tune_garbage_collection()
                _return_large_buffers()
                announce(_address(settings, listeners))
                _raise_descriptor_limit(settings.ws_clients)
                _log_setting_warnings(settings)

            kill = await bridge.run(listeners, signals, serving)
    kill.cancel()
    log.info("shutdown_completed")


def _tune_garbage_collection() -> None:
    """Collect less often, and never what exists now.

    A full collection scans every object and blocks the event loop meanwhile: 60 ms for the imported
    modules alone. What exists now lives until the end, and few of the later objects form cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _return_large_buffers() -> None:
    """Make glibc return the memory of a large buffer when it is freed; see mallopt(3).

    By default, it keeps such buffers once one was freed, in a heap that only shrinks from its end:
    payloads of megabytes would leave hundreds of megabytes behind.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES)


def _raise_descriptor_limit(clients: int) -> None:
    """Raise the soft limit of open files to the hard limit; every client needs one."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    if hard_limit != resource.RLIM_INFINITY and hard_limit < clients + OTHER_DESCRIPTORS:
        log.warning(
            "low_file_limit_detected",
            limit=hard_limit,
            clients=clients,
            hint="raise the hard limit of open files, or lower BRIDGE_WS_CLIENTS",
        )


def _log_setting_warnings(settings: Settings) -> None:
    for name in unknown_variables():
        log.warning("unknown_setting_ignored", name=name)
    if settings.token is None:
        log.info("static_token_omitted", hint="run pgbridge token create")
    elif len(settings.token.get_secret_value()) < SHORTEST_TOKEN:
        log.warning(
            "weak_static_token_accepted",
            hint="set BRIDGE_TOKEN to the output of: openssl rand -hex 32",
        )


def _address(settings: Settings, listeners: list[trio.SocketListener]) -> str:
    port = listeners[0].socket.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (
        f"pgbridge serves REST on http://{host}:{port} and events on ws://{host}:{port}/ws; "
        f"console: http://{host}:{port}/console"
    )
