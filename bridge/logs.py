"""Logs: one event, one line; JSON unless a person is looking."""

import logging
import sys

import structlog


def configure_logs(worker: int | None = None) -> None:
    """Send structlog's events to standard error, as JSON where that is no terminal.

    Args:
        worker: the number of this process, where several write to one log: it is in every line.
    """
    for_people: list[structlog.typing.Processor] = [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    ]
    for_machines: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    numbered: list[structlog.typing.Processor] = []
    if worker is not None:
        numbered.append(lambda _logger, _method, event: {**event, "worker": worker})
    structlog.configure(
        processors=[
            *numbered,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(for_people if sys.stderr.isatty() else for_machines),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # It writes a line at once: other processes may write to the same file.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; their warnings are ours to show, no more.
    prefix = "" if worker is None else f"worker={worker} "
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=f"{prefix}%(message)s")
    logging.getLogger("trio-websocket").setLevel(logging.ERROR)
    # Its pool tells with a traceback that the database is away; our tasks tell it in a line.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
