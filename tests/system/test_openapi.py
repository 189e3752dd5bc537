"""A running bridge conforms to its OpenAPI document.

Schemathesis sends valid and invalid requests, and sequences of them.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from tests.integration.calling import add_finished
from tests.system.processes import TOKEN, running
from tests.waiting import PATIENCE_SECONDS

OPENAPI = Path(__file__).parent / "openapi"
#: On PYTHONPATH, it restricts a process to loopback.
FENCE = OPENAPI / "fence"
PHASES = ("examples", "coverage", "fuzzing", "stateful")

Bot = psycopg.Connection[tuple[Any, ...]]


async def schemathesis(
    url: str, report: Path, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    """Run schemathesis on the API at this URL, with a report."""
    return await trio.run_process(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(OPENAPI / "schemathesis.toml")),
            *("run", f"{url}/openapi.json"),
            *("--checks", "all", "--phases", ",".join(PHASES), "--mode", "all"),
            *("--report-ndjson-path", str(report), "--no-color"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": f"{FENCE}{os.pathsep}{OPENAPI}",
            "PYTHONHASHSEED": "0",  # deterministic
            **environ,
        },
        cwd=report.parent,
        stdin=b"",
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )


def scenarios(report: Path) -> Iterator[dict[str, Any]]:
    """Yield the scenarios: single operations or sequences of them."""
    for line in report.read_text("utf-8").splitlines():
        if (finished := json.loads(line).get("ScenarioFinished")) is not None:
            yield finished


async def test_bridge_conforms_to_its_openapi_document(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FENCE))
    report = tmp_path / "report.ndjson"
    # Its thousands of requests take half a minute on a quiet machine.
    with trio.fail_after(4 * PATIENCE_SECONDS):
        # Schemathesis sends requests without pauses, some with invalid tokens.
        unlimited = {"requests_per_second": 0, "failed_logins_per_minute": 0}
        async with running(bridge_url, **unlimited) as bridge:
            headers = {"X-API-Key": TOKEN}
            async with httpx.AsyncClient(base_url=bridge.rest_url, headers=headers) as client:
                form = {"name": "n", "url": "http://127.0.0.1:1/", "event_type": "*"}
                webhook = (await client.post("/webhooks", json=form)).json()
                document = (await client.get("/openapi.json")).json()
            delivery = add_finished(bot, webhook["id"], "failed")
            bot.execute(
                "insert into bridge.dead_letters"
                " (outbox_id, event_type, payload, captured_at, reason)"
                " select n, 'a.b', '{\"n\": 1}', now(), 'no way' from generate_series(1, 1000) as n"
            )
            ran = await schemathesis(
                bridge.rest_url, report, TOKEN=TOKEN, DELIVERY_ID=str(delivery)
            )
            faults = bridge.logged("request_failed") + bridge.logged("connection_crashed")
    assert ran.returncode == 0, ran.stdout.decode()
    assert faults == []

    tested, answered = defaultdict(set), defaultdict(set)
    for scenario in scenarios(report):
        label = scenario["recorder"]["label"]
        tested[scenario["phase"]].add(label)
        for interaction in scenario["recorder"].get("interactions", {}).values():
            answered[label].add(interaction["response"]["status_code"])
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(tested) == set(PHASES)
    assert tested["coverage"] == tested["fuzzing"] == set(operations)
    for label, operation in operations.items():
        # Requests both succeeded and failed.
        documented = {int(status) for status in operation["responses"]}
        expected = {status for status in documented if status < 300 or status in (401, 404)}
        if "parameters" in operation or "requestBody" in operation:
            expected.add(422)
        assert expected <= answered[label], label


def test_fence_allows_only_loopback() -> None:
    program = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
    socket.create_connection(("localhost", server.getsockname()[1])).close()
for host in "192.0.2.1", "::ffff:192.0.2.1":
    try:
        socket.create_connection((host, 80), timeout=0.1)
    except ConnectionRefusedError as error:
        assert "may not talk" in str(error), error
    else:
        sys.exit(f"reached {host}")
for name in "example.com", b"example.com":
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror as error:
        assert "no names" in str(error), error
    else:
        sys.exit(f"asked for {name}")
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(FENCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
