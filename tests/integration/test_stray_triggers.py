"""Our triggers are found by the functions they call, whatever became of their names and tables."""

import pytest

from bridge.capture.rules import parse_rules
from tests.integration.application import Application, rule
from tests.integration.doctor.conftest import diagnose
from tests.integration.installing import triggers

ORDERS = "create table public.orders (id int primary key, total int)"
INSERT = 'payload = ["id"]'


def made(table: str, more: str = "") -> str:
    return rule("order.made", table, '"insert"', INSERT + more)


#: What the application does to its table, and the table with its rows afterwards.
MOVES = {
    "renamed": (["alter table public.orders rename to purchases"], "public.purchases"),
    "moved to another schema": (
        ["create schema shop", "alter table public.orders set schema shop"],
        "shop.orders",
    ),
    "swapped": (
        [
            "alter table public.orders rename to orders_old",
            "create table public.orders (like public.orders_old including all)",
        ],
        "public.orders",
    ),
    "schema renamed": (
        ["alter schema public rename to shop", "create schema public"],
        "shop.orders",
    ),
    "trigger renamed": (
        ['alter trigger "#bridge_001_order_made" on public.orders rename to mine'],
        "public.orders",
    ),
    "second trigger by hand": (
        [
            "create trigger again after insert on public.orders"
            " for each row execute function bridge.capture_order_made()"
        ],
        "public.orders",
    ),
    "trigger on another table": (
        [
            "create table public.copies (id int, total int)",
            "create trigger again after insert on public.copies"
            " for each row execute function bridge.capture_order_made()",
        ],
        "public.orders",
    ),
    "rule forgotten by the database": (
        ["delete from bridge.capture_rules", "alter table public.orders rename to purchases"],
        "public.purchases",
    ),
}


@pytest.mark.parametrize("deferred", ["", "\ndeferred = true"], ids=["immediate", "deferred"])
@pytest.mark.parametrize(("changes", "table"), MOVES.values(), ids=MOVES.keys())
def test_init_leaves_exactly_the_wanted_triggers(
    app: Application, changes: list[str], table: str, deferred: str
) -> None:
    app.run(ORDERS)
    app.capture(made("public.orders", deferred))
    app.run(*changes)
    # Another rule above it, so that the trigger's name changes as well.
    first = rule("order.new", table, '"insert"', INSERT)
    app.capture(first + made(table, deferred))
    app.run(f"insert into {table} values (1, 2)")
    assert sorted(app.events()) == [("order.made", {"id": 1}), ("order.new", {"id": 1})]
    assert len(triggers(app.url)) == 2
    assert app.capture(first + made(table, deferred)).steps == []


@pytest.mark.parametrize("name", [each for each in MOVES if not each.startswith("rule")])
def test_doctor_names_triggers_that_moved(app: Application, name: str) -> None:
    app.run(ORDERS)
    app.capture(made("public.orders"))
    app.run(*MOVES[name][0])
    found = diagnose(app.url, rules=parse_rules(made("public.orders")))["triggers"]
    assert found.level == "error"
    assert "order.made: its " in found.message
    assert " on " in found.message


def test_trigger_that_calls_another_rules_function_is_replaced(app: Application) -> None:
    app.run(ORDERS, "create table public.items (id int)")
    rules = made("public.orders") + rule("item.made", "public.items", '"insert"', INSERT)
    app.capture(rules)
    app.run(
        'create or replace trigger "#bridge_001_item_made" after insert on public.items'
        " for each row execute function bridge.capture_order_made()"
    )
    app.capture(rules)
    app.run("insert into public.orders values (1, 2)", "insert into public.items values (3)")
    assert app.events() == [("order.made", {"id": 1}), ("item.made", {"id": 3})]
    assert app.capture(rules).steps == []


def test_triggers_of_no_rule_are_named_and_removed(app: Application) -> None:
    app.run(ORDERS)
    app.capture(made("public.orders"))
    app.run("delete from bridge.capture_rules")
    found = diagnose(app.url, rules=[])["triggers"]
    assert "stray trigger" in found.message
    assert "on public.orders" in found.message
    planned = app.capture("")
    assert [step.title.split()[:2] for step in planned.steps] == [["remove", "stray"]]
    assert triggers(app.url) == {}
    assert diagnose(app.url, rules=[])["triggers"].level == "ok"


def test_triggers_of_partitions_are_no_strays(app: Application) -> None:
    app.run(
        "create table public.orders (id int, total int) partition by range (id)",
        "create table public.orders_1 partition of public.orders for values from (0) to (9)",
    )
    app.capture(made("public.orders"))
    app.run("create table public.orders_2 partition of public.orders for values from (9) to (99)")
    assert app.capture(made("public.orders")).steps == []
    app.run("alter table public.orders detach partition public.orders_1")
    assert app.capture(made("public.orders")).steps == []


def test_functions_of_others_are_not_touched(app: Application) -> None:
    app.run(
        ORDERS,
        "create function public.capture_order_made() returns trigger"
        " language plpgsql as 'begin return null; end'",
        "create trigger theirs after insert on public.orders"
        " for each row execute function public.capture_order_made()",
    )
    app.capture(made("public.orders"))
    assert app.capture("").removed == ["order.made"]
    count = "select count(*) from pg_trigger where tgrelid = 'public.orders'::regclass"
    assert app.connection.execute(count).fetchone() == (1,)


@pytest.mark.parametrize("name", ["after_insert_stamp", "Audit", "_stamp", "00_stamp", "0", "zz"])
def test_events_of_a_row_come_in_the_order_of_its_changes(app: Application, name: str) -> None:
    app.run(
        "create table public.files (id int, stamp int default 0)",
        "create function public.stamp() returns trigger language plpgsql as $$ begin"
        " update public.files set stamp = stamp + 1 where id = new.id and stamp < 2;"
        " return null; end $$",
        f'create trigger "{name}" after insert or update on public.files'
        " for each row execute function public.stamp()",
    )
    app.capture(
        rule("file.changed", "public.files", '"update"', 'payload = ["stamp"]')
        + rule("file.created", "public.files", '"insert"', 'payload = ["stamp"]')
    )
    app.run("insert into public.files values (1)")
    assert app.events() == [
        ("file.created", {"stamp": 0}),
        ("file.changed", {"stamp": 1}),
        ("file.changed", {"stamp": 2}),
    ]
