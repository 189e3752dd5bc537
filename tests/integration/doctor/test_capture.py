"""The doctor checks capture rules and triggers."""

import pytest

from bridge.capture.apply import set_paused
from bridge.capture.rules import load_preset, parse_rules
from bridge.database.sessions import fetch, open_session
from tests.conftest import init
from tests.integration.doctor.conftest import ROLE, Bot, diagnose
from tests.integration.relaying import DRAIN


def drain(connection: Bot) -> None:
    """Move what is in the outbox to the log, as the relay does."""
    fetch(connection, "drain", *DRAIN)


def test_places_where_triggers_do_not_fire_are_named(healthy: str, weakling: str, bot: Bot) -> None:
    name = bot.info.dbname
    for place in (f"database {name}", f"role {ROLE}", f"role {ROLE} in database {name}"):
        bot.execute(f"alter {place} set session_replication_role = replica".encode())
        found = diagnose(healthy)["triggers_fire"]
        assert found.level == "error"
        assert found.message == f"session_replication_role is replica for {place}"
        assert found.hint == f"alter {place} reset session_replication_role"
        bot.execute(found.hint.encode())
        assert diagnose(healthy)["triggers_fire"].level == "ok"


def test_places_where_capture_is_switched_off_are_named(
    healthy: str, weakling: str, bot: Bot
) -> None:
    for place in (f"database {bot.info.dbname}", f"role {ROLE}"):
        bot.execute(f"alter {place} set bridge.capture = off".encode())
        found = diagnose(healthy)["triggers_fire"]
        assert (found.level, found.message) == ("warning", f"bridge.capture is off for {place}")
        remedy = found.hint.removeprefix("when that is done: ")
        assert remedy == f"alter {place} reset bridge.capture"
        bot.execute(remedy.encode())
        assert diagnose(healthy)["triggers_fire"].level == "ok"


def test_rules_that_are_not_applied_are_named(healthy: str) -> None:
    changed = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
    changed += parse_rules(
        "[[capture]]\nevent = 'user.left'\ntable = 'public.users'\non = 'delete'\npayload = ['id']"
    )
    found = diagnose(healthy, rules=changed)["rules"]
    assert found.level == "error"
    assert "not applied: user.left" in found.message
    assert "removed: user.created" in found.message


def test_rule_with_a_dropped_column_is_an_error_until_fixed(healthy: str, bot: Bot) -> None:
    bot.execute("alter table public.users drop column referral_code")
    bot.execute("insert into public.users (auth_type) values ('telegram')")
    drain(bot)
    found = diagnose(healthy)
    assert found["rules"].level == "error"
    assert found["rules"].message.startswith("[[capture]] user.created: payload.referral_code: ")
    assert found["capture_errors"].level == "error"
    assert "user.created: 1 times" in found["capture_errors"].message
    assert 'record "new" has no field "referral_code"' in found["capture_errors"].message
    fixed = [
        rule.model_copy(update={"payload": {"id": "id"}}) if rule.name == "user.created" else rule
        for rule in load_preset("telegram-shop")
    ]
    assert diagnose(healthy, rules=fixed)["rules"].level == "error"
    init(healthy, fixed)
    found = diagnose(healthy, rules=fixed)
    assert {found[check].level for check in ("rules", "triggers", "capture_errors")} == {"ok"}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ('drop trigger "#bridge_001_user_created" on public.users', "its trigger was dropped"),
        ("alter table public.users disable trigger all", "its trigger is disabled"),
        (
            'create or replace trigger "#bridge_001_user_created" after delete on public.users'
            " for each row execute function bridge.capture_user_created()",
            "its trigger was replaced",
        ),
        (
            "create or replace function bridge.capture_user_created() returns trigger"
            " language plpgsql as 'begin return null; end'",
            "its function was replaced",
        ),
        (
            "alter table public.users rename to customers",
            'its trigger is "#bridge_001_user_created" on public.customers, not on public.users',
        ),
        ("drop table public.users cascade", "its table no longer exists"),
    ],
)
def test_damaged_trigger_is_named_with_its_rule(
    healthy: str, bot: Bot, damage: str, problem: str
) -> None:
    bot.execute(damage.encode())
    found = diagnose(healthy)["triggers"]
    assert found.level == "error"
    assert f"user.created: {problem}" in found.message


def test_paused_rule_is_a_warning(healthy: str) -> None:
    with open_session(healthy) as connection:
        set_paused(connection, "user.created", paused=True)
    found = diagnose(healthy)
    assert found["paused_rules"].level == "warning"
    assert found["paused_rules"].message == "paused: user.created"
    assert found["triggers"].level == "ok"
    assert found["rules"].level == "ok"
