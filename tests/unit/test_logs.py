"""What is logged comes out as lines, and docs/logs.md has every event that the code can log."""

from __future__ import annotations

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

# --- what comes out

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
    """Return what each write to standard error has of a process that does this."""
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


def test_a_line_is_written_at_once_and_says_whose_it_is() -> None:
    [line] = writes('log.info("it_happened", what=1)', "worker=2")
    assert line.endswith("\n")
    event = json.loads(line)
    assert (event["event"], event["what"], event["worker"]) == ("it_happened", 1, 2)


def test_a_bridge_alone_has_no_number() -> None:
    [line] = writes('log.info("it_happened")')
    assert "worker" not in json.loads(line)


EVERY_LEVEL = """
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)("it_happened")
log.info("it_ended", items=logs.logs_items())
"""


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_less_than_the_level_is_left_out(level: str, told: list[str]) -> None:
    lines = [json.loads(line) for line in writes(EVERY_LEVEL, repr(level))]
    assert [line["level"] for line in lines if line["event"] == "it_happened"] == told
    items = [line["items"] for line in lines if line["event"] == "it_ended"]
    assert items == {"debug": [True], "info": [False]}.get(level, [])


def test_people_get_text_if_they_ask_for_it() -> None:
    [line] = writes('log.info("it_happened", what=1)', "format_='console'")
    assert re.search(r"\[info +\] it_happened +what=1\n$", line)
    assert "\x1b" not in line, "colours are for terminals"


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
def test_what_libraries_say_is_a_line_like_all_others(level: str) -> None:
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


NOBODY_CAUGHT = """
class Falls:
    def __del__(self):
        1 / 0
Falls()
gc.collect()
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
"""


def test_what_nobody_can_catch_is_a_line_with_its_traceback() -> None:
    finalizer, thread = [json.loads(line) for line in writes(NOBODY_CAUGHT)]
    assert (finalizer["event"], thread["event"]) == ("exception_ignored", "thread_crashed")
    assert finalizer["exception"].endswith("ZeroDivisionError: division by zero")
    assert thread["exception"].endswith("IndexError: list index out of range")


# --- docs/logs.md

LEVELS = ("debug", "info", "warning", "error", "exception")
#: What ``about`` of a delivery and of a client gives: fields that all lines about these have.
OF_DELIVERY = {"delivery_id", "webhook_id", "event_id", "attempt"}
OF_CLIENT = {"client", "address", "token"}
#: Counted, and told by no line of its own: the application writes it; ends of attempts are told as
#: what becomes of the delivery; strangers could fill the log; the database and /metrics tell it.
COUNTED_ONLY = {"event_captured", "delivery_attempt", "login_failed", "doorbell_switche"}
#: Counted under the name that is usual in Prometheus; `capture_failed` and `request_completed`.
COUNTED_OTHERWISE = {"capture_error", "request"}


@dataclass(frozen=True)
class Call:
    """A place where the code logs an event."""

    event: str
    level: str
    fields: frozenset[str]
    #: Further fields come from somewhere else.
    is_open: bool
    place: str


@cache
def calls() -> list[Call]:
    """Return all places in the code that log."""
    found: list[Call] = []
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        tellers = dict(_tellers(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                found += _logged(node, path.parent.name, tellers, place)
    return found


def _is_log(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node) == "structlog.get_logger()"
    return isinstance(node, ast.Name) and node.id == "log"


def _levels(node: ast.AST) -> list[str]:
    """Return the levels of ``log.info``, and of ``log.info if … else log.error``."""
    if isinstance(node, ast.IfExp):
        return [*_levels(node.body), *_levels(node.orelse)]
    if isinstance(node, ast.Attribute) and _is_log(node.value) and node.attr in LEVELS:
        return ["error" if node.attr == "exception" else node.attr]
    return []


def _tellers(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Yield the variables that stand for a method of the log."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (levels := _levels(node.value)):
            [target] = node.targets
            if isinstance(target, ast.Name):
                yield target.id, levels


def _logged(call: ast.Call, room: str, tellers: dict[str, list[str]], place: str) -> Iterator[Call]:
    levels, arguments = _levels(call.func), call.args
    if isinstance(call.func, ast.Name):
        levels = tellers.get(call.func.id, [])
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
        assert isinstance(event, ast.Constant), f"{place}: the name of an event is written out"
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
            assert cells[3], f"{event}: what it means"
            rows[event] = (set(cells[1].split(", ")), set(re.findall(r"`(\w+)`", cells[2])))
    return rows


def test_the_page_has_every_event_that_the_code_logs_and_no_other() -> None:
    assert len(calls()) > 50
    assert {call.event for call in calls()} | {"library_warned"} == set(table())


def test_the_page_has_the_levels_of_every_event() -> None:
    levels: dict[str, set[str]] = {"library_warned": {"warning", "error"}}
    for call in calls():
        levels.setdefault(call.event, set()).add(call.level)
    assert levels == {event: of_page for event, (of_page, _) in table().items()}


def test_the_page_has_the_fields_of_every_event() -> None:
    for event, (_, fields) in table().items():
        here = [call for call in calls() if call.event == event]
        logged = {field for call in here for field in call.fields}
        if any(call.is_open for call in here):
            assert fields > logged, event
        elif here:
            assert fields == logged, event


def test_names_of_events_and_fields_are_words_joined_by_underscores() -> None:
    for call in calls():
        for name in (call.event, *call.fields):
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), f"{call.place}: {name}"


def test_a_line_about_a_delivery_names_it_its_webhook_its_event_and_the_attempt() -> None:
    about = [
        call
        for call in calls()
        if call.event.startswith(("delivery_", "attempt_", "lease_lost", "result_"))
    ]
    assert len(about) >= 7
    for call in about:
        assert call.fields >= OF_DELIVERY, call.place


def test_a_line_about_a_client_of_the_stream_says_which() -> None:
    about = [call for call in calls() if call.place.startswith("bridge/live/connection.py")]
    about += [call for call in calls() if call.place.startswith("bridge/live/stream.py")]
    assert len(about) >= 5
    for call in about:
        assert call.fields >= OF_CLIENT, call.place


async def test_what_is_counted_has_the_name_of_what_is_logged() -> None:
    counters = re.findall(
        r"^# TYPE pgbridge_(\w+)_total counter$", (await render_metrics()).decode(), re.M
    )
    # events_drained counts what event_drained tells of.
    singular = {re.sub(r"s(?=_|$)", "", name) for name in counters}
    assert len(singular) > 10
    assert singular - set(table()) == COUNTED_ONLY | COUNTED_OTHERWISE
