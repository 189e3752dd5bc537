"""Build the parts of a bridge from its settings and connect them to each other."""

from collections.abc import Awaitable, Callable
from functools import partial

from bridge.access.authenticator import Authenticator
from bridge.access.throttle import Throttle
from bridge.access.tokens import BotTokens
from bridge.access.vault import Vault
from bridge.daemon.parts import Bridge
from bridge.database.clock import ServerClock
from bridge.database.pool import Database
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.courier import Courier
from bridge.delivery.resolve import url_refusal
from bridge.delivery.transport import Transport
from bridge.live.connection import StreamLimits
from bridge.live.history import History, read_log
from bridge.live.hub import Hub
from bridge.live.stream import LiveStream
from bridge.operations.activity import Activity
from bridge.operations.gauges import Gauges
from bridge.operations.readiness import ListenProbe, Readiness
from bridge.relay.drain import Relay
from bridge.relay.upkeep import Upkeep, create_partitions
from bridge.settings import Settings
from bridge.web.app import build_api
from bridge.web.http.front import Front
from bridge.webhooks.trial import send_trial

#: A token may send this many seconds' worth of requests at once.
BURST_SECONDS = 5.0


def build_bridge(
    settings: Settings,
    database: Database,
    transport: Transport,
    policy: AddressPolicy,
    *,
    last_event_id: int,
    exposition: Callable[[], Awaitable[bytes]],
) -> Bridge:
    """Build the parts of a bridge.

    Args:
        policy: decides which addresses webhooks may use.
        last_event_id: the ID of the last event in the log.
        exposition: returns the body of ``GET /metrics``.
    """
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
    tokens = _authenticator(settings, database)
    live = LiveStream(hub, tokens, _stream_limits(settings), access_log=settings.access_log)
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
    readiness = _readiness(settings, database, relay, probe, courier)
    per_second = settings.requests_per_second
    api = build_api(
        database,
        tokens,
        vault=vault,
        cors_origins=settings.cors_origins,
        proxies=settings.trusted_proxies,
        requests=_throttle(per_second, BURST_SECONDS * per_second),
        access_log=settings.access_log,
        troubles=readiness.troubles,
        url_refusal=partial(url_refusal, policy=policy),
        send_trial=partial(send_trial, transport, vault),
        exposition=exposition,
    )
    return Bridge(
        database=database,
        upkeep=_upkeep(settings, database, vault),
        relay=relay,
        courier=courier,
        live=live,
        probe=probe,
        readiness=readiness,
        gauges=Gauges(database),
        activity=Activity(
            database, clients=lambda: live.clients, in_flight=lambda: courier.in_flight
        ),
        front=Front(api, live.serve, handshake_seconds=settings.ws_handshake_seconds),
    )


def _authenticator(settings: Settings, database: Database) -> Authenticator:
    per_minute = settings.failed_logins_per_minute
    return Authenticator(
        database,
        settings.token.get_secret_value() if settings.token else None,
        bot=_bot_tokens(settings),
        failures=_throttle(per_minute / 60, per_minute),
    )


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


def _readiness(
    settings: Settings, database: Database, relay: Relay, probe: ListenProbe, courier: Courier
) -> Readiness:
    return Readiness(
        database,
        {
            "relay": relay.trouble,
            "listen": probe.trouble,
            "claim": courier.claim_trouble,
            "settle": courier.settle_trouble,
        },
        stall_seconds=3 * settings.poll_seconds,
    )


def _upkeep(settings: Settings, database: Database, vault: Vault) -> Upkeep:
    return Upkeep(
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
