"""The parts of one bridge: how they are connected, and the order in which they start and stop."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import structlog
import trio

from bridge.access.authenticator import Authenticator
from bridge.access.throttle import Throttle
from bridge.access.vault import Vault
from bridge.bot.tokens import BotTokens, BotTokenTable
from bridge.database.clock import ServerClock
from bridge.database.pool import Database
from bridge.database.restart import keep_running
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.courier import Courier
from bridge.delivery.redelivery import continue_redeliveries
from bridge.delivery.resolve import url_refusal
from bridge.delivery.transport import Transport
from bridge.live.connection import StreamLimits
from bridge.live.history import History, read_log
from bridge.live.hub import Hub
from bridge.live.stream import LiveStream
from bridge.operations.activity import Activity
from bridge.operations.capture_watch import CaptureWatch
from bridge.operations.gauges import update_gauges
from bridge.operations.readiness import ListenProbe, Readiness
from bridge.operations.repair import repair_triggers
from bridge.relay.relay import Relay
from bridge.relay.upkeep import Upkeep, create_partitions
from bridge.settings import Settings
from bridge.telemetry import metrics
from bridge.web.app import build_api
from bridge.web.http.front import Front
from bridge.webhooks.trial import send_trial

log = structlog.get_logger()

#: A token may send this many seconds' worth of requests at once.
BURST_SECONDS = 5.0
#: A bridge that has not stopped after this long is killed.
STOP_SECONDS = 9.5
#: How long REST requests in flight may take during a shutdown.
REQUEST_GRACE_SECONDS = 1.0


class Bridge:
    """A bridge.

    Args:
        policy: decides which addresses webhooks may use.
        last_event_id: the ID of the last event in the log.
        exposition: returns the body of ``GET /metrics``.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        transport: Transport,
        policy: AddressPolicy,
        *,
        last_event_id: int,
        exposition: Callable[[], Awaitable[bytes]],
    ) -> None:
        vault = Vault(settings.secret_keys)
        self._bot_tokens = _bot_tokens(settings, database)
        tokens = _authenticator(settings, database, self._bot_tokens)
        clock = ServerClock()
        hub = Hub(History(last_event_id, partial(read_log, database)), clock)
        live = LiveStream(hub, tokens, _stream_limits(settings), access_log=settings.access_log)
        courier = _courier(settings, database, transport, vault)
        probe = ListenProbe(
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
            listen_to={probe.channel: probe.arrived},
        )
        watch = _capture_watch(settings, database)
        checks = {
            "relay": relay.trouble,
            "listen": probe.trouble,
            "claim": courier.claim_trouble,
            "settle": courier.settle_trouble,
            "capture": watch.trouble,
        }
        readiness = Readiness(database, checks, stall_seconds=3 * settings.poll_seconds)
        api = build_api(
            database,
            tokens,
            vault=vault,
            cors_origins=settings.cors_origins,
            proxies=settings.trusted_proxies,
            requests=_request_limit(settings),
            access_log=settings.access_log,
            max_webhooks=settings.max_webhooks,
            max_tokens=settings.max_tokens,
            troubles=readiness.troubles,
            url_refusal=partial(url_refusal, policy=policy),
            send_trial=partial(send_trial, transport, vault),
            exposition=exposition,
        )
        self._courier, self._live = courier, live
        self._front = Front(api, live.serve, handshake_seconds=settings.ws_handshake_seconds)
        self._activity = Activity(
            database, clients=lambda: live.clients, in_flight=lambda: courier.in_flight
        )
        self._tasks: tuple[Callable[[], Awaitable[None]], ...] = (
            *_upkeep_tasks(settings, database, vault),
            partial(keep_running, "relay", relay.run),
            partial(keep_running, "deferral", relay.deferral.run),
            courier.run,
            partial(keep_running, "redelivery", partial(continue_redeliveries, database)),
            live.run,
            probe.run,
            readiness.run,
            watch.run,
            partial(update_gauges, database),
            self._activity.run,
        )
        _show_levels(database, courier, live)

    async def run(
        self,
        listeners: list[trio.SocketListener],
        signals: AsyncIterator[int],
        serving: Callable[[], None],
    ) -> threading.Timer:
        """Run all parts until a signal, then stop them in order.

        Args:
            serving: called once connections are accepted.

        Returns:
            The timer that kills this process after ``STOP_SECONDS``; cancel it at the very end.
        """
        async with trio.open_nursery() as nursery:
            for task in self._tasks:
                nursery.start_soon(task)
            if self._bot_tokens is not None:
                nursery.start_soon(self._bot_tokens.check)
            async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                accepting.start_soon(self._front.accept, listeners, connections)
                serving()
                number = await anext(signals)
                log.info("shutdown_started", signal=signal.Signals(number).name)
                # First stop accepting clients and claiming deliveries, then disconnect clients.
                # Deliveries in flight finish or are released meanwhile.
                kill = _kill_later()
                accepting.cancel_scope.cancel()
                self._courier.stop()
                self._front.stop()
                await self._live.stop()
                connections.cancel_scope.deadline = trio.current_time() + REQUEST_GRACE_SECONDS
            await self._courier.stopped.wait()
            await self._activity.stop()
            nursery.cancel_scope.cancel()
        return kill


def _show_levels(database: Database, courier: Courier, live: LiveStream) -> None:
    """Read the levels that are too costly to record on every change whenever they are exposed."""
    connections = metrics.database_connections
    connections.labels("busy").set_function(lambda: database.pooled[0])
    connections.labels("idle").set_function(lambda: database.pooled[1])
    metrics.delivery_in_flight.set_function(lambda: courier.in_flight)
    metrics.client_buffer.set_function(lambda: sum(live.buffered_bytes()))
    metrics.client_buffer_largest.set_function(lambda: max(live.buffered_bytes(), default=0))


def _kill_later() -> threading.Timer:
    """Kill this process after ``STOP_SECONDS``, whatever it waits for."""
    timer = threading.Timer(STOP_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()
    return timer


def _authenticator(
    settings: Settings, database: Database, bot_tokens: BotTokenTable | None
) -> Authenticator:
    per_minute = settings.failed_logins_per_minute
    return Authenticator(
        database,
        settings.token.get_secret_value() if settings.token else None,
        bot=bot_tokens,
        failures=_throttle(per_minute / 60, per_minute),
    )


def _bot_tokens(settings: Settings, database: Database) -> BotTokenTable | None:
    if not settings.bot_tokens:
        return None
    secret = settings.bot_tokens_secret
    tokens = BotTokens(
        settings.bot_tokens_algorithm,
        None if secret is None else secret.get_secret_value().encode(),
        frozenset(settings.bot_tokens_scopes),
    )
    return BotTokenTable(database, tokens)


def _request_limit(settings: Settings) -> Throttle | None:
    per_second = settings.requests_per_second
    return _throttle(per_second, BURST_SECONDS * per_second)


def _throttle(per_second: float, burst: float) -> Throttle | None:
    return Throttle(per_second, max(1, round(burst))) if per_second else None


def _capture_watch(settings: Settings, database: Database) -> CaptureWatch:
    repair = partial(repair_triggers, settings) if settings.repair_triggers else None
    return CaptureWatch(database, repair)


def _courier(settings: Settings, database: Database, transport: Transport, vault: Vault) -> Courier:
    return Courier(
        database,
        transport,
        vault,
        concurrency=settings.delivery_concurrency,
        schedule=settings.retry_schedule,
        disable_seconds=settings.disable_after_days * 86_400.0,
        create_partitions=partial(create_partitions, database),
        poll_seconds=settings.poll_seconds,
    )


def _stream_limits(settings: Settings) -> StreamLimits:
    return StreamLimits(
        message_bytes=settings.ws_message_bytes,
        buffer_bytes=settings.ws_buffer_bytes,
        handshake_seconds=settings.ws_handshake_seconds,
        proxies=settings.trusted_proxies,
        clients=settings.ws_clients,
        clients_per_token=settings.ws_clients_per_token,
        ping_seconds=settings.ws_ping_seconds,
        idle_seconds=settings.ws_idle_seconds,
        origins=settings.ws_origins,
    )


def _upkeep_tasks(
    settings: Settings, database: Database, vault: Vault
) -> tuple[Callable[[], Awaitable[None]], ...]:
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
        keep_dead_letters_days=settings.keep_failures_days,
    )
    return (
        partial(keep_running, "upkeep", upkeep.run),
        partial(keep_running, "clock", upkeep.clock_watch.run),
    )
