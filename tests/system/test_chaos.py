"""A short chaos test: every fault a few times."""

from collections.abc import Iterator

import pytest

from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres
from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.run import run

ROUNDS = 2


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that the test may stop."""
    with embedded_postgres() as server:
        yield server


# `make chaos` runs longer and lets leases expire by themselves.
def test_chaos_loses_nothing_and_repeats_only_attempts_in_flight(
    own_server: EmbeddedPostgres,
) -> None:
    outcome = run(own_server, seed=1, report=print, rounds=ROUNDS, is_patient=False, per_second=3)
    assert not outcome.problems
    assert outcome.faults == dict.fromkeys(FAULTS, ROUNDS)
    assert outcome.lost == 0
    assert outcome.duplicates <= outcome.in_flight_at_faults
