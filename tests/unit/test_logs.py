"""Every event is one line, and docs/logs.md lists all of them."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bridge.telemetry import metrics  # noqa: F401 - registers the metrics
from bridge.telemetry.exposition import render_metrics

ROOT = Path(__file__).parents[2]

# --- output

PROGRAM = """
import gc, io, json, logging, sys, threading, warnings
import structlog
from bridge.telemetry import logs

class Recorder(io.StringIO):
    def __init__(self):
        super().__init__()
        self.writes = []
    def write(self, text):
        self.writes.append(text)
        return len(text)

sys.stderr = recorder = Recorder()
log = structlog.get_logger()
logs.configure_logs({configuration})
{body}
print(json.dumps(recorder.writes))
"""


def writes(body: str, configuration: str = "") -> list[str]:
    """Return the writes to standard error of a process that runs this code."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.replace("{configuration}", configuration).replace("{body}", body),
        ],
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    written: list[str] = json.loads(done.stdout)
    return written


def test_line_is_one_write_with_its_worker() -> None:
    [line] = writes('log.info("it_happened", what=1)', "worker=2")
    assert line.endswith("\n")
    event = json.loads(line)
    assert (event["event"], event["what"], event["worker"]) == ("it_happened", 1, 2)


def test_single_process_logs_no_worker() -> None:
    [line] = writes('log.info("it_happened")')
    assert "worker" not in json.loads(line)


EVERY_LEVEL = """
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)("it_happened")
log.info("it_ended", items=logs.logs_items())
"""


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lower_levels_are_omitted(level: str, logged: list[str]) -> None:
    lines = [json.loads(line) for line in writes(EVERY_LEVEL, repr(level))]
    assert [line["level"] for line in lines if line["event"] == "it_happened"] == logged
    items = [line["items"] for line in lines if line["event"] == "it_ended"]
    assert items == {"debug": [True], "info": [False]}.get(level, [])


def test_console_format_is_text() -> None:
    [line] = writes('log.info("it_happened", what=1)', "format_='console'")
    assert re.search(r"\[info +\] it_happened +what=1\n$", line)
    assert "\x1b" not in line, "colours are only for terminals"


HOSTILE = r"""
hostile = "a\x1b[2J\x9b31m\u202eb\u2028c\nforged \ud800"
log.info("it_happened", text=hostile, texts=[hostile], number=1)
log.info(hostile)
logging.getLogger("some.library").warning(hostile)
try:
    raise ValueError(hostile)
except ValueError:
    log.exception("it_fell", text=hostile)
    logging.getLogger("some.library").exception(hostile)
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_control_characters_are_escaped(form: str) -> None:
    lines = writes(HOSTILE, f"format_={form!r}")
    text = "".join(lines).replace("\n", "")
    assert text.isprintable()
    assert text.count("u202e") >= 6
    assert len(lines) == 5 + lines.count("\n")
    for line in lines:
        starts = [each for each in line.splitlines() if not each.startswith("  ")]
        assert starts[1:] in ([], ["Traceback (most recent call last):"])
        if form == "json" and line.strip():
            json.loads(line)


LIBRARIES = """
logging.getLogger("some.library").warning("it %s:\\nbadly", "went")
logging.getLogger("some.library").info("all is well")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("some.library").exception("it fell")
warnings.warn("soon gone", DeprecationWarning)
warnings.warn("mind this")
"""


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_libraries_log_lines_like_ours(level: str) -> None:
    lines = [json.loads(line) for line in writes(LIBRARIES, f"{level!r}, worker=2")]
    assert all(line["worker"] == 2 and line["timestamp"].endswith("Z") for line in lines)
    assert {line["event"] for line in lines} == {"library_warned"}
    warned, fell, *python = lines
    assert (warned["level"], warned["logger"]) == ("warning", "some.library")
    assert warned["message"] == "it went:\nbadly"
    assert (fell["level"], fell["message"]) == ("error", "it fell")
    assert fell["exception"].endswith("ZeroDivisionError: division by zero")
    assert {line["logger"] for line in python} == {"py.warnings"}
    assert any("mind this" in line["message"] for line in python)


UNCAUGHT = """
class Falls:
    def __del__(self):
        1 / 0
Falls()
gc.collect()
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
"""


def test_uncaught_exceptions_are_logged_with_traceback() -> None:
    finalizer, thread = [json.loads(line) for line in writes(UNCAUGHT)]
    assert (finalizer["event"], thread["event"]) == ("exception_ignored", "thread_crashed")
    assert finalizer["exception"].endswith("ZeroDivisionError: division by zero")
    assert thread["exception"].endswith("IndexError: list index out of range")


# --- docs/logs.md

LEVELS = ("debug", "info", "warning", "error", "exception")
#: Fields from ``about()`` on every line about a delivery or a client.
OF_DELIVERY = {"delivery_id", "webhook_id", "event_id", "attempt"}
OF_CLIENT = {"client", "address", "token"}
#: Counted but not logged: the application captures events, the outcome of the delivery is logged
#: instead of attempts, strangers could fill the log, and the doorbell is in the database.
COUNTED_ONLY = {"event_captured", "delivery_attempt", "login_failed", "doorbell_switche"}
#: Counted under the name that is usual in Prometheus; `capture_failed` and `request_completed`.
COUNTED_OTHERWISE = {"capture_error", "request"}


@dataclass(frozen=True)
class Call:
    """A call that logs an event."""

    event: str
    level: str
    fields: frozenset[str]
    #: Whether it has more fields than the call shows.
    is_open: bool
    place: str


@cache
def calls() -> list[Call]:
    """Return all calls in the code that log."""
    found: list[Call] = []
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        aliases = dict(_aliases(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                found += _logged(node, path.parent.name, aliases, place)
    return found


def _is_log(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node) == "structlog.get_logger()"
    return isinstance(node, ast.Name) and node.id == "log"


def _levels(node: ast.AST) -> list[str]:
    """Return the level of ``log.info``, or both of ``log.info if … else log.error``."""
    if isinstance(node, ast.IfExp):
        return [*_levels(node.body), *_levels(node.orelse)]
    if isinstance(node, ast.Attribute) and _is_log(node.value) and node.attr in LEVELS:
        return ["error" if node.attr == "exception" else node.attr]
    return []


def _aliases(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Yield variables assigned to a method of the log, with their levels."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (levels := _levels(node.value)):
            [target] = node.targets
            if isinstance(target, ast.Name):
                yield target.id, levels


def _logged(call: ast.Call, room: str, aliases: dict[str, list[str]], place: str) -> Iterator[Call]:
    levels, arguments = _levels(call.func), call.args
    if isinstance(call.func, ast.Name):
        levels = aliases.get(call.func.id, [])
    elif arguments and (passed := _levels(arguments[0])):  # self._tell(log.info, "event", …)
        levels, arguments = passed, arguments[1:]
    if not levels:
        return
    fields, is_open = set(), False
    for keyword in call.keywords:
        if keyword.arg is not None:
            fields.add(keyword.arg)
        elif ast.unparse(keyword.value).endswith(("about()", "about")):
            fields |= OF_DELIVERY if room == "delivery" else OF_CLIENT
        else:
            is_open = True
    chosen = arguments[0]
    events = [chosen.body, chosen.orelse] if isinstance(chosen, ast.IfExp) else [chosen]
    for event in events:
        assert isinstance(event, ast.Constant), f"{place}: the event must be a literal"
        for level in levels:
            yield Call(str(event.value), level, frozenset(fields - {"exc_info"}), is_open, place)


@cache
def table() -> dict[str, tuple[set[str], set[str]]]:
    """Return levels and fields of each event in docs/logs.md."""
    rows = {}
    for line in (ROOT / "docs" / "logs.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if line.startswith("| `") and len(cells) == 5:
            event = cells[0].strip("`")
            assert event not in rows, event
            assert cells[3], f"{event}: meaning"
            rows[event] = (set(cells[1].split(", ")), set(re.findall(r"`(\w+)`", cells[2])))
    return rows


def test_page_lists_exactly_the_logged_events() -> None:
    assert len(calls()) > 50
    assert {call.event for call in calls()} | {"library_warned"} == set(table())


def test_page_lists_the_levels_of_every_event() -> None:
    levels: dict[str, set[str]] = {"library_warned": {"warning", "error"}}
    for call in calls():
        levels.setdefault(call.event, set()).add(call.level)
    assert levels == {event: of_page for event, (of_page, _) in table().items()}


def test_page_lists_the_fields_of_every_event() -> None:
    for event, (_, fields) in table().items():
        here = [call for call in calls() if call.event == event]
        logged = {field for call in here for field in call.fields}
        if any(call.is_open for call in here):
            assert fields > logged, event
        elif here:
            assert fields == logged, event


def test_names_are_words_joined_by_underscores() -> None:
    for call in calls():
        for name in (call.event, *call.fields):
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), f"{call.place}: {name}"


def test_lines_about_deliveries_have_their_ids() -> None:
    about = [
        call
        for call in calls()
        if call.event.startswith(("delivery_", "attempt_", "lease_lost", "result_"))
    ]
    assert len(about) >= 7
    for call in about:
        assert call.fields >= OF_DELIVERY, call.place


def test_lines_about_clients_have_their_identity() -> None:
    about = [call for call in calls() if call.place.startswith("bridge/live/connection.py")]
    about += [call for call in calls() if call.place.startswith("bridge/live/stream.py")]
    assert len(about) >= 5
    for call in about:
        assert call.fields >= OF_CLIENT, call.place


async def test_counters_are_named_like_log_events() -> None:
    counters = re.findall(
        r"^# TYPE pgbridge_(\w+)_total counter$", (await render_metrics()).decode(), re.M
    )
    # The event_drained of the log is counted as events_drained.
    singular = {re.sub(r"s(?=_|$)", "", name) for name in counters}
    assert len(singular) > 10
    assert singular - set(table()) == COUNTED_ONLY | COUNTED_OTHERWISE
