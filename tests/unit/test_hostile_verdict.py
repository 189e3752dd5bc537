"""The verdict of the hostile test notices every error, and names the bound that was broken."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tests.stress.chaos.verdict import Arrival
from tests.stress.hostile.verdict import (
    Bounds,
    Figures,
    Latency,
    broken,
    gained,
    misled,
)

COMMITTED = ["u1", "u2", "u3"]
RECEIVED = [(1, "u1"), (2, "u2"), (5, "u3")]
ARRIVALS = [
    Arrival(
        message_id=f"evt_{event_id}_wh_1",
        webhook_id="1",
        event_type="user.created",
        body=json.dumps({"username": key}).encode(),
        verified=True,
        accepted=True,
    )
    for event_id, key in RECEIVED
]


def test_correct_figures_pass() -> None:
    # Deliveries may overtake one another.
    assert list(misled(COMMITTED, RECEIVED, ARRIVALS[::-1])) == []


@pytest.mark.parametrize(
    ("received", "arrivals", "problem"),
    [
        pytest.param(RECEIVED[:2], ARRIVALS, "exactly the commits", id="one missing"),
        pytest.param([*RECEIVED, (6, "u9")], ARRIVALS, "exactly the commits", id="one more"),
        pytest.param([*RECEIVED, RECEIVED[2]], ARRIVALS, "twice", id="one twice"),
        pytest.param(RECEIVED[::-1], ARRIVALS, "out of order", id="disorder"),
        pytest.param(RECEIVED, ARRIVALS[1:], "1 events were not delivered", id="not delivered"),
        pytest.param(RECEIVED, ARRIVALS * 2, "3 deliveries arrived twice", id="delivered twice"),
        pytest.param(
            RECEIVED,
            [*ARRIVALS[:2], replace(ARRIVALS[2], verified=False)],
            "evt_5_wh_1 has an invalid signature",
            id="forged",
        ),
    ],
)
def test_wrong_figures_are_reported(
    received: list[tuple[int, str]], arrivals: list[Arrival], problem: str
) -> None:
    assert any(problem in line for line in misled(COMMITTED, received, arrivals))


BOUNDS = Bounds(
    latency_share=2.0,
    latency_ms=50.0,
    drain_seconds=7.5,
    bridge_mib=400.0,
    backend_mib=300.0,
    growth_share=0.1,
    growth_mib=10.0,
)
#: Everything at its bound.
FIGURES = Figures(
    quiet_cpu_percent=30.0,
    rest=Latency(quiet_ms=60.0, attacked_ms=120.0),
    stream=Latency(quiet_ms=5.0, attacked_ms=55.0),
    requests=1000,
    answered=1000,
    unavailable=0,
    fresh_mib=90.0,
    before_mib=100.0,
    peak_mib=400.0,
    after_mib=120.0,
    descriptors_before=7,
    descriptors_after=7,
    backend_mib=300.0,
    backend="client backend bridge_login",
    drain_wait_seconds=7.5,
    most_waiting=10_000,
    drain_timeouts=1,
    tracebacks=0,
    rights=[],
)


def test_figures_at_their_bounds_pass() -> None:
    assert list(broken(FIGURES, BOUNDS)) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            {"rest": Latency(quiet_ms=60.0, attacked_ms=121.0)},
            "latency: REST took 121 ms (p99) under attack, and 60 ms before; allowed: 120 ms",
        ),
        (
            {"stream": Latency(quiet_ms=5.0, attacked_ms=56.0)},
            "latency: commit to stream took 56 ms (p99) under attack, and 5 ms before;"
            " allowed: 55 ms",
        ),
        (
            {"stream": Latency(quiet_ms=math.nan, attacked_ms=5.0)},
            "latency: commit to stream took 5 ms (p99) under attack, and nan ms before;"
            " allowed: nan ms",
        ),
        ({"unavailable": 1}, "requests: 1 honest requests got 503"),
        ({"answered": 999}, "requests: 999 of 1000 honest requests were answered"),
        (
            {"requests": 0, "answered": 0},
            "requests: 0 of 0 honest requests were answered",
        ),
        (
            {"drain_wait_seconds": 7.6},
            "drain: an event was the oldest in the outbox for 7.6 s, and 1 drains timed out;"
            " allowed: 7.5 s",
        ),
        ({"peak_mib": 401.0}, "memory: the bridge used 401 of 400 MiB"),
        (
            {"backend_mib": 301.0},
            "memory: a process of PostgreSQL (client backend bridge_login) used 301 of 300 MiB",
        ),
        (
            {"after_mib": 120.1},
            "leak: the bridge kept 120.1 MiB, and had 100.0 before; allowed: 120.0",
        ),
        ({"descriptors_after": 8}, "leak: 8 open files after the attack, 7 before"),
        ({"rights": ["code ran as x"]}, "rights: code ran as x"),
    ],
    ids=[
        "REST", "stream", "no quiet phase", "unavailable", "unanswered", "no requests", "drain",
        "bridge", "backend", "leak", "files", "rights",
    ],
)  # fmt: skip
def test_verdict_names_the_broken_bound(wrong: dict[str, Any], problem: str) -> None:
    assert list(broken(replace(FIGURES, **wrong), BOUNDS)) == [problem]


def test_gained_rights_are_reported() -> None:
    before = {"role clerk": "f t", "relation public.users": "shop"}
    allowed = {"tenant", "group"}
    assert list(gained(before, dict(before), {"tenant", "group"}, allowed)) == []
    assert list(
        gained(before, {"role clerk": "t t", "member clerk of shop": "t"}, {"root"}, allowed)
    ) == [
        "member clerk of shop was None and is 't'",
        "relation public.users was 'shop' and is None",
        "role clerk was 'f t' and is 't t'",
        "code of the table owner ran as root",
    ]
    assert list(gained(before, before, set(), allowed)) == ["no code of the table owner ran"]
