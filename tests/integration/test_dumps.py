"""init and doctor name roles whose dumps of the database fail because of schema bridge."""

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import init
from tests.integration.doctor.conftest import Bot, diagnose

BACKUP = "backup_of_tests"


@pytest.fixture
def backup_url(bot_url: str) -> Iterator[str]:
    """The URL of a login that may read everything in the bot's database."""
    with psycopg.connect(bot_url, autocommit=True) as connection:
        connection.execute(
            f"create role {BACKUP} login; grant usage on schema public to {BACKUP};"
            f" grant select on all tables in schema public to {BACKUP};"
            f" grant select on all sequences in schema public to {BACKUP}".encode()
        )
        yield make_conninfo(bot_url, user=BACKUP)
        connection.execute(f"drop owned by {BACKUP}; drop role {BACKUP}".encode())


def dumps(server: EmbeddedPostgres, url: str, *options: str) -> bool:
    command = [str(server.bin / "pg_dump"), "--schema-only", *options, url]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("remedy", ["grant", "exclude"])
def test_role_that_could_dump_before_is_named(
    server: EmbeddedPostgres, bot_url: str, backup_url: str, remedy: str
) -> None:
    assert dumps(server, backup_url)
    [remark] = init(bot_url).remarks
    assert remark.startswith(f"role {BACKUP} can read every table except those of schema bridge")
    assert not dumps(server, backup_url)
    found = diagnose(bot_url)["dumps"]
    assert found.level == "warning"
    assert found.message == remark.split("; ")[0]
    if remedy == "exclude":
        assert dumps(server, backup_url, "--exclude-schema=bridge")
        return
    with psycopg.connect(bot_url) as connection:
        connection.execute(found.hint.split("or run: ")[1].encode())
    assert dumps(server, backup_url)
    assert diagnose(bot_url)["dumps"].level == "ok"


@pytest.mark.parametrize(
    "change",
    [
        f"revoke select on public.users from {BACKUP}",
        f"revoke usage on schema public from {BACKUP}; revoke usage on schema public from public",
        f"alter role {BACKUP} nologin",
        f"alter role {BACKUP} superuser",
    ],
)
def test_role_that_cannot_dump_anyway_is_not_named(
    bot_url: str, backup_url: str, change: str
) -> None:
    with psycopg.connect(bot_url) as connection:
        connection.execute(change.encode())
    assert init(bot_url).remarks == []
    assert diagnose(bot_url)["dumps"].level == "ok"


def test_service_and_reader_are_not_named(bridge_url: str, bot: Bot) -> None:
    assert diagnose(bridge_url)["dumps"].level == "ok"
