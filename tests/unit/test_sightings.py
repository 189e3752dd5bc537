"""A thing counts as seen only for as long as looks follow each other closely."""

from datetime import UTC, datetime, timedelta

from bridge.database.sightings import GAP_SECONDS, Sightings

START = datetime(2026, 1, 15, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_seconds_count_from_the_first_sighting() -> None:
    sightings = Sightings[str]()
    assert sightings.record(["a"], at(0)) == {"a": 0}
    assert sightings.record(["a", "b"], at(1)) == {"a": 1, "b": 0}
    assert sightings.record(["b"], at(2.5)) == {"b": 1.5}


def test_absence_starts_over() -> None:
    sightings = Sightings[str]()
    sightings.record(["a"], at(0))
    sightings.record([], at(1))
    assert sightings.record(["a"], at(2)) == {"a": 0}
    assert not sightings.interrupted


def test_gap_starts_over() -> None:
    """The observer was frozen, and perhaps what it observes as well."""
    sightings = Sightings[str]()
    sightings.record(["a"], at(0))
    assert sightings.record(["a"], at(GAP_SECONDS + 0.1)) == {"a": 0}
    assert sightings.interrupted
    assert sightings.record(["a"], at(GAP_SECONDS + 1.1)) == {"a": 1}
    assert not sightings.interrupted


def test_clock_that_is_set_back_starts_over() -> None:
    sightings = Sightings[str]()
    sightings.record(["a"], at(0))
    assert sightings.record(["a"], at(-3600)) == {"a": 0}
    assert sightings.interrupted
