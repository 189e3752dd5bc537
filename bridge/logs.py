"""Logs: one event, one line; JSON unless a person is looking."""

import logging
import sys

import structlog


def configure_logs() -> None:
    """Send structlog's events to standard error, as JSON where that is no terminal."""
    for_people: list[structlog.typing.Processor] = [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    ]
    for_machines: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(for_people if sys.stderr.isatty() else for_machines),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; their warnings are ours to show, no more.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("trio-websocket").setLevel(logging.ERROR)
    # Its pool tells with a traceback that the database is away; our tasks tell it in a line.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
