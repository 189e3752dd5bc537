"""Logs: one event, one line; JSON unless a person is looking. ``docs/logs.md`` has every event."""

import logging
import sys
import threading
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

log = structlog.get_logger()

_items_told = False


def items_told() -> bool:
    """Tell whether each event and each delivery that went well gets a line.

    To be asked once a batch, before anything is put together for such lines: there may be a hundred
    thousand a second.
    """
    return _items_told


def configure_logs(
    level: Level = "info", format_: Format = "auto", *, worker: int | None = None
) -> None:
    """Send structlog's events, and what libraries say, to standard error, a line each.

    Args:
        level: what is less than that is left out; of libraries, what is less than a warning, too.
        format_: ``auto`` is JSON where standard error is no terminal.
        worker: the number of this process, where several write to one log: it is in every line.
    """
    global _items_told
    _items_told = level == "debug"
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
        # It writes a line at once: other processes may write to the same file.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _take_from_libraries(max(lowest, logging.WARNING), first, last)
    _take_what_nobody_caught()


def _renderers(format_: Format) -> list[structlog.typing.Processor]:
    is_terminal = sys.stderr.isatty()
    if format_ == "console" or (format_ == "auto" and is_terminal):
        return [
            structlog.dev.ConsoleRenderer(
                colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _take_from_libraries(
    lowest: int,
    first: list[structlog.typing.Processor],
    last: list[structlog.typing.Processor],
) -> None:
    """Have what goes through the standard library come out as a line like all others."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, _name_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=lowest, force=True)
    logging.captureWarnings(True)  # Python's own
    logging.getLogger("trio-websocket").setLevel(logging.ERROR)
    # Its pool tells with a traceback that the database is away; our tasks tell it in a line.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)


def _name_library(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Give what a library says one name for all: its own words are a field."""
    record: logging.LogRecord = event["_record"]
    text = str(event["event"]).strip()
    return {**event, "event": "library_warned", "logger": record.name, "message": text}


def _take_what_nobody_caught() -> None:
    """Have a line instead of the traceback that Python would write where nobody can catch it."""

    def in_finalizer(unraisable: "sys.UnraisableHookArgs") -> None:
        log.error(
            "exception_ignored", where=repr(unraisable.object)[:200], exc_info=unraisable.exc_value
        )

    def in_thread(uncaught: threading.ExceptHookArgs) -> None:
        if uncaught.exc_type is not SystemExit:
            log.error("thread_crashed", exc_info=uncaught.exc_value)

    sys.unraisablehook = in_finalizer
    threading.excepthook = in_thread
