"""Pausing and resuming rules."""

from functools import partial

import psycopg
import pytest

from bridge.capture.apply import set_paused
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from tests.conftest import init
from tests.integration.conftest import Shop
from tests.integration.installing import (
    RULES,
    apply,
    impatient,
    plan,
    triggers,
    with_operations,
    with_payload,
)

pause, resume = partial(set_paused, paused=True), partial(set_paused, paused=False)


def test_paused_rule_captures_nothing_and_others_continue(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        assert pause(connection, "user.created") == ["user.created"]
        shop.user()
        shop.payment()
        assert [kind for kind, _ in shop.events()] == ["transaction.created", "payment.completed"]
        assert pause(connection, "user.created") == []
        assert resume(connection, "user.created") == ["user.created"]
        assert resume(connection, "user.created") == []
    # Changes made during the pause are never captured.
    assert shop.events() == []
    user = shop.user()
    assert [(kind, payload["user_id"]) for kind, payload in shop.events()] == [
        ("user.created", user)
    ]
    shop.close()
    assert init(bridge_url).steps == []


def test_all_rules_pause_and_resume_together(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        assert sorted(pause(connection, None)) == sorted(RULES)
        shop.user()
        shop.payment()
        with shop.transaction():
            shop.message(shop.ticket())
        shop.set_status(1, "closed")
        assert shop.events() == []
        resume(connection, "user.created")
        resumed = resume(connection, None)
        assert sorted([*resumed, "user.created"]) == sorted(RULES)
    with shop.transaction():
        shop.message(shop.ticket(), has_media=True)
    [(kind, payload)] = shop.events()
    assert (kind, payload["has_media"]) == ("ticket.created", True)
    shop.close()


def test_pause_and_resume_need_no_lock_on_the_table(bridge_url: str) -> None:
    with (
        psycopg.connect(bridge_url) as busy,
        open_session(impatient(bridge_url)) as connection,
    ):
        busy.execute("lock table public.users in access exclusive mode")
        assert pause(connection, "user.created") == ["user.created"]
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        assert resume(connection, "user.created") == ["user.created"]
        busy.execute("insert into public.users (auth_type) values ('telegram')")
        busy.commit()
        rows = connection.execute("select payload ->> 'user_id' from bridge.outbox").fetchall()
    assert rows == [("2",)]


def test_paused_rule_survives_init_and_resumes_as_changed(
    bridge_url: str,
) -> None:
    shop = Shop(bridge_url)
    before = triggers(bridge_url)
    with open_session(bridge_url) as connection:
        pause(connection, "user.created")
        assert init(bridge_url).steps == []
        planned = plan(bridge_url, with_payload("user.created", {"who": "id"}))
        assert planned.changed == ["user.created"]
        apply(bridge_url, planned.steps)
        shop.user()
        assert shop.events() == []
        assert plan(bridge_url, with_payload("user.created", {"who": "id"})).steps == []
        assert resume(connection, "user.created") == ["user.created"]
    user = shop.user()
    assert shop.events() == [("user.created", {"who": user})]
    shop.close()
    assert plan(bridge_url, with_payload("user.created", {"who": "id"})).steps == []
    assert triggers(bridge_url) == before


def test_paused_rule_stays_paused_when_its_trigger_changes(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    with open_session(bridge_url) as connection:
        pause(connection, "user.created")
        shop.execute('drop trigger "#bridge_001_user_created" on public.users')
        assert init(bridge_url).changed == ["user.created"]
        apply(
            bridge_url, plan(bridge_url, with_operations("user.created", "insert", "update")).steps
        )
        shop.user()
        shop.execute("update public.users set language = 'ru'")
        assert shop.events() == []
        resume(connection, None)
    shop.execute("update public.users set language = 'de'")
    assert [kind for kind, _ in shop.events()] == ["user.created"]
    shop.close()


def test_unknown_rule_error_lists_the_known_rules(
    bridge_url: str,
) -> None:
    there = ", ".join(sorted(RULES))
    with open_session(bridge_url) as connection:
        for act in (pause, resume):
            with pytest.raises(InstallError) as raised:
                act(connection, "user.crated")
            assert str(raised.value) == f"unknown rule 'user.crated'; the rules are {there}"


def test_pause_before_init_says_to_run_init(bot_url: str) -> None:
    with open_session(bot_url) as connection:
        for act in (pause, resume):
            for name in ("user.created", None):
                with pytest.raises(InstallError, match=r"^there are no rules; run: pgbri"):
                    act(connection, name)
