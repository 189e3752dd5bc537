"""Names cannot control a reader's terminal: refused on the way in, visible on the way out."""

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge import assets
from bridge.capture.rules import RuleError, parse_rules
from bridge.terminal.visible import CONTROLS
from tests.integration.calling import FORM, Bot, assert_refused, calling, create
from tests.integration.console_pages import add_crm, problem, signed_in
from tests.integration.test_schema import migrate
from tests.system.processes import pgbridge
from tests.webhook_rows import add_webhook

#: One character of each kind that no name may have.
REFUSED = "\x1b\x07\t\n\x7f\x9b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"
EACH = pytest.mark.parametrize("character", REFUSED, ids=lambda each: f"U+{ord(each):04X}")
HOSTILE = "a\x1b[2J\x9b31m\u202ecod\u2066\x7f\u2028[red]"
#: Names that people use: emoji with joiners, combining and right-to-left letters.
FINE = ["Имя 👩\u200d💻", "שלום", "می\u200cخواهم", "é e\u0301", "a\u00a0b"]


@EACH
async def test_rest_refuses_names_that_control(bridge_url: str, character: str) -> None:
    text = f"a{character}b"
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        for name, value in (("name", text), ("url", f"https://example.com/{text}")):
            assert_refused(await client.post("/webhooks", json={**FORM, name: value}), name)
            assert_refused(await client.patch(path, json={name: value}), name)
        if character not in "\t\n":
            assert_refused(await client.patch(path, json={"description": text}), "description")
        token = {"name": text, "scopes": ["events:read"]}
        assert_refused(await client.post("/tokens", json=token), "name")
        scoped = {"name": "x", "scopes": [f"events:read:{text}"]}
        assert (await client.post("/tokens", json=scoped)).status_code == 422
        assert (await client.get(path)).json() == webhook


@pytest.mark.parametrize("name", FINE)
async def test_names_of_people_are_accepted(bridge_url: str, bot: Bot, name: str) -> None:
    async with calling(bridge_url) as client:
        assert (await create(client, name=name, description=f"{name}\r\n\tb"))["name"] == name
        answer = await client.post("/tokens", json={"name": name, "scopes": ["events:read"]})
        assert answer.status_code == 201


async def test_console_refuses_names_that_control(bridge_url: str, bot: Bot) -> None:
    async with signed_in(bridge_url) as browser:
        for text in ("a\u202eb", "a\x1bb"):
            form = {**FORM, "timeout_seconds": "15", "max_concurrency": "4"}
            page = await browser.post("/console/webhooks/new", data={**form, "name": text})
            assert (page.status_code, "control character" in problem(page, "name")) == (422, True)
            token = {"name": text, "scopes": "events:read", "expiry": "never"}
            page = await browser.post("/console/tokens/new", data=token)
            assert (page.status_code, "control character" in problem(page, "name")) == (422, True)


def test_commands_refuse_names_that_control(bridge_url: str) -> None:
    webhook = ("--url", "https://crm.example", "--event-type", "*")
    for arguments in (
        ("webhooks", "create", *webhook, "--name", HOSTILE),
        ("token", "create", "--name", HOSTILE),
    ):
        refused = pgbridge(*arguments, url=bridge_url)
        assert refused.returncode == 2
        assert refused.stderr.startswith("pgbridge: ")
        assert refused.stderr[:-1].isprintable()


@EACH
def test_sql_refuses_names_that_control(bot: Bot, character: str) -> None:
    text = f"a{character}b"
    for column in ("name", "url", "event_type", "description"):
        if column == "description" and character in "\t\n":
            continue
        with pytest.raises(psycopg.errors.CheckViolation):
            add_webhook(bot, **{"url": "https://crm.example", column: text})
    with pytest.raises(psycopg.errors.CheckViolation):
        bot.execute(
            "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
            " values (%s, 'x', 'x', '{admin}')",
            (text,),
        )


def test_database_refuses_the_same_characters_as_python() -> None:
    [sql] = [text for name, text in assets.migrations() if "control_characters" in name]
    classes = re.findall(r"'\[(.*)\]'", sql)
    assert len(classes) == 3
    # PostgreSQL has no texts with NUL.
    assert set(classes) == {CONTROLS.replace(r"\u0000", r"\u0001")}


@EACH
@pytest.mark.parametrize(
    "rule",
    [
        '[[note]]\ntopic = "TEXT"\ntable = "public.a"\non = "insert"\nkey = "id"',
        '[[capture]]\nevent = "TEXT"\ntable = "public.a"\non = "insert"\npayload = "*"',
        '[[capture]]\nevent = "a"\ntable = "public.\\"TEXT\\""\non = "insert"\npayload = "*"',
        '[[capture]]\nevent = "a"\ntable = "public.a"\non = "insert"\npayload = ["TEXT"]',
        '[[capture]]\nevent = "a"\ntable = "public.a"\non = "insert"\npayload = { "TEXT" = "id" }',
    ],
    ids=["topic", "event", "table", "column", "key"],
)
def test_rules_refuse_names_that_control(rule: str, character: str) -> None:
    with pytest.raises(RuleError):
        parse_rules(rule.replace("TEXT", f"a\\u{ord(character):04x}b"))


def test_migration_replaces_what_it_refuses(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = assets.migrations()
    before = [each for each in every if "control_characters" not in each[0]]
    with monkeypatch.context() as older:
        older.setattr(assets, "migrations", lambda: before)
        migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        url = "https://crm.example/\u202e\x1b?a=\u00e9"
        kept = add_webhook(connection, "https://crm.example/é?", description="a\r\n\tb")
        webhook = add_webhook(
            connection, url, name=HOSTILE, event_type="a\x1b", description="a\r\n\tb\u202e"
        )
        connection.execute(
            "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
            " values (%s, 'x', 'x', '{admin}')",
            (HOSTILE,),
        )
        migrate(empty_url)
        rows = connection.execute(
            "select id, name, url, event_type, description from bridge.webhooks order by id"
        ).fetchall()
        assert rows == [
            (kept, "test", "https://crm.example/é?", "*", "a\r\n\tb"),
            (
                webhook,
                "a?[2J?31m?cod???[red]",
                "https://crm.example/%E2%80%AE%1B?a=é",
                "a?",
                "a\r\n\tb?",
            ),
        ]
        assert connection.execute("select name from bridge.api_tokens").fetchall() == [
            ("a?[2J?31m?cod???[red]",)
        ]


def test_audit_log_has_no_control_characters(bot: Bot) -> None:
    actor = json.dumps({"via": "cli", "actor": HOSTILE, "address": HOSTILE})
    bot.execute("select set_config('bridge.actor', %s, false)", (actor,))
    add_crm(bot)
    [row] = bot.execute("select target, actor, address from bridge.audit_log").fetchall()[-1:]
    assert row == ("crm", "a?[2J?31m?cod???[red]", "a?[2J?31m?cod???[red]")


def spoil(bot: Bot) -> None:
    """Write hostile texts wherever a command may find some, past all checks."""
    for table, constraint in bot.execute(
        "select conrelid::regclass::text, conname from pg_constraint"
        " where conname like '%without_controls'"
    ).fetchall():
        bot.execute(f"alter table {table} drop constraint {constraint}".encode())
    add_webhook(bot, f"https://crm.example/{HOSTILE}", name=HOSTILE, event_type=HOSTILE)
    values: dict[str, Any] = {"text": HOSTILE}
    for statement in (
        "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
        " values (%(text)s, 'x', %(text)s, '{admin}')",
        "update bridge.capture_rules set failure_count = 7, last_failed_at = now(),"
        " last_error = %(text)s, table_name = %(text)s",
        "insert into bridge.drainer (bridge, mode, is_quiet) values (%(text)s, 'poll', true)",
        "insert into bridge.activity (bridge, version, seconds, is_last, clients, in_flight,"
        " clients_dropped, events_drained, events_streamed, delivered, retried, failed)"
        " values (%(text)s, %(text)s, 10, false, 1, 0, 0, 0, 0, 0, 0, 0)",
    ):
        bot.execute(statement.encode(), values)


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("status",),
        ("token", "list"),
        ("webhooks", "list"),
        ("capture", "pause"),
        ("capture", "resume", HOSTILE),
        ("webhooks", "test", "1"),
        ("webhooks", "pause", "1"),
        ("init", "--dry-run"),
        ("doctor", "--json"),
        ("status", "--json"),
        ("webhooks", "list", "--json"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_print_no_control_characters(
    bridge_url: str, bot: Bot, arguments: tuple[str, ...]
) -> None:
    spoil(bot)
    done = pgbridge(*arguments, url=bridge_url)
    printed = done.stdout + done.stderr
    assert printed.strip()
    assert printed.replace("\n", "").isprintable()
    if arguments[0] == "doctor" or "list" in arguments:
        assert "u001b[2J" in printed.replace("\n", "").replace(" ", "")
    if arguments[-1] == "--json":
        json.loads(done.stdout)


def test_invisible_characters_of_the_plan_are_noted(bot_url: str, tmp_path: Path) -> None:
    config = tmp_path / "pgbridge.toml"
    config.write_text(
        '[[capture]]\nevent = "a"\ntable = "public.users"\non = "insert"\npayload = ["id"]\n'
        "when = \"new.username <> 'a\\u202e'\"\n",
        "utf-8",
    )
    done = pgbridge("init", "--dry-run", url=bot_url, config=config)
    assert done.returncode == 0
    assert "new.username <> 'a\\u202e'" in done.stdout
    assert "note: the SQL has invisible characters" in done.stderr
