"""The result of a benchmark, and its database."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import psycopg

from bridge.capture.rules import Rule
from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, init


@dataclass(frozen=True)
class Result:
    """A figure and its reference, both in ``unit``."""

    name: str
    measured: float
    reference: float
    unit: str
    against: str
    #: The ratio that the documentation promises.
    mark: str = ""
    #: The median of the ratios of alternating rounds.
    median_ratio: float | None = None

    @property
    def ratio(self) -> float:
        return self.median_ratio or self.measured / self.reference


_NUMBERS = count(1)


def new_database(server: EmbeddedPostgres, rules: Sequence[Rule] | None = None) -> str:
    """Create a database with the bot's tables; return its URL.

    pgbridge is installed there with the bot's preset, or with these rules, or not at all for none.
    """
    name = f"bench_{next(_NUMBERS)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = server.url(name)
    with psycopg.connect(url) as connection:
        connection.execute(BOT_TABLES.read_bytes())
    if rules is None or rules:
        init(url, rules)
    return url
