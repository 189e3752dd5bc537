"""The doctor checks privileges and the bot's own tokens."""

from urllib.parse import urlsplit

from tests.conftest import init
from tests.integration.doctor.conftest import ROLE, Bot, diagnose
from tests.postgres import MAJOR


def test_missing_privileges_are_granted_by_the_hint(weakling: str, bot: Bot) -> None:
    found = diagnose(weakling)
    assert found["rights"].level == "error"
    assert "usage on schema bridge" in found["rights"].message
    assert "more" in found["rights"].message
    assert found["schema_version"].level == "error"
    assert found["rights"].hint == f"grant bridge_service to {ROLE}"
    bot.execute(found["rights"].hint.encode())
    found = diagnose(weakling)
    assert found["rights"].message == f"role {ROLE} has the privileges that the bridge needs"
    # No other check needs more than the service has.
    assert {check: each for check, each in found.items() if each.level == "error"} == {}


def test_missing_privilege_on_one_table_is_named(weakling: str, bot: Bot) -> None:
    bot.execute(f"grant bridge_service to {ROLE}".encode())
    bot.execute("revoke delete on bridge.outbox from bridge_service")
    found = diagnose(weakling)["rights"]
    assert found.level == "error"
    assert found.message == f"role {ROLE} lacks delete on bridge.outbox"
    assert found.hint == "run: pgbridge init"


def test_revoked_grant_of_init_is_a_warning(healthy: str, bot: Bot) -> None:
    bot.execute("revoke select on bridge.events from bridge_reader")
    found = diagnose(healthy)["rights"]
    assert found.level == "warning"
    assert found.hint == "run: pgbridge init"
    init(healthy)
    assert diagnose(healthy)["rights"].level == "ok"


def test_hint_makes_a_member_inherit(weakling: str, bot: Bot) -> None:
    bot.execute(f"alter role {ROLE} noinherit; grant bridge_service to {ROLE}".encode())
    found = diagnose(weakling)["rights"]
    assert found.level == "error"
    bot.execute(found.hint.encode())
    assert diagnose(weakling)["rights"].level == "ok"


def test_role_that_cannot_create_the_schema_is_an_error(
    bot_url: str, weakling: str, bot: Bot
) -> None:
    found = diagnose(bot_url.replace("postgres:@", f"{ROLE}:@"))
    assert found["rights"].level == "error"
    assert f"create on database {urlsplit(bot_url).path[1:]}" in found["rights"].message


def test_bot_tokens_must_be_safe_to_read_if_accepted(healthy: str, bot: Bot) -> None:
    assert diagnose(healthy)["bot_tokens"].level == "ok"
    missing = diagnose(healthy, bot_tokens=True)["bot_tokens"]
    assert missing.level == "error"
    assert "web_api_tokens" in missing.message
    bot.execute(
        "create table public.web_api_tokens (id serial, name text, token_hash text,"
        " is_active boolean, expires_at timestamptz)"
    )
    found = diagnose(healthy, bot_tokens=True)["bot_tokens"]
    assert found.message == "the bot's own tokens can be read"
    # The owner of a view can make its readers run code with their own privileges.
    bot.execute(
        "alter table public.web_api_tokens rename to tokens;"
        "create view public.web_api_tokens as select * from public.tokens"
    )
    # The owner of schema bridge may run code as the bridge anyway.
    assert diagnose(healthy, bot_tokens=True)["bot_tokens"].level == "ok"
    bot.execute("alter view public.web_api_tokens owner to bridge_reader")
    trap = diagnose(healthy, bot_tokens=True)["bot_tokens"]
    assert trap.level == "error"
    assert trap.message == "public.web_api_tokens is not safe to read: it is no plain table"
    if MAJOR >= 16:
        # A member in name only has none of the owner's rights.
        bot.execute("grant postgres to bridge_reader with inherit false, set false")
        try:
            assert diagnose(healthy, bot_tokens=True)["bot_tokens"] == trap
        finally:
            bot.execute("revoke postgres from bridge_reader")
    bot.execute("drop view public.web_api_tokens; drop table public.tokens")


def test_lost_grant_on_bot_tokens_is_restored_by_the_hint(weakling: str, bot: Bot) -> None:
    bot.execute(f"grant bridge_service to {ROLE}".encode())
    bot.execute(
        "create table public.web_api_tokens (id serial, name text, token_hash text,"
        " is_active boolean, expires_at timestamptz);"
        "revoke usage on schema public from public"
    )
    found = diagnose(weakling, bot_tokens=True)["bot_tokens"]
    assert found.level == "error"
    assert f"role {ROLE} lacks select on public.web_api_tokens" in found.message
    assert f"role {ROLE} lacks usage on schema public" in found.message
    assert "all others work" in found.detail
    bot.execute(found.hint.partition("run: ")[2].encode())
    assert diagnose(weakling, bot_tokens=True)["bot_tokens"].level == "ok"
    bot.execute("alter table public.web_api_tokens drop column name")
    found = diagnose(weakling, bot_tokens=True)["bot_tokens"]
    assert found.message.endswith("public.web_api_tokens has no column name")
