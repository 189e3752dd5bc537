"""A short chaos test: every fault once."""

from bridge.demo.postgres import EmbeddedPostgres
from tests.stress.chaos.faults import FAULTS
from tests.stress.chaos.run import run

ROUNDS = 1


# `make chaos` runs longer and lets circuit breakers close by themselves.
def test_chaos_loses_nothing_and_repeats_only_attempts_in_flight(
    own_server: EmbeddedPostgres,
) -> None:
    outcome = run(own_server, seed=1, report=print, rounds=ROUNDS, is_patient=False, per_second=3)
    assert not outcome.problems
    assert outcome.faults == dict.fromkeys(FAULTS, ROUNDS)
    assert outcome.lost == 0
    assert outcome.duplicates <= outcome.in_flight_at_faults
