"""A standby is promoted under load."""

import pytest

from bridge.demo.postgres import EmbeddedPostgres
from tests.stress.chaos.failover import promote


@pytest.mark.parametrize("is_synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_promotion_of_a_standby_loses_nothing_that_it_has(
    own_server: EmbeddedPostgres, *, is_synchronous: bool
) -> None:
    outcome = promote(own_server, is_synchronous=is_synchronous, report=print)
    assert not outcome.problems
