"""The tutorial leads from the demo to a verified webhook."""

import signal
import subprocess
from pathlib import Path

import httpx

from bridge.demo import child
from tests.docs.guides import ROOT, SECONDS, blocks, guide, shows
from tests.system.test_demo import end, start


def where_everything_is(demo: subprocess.Popen[str]) -> dict[str, str]:
    """Read the demo's output until the bot works; return its values by name."""
    assert demo.stdout is not None
    said: dict[str, str] = {}
    for line in demo.stdout:
        if line.startswith("running"):
            return said
        name, _, what = line.strip().partition(" ")
        if name:
            said[name] = what.strip()
    raise AssertionError("the demo has ended")


def run(commands: str) -> None:
    """Run commands in a new shell, in the clone."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"


def test_first_steps_lead_to_a_verified_webhook(tmp_path: Path) -> None:
    page = guide("first-steps.md")
    port = child.free_port()
    here = page.replace("/tmp/", f"{tmp_path}/").replace("127.0.0.1:9000", f"127.0.0.1:{port}")
    demo, receiver = start(), None
    try:
        said = where_everything_is(demo)
        shown = next(block for kind, block in blocks(page) if block.startswith("console"))
        assert [line.split()[0] for line in shown.splitlines()] == list(said)[-6:]
        for kind, block in blocks(here):
            if kind == "sh" and "receiver.py" in block:
                receiver = subprocess.Popen(
                    ["bash", "-c", f"exec env PORT={port} {block}"],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert receiver.stdout is not None
                assert "listening" in receiver.stdout.readline()
            elif kind == "sh":
                run(f"{said['shell']}\n{block}")
            elif block.startswith("evt_"):
                assert receiver is not None
                assert receiver.stdout is not None
                shows(block, receiver.stdout.readline())
        # The demo's own count ignores changes by the user.
        rest_url = said["REST"].partition("/docs")[0]
        sent = httpx.get(
            f"{rest_url}/webhooks/3/deliveries",
            headers={"X-API-Key": said["token"]},
            timeout=SECONDS,
            trust_env=False,
        ).json()
        assert [each["event_type"] for each in sent["items"]] == ["order.created"]
    finally:
        if receiver is not None:
            receiver.kill()
            receiver.communicate()
        demo.send_signal(signal.SIGTERM)
        code, figures, errors = end(demo)
    assert (code, errors) == (0, "")
    assert figures["lost"] == 0
