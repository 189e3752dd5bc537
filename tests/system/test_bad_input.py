"""Every error is one line, with the right exit code."""

import itertools
import re
import socket
from pathlib import Path

import httpx
import psycopg
import pytest

from bridge import assets
from bridge.demo.postgres import EmbeddedPostgres
from tests.system.processes import SERVICE_LOGIN, TOKEN, complaint, invoked, pgbridge, running
from tests.waiting import until
from tests.webhook_rows import add_webhook

NOWHERE = "postgresql://nobody:hunter2@127.0.0.1:1/nothing"
DATABASE_COMMANDS = [
    ("init",),
    ("init", "--dry-run"),
    ("uninstall", "--yes"),
    ("run",),
    ("status",),
    ("token", "create", "--name", "x"),
    ("token", "list"),
    ("token", "revoke", "1"),
    ("webhooks", "list"),
]


@pytest.mark.parametrize("command", DATABASE_COMMANDS, ids=" ".join)
def test_unreachable_database_fails_in_one_line(command: tuple[str, ...]) -> None:
    line = complaint(pgbridge(*command, url=NOWHERE), 1)
    assert "cannot connect to the database" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("command", [("init",), ("run",)], ids=" ".join)
def test_missing_database_is_named(command: tuple[str, ...], server: EmbeddedPostgres) -> None:
    line = complaint(pgbridge(*command, url=server.url("no_such_database")), 1)
    assert 'database "no_such_database" does not exist' in line


@pytest.mark.parametrize("command", DATABASE_COMMANDS, ids=" ".join)
def test_missing_database_url_is_wrong_usage(command: tuple[str, ...]) -> None:
    line = complaint(invoked(*command, url=None), 2)
    assert "BRIDGE_DATABASE_URL is not set" in line


@pytest.mark.parametrize("url", ["mysql://localhost/x", "localhost", "postgresql://host:port/x"])
def test_invalid_database_url_is_wrong_usage(url: str) -> None:
    assert "BRIDGE_DATABASE_URL" in complaint(invoked("run", url=url), 2)


def test_invalid_setting_is_named() -> None:
    assert "BRIDGE_PORT" in complaint(invoked("run", url=NOWHERE, port="eighty"), 2)
    assert "BRIDGE_PORT" in complaint(invoked("run", url=NOWHERE, port=70000), 2)
    assert "BRIDGE_POLL_SECONDS" in complaint(invoked("run", url=NOWHERE, poll_seconds=0), 2)
    wrong_schedule = invoked("run", url=NOWHERE, retry_schedule="1,x")
    assert "BRIDGE_RETRY_SCHEDULE" in complaint(wrong_schedule, 2)


def test_missing_or_invalid_config_file_is_wrong_usage(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert str(missing) in complaint(invoked("run", url=NOWHERE, config=missing), 2)
    for text in ("this is not TOML", "colour = 'blue'", "port = 'x'"):
        wrong = tmp_path / "pgbridge.toml"
        wrong.write_text(text)
        complaint(invoked("run", url=NOWHERE, config=wrong), 2)


def test_wrong_usage_exits_with_2() -> None:
    for arguments in (
        ("fly",),
        ("init", "--wet-run"),
        ("token", "create"),
        ("demo", "--seconds", "x"),
    ):
        result = invoked(*arguments, url=NOWHERE)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
    for scope in ("all", "events:read:tick*", "webhooks:read:ticket.*"):
        create = ("token", "create", "--name", "x", "--scope", scope)
        assert f"unknown scope '{scope}'" in complaint(invoked(*create, url=NOWHERE), 2)
    for name in ("", " ", "a\nb", "\udcff", "x" * 256):
        assert "--name" in complaint(invoked("token", "create", "--name", name, url=NOWHERE), 2)


def test_version_needs_no_database() -> None:
    result = invoked("--version", url=NOWHERE)
    assert (result.returncode, result.stdout) == (0, f"pgbridge {assets.version()}\n")


def test_narrow_tables_wrap_instead_of_truncating(
    bridge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, scope = "the-dashboard-of-the-shop", "events:read:ticket.status_changed"
    pgbridge("token", "create", "--name", name, "--scope", scope, url=bridge_url)
    url = "https://receiver.example/hooks/pgbridge/payments?tenant=1"
    with psycopg.connect(bridge_url) as connection:
        add_webhook(connection, url, name=name, event_type="payment.completed")
    for command, texts in (("token", (name, scope)), ("webhooks", (name, url))):
        lines = pgbridge(command, "list", url=bridge_url).stdout.splitlines()
        [rule] = [number for number, line in enumerate(lines) if set(line) == {"─"}]
        assert max(map(len, lines)) <= 80
        starts = [match.start() for match in re.finditer(r"\S+( \S+)*", lines[rule - 1])]
        cells = {
            "".join(line[start:end].strip() for line in lines[rule + 1 :])
            for start, end in itertools.zip_longest(starts, starts[1:])
        }
        assert set(texts) <= cells


def test_init_names_a_missing_application_table(empty_url: str) -> None:
    for command in (("init",), ("init", "--dry-run")):
        line = complaint(pgbridge(*command, url=empty_url), 1)
        assert "table public.tickets does not exist; check" in line
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select to_regnamespace('bridge')").fetchone() == (None,)


def test_commands_ask_for_init_in_a_new_database(bot_url: str) -> None:
    for command in (("run",), ("status",), ("token", "list"), ("token", "create", "--name", "x")):
        assert "pgbridge init" in complaint(pgbridge(*command, url=bot_url), 1)
    result = pgbridge("uninstall", "--yes", url=bot_url)
    assert (result.returncode, result.stderr) == (
        0,
        "pgbridge is not installed in this database\n",
    )


def test_role_without_privileges_is_refused(bot_url: str, bridge_url: str) -> None:
    with psycopg.connect(bot_url, autocommit=True) as connection:
        connection.execute("drop role if exists nobody_special")
        connection.execute("create role nobody_special login")
    for command, url in [
        (("init",), bot_url),
        (("run",), bridge_url),
        (("status",), bridge_url),
        (("token", "list"), bridge_url),
        (("uninstall", "--yes"), bridge_url),
    ]:
        weak = url.replace("postgres:@", "nobody_special:@")
        assert "permission denied" in complaint(pgbridge(*command, url=weak), 1)


async def test_unreadable_bot_tokens_do_not_stop_the_start(
    bridge_url: str, bot: psycopg.Connection[object]
) -> None:
    async with (
        running(bridge_url, bot_tokens="on") as bridge,
        httpx.AsyncClient(base_url=bridge.rest_url) as http,
    ):
        await until(lambda: bool(bridge.logged("bot_tokens_rejected")))
        [entry] = bridge.logged("bot_tokens_rejected")
        assert entry["level"] == "warning"
        assert entry["reason"] == "table public.web_api_tokens does not exist"

        async def status(token: str) -> int:
            return (await http.get("/webhooks", headers={"X-API-Key": token})).status_code

        assert (await status(TOKEN), await status("bot-token")) == (200, 503)
        bot.execute(
            "create table public.web_api_tokens as select 1 as id, 'panel' as name,"
            " encode(sha256('bot-token'), 'hex') as token_hash, true as is_active,"
            " null::timestamptz as expires_at"
        )
        assert await status("bot-token") == 503
        [entry] = bridge.logged("bot_token_lookup_failed")
        bot.execute(f"grant select on public.web_api_tokens to {SERVICE_LOGIN}".encode())
        assert (await status("bot-token"), await status("other")) == (200, 401)


def test_invalid_settings_of_bot_tokens_are_named(bridge_url: str) -> None:
    for setting, value in (("bot_tokens", "maybe"), ("bot_tokens_algorithm", "md5")):
        assert setting.upper() in complaint(invoked("run", url=bridge_url, **{setting: value}), 2)


def test_port_in_use_is_named(bridge_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = complaint(pgbridge("run", url=bridge_url, port=port, token="t"), 1)
    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_foreign_host_is_named(bridge_url: str) -> None:
    line = complaint(pgbridge("run", url=bridge_url, host="192.0.2.1", token="t"), 1)
    assert "cannot listen on 192.0.2.1:8080" in line


def test_newer_schema_is_refused(bridge_url: str, bot: psycopg.Connection[object]) -> None:
    bot.execute("insert into bridge.migrations (version, name, checksum) values (9999, 'x', 'y')")
    for command in (("init",), ("run",), ("status",)):
        assert "newer" in complaint(pgbridge(*command, url=bridge_url), 1)


def test_older_schema_asks_for_init(bridge_url: str, bot: psycopg.Connection[object]) -> None:
    bot.execute("delete from bridge.migrations where version > 1")
    for command in ("run", "status"):
        assert "run: pgbridge init" in complaint(pgbridge(command, url=bridge_url), 1)
