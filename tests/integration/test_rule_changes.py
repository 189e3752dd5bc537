"""init creates, replaces and removes triggers, and repairs those changed by hand."""

import psycopg
import pytest

from bridge.capture.rules import CaptureRule, load_preset
from bridge.database.migrate import InstallError
from tests.conftest import init
from tests.integration.conftest import Shop
from tests.integration.installing import (
    Dump,
    apply,
    plan,
    triggers,
    with_payload,
)


def test_dropped_trigger_is_restored_and_no_other_touched(bridge_url: str) -> None:
    before = triggers(bridge_url)
    [dropped] = [name for name in before if name.endswith("_user_created")]
    with psycopg.connect(bridge_url) as connection:
        connection.execute(f'drop trigger "{dropped}" on public.users'.encode())
    planned = init(bridge_url)
    assert planned.changed == ["user.created"]
    assert [step.title for step in planned.steps] == ["capture user.created"]
    after = triggers(bridge_url)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} == {dropped}


def test_recreated_table_gets_its_triggers_again(bridge_url: str) -> None:
    with psycopg.connect(bridge_url) as connection:
        connection.execute("create table public.copy (like public.ticket_messages)")
        connection.execute("drop table public.ticket_messages")
        connection.execute("alter table public.copy rename to ticket_messages")
    assert init(bridge_url).changed == ["note ticket.opening_message", "ticket.message_added"]
    assert len(triggers(bridge_url)) == 8


def test_changed_function_needs_no_lock_on_the_table(
    bridge_url: str,
) -> None:
    before = triggers(bridge_url)
    with psycopg.connect(bridge_url) as busy:
        busy.execute("lock table public.users in access exclusive mode")
        planned = plan(bridge_url, with_payload("user.created", {"user": "id", "lang": "language"}))
        assert planned.changed == ["user.created"]
        assert [step.locked_table for step in planned.steps] == [None]
        apply(bridge_url, planned.steps, lock_timeout_seconds=0.1)
    assert triggers(bridge_url) == before
    shop = Shop(bridge_url)
    user = shop.user(language="ru")
    assert shop.events() == [("user.created", {"user": user, "lang": "ru"})]
    shop.close()


def test_rule_missing_from_the_configuration_is_removed(bridge_url: str) -> None:
    wanted = [rule for rule in load_preset("telegram-shop") if rule.name != "ticket.message_added"]
    planned = plan(bridge_url, wanted)
    assert planned.removed == ["ticket.message_added"]
    apply(bridge_url, planned.steps)
    assert len(triggers(bridge_url)) == 7
    shop = Shop(bridge_url)
    shop.user()
    shop.message(shop.ticket())
    assert [kind for kind, _ in shop.events()] == ["user.created", "ticket.created"]
    shop.close()


def test_no_row_is_missed_while_rules_change(bridge_url: str) -> None:
    shop = Shop(bridge_url)
    # Remove one rule, and swap the order of rules on the same table.
    rules = [rule for rule in load_preset("telegram-shop") if rule.name != "user.created"]
    wanted = rules[:2] + rules[:1:-1]
    planned = plan(bridge_url, wanted)
    assert len(planned.steps) == 5
    everything_else = sorted(rule.name for rule in wanted if isinstance(rule, CaptureRule))
    shop.user()
    for step in planned.steps:
        shop.events()
        apply(bridge_url, [step])
        shop.payment()
        with shop.transaction():
            ticket = shop.ticket()
            shop.message(ticket)
        with shop.transaction():
            shop.set_status(ticket, "closed")
            shop.message(ticket)
        assert sorted(kind for kind, _ in shop.events()) == everything_else, step.title
    shop.close()
    assert plan(bridge_url, wanted).steps == []


def test_rule_moved_to_another_table_leaves_the_first(bridge_url: str) -> None:
    moved = [
        rule.model_copy(update={"table": "public.tickets", "payload": {"id": "id"}})
        if isinstance(rule, CaptureRule) and rule.event == "user.created"
        else rule
        for rule in load_preset("telegram-shop")
    ]
    apply(bridge_url, plan(bridge_url, moved).steps)
    shop = Shop(bridge_url)
    shop.user()
    assert shop.events() == []
    ticket = shop.ticket()
    assert ("user.created", {"id": ticket}) in shop.events()
    shop.close()


def test_invalid_sql_expression_names_the_rule(bridge_url: str, dump_schema: Dump) -> None:
    before = dump_schema(bridge_url)
    with pytest.raises(
        InstallError,
        match=r"^\[\[capture\]\] user\.created: payload\.user: syntax error",
    ):
        plan(bridge_url, with_payload("user.created", {"user": "new.id + "}))
    assert dump_schema(bridge_url) == before


#: Manual changes to the trigger or function of a rule, with the rule's name.
BY_HAND = {
    "disabled": (
        "user.created",
        'alter table public.users disable trigger "#bridge_001_user_created"',
    ),
    "disabled, deferred": (
        "ticket.created",
        'alter table public.tickets disable trigger "#bridge_002_ticket_created"',
    ),
    "for replicas only": (
        "user.created",
        'alter table public.users enable replica trigger "#bridge_001_user_created"',
    ),
    "function replaced": (
        "user.created",
        "create or replace function bridge.capture_user_created() returns trigger"
        " language plpgsql as 'begin return null; end'",
    ),
    "function's settings": (
        "transaction.created",
        "alter function bridge.capture_transaction_created() reset search_path",
    ),
    "function's rights": (
        "user.created",
        "alter function bridge.capture_user_created() security invoker",
    ),
    "trigger replaced": (
        "user.created",
        'create or replace trigger "#bridge_001_user_created" after update on public.users'
        " for each row execute function bridge.capture_user_created()",
    ),
    "trigger with a condition": (
        "user.created",
        'create or replace trigger "#bridge_001_user_created" after insert on public.users'
        " for each row when (new.id > 100) execute function bridge.capture_user_created()",
    ),
    "trigger recreated": (
        "ticket.message_added",
        'drop trigger "#bridge_002_ticket_message_added" on public.ticket_messages;'
        'create trigger "#bridge_002_ticket_message_added" after insert on public.ticket_messages'
        " for each row execute function bridge.capture_ticket_message_added()",
    ),
}


def functions(url: str) -> dict[str, str]:
    """Return the rules' functions by name, with their row versions."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select proname, xmin::text from pg_proc where pronamespace = 'bridge'::regnamespace"
            " and prorettype = 'trigger'::regtype"
        ).fetchall()
    return {str(name): str(version) for name, version in rows}


@pytest.mark.parametrize(("rule", "change"), BY_HAND.values(), ids=BY_HAND.keys())
def test_manual_changes_are_repaired_and_nothing_else_touched(
    bridge_url: str, dump_schema: Dump, rule: str, change: str
) -> None:
    before = dump_schema(bridge_url)
    old_triggers, old_functions = triggers(bridge_url), functions(bridge_url)
    with psycopg.connect(bridge_url, autocommit=True) as connection:
        connection.execute(change.encode())
    assert dump_schema(bridge_url) != before
    planned = init(bridge_url)
    assert planned.changed == [rule]
    assert [step.title for step in planned.steps] == [f"capture {rule}"]
    assert dump_schema(bridge_url) == before
    slug = rule.replace(".", "_")
    new_triggers, new_functions = triggers(bridge_url), functions(bridge_url)
    assert new_triggers.keys() == old_triggers.keys()
    assert all(
        name.endswith(slug) or new_triggers[name] == oid for name, oid in old_triggers.items()
    )
    assert all(
        name.endswith(slug) or new_functions[name] == version
        for name, version in old_functions.items()
    )
    assert init(bridge_url).steps == []
