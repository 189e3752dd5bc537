"""Fixtures of the unit tests."""

import pytest

from bridge.live import history


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit pages of the log to three events, so that a few events are many pages."""
    monkeypatch.setattr(history, "PAGE_EVENTS", 3)
