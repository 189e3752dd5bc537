"""What a benchmark found, and the database that it found it on."""

from dataclasses import dataclass
from itertools import count

import psycopg

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, init


@dataclass(frozen=True)
class Result:
    """A figure beside its reference, both in ``unit``."""

    name: str
    measured: float
    reference: float
    unit: str
    against: str
    #: What the ratio is to be, as the documentation says it.
    mark: str = ""

    @property
    def ratio(self) -> float:
        return self.measured / self.reference


_NUMBERS = count(1)


def new_database(server: EmbeddedPostgres) -> str:
    """Create a database with the bot's tables and pgbridge; return its URL."""
    name = f"bench_{next(_NUMBERS)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = server.url(name)
    with psycopg.connect(url) as connection:
        connection.execute(BOT_TABLES.read_bytes())
    init(url)
    return url
