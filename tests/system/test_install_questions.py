"""``init`` and ``uninstall`` ask before they remove what cannot be recreated."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.installing import RULES, triggers
from tests.system.processes import at_terminal, complaint, pgbridge
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]

NO_TERMINAL = "pgbridge: standard input is not a terminal; pass --yes"
#: A file with rules, so the preset does not apply.
ONE_RULE = (
    '[[capture]]\nevent = "user.created"\ntable = "public.users"\non = "insert"\npayload = "*"\n'
)


@pytest.fixture
def one_rule(tmp_path: Path) -> Path:
    """A configuration with only one of the preset's rules."""
    path = tmp_path / "pgbridge.toml"
    path.write_text(ONE_RULE, "utf-8")
    return path


def is_installed(bot: Bot) -> bool:
    return bot.execute("select to_regnamespace('bridge') is not null").fetchone() == (True,)


def fill(bot: Bot) -> None:
    """Add two events in the outbox, one delivery, one webhook and one token."""
    webhook_id = add_webhook(bot, "http://receiver/hook")
    bot.execute(
        "insert into users (auth_type, username) values ('telegram', 'a'), ('telegram', 'b')"
    )
    bot.execute(
        """insert into bridge.delivery_queue
               (webhook_id, event_id, event_recorded_at, event_type, committed_at)
           values (%s, 1, now(), 'user.created', now())""",
        [webhook_id],
    )
    bot.execute(
        "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
        " values ('dashboard', sha256('x'), 'pgb_x', '{events:read}')"
    )


# uninstall


def test_uninstall_without_a_terminal_needs_yes(bridge_url: str, bot: Bot) -> None:
    refused = pgbridge("uninstall", url=bridge_url)
    assert complaint(refused, 2) == NO_TERMINAL
    assert is_installed(bot)
    assert len(triggers(bridge_url)) == 8
    assert pgbridge("uninstall", "--yes", url=bridge_url).returncode == 0
    assert not is_installed(bot)


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_uninstall_says_what_is_lost_and_asks(
    bridge_url: str, bot: Bot, answer: str, code: int
) -> None:
    fill(bot)
    done = at_terminal("uninstall", url=bridge_url, answer=answer)
    assert done.returncode == code
    assert done.stderr.splitlines()[0] == (
        "uninstall deletes 8 triggers and schema bridge, with 2 events waiting in the outbox, "
        "1 pending delivery, 1 webhook, 1 token and all logs"
    )
    assert f"Remove pgbridge from database {bot.info.dbname}? [y/N]" in done.stderr
    assert is_installed(bot) == bool(code)


def test_uninstall_counts_up_to_a_limit(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.outbox (event_type, payload)"
        " select 'a', '{}' from generate_series(1, 10002)"
    )
    refused = pgbridge("uninstall", url=bridge_url)
    assert "with more than 10,000 events waiting in the outbox, 0 pending" in refused.stderr


def test_uninstall_of_an_older_schema_asks_without_counts(bridge_url: str, bot: Bot) -> None:
    bot.execute("drop table bridge.delivery_queue cascade")
    refused = pgbridge("uninstall", url=bridge_url)
    assert "schema bridge of an older version, with all its data" in refused.stderr
    assert complaint(refused, 2) == NO_TERMINAL
    assert pgbridge("uninstall", "--yes", url=bridge_url).returncode == 0


def test_uninstall_dry_run_prints_the_sql_and_changes_nothing(bridge_url: str, bot: Bot) -> None:
    shown = pgbridge("uninstall", "--dry-run", url=bridge_url)
    assert shown.returncode == 0
    assert shown.stderr.startswith("uninstall deletes 8 triggers")
    assert is_installed(bot)
    assert len(triggers(bridge_url)) == 8
    bot.execute(shown.stdout.encode())
    assert not is_installed(bot)
    assert bot.execute("select from pg_trigger where not tgisinternal").fetchall() == []
    again = pgbridge("uninstall", "--dry-run", url=bridge_url)
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "pgbridge is not installed in this database\n"


# init


def test_init_without_a_terminal_needs_yes_to_remove_rules(bridge_url: str, one_rule: Path) -> None:
    before = triggers(bridge_url)
    refused = pgbridge("init", url=bridge_url, config=one_rule)
    assert complaint(refused, 2) == NO_TERMINAL
    removed = [name for name in RULES if name != "user.created"]
    assert refused.stderr.splitlines()[0] == (
        f"init would stop capturing {', '.join(sorted(removed))} (rules from: {one_rule})"
    )
    assert triggers(bridge_url) == before
    shown = pgbridge("init", "--dry-run", url=bridge_url, config=one_rule)
    assert shown.returncode == 0
    assert pgbridge("init", "--yes", url=bridge_url, config=one_rule).returncode == 0
    assert len(triggers(bridge_url)) == 1


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 8), ("y", 0, 1)])
def test_init_asks_before_it_removes_rules(
    bridge_url: str, one_rule: Path, answer: str, code: int, left: int
) -> None:
    done = at_terminal("init", url=bridge_url, config=one_rule, answer=answer)
    assert done.returncode == code
    assert "Remove 7 rules? [y/N]" in done.stderr
    assert len(triggers(bridge_url)) == left


def test_missing_configuration_is_named_before_rules_are_removed(
    bot_url: str, one_rule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = one_rule.read_text().replace("user.created", "user.joined")
    one_rule.write_text(own, "utf-8")
    assert pgbridge("init", url=bot_url, config=one_rule).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    refused = pgbridge("init", url=bot_url)
    assert complaint(refused, 2) == NO_TERMINAL
    assert refused.stderr.splitlines()[0] == (
        "init would stop capturing user.joined"
        f" (rules from: no configuration file at {elsewhere}/pgbridge.toml)"
    )


def test_init_asks_nothing_if_no_rule_is_removed(bot_url: str, one_rule: Path) -> None:
    for text in (
        ONE_RULE,  # a first installation
        ONE_RULE + ONE_RULE.replace("user.created", "user.joined"),  # an addition
        ONE_RULE + ONE_RULE.replace("user.created", "user.joined").replace('"*"', '["id"]'),
    ):
        one_rule.write_text(text, "utf-8")
        done = pgbridge("init", url=bot_url, config=one_rule)
        assert done.returncode == 0, done.stderr
    # A change of a trigger drops it, but removes no rule.
    one_rule.write_text(text.replace("insert", "update"), "utf-8")
    assert pgbridge("init", url=bot_url, config=one_rule).returncode == 0
    assert len(triggers(bot_url)) == 2
