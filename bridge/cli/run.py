"""``pgbridge run``."""

from typing import Annotated

import typer

from bridge.cli.context import read_settings
from bridge.cli.output import FAILED, MISUSED, fail
from bridge.settings import Settings
from bridge.terminal.output import show


def run(
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Number of processes that share the port. Default: BRIDGE_WORKERS."
        ),
    ] = None,
) -> None:
    """Relay events to WebSocket clients and webhooks until SIGTERM."""
    settings = read_settings() if workers is None else read_settings(workers=workers)
    from bridge.telemetry.logs import configure_logs

    configure_logs(settings.log_level, settings.log_format)
    if settings.workers == 1:
        _run_bridge(settings)
    else:
        _run_workers(settings)


def worker(number: int) -> None:
    """Run one worker of ``pgbridge run --workers``, which starts it."""
    from bridge.daemon.worker import NoOrdersError, run_worker

    try:
        served = run_worker(number)
    except NoOrdersError as error:
        fail(str(error), MISUSED)
    if not served:
        raise SystemExit(FAILED)


def _run_bridge(settings: Settings) -> None:
    import structlog
    import trio

    from bridge.daemon.app import serve
    from bridge.daemon.start import StartError
    from bridge.tasks import ungrouped

    try:
        with ungrouped():
            trio.run(serve, settings, show)
    except StartError as error:
        fail(str(error))
    except Exception:
        structlog.get_logger().exception("bridge_crashed")
        raise SystemExit(FAILED) from None


def _run_workers(settings: Settings) -> None:
    import structlog
    import trio

    from bridge.daemon.supervisor import WorkersFailedError, supervise

    try:
        in_order = trio.run(supervise, settings, show)
    except WorkersFailedError as error:
        fail(str(error), error.exit_code)
    except Exception:
        structlog.get_logger().exception("supervisor_crashed")
        raise SystemExit(FAILED) from None
    if not in_order:
        raise SystemExit(FAILED)
