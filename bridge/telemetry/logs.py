"""Log one event per line, as JSON unless on a terminal. ``docs/logs.md`` lists the events."""

import logging
import sys
import threading
from typing import Literal

import structlog

from bridge.terminal.visible import visible

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

log = structlog.get_logger()

_logs_items = False


def logs_items() -> bool:
    """Return whether every drained event and successful delivery gets a line.

    Ask once per batch, before building such lines: there may be a hundred thousand per second.
    """
    return _logs_items


def configure_logs(
    level: Level = "info", format_: Format = "auto", *, worker: int | None = None
) -> None:
    """Send the events of structlog and of libraries to standard error, one per line.

    Args:
        level: the lowest level to log; at least ``warning`` for libraries.
        format_: ``auto`` means ``console`` on a terminal, else ``json``.
        worker: the number of this process, added to every line if several write to one log.
    """
    global _logs_items
    _logs_items = level == "debug"
    lowest = logging.getLevelNamesMapping()[level.upper()]
    first: list[structlog.typing.Processor] = [structlog.contextvars.merge_contextvars]
    if worker is not None:
        first.append(lambda _logger, _method, event: {**event, "worker": worker})
    first += [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = _renderers(format_)
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        # This writes whole lines, so that workers can share a file.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _log_libraries(max(lowest, logging.WARNING), first, last)
    _log_uncaught()


def _renderers(format_: Format) -> list[structlog.typing.Processor]:
    is_terminal = sys.stderr.isatty()
    if format_ == "console" or (format_ == "auto" and is_terminal):
        # It gets tracebacks as text: it would print those of exceptions as they are.
        plain = structlog.dev.ConsoleRenderer(
            colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
        )
        return [structlog.processors.format_exc_info, _escape_controls, plain]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _escape_controls(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Make texts of clients, receivers and users visible. JSON escapes them anyway, and so does
    ``repr``, in which other values are written."""
    for name, value in event.items():
        if isinstance(value, str):
            keep = "\n" if name in ("exception", "stack") else ""
            event[name] = visible(value, keep=keep).replace("\n", "\n  ")
    return event


def _log_libraries(
    lowest: int,
    first: list[structlog.typing.Processor],
    last: list[structlog.typing.Processor],
) -> None:
    """Format the log records of the standard library like our events."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, _name_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=lowest, force=True)
    logging.captureWarnings(True)
    logging.getLogger("trio-websocket").setLevel(logging.ERROR)
    # asyncpg's pool logs a lost database with a traceback; our tasks log it in one line.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)


def _name_library(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Rename a library's event to ``library_warned``, and move its text to ``message``."""
    record: logging.LogRecord = event["_record"]
    text = str(event["event"]).strip()
    return {**event, "event": "library_warned", "logger": record.name, "message": text}


def _log_uncaught() -> None:
    """Log exceptions that Python would print because no caller can catch them."""

    def in_finalizer(unraisable: "sys.UnraisableHookArgs") -> None:
        log.error(
            "exception_ignored", where=repr(unraisable.object)[:200], exc_info=unraisable.exc_value
        )

    def in_thread(uncaught: threading.ExceptHookArgs) -> None:
        if uncaught.exc_type is not SystemExit:
            log.error("thread_crashed", exc_info=uncaught.exc_value)

    sys.unraisablehook = in_finalizer
    threading.excepthook = in_thread
