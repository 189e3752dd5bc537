"""``pause_after``: a slow reading is followed by a long pause, but not by an endless one."""

import pytest

from bridge.operations.pacing import pause_after


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 2.0), (0.2, 2.0), (0.5, 5.0), (1.0, 10.0), (600.0, 10.0)]
)
def test_pause_grows_with_the_reading_up_to_a_limit(took: float, pause: float) -> None:
    assert pause_after(took, 2.0, 10.0) == pause
