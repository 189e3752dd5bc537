"""The verdict of the hostile test notices every error of what honest clients receive."""

import json
from dataclasses import replace

import pytest

from tests.stress.chaos.verdict import Arrival
from tests.stress.hostile.run import misled

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
