"""Builds the parts of a bridge, joins them, and starts and stops them in order."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog
import trio

from bridge import assets
from bridge.access.authenticator import Authenticator
from bridge.access.throttle import Throttle
from bridge.access.tokens import BotTokens
from bridge.access.vault import Vault
from bridge.database import rights
from bridge.database.clock import ServerClock
from bridge.database.errors import DatabaseError, DatabaseUnavailable, UnfitTableError
from bridge.database.pool import Database, open_database
from bridge.database.restart import keep_running
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.courier import Courier
from bridge.delivery.resolve import Lookups, resolve, url_refusal
from bridge.delivery.transport import Transport
from bridge.live.connection import ConnectionLimits
from bridge.live.history import History, read_log
from bridge.live.hub import Hub
from bridge.live.stream import LiveStream, StreamLimits
from bridge.operations.activity import Activity
from bridge.operations.gauges import Gauges
from bridge.operations.readiness import ListenProof, Readiness
from bridge.relay.drain import Relay
from bridge.relay.upkeep import Upkeep, create_partitions
from bridge.settings import Settings, unknown_variables
from bridge.telemetry import metrics
from bridge.telemetry.exposition import render_metrics, sampled_by
from bridge.web.app import build_api
from bridge.web.http.front import MOST_WAITING, Front
from bridge.webhooks.trial import send_trial

log = structlog.get_logger()

#: New objects after which the youngest are looked through; by Python's own measure it is 700.
GARBAGE_OBJECTS = 10_000
#: A bridge that has not stopped by then, whatever it waits for, is ended by force.
STOP_SECONDS = 9.5
#: How long REST requests in flight may go on when it stops.
REST_SECONDS = 1.0
#: Seconds' worth of requests that a token may send at once.
BURST_SECONDS = 5.0
#: A static token of fewer characters can be guessed.
SHORTEST_TOKEN = 16
#: Open files beside those of WebSocket clients: who has not said a request yet, requests,
#: receivers, the database.
OTHER_DESCRIPTORS = MOST_WAITING + 500


class StartError(Exception):
    """The bridge cannot start. The message says why and what to do."""


async def serve(
    settings: Settings,
    announce: Callable[[str], None],
    *,
    open_listeners: Callable[[], Awaitable[list[trio.SocketListener]]] | None = None,
    exposition: Callable[[], Awaitable[bytes]] = render_metrics,
) -> None:
    """Run a bridge until SIGTERM or SIGINT.

    Args:
        announce: gets one line when the bridge serves.
        open_listeners: opens the listeners, where not just on the settings' host and port.
        exposition: gives what ``GET /metrics`` answers.

    Raises:
        StartError: it cannot start.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncExitStack() as stack:
            try:
                database = await stack.enter_async_context(
                    open_database(settings.database_url, listen_url=settings.listen_url)
                )
            except DatabaseUnavailable as error:
                raise StartError(f"cannot connect to the database: {error}") from None
            last_event_id = await _prepare(database)
            if settings.bot_tokens:
                await _look_at_bot_tokens(database)
            trio.socket.set_custom_hostname_resolver(Lookups())
            policy = AddressPolicy(settings.allowed_networks)
            transport = stack.enter_context(
                Transport(partial(resolve, policy=policy), max_idle=settings.delivery_concurrency)
            )
            try:
                listeners = await (open_listeners or partial(_open_listeners, settings))()
            except OSError as error:
                raise StartError(
                    f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
                ) from None

            vault = Vault(settings.secret_keys)
            courier = Courier(
                database,
                transport,
                vault,
                concurrency=settings.delivery_concurrency,
                schedule=settings.retry_schedule,
                disable_seconds=settings.disable_after_days * 86_400.0,
                create_partitions=partial(create_partitions, database),
                poll_seconds=settings.poll_seconds,
            )
            clock = ServerClock()
            hub = Hub(History(last_event_id, partial(read_log, database)), clock)
            tokens = Authenticator(
                database,
                settings.token.get_secret_value() if settings.token else None,
                bot=_bot_tokens(settings),
                failures=_throttle(
                    settings.failed_logins_per_minute / 60, settings.failed_logins_per_minute
                ),
            )
            live = LiveStream(
                hub,
                tokens,
                StreamLimits(
                    connection=ConnectionLimits(
                        message_bytes=settings.ws_message_bytes,
                        buffer_bytes=settings.ws_buffer_bytes,
                        handshake_seconds=settings.ws_handshake_seconds,
                        proxies=settings.trusted_proxies,
                    ),
                    clients=settings.ws_clients,
                    clients_per_token=settings.ws_clients_per_token,
                    ping_seconds=settings.ws_ping_seconds,
                    idle_seconds=settings.ws_idle_seconds,
                    origins=settings.ws_origins,
                ),
                access_log=settings.access_log,
            )
            proof = ListenProof(
                database,
                listens=lambda: relay.listens,
                held_up=lambda: relay.trouble() is not None,
                needed=settings.doorbell != "poll",
            )
            relay = Relay(
                database,
                clock,
                last_event_id=last_event_id,
                publish=hub.publish,
                went_back=live.start_over,
                enqueued=courier.deliveries_due,
                woken=courier.look_everywhere,
                mode=settings.doorbell,
                poll_seconds=settings.poll_seconds,
                quiet_poll_seconds=settings.quiet_poll_seconds,
                batch=settings.drain_batch,
                listen_to={proof.channel: proof.heard},
            )
            readiness = Readiness(
                database,
                {
                    "relay": relay.trouble,
                    "listen": proof.trouble,
                    "claim": courier.claim_trouble,
                    "settle": courier.settle_trouble,
                },
                stall_seconds=3 * settings.poll_seconds,
            )
            gauges = Gauges(database)
            activity = Activity(
                database, clients=lambda: live.clients, in_flight=lambda: courier.in_flight
            )
            for sampler in (gauges.sample, partial(_sample, database, live, courier)):
                stack.enter_context(sampled_by(sampler))
            upkeep = Upkeep(
                database,
                {
                    "events": settings.keep_events_days,
                    "delivery_log_success": settings.keep_successes_days,
                    "delivery_log_failed": settings.keep_failures_days,
                    "delivery_attempts": settings.keep_failures_days,
                },
                vault,
                keep_audit_days=settings.keep_audit_days,
            )
            api = build_api(
                database,
                tokens,
                vault=vault,
                cors_origins=settings.cors_origins,
                proxies=settings.trusted_proxies,
                requests=_throttle(
                    settings.requests_per_second, BURST_SECONDS * settings.requests_per_second
                ),
                access_log=settings.access_log,
                troubles=readiness.troubles,
                url_refusal=partial(url_refusal, policy=policy),
                send_trial=partial(send_trial, transport, vault),
                exposition=exposition,
            )
            front = Front(api, live.serve, handshake_seconds=settings.ws_handshake_seconds)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_running, "upkeep", upkeep.run)
                nursery.start_soon(keep_running, "relay", relay.run)
                nursery.start_soon(courier.run)
                nursery.start_soon(live.run)
                nursery.start_soon(proof.run)
                nursery.start_soon(readiness.run)
                nursery.start_soon(gauges.run)
                nursery.start_soon(activity.run)
                async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                    accepting.start_soon(front.accept, listeners, connections)
                    _spare_the_collector()
                    announce(_address(settings, listeners))
                    _raise_descriptor_limit(settings.ws_clients)
                    for name in unknown_variables():
                        log.warning("unknown_setting_ignored", name=name)
                    if settings.token is None:
                        log.info("static_token_omitted", hint="run pgbridge token create")
                    elif len(settings.token.get_secret_value()) < SHORTEST_TOKEN:
                        log.warning(
                            "weak_static_token_accepted",
                            hint="set BRIDGE_TOKEN to the output of: openssl rand -hex 32",
                        )
                    number = await anext(signals)
                    log.info("shutdown_started", signal=signal.Signals(number).name)
                    # First no more clients and no more work, then the clients; deliveries in
                    # flight are ended or given back meanwhile.
                    end_by_force = threading.Timer(STOP_SECONDS, os._exit, [1])
                    end_by_force.daemon = True
                    end_by_force.start()
                    accepting.cancel_scope.cancel()
                    courier.stop()
                    front.stop()
                    await live.stop()
                    connections.cancel_scope.deadline = trio.current_time() + REST_SECONDS
                await courier.stopped.wait()
                await activity.stop()
                nursery.cancel_scope.cancel()
    end_by_force.cancel()
    log.info("shutdown_completed")


def _sample(database: Database, live: LiveStream, courier: Courier) -> None:
    """Set the gauges that would cost something to be kept."""
    for state, count in zip(("busy", "idle"), database.pooled, strict=True):
        metrics.database_connections.labels(state).set(count)
    metrics.delivery_in_flight.set(courier.in_flight)
    total = largest = 0
    for waiting in live.buffered_bytes():
        total += waiting
        largest = max(largest, waiting)
    metrics.client_buffer.set(total)
    metrics.client_buffer_largest.set(largest)


def _raise_descriptor_limit(clients: int) -> None:
    """Let this process open as many files as it may; a client is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < clients + OTHER_DESCRIPTORS:
        log.warning(
            "low_file_limit_detected",
            limit=most,
            clients=clients,
            hint="raise the hard limit of open files, or lower BRIDGE_WS_CLIENTS",
        )


async def _prepare(database: Database) -> int:
    """Check that the database was initialised for this pgbridge, and make today's partitions.

    Returns the id of the newest event.
    """
    try:
        # Otherwise the first that it may not do would tell, and that may be hours from now.
        if missing := rights.missing_rights(await database.fetch("rights")):
            raise StartError(f"permission denied: {missing}; {missing.remedy}")
        [row] = await database.fetch("schema_version")
        if mismatch := assets.schema_mismatch(row["version"]):
            raise StartError("; ".join(mismatch))
        await create_partitions(database)
    except DatabaseUnavailable as error:
        raise StartError(f"cannot use the database: {error}") from None
    except DatabaseError as error:
        raise StartError(
            f"the database has no schema called bridge that this role can use: {error}; "
            "run: pgbridge init"
        ) from None
    last_event_id: int = row["last_event_id"]
    return last_event_id


def _bot_tokens(settings: Settings) -> BotTokens | None:
    if not settings.bot_tokens:
        return None
    secret = settings.bot_tokens_secret
    return BotTokens(
        settings.bot_tokens_algorithm,
        None if secret is None else secret.get_secret_value().encode(),
        frozenset(settings.bot_tokens_scopes),
    )


def _throttle(per_second: float, burst: float) -> Throttle | None:
    return Throttle(per_second, max(1, round(burst))) if per_second else None


async def _open_listeners(settings: Settings) -> list[trio.SocketListener]:
    return await trio.open_tcp_listeners(settings.port, host=settings.host)


async def _look_at_bot_tokens(database: Database) -> None:
    """Check that the bot's own tokens can be read."""
    try:
        await database.read_foreign("bot_tokens_table", "valid_bot_tokens", [])
    except DatabaseUnavailable as error:
        raise StartError(f"cannot use the database: {error}") from None
    except UnfitTableError as error:
        raise StartError(
            f"BRIDGE_BOT_TOKENS is on, and public.web_api_tokens is not read, since {error}: what "
            "its owner wrote would run with the bridge's rights; switch BRIDGE_BOT_TOKENS off"
        ) from None
    except DatabaseError as error:
        raise StartError(
            f"BRIDGE_BOT_TOKENS is on, and public.web_api_tokens cannot be read: {error}; let its "
            "owner run: grant select (id, name, token_hash, is_active, expires_at) on "
            "public.web_api_tokens to the bridge's role; or switch BRIDGE_BOT_TOKENS off"
        ) from None


def _spare_the_collector() -> None:
    """Have Python's garbage collector look at less, less often.

    A full collection looks at every object there is and holds up everybody meanwhile: 60 ms for
    what was imported alone. All that lives now lives until the end; and of what comes and goes
    only a little is in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _address(settings: Settings, listeners: list[trio.SocketListener]) -> str:
    port = listeners[0].socket.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (
        f"pgbridge serves REST on http://{host}:{port} and events on ws://{host}:{port}/ws; "
        f"console: http://{host}:{port}/console"
    )
