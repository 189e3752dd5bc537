"""Several processes write to one log, and a line stays a line."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, structlog
from bridge.logs import configure_logs

class Recorder:
    def __init__(self):
        self.writes = []
    def write(self, text):
        self.writes.append(text)
    def flush(self):
        pass
    def isatty(self):
        return False

sys.stderr = recorder = Recorder()
configure_logs({worker})
structlog.get_logger().info("it_happened", what=1)
print(json.dumps(recorder.writes))
"""


def writes(worker: int | None) -> list[str]:
    """Return what each write of a process that logs one event has."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{worker}", str(worker))],
        capture_output=True,
        check=True,
    )
    written: list[str] = json.loads(done.stdout)
    return written


def test_a_line_is_written_at_once_and_says_whose_it_is() -> None:
    [line] = writes(2)
    assert line.endswith("\n")
    event = json.loads(line)
    assert (event["event"], event["what"], event["worker"]) == ("it_happened", 1, 2)


def test_a_bridge_alone_has_no_number() -> None:
    [line] = writes(None)
    assert "worker" not in json.loads(line)
