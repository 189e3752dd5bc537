"""Follow docs/backups.md with both kinds of restore of the bot."""

import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES, create_roles, init
from tests.docs.guides import Shell, blocks, guide, section
from tests.system.processes import as_role
from tests.system.writers import SIGN_UP

Bot = psycopg.Connection[tuple[Any, ...]]
PAGE = guide("backups.md")
#: What the bot's own backup runs.
BOT_BACKUP = 'pg_dump --no-owner --no-privileges --file bot.sql "$OWNER_URL"'


@pytest.fixture
def shell(own_server: EmbeddedPostgres, tmp_path: Path) -> Shell:
    """A shell of the bot, which owns a database with its tables."""
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        create_roles(admin)
        for role in ("bot", "bot_restore", "dumper"):
            admin.execute(f"create role {role} login".encode())
        admin.execute("create database bot owner bot")
    owner = as_role(own_server.url("bot"), "bot")
    with psycopg.connect(owner, autocommit=True) as bot:
        bot.execute(BOT_TABLES.read_bytes())
    made = Shell("docs/backups.md", tmp_path, own_server, owner)
    made.variables = {
        "OWNER_URL": owner,
        "ADMIN_URL": own_server.url(),
        "RESTORED_URL": as_role(own_server.url("bot_restored"), "bot"),
    }
    return made


def captured(url: str) -> list[str]:
    """Empty the outbox, and return the names of its new users in order."""
    with psycopg.connect(url) as bot:
        rows = bot.execute(
            "with taken as (delete from bridge.outbox returning *)"
            " select payload ->> 'username' from taken order by id"
        ).fetchall()
    return [str(name) for (name,) in rows]


def sign_up(url: str, *names: str) -> None:
    with psycopg.connect(url, autocommit=True) as bot:
        for name in names:
            bot.execute(SIGN_UP, (name,))


@pytest.mark.parametrize("made", ["before pgbridge", "with pgbridge"])
def test_replayed_dump_announces_nothing(shell: Shell, made: str) -> None:
    if made == "before pgbridge":
        shell.run(BOT_BACKUP)
        init(shell.url)
        sign_up(shell.url, "lost")
    else:
        init(shell.url)
        sign_up(shell.url, "kept")
        assert captured(shell.url) == ["kept"]
        shell.run(BOT_BACKUP)
        sign_up(shell.url, "lost")
    assert captured(shell.url) == ["lost"]
    shell.follow(section(PAGE, 4))
    with psycopg.connect(shell.url) as bot:
        kept = bot.execute("select username from public.users").fetchall()
    assert kept == ([("kept",)] if made == "with pgbridge" else [])
    assert captured(shell.url) == []
    assert init(shell.url).steps == []
    sign_up(shell.url, "new")
    assert captured(shell.url) == ["new"]


def test_replaced_rows_are_not_announced(shell: Shell) -> None:
    init(shell.url)
    sign_up(shell.url, "old")
    assert captured(shell.url) == ["old"]
    shell.follow(section(PAGE, 5))
    with psycopg.connect(shell.url) as bot:
        restored = bot.execute("select username from public.users order by id").fetchall()
    assert restored == [("ada",), ("grace",)]
    assert captured(shell.url) == []
    with psycopg.connect(shell.url) as bot:
        bot.execute("select setval('public.users_id_seq', 2)")
    sign_up(shell.url, "new")
    assert captured(shell.url) == ["new"]


def test_other_backups_and_restores_work_as_written(shell: Shell) -> None:
    init(shell.url)
    sign_up(shell.url, "ada")
    assert captured(shell.url) == ["ada"]
    shell.follow(section(PAGE, 1))

    # A login without rights on schema bridge makes a whole dump.
    with psycopg.connect(shell.url, autocommit=True) as bot:
        bot.execute("grant select on all tables in schema public to dumper")
        bot.execute("grant select on all sequences in schema public to dumper")
    dump = ["bash", "-c", f'"{shell.server.bin}/pg_dump" --file all.sql "$0"']
    dump.append(as_role(shell.url, "dumper"))
    done = subprocess.run(dump, cwd=shell.directory, capture_output=True, text=True, check=False)
    assert "permission denied for schema bridge" in done.stderr
    admin = Shell(shell.page, shell.directory, shell.server, shell.server.url("bot"))
    admin.stands_for = {"to bot;": "to dumper;"}
    admin.follow(section(PAGE, 2))
    subprocess.run(dump, cwd=shell.directory, check=True)

    admin.follow(section(PAGE, 3))
    with psycopg.connect(as_role(shell.url, "bot_restore")) as restorer:
        assert restorer.execute("show bridge.capture").fetchone() == ("off",)

    with psycopg.connect(shell.url, autocommit=True) as bot:
        bot.execute("delete from public.users")
    shell.follow(section(PAGE, 6))
    with psycopg.connect(shell.url) as bot:
        assert bot.execute("select username from public.users").fetchall() == [("ada",)]
    assert captured(shell.url) == []

    shell.follow(section(PAGE, 7))
    restored = shell.variables["RESTORED_URL"]
    sign_up(restored, "new")
    assert captured(restored) == ["new"]

    shell.follow(section(PAGE, 8))
    with psycopg.connect(shell.url) as bot:
        events = bot.execute("select event_type from bridge.outbox").fetchall()
    assert events == [("bot.restored",)]


def test_every_section_with_commands_is_followed() -> None:
    commands = {number for number in range(9) if blocks(section(PAGE, number))}
    assert commands == {1, 2, 3, 4, 5, 6, 7, 8}
