"""Rules of one's own, on tables of every kind that PostgreSQL has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge.capture.models import InstallError
from bridge.capture.plan import plan_install
from bridge.capture.rules import parse_rules
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.application import Application, rule

Dump = Callable[..., str]


@pytest.fixture(scope="module")
def no_rules(server: EmbeddedPostgres) -> str:
    """A template: nothing but pgbridge, without a rule."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database template_no_rules")
    opened = Application(server.url("template_no_rules"))
    opened.capture("")
    opened.connection.close()
    return "template_no_rules"


@pytest.fixture
def app(clone: Callable[[str], str], no_rules: str) -> Iterator[Application]:
    """An application without a table as yet."""
    opened = Application(clone(no_rules))
    yield opened
    opened.connection.close()


# --- names


@pytest.mark.parametrize(
    "table",
    [
        'shop."Order; drop"',
        '"sch""ema; --"."select"',
        '"it\'s"."$capture$ %s {} \\"',
        '"Магазин"."Заказ 🎉"',
        'shop."' + "t" * 63 + '"',
    ],
)
def test_schemas_and_tables_may_have_any_name(app: Application, table: str) -> None:
    schema = re.findall(r'"(?:[^"]|"")+"|\w+', table)[0]
    app.run(f"create schema {schema}", f'create table {table} (id int, "a""b; --" text)')
    rules = (
        f"[[capture]]\nevent = 'odd'\ntable = {json.dumps(table, ensure_ascii=False)}\n"
        "on = ['insert', 'delete']\npayload = '*'\n"
    )
    app.capture(rules)
    app.run(f"insert into {table} values (1, 'x')", f"delete from {table}")
    assert app.events() == [("odd", {"id": 1, 'a"b; --': "x"})] * 2
    assert app.capture(rules).steps == []
    app.capture("")
    app.run(f"insert into {table} values (2, 'y')")
    assert app.events() == []


# --- payloads


@pytest.fixture
def people(app: Application) -> Application:
    app.run(
        "create table public.people (id int primary key, name text, secret text default 'hush',"
        " note text)"
    )
    return app


def test_a_list_of_columns_is_those_columns(people: Application) -> None:
    people.capture(rule("p", "public.people", '"insert"', 'payload = ["name", "id"]'))
    people.run("insert into public.people values (1, 'Anna'), (2, null)")
    assert people.payloads() == [{"name": "Anna", "id": 1}, {"name": None, "id": 2}]


def test_a_secret_column_never_appears_and_columns_are_those_at_init(people: Application) -> None:
    rules = rule("p", "public.people", '"insert"', 'payload = "*"\nexcept = ["secret"]')
    people.capture(rules)
    people.run("insert into public.people values (1)")
    assert people.payloads() == [{"id": 1, "name": None, "note": None}]
    # Dropped and made again, and another beside it: neither comes in by itself.
    people.run(
        "alter table public.people drop column secret",
        "alter table public.people add column secret text default 'hush'",
        "alter table public.people add column another text default 'new'",
        "insert into public.people values (2)",
    )
    assert people.payloads() == [{"id": 2, "name": None, "note": None}]
    assert people.capture(rules).changed == ["p"]
    people.run("insert into public.people values (3)")
    assert people.payloads() == [{"id": 3, "name": None, "note": None, "another": "new"}]


def test_a_map_takes_columns_by_name_and_everything_else_as_sql(people: Application) -> None:
    people.capture(
        rule(
            "p",
            "public.people",
            '["insert", "update"]',
            "[capture.payload]\n"
            'person = "id"\nshouted = "upper(new.name)"\nwas = "old.name"\nby = "tg_op"\n'
            'others = "(select count(*) from public.people p where p.id <> new.id)"\n'
            "fixed = \"'x'\"",
        )
    )
    people.run(
        "insert into public.people values (1, 'anna')", "insert into public.people values (2)"
    )
    people.run("update public.people set name = 'eve' where id = 1")
    assert people.payloads() == [
        {"person": 1, "shouted": "ANNA", "was": None, "by": "INSERT", "others": 0, "fixed": "x"},
        {"person": 2, "shouted": None, "was": None, "by": "INSERT", "others": 1, "fixed": "x"},
        {"person": 1, "shouted": "EVE", "was": "anna", "by": "UPDATE", "others": 1, "fixed": "x"},
    ]


def test_a_delete_is_told_by_the_old_row(people: Application) -> None:
    people.capture(
        rule("one", "public.people", '"delete"', 'payload = ["id", "name"]')
        + rule("sql", "public.people", '"delete"', 'payload = { name = "upper(old.name)" }')
    )
    people.run("insert into public.people values (1, 'anna')", "update public.people set note = ''")
    assert people.events() == []
    people.run("delete from public.people")
    assert people.events() == [("one", {"id": 1, "name": "anna"}), ("sql", {"name": "ANNA"})]


def test_a_rule_of_update_and_delete_tells_the_new_row_and_then_the_deleted(
    people: Application,
) -> None:
    people.capture(
        rule(
            "p",
            "public.people",
            '["update", "delete"]',
            'payload = { op = "tg_op", name = "name", now = "new.name", was = "old.name" }',
        )
    )
    people.run(
        "insert into public.people values (1, 'a')",
        "update public.people set name = 'b'",
        "delete from public.people",
    )
    assert people.payloads() == [
        {"op": "UPDATE", "name": "b", "now": "b", "was": "a"},
        {"op": "DELETE", "name": "b", "now": "b", "was": "b"},
    ]


def test_one_statement_of_many_rows_is_an_event_a_row_in_order(people: Application) -> None:
    people.capture(rule("p", "public.people", '["insert", "update"]', 'payload = ["id", "name"]'))
    people.run(
        "insert into public.people select i from generate_series(1, 300) i",
        "insert into public.people values (300, 'upsert'), (301, null)"
        " on conflict (id) do update set name = excluded.name",
    )
    assert [payload["id"] for payload in people.payloads()] == [*range(1, 301), 300, 301]


def test_a_merge_is_what_it_does(people: Application) -> None:
    if people.connection.info.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    people.capture(
        rule(
            "p",
            "public.people",
            '["insert", "update", "delete"]',
            'payload = { op = "tg_op", id = "id" }',
        )
    )
    people.run("insert into public.people values (1, 'go'), (2, 'stay')")
    people.events()
    people.run(
        "merge into public.people p using (values (1), (2), (3)) as wanted (id) on p.id = wanted.id"
        " when matched and p.name = 'go' then delete"
        " when matched then update set note = 'seen'"
        " when not matched then insert (id) values (wanted.id)"
    )
    assert [(each["op"], each["id"]) for each in people.payloads()] == [
        ("DELETE", 1),
        ("UPDATE", 2),
        ("INSERT", 3),
    ]


# --- columns


def skip_without_xml(app: Application) -> None:
    try:
        app.run("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without XML")


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("text", "'a'", "'b'"),
        ("text", "'a'", "''"),
        ("char(5)", "'a'", "'b'"),
        ("json", """'{"a": 1}'""", """'{"a": 2}'"""),
        ("xml", "'<a/>'", "'<b/>'"),
        ("point", "'(1,2)'", "'(1,3)'"),
        ("jsonb", "'[1]'", "'[2]'"),
        ("numeric", "'NaN'", "1"),
        ("float8", "'NaN'", "1"),
        ("int[]", "'{1}'", "'{1,null}'"),
    ],
)
def test_an_update_counts_only_if_a_named_column_has_another_value(
    app: Application, kind: str, first: str, second: str
) -> None:
    if kind == "xml":
        skip_without_xml(app)
    app.run(f"create table public.t (id int, watched {kind}, other int)")
    app.capture(rule("t", "public.t", '"update"', 'columns = ["watched"]\npayload = ["id"]'))
    app.run(f"insert into public.t values (1, {first}, 0)")
    changes = [
        ("other = other + 1", 0),
        (f"watched = {first}", 0),
        ("watched = watched, other = 7", 0),
        (f"watched = {second}", 1),
        ("watched = null", 1),
        ("watched = null, other = 8", 0),
        (f"watched = {first}", 1),
    ]
    for change, events in changes:
        app.run(f"update public.t set {change}")
        assert len(app.events()) == events, change


def test_one_column_name_may_stand_alone_and_other_operations_are_not_held_to_it(
    app: Application,
) -> None:
    app.run("create table public.t (id int, a int, b int)")
    app.capture(
        rule(
            "t",
            "public.t",
            '["insert", "update", "delete"]',
            'columns = "a"\npayload = { op = "tg_op" }',
        )
    )
    app.run(
        "insert into public.t values (1)",
        "update public.t set b = 1",
        "update public.t set a = 1",
        "delete from public.t",
    )
    assert [each["op"] for each in app.payloads()] == ["INSERT", "UPDATE", "DELETE"]


def test_a_megabyte_that_stays_as_it_was_is_no_change(app: Application) -> None:
    app.run("create table public.t (id int, watched text, other int)")
    app.capture(rule("t", "public.t", '"update"', 'columns = ["watched"]\npayload = ["watched"]'))
    app.run(
        "insert into public.t select 1, string_agg(md5(i::text), ''), 0"
        " from generate_series(1, 32768) i",
        "update public.t set other = 1",
        "update public.t set watched = watched || ''",
    )
    assert app.events() == []
    app.run("update public.t set watched = overlay(watched placing '!' from 1000000)")
    [payload] = app.payloads()
    assert len(payload["watched"]) == 2**20
    assert payload["watched"][999999] == "!"


# --- when


def test_only_what_is_true_is_captured(app: Application) -> None:
    app.run("create table public.t (id int, amount int)")
    app.capture(
        rule(
            "big", "public.t", '["insert", "update"]', 'when = "new.amount > 100"\npayload = ["id"]'
        )
        + rule(
            "grew",
            "public.t",
            '"update"',
            'when = "new.amount > old.amount -- not equal"\npayload = ["id"]',
        )
    )
    app.run("insert into public.t values (1, 50), (2, null), (3, 150)")
    assert app.events() == [("big", {"id": 3})]
    app.run("update public.t set amount = coalesce(amount + 60, 10)")
    assert app.events() == [
        ("big", {"id": 1}), ("grew", {"id": 1}), ("big", {"id": 3}), ("grew", {"id": 3}),
    ]  # fmt: skip


# --- deferred


ORDERS = """
create table public.orders (id int primary key, status text);
create table public.lines (order_id int references public.orders, article text);
"""


def test_a_deferred_rule_sees_the_transaction_as_it_ends(app: Application) -> None:
    app.run(ORDERS)
    app.capture(
        rule(
            "order.placed",
            "public.orders",
            '"insert"',
            "deferred = true\n[capture.payload]\nid = 'id'\n"
            "lines = '(select jsonb_agg(l.article order by l.article) from public.lines l"
            " where l.order_id = new.id)'\n"
            "status = '(select o.status from public.orders o where o.id = new.id)'",
        )
    )
    with app.connection.transaction():
        app.run("insert into public.orders values (1, 'new')")
        app.run("insert into public.lines values (1, 'tea')")
        with app.connection.transaction(force_rollback=True):
            app.run("insert into public.lines values (1, 'never')")
            app.run("insert into public.orders values (2, 'never')")
        app.run("insert into public.lines values (1, 'cup')")
        app.run("update public.orders set status = 'paid'")
        assert app.events() == []
    assert app.events() == [("order.placed", {"id": 1, "lines": ["cup", "tea"], "status": "paid"})]


def test_a_deferred_update_and_delete_are_told_each_as_it_was(app: Application) -> None:
    app.run(ORDERS)
    app.capture(
        rule(
            "o",
            "public.orders",
            '["update", "delete"]',
            'deferred = true\ncolumns = ["status"]\n'
            'payload = { op = "tg_op", was = "old.status", now = "new.status" }',
        )
    )
    app.together(
        "insert into public.orders values (1, 'a')",
        "update public.orders set status = 'b'",
        "update public.orders set status = 'b'",
        "update public.orders set status = 'c'",
        "delete from public.orders",
    )
    assert [(each["op"], each["was"], each["now"]) for each in app.payloads()] == [
        ("UPDATE", "a", "b"),
        ("UPDATE", "b", "c"),
        ("DELETE", "c", "c"),
    ]


def test_a_transaction_that_wrote_rows_of_a_deferred_rule_settles_them_before_it_changes_the_table(
    app: Application,
) -> None:
    app.run(ORDERS)
    app.capture(rule("o", "public.orders", '"update"', 'deferred = true\npayload = ["id"]'))
    app.run("insert into public.orders values (1, 'a')")
    migration = (
        "update public.orders set status = 'b'",
        "alter table public.orders alter column status set not null",
    )
    # PostgreSQL's own condition, as for a foreign key that is deferred.
    with pytest.raises(psycopg.errors.ObjectInUse, match="pending trigger events"):
        app.together(*migration)
    app.together(migration[0], "set constraints all immediate", migration[1])
    assert app.payloads() == [{"id": 1}]


# --- truncate


@pytest.mark.parametrize(
    ("more", "payload"),
    [
        ("", {}),
        ("payload = {}", {}),
        (
            "[capture.payload]\ntable = \"tg_table_schema || '.' || tg_table_name\"\n"
            'left = "(select count(*) from public.t)"',
            {"table": "public.t", "left": 0},
        ),
    ],
)
def test_a_truncate_is_one_event(app: Application, more: str, payload: object) -> None:
    app.run("create table public.t (id int)")
    app.capture(rule("emptied", "public.t", '"truncate"', more))
    app.run("insert into public.t values (1), (2)", "delete from public.t", "truncate public.t")
    assert app.events() == [("emptied", payload)]
    app.run("truncate public.t")
    assert app.events() == [("emptied", payload)]


def test_a_truncate_whose_payload_fails_says_so_and_goes_on(app: Application) -> None:
    app.run("create table public.t (id int)", "create table public.u (id int)")
    app.capture(
        rule(
            "emptied",
            "public.t",
            '"truncate"',
            'payload = { n = "(select max(u.id) from public.u u)" }',
        )
    )
    app.run("drop table public.u", "truncate public.t")
    [(kind, payload)] = app.events()
    assert kind == "emptied"
    assert payload == {"_capture_error": 'relation "public.u" does not exist'}


def test_a_truncate_that_cascades_is_told_of_every_table_that_has_a_rule(app: Application) -> None:
    app.run(ORDERS)
    app.capture(
        rule("orders.emptied", "public.orders", '"truncate"', "")
        + rule("lines.emptied", "public.lines", '"truncate"', "")
    )
    app.run("truncate public.orders cascade")
    assert sorted(app.events()) == [("lines.emptied", {}), ("orders.emptied", {})]


# --- partitioned tables

SHARDS = """
create table public.shards (id int, region text, total int, label text)
    partition by list (region);
create table public.north partition of public.shards for values in ('north');
create table public.south partition of public.shards for values in ('south')
    partition by range (total);
create table public.south_small partition of public.south for values from (0) to (100);
create table public.south_large partition of public.south for values from (100) to (maxvalue);
-- Attached, with its columns in another order, and one that was dropped.
create table public.east (total int, gone int, label text, region text, id int);
alter table public.east drop column gone;
alter table public.shards attach partition public.east for values in ('east');
"""
_PAYLOAD = """[capture.payload]
id = "id"
op = "tg_op"
was = "array[old.region, old.total::text, old.label]"
now = "array[new.region, new.total::text, new.label]"
"""


def shard_rules(*, deferred: bool, only: str | None = None) -> str:
    """A rule for each operation, or for one only."""
    more = f"deferred = {str(deferred).lower()}\n{_PAYLOAD}"
    return "".join(
        rule(f"shard.{on}", "public.shards", f'"{on}"', more)
        for on in ("insert", "update", "delete")
        if only in (None, on)
    )


@pytest.fixture(params=[False, True], ids=["at once", "deferred"])
def deferred(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def shards(app: Application) -> Application:
    app.run(SHARDS)
    return app


def shape(events: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """What happened to which row."""
    return [(kind.removeprefix("shard."), payload["id"]) for kind, payload in events]


def test_a_row_of_any_partition_is_captured(shards: Application, deferred: bool) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run(
        "insert into public.shards values"
        " (1, 'north', 5, 'a'), (2, 'south', 5, 'b'), (3, 'south', 500, 'c'), (4, 'east', 5, 'd')",
        # By the partition's own name, too.
        "insert into public.south_large values (5, 'south', 600, 'e')",
        "insert into public.east (id, region, total, label) values (6, 'east', 6, 'f')",
    )
    assert shape(shards.events()) == [("insert", number) for number in range(1, 7)]
    shards.run("update public.shards set label = upper(label)", "delete from public.shards")
    events = shards.events()
    assert sorted(shape(events)) == sorted(
        (what, number) for what in ("update", "delete") for number in range(1, 7)
    )
    told = {(kind, payload["id"]): payload for kind, payload in events}
    assert told["shard.update", 4] == {
        "id": 4, "op": "UPDATE", "was": ["east", "5", "d"], "now": ["east", "5", "D"],
    }  # fmt: skip
    assert told["shard.delete", 6] == {
        "id": 6, "op": "DELETE", "was": ["east", "6", "F"], "now": [None, None, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ("region = 'south'", ["south", "5", "a"]),
        ("region = 'south', total = 500", ["south", "500", "a"]),
        ("region = 'east', label = 'moved'", ["east", "5", "moved"]),
    ],
)
def test_a_row_that_moves_to_another_partition_is_one_update(
    shards: Application, deferred: bool, change: str, now: list[str]
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.run(f"update public.shards set {change}")
    update = {"id": 1, "op": "UPDATE", "was": ["north", "5", "a"], "now": now}
    assert shards.events() == [("shard.update", update)]
    # And back, from where it is now.
    shards.run("update public.shards set region = 'north', total = 5, label = 'a'")
    back = {"id": 1, "op": "UPDATE", "was": now, "now": ["north", "5", "a"]}
    assert shards.events() == [("shard.update", back)]


def test_a_move_between_the_partitions_of_a_partition_is_one_update(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'south', 5, 'a')")
    shards.events()
    shards.run("update public.shards set total = 500", "update public.south set total = 7")
    assert [(kind, payload["was"][1], payload["now"][1]) for kind, payload in shards.events()] == [
        ("shard.update", "5", "500"),
        ("shard.update", "500", "7"),
    ]


def test_many_rows_that_move_at_once_are_an_update_each_with_its_own_old_row(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run(
        "insert into public.shards"
        " select i, case when i % 2 = 0 then 'north' else 'south' end, i, 'x'"
        " from generate_series(1, 500) i"
    )
    shards.events()
    # Half of them change their partition, the others stay.
    shards.run("update public.shards set region = 'south', total = total + 1000, label = 'y'")
    events = shards.events()
    assert {kind for kind, _ in events} == {"shard.update"}
    told = {payload["id"]: payload for _, payload in events}
    assert len(events) == len(told) == 500
    for number, payload in told.items():
        was = ["south" if number % 2 else "north", str(number), "x"]
        assert (payload["was"], payload["now"]) == (was, ["south", str(number + 1000), "y"])


@pytest.mark.parametrize("only", ["insert", "update", "delete"])
def test_a_move_is_no_insert_and_no_delete_for_a_rule_of_only_one_operation(
    shards: Application, deferred: bool, only: str
) -> None:
    shards.capture(shard_rules(deferred=deferred, only=only))
    shards.run(
        "insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 5, 'b')",
        "update public.shards set region = 'south'",
        "update public.shards set label = 'c' where id = 1",
        "delete from public.shards where id = 2",
    )
    expected = {
        "insert": [("insert", 1), ("insert", 2)],
        "update": [("update", 1), ("update", 2), ("update", 1)],
        "delete": [("delete", 2)],
    }
    assert shape(shards.events()) == expected[only]


def test_moves_are_held_to_columns_and_when_as_other_updates_are(shards: Application) -> None:
    shards.capture(
        rule("label", "public.shards", '"update"', 'columns = ["label"]\npayload = ["id"]')
        + rule(
            "grew", "public.shards", '"update"', 'when = "new.total > old.total"\npayload = ["id"]'
        )
    )
    shards.run("insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 6, 'b')")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == []
    shards.run("update public.shards set region = 'east', total = total + 1 where id = 1")
    shards.run("update public.shards set region = 'east', label = null where id = 2")
    assert shards.events() == [("grew", {"id": 1}), ("label", {"id": 2})]


@pytest.mark.parametrize("value", ['{"a":  1, "a": 2}', "1.0", r'{"a": "\ud83c\udf89"}'])
def test_a_json_column_of_a_row_that_moves_is_no_change(
    shards: Application, value: str, deferred: bool
) -> None:
    shards.run("alter table public.shards add details json")
    more = f"deferred = {str(deferred).lower()}\n"
    shards.capture(
        rule("details", "public.shards", '"update"', f'{more}columns = "details"\npayload = ["id"]')
        + rule("label", "public.shards", '"update"', f'{more}payload = {{ was = "old.label" }}')
    )
    shards.run(f"insert into public.shards values (1, 'north', 5, 'a', '{value}')")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == [("label", {"was": "a"})]


def test_a_move_of_a_row_that_has_no_json_of_its_own_is_told_as_an_error(
    shards: Application, deferred: bool
) -> None:
    shards.run("alter table public.shards add details json")
    shards.capture(shard_rules(deferred=deferred, only="update"))
    shards.run(r"""insert into public.shards values (1, 'north', 5, 'a', '"\u0000"')""")
    shards.run("update public.shards set region = 'south'")
    assert shards.events() == [
        ("shard.update", {"_capture_error": "unsupported Unicode escape sequence"})
    ]


def test_a_move_in_a_savepoint_that_is_rolled_back_is_nothing(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a'), (2, 'north', 5, 'b')")
    shards.events()
    with shards.connection.transaction():
        with shards.connection.transaction(force_rollback=True):
            shards.run("update public.shards set region = 'south'")
            shards.run("delete from public.shards where id = 2")
        shards.run("update public.shards set region = 'east' where id = 1")
        with shards.connection.transaction():
            shards.run("update public.shards set region = 'south' where id = 2")
    assert shape(shards.events()) == [("update", 1), ("update", 2)]


def test_a_partition_that_is_attached_later_is_captured_from_then_on(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run(
        "create table public.west (label text, total int, id int, region text)",
        "insert into public.west values ('before', 1, 1, 'west')",
    )
    assert shards.events() == []
    shards.run(
        "alter table public.shards attach partition public.west for values in ('west')",
        "insert into public.shards values (2, 'west', 2, 'a')",
        "update public.shards set region = 'north' where id = 1",
        "update public.shards set region = 'west', label = 'back' where id = 1",
    )
    events = shards.events()
    assert shape(events) == [("insert", 2), ("update", 1), ("update", 1)]
    assert events[1][1]["was"] == ["west", "1", "before"]
    assert events[2][1]["now"] == ["west", "1", "back"]
    shards.run(
        "alter table public.shards detach partition public.west",
        "insert into public.west values ('after', 3, 3, 'west')",
    )
    assert shards.events() == []


def test_a_delete_and_an_insert_elsewhere_in_one_statement_count_as_a_move(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.run(
        "with gone as (delete from public.shards where id = 1 returning *)"
        " insert into public.shards select 2, 'south', 5, 'b' from gone"
    )
    # Nothing in SQL tells this from an update that moves the row. In two statements it is told.
    assert shape(shards.events()) == [("update", 2)]
    shards.run(
        "begin",
        "delete from public.shards where id = 2",
        "insert into public.shards values (3, 'north', 5, 'c')",
        "commit",
    )
    assert shape(shards.events()) == [("delete", 2), ("insert", 3)]


def test_a_row_inserted_and_moved_in_one_transaction_counts_as_deleted_and_inserted(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.together(
        "insert into public.shards values (1, 'north', 5, 'a')",
        "update public.shards set region = 'south'",
    )
    assert shape(shards.events()) == [("insert", 1), ("delete", 1), ("insert", 1)]


def test_a_row_inserted_in_a_savepoint_and_moved_after_it_counts_as_deleted_and_inserted(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    with shards.connection.transaction():
        with shards.connection.transaction():
            shards.run("insert into public.shards values (1, 'north', 5, 'a')")
        shards.run("update public.shards set region = 'south'")
    assert shape(shards.events()) == [("insert", 1), ("delete", 1), ("insert", 1)]


def test_a_row_that_a_younger_transaction_inserted_moves_as_any_other(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    other = Application(shards.url)
    with shards.connection.transaction():
        shards.run("insert into public.shards values (1, 'east', 5, 'a')")
        other.run("insert into public.shards values (2, 'north', 5, 'b')")
        other.connection.close()
        shards.run("update public.shards set region = 'south' where id = 2")
    assert sorted(shape(shards.events())) == [("insert", 1), ("insert", 2), ("update", 2)]


def test_a_moved_row_that_is_locked_afterwards_is_still_one_update(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.together(
        "update public.shards set region = 'south'",
        # As a foreign key does to what it refers to.
        "select from public.shards for key share",
    )
    assert shape(shards.events()) == [("update", 1)]


def test_a_moved_row_that_is_changed_again_is_told_whole(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.together(
        "update public.shards set region = 'south'", "update public.shards set label = 'b'"
    )
    # At the commit the moved row's command can no longer be told.
    move = [("delete", 1), ("insert", 1)] if deferred else [("update", 1)]
    assert shape(shards.events()) == [*move, ("update", 1)]


def test_ten_thousand_rows_are_deleted_with_an_event_each(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred, only="delete"))
    shards.run(
        "insert into public.shards"
        " select i, case when i % 2 = 0 then 'north' else 'south' end, i, 'x'"
        " from generate_series(1, 10000) i",
        "delete from public.shards",
    )
    deleted = [number for _, number in shape(shards.events())]
    assert sorted(deleted) == [*range(1, 10001)]


def test_a_row_deleted_and_another_inserted_in_one_transaction_are_no_move(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.together(
        "delete from public.shards",
        "insert into public.shards values (2, 'south', 5, 'b')",
        "update public.shards set label = 'c'",
    )
    assert shape(shards.events()) == [("delete", 1), ("insert", 2), ("update", 2)]


def test_rows_written_deleted_and_written_in_one_transaction_are_never_taken_for_moves(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    expected: list[tuple[str, int]] = []
    with shards.connection.transaction():
        for _ in range(2):
            shards.run(
                "insert into public.shards select i, 'north', i, 'x' from generate_series(1, 9) i"
            )
            expected += [("insert", number) for number in range(1, 10)]
        # Deleting them in pairs, PostgreSQL numbers the pairs of commands faster than the commands.
        for number in range(1, 10):
            shards.run(f"delete from public.shards where id = {number}")
            expected += [("delete", number)] * 2
        for number in range(20, 40):
            shards.run(f"insert into public.shards values ({number}, 'south', 1, 'y')")
            expected.append(("insert", number))
    assert shape(shards.events()) == expected


def test_a_change_in_vain_of_a_row_inserted_after_a_delete_makes_no_move_of_the_two(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    with shards.connection.transaction():
        shards.run("delete from public.shards")
        shards.run("insert into public.shards values (2, 'south', 5, 'b')")
        with shards.connection.transaction(force_rollback=True):
            shards.run("update public.shards set label = 'never'")
    assert shape(shards.events()) == [("delete", 1), ("insert", 2)]


def test_a_row_replaced_by_one_statement_within_a_partition_is_no_move(
    shards: Application, deferred: bool
) -> None:
    shards.capture(shard_rules(deferred=deferred))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')")
    shards.events()
    shards.run(
        "with gone as (delete from public.shards where id = 1 returning *)"
        " insert into public.shards select id + 1, region, total, label from gone"
    )
    assert shape(shards.events()) == [("delete", 1), ("insert", 2)]


def test_a_partitioned_table_that_is_truncated_is_one_event(shards: Application) -> None:
    shards.capture(rule("emptied", "public.shards", '"truncate"', ""))
    shards.run("insert into public.shards values (1, 'north', 5, 'a')", "truncate public.shards")
    assert shards.events() == [("emptied", {})]


def test_a_rule_may_be_of_one_partition(shards: Application) -> None:
    shards.capture(rule("n", "public.north", '["insert", "delete"]', 'payload = { op = "tg_op" }'))
    shards.run(
        "insert into public.shards values (1, 'north', 5, 'a'), (2, 'south', 5, 'b')",
        "update public.shards set region = 'south' where id = 1",
    )
    # Of its own partition it sees what it is: a row that comes, and one that goes.
    assert [payload["op"] for payload in shards.payloads()] == ["INSERT", "DELETE"]


# --- tables that inherit


def test_rows_of_tables_that_inherit_are_not_captured_and_init_says_so(app: Application) -> None:
    app.run(
        "create table public.cities (id int, name text)",
        "create table public.capitals (country text) inherits (public.cities)",
    )
    planned = app.capture(rule("city", "public.cities", '"insert"', 'payload = ["name"]'))
    assert planned.remarks == [
        "[[capture]] city: does not capture rows of public.capitals, "
        "which inherit from public.cities; add a rule for each of them to capture these rows too"
    ]
    app.run(
        "insert into public.cities values (1, 'Graz')",
        "insert into public.capitals values (2, 'Wien', 'Austria')",
    )
    assert app.payloads() == [{"name": "Graz"}]


def test_a_table_that_inherits_has_its_own_rules_and_all_columns(app: Application) -> None:
    app.run(
        "create table public.cities (id int, name text)",
        "create table public.capitals (country text) inherits (public.cities)",
    )
    planned = app.capture(rule("capital", "public.capitals", '"update"', 'payload = "*"'))
    assert planned.remarks == []
    app.run(
        "insert into public.capitals values (2, 'Wien', 'Austria')",
        "update public.cities set name = 'Vienna'",
    )
    assert app.payloads() == [{"id": 2, "name": "Vienna", "country": "Austria"}]


# --- generated columns


def test_stored_generated_columns_are_captured(app: Application) -> None:
    app.run("create table public.t (a int, b int generated always as (a * 2) stored)")
    app.capture(
        rule(
            "t",
            "public.t",
            '["insert", "update", "delete"]',
            'columns = "b"\npayload = { b = "b", sum = "new.a + new.b" }',
        )
    )
    app.run("insert into public.t values (1)", "update public.t set a = 2", "delete from public.t")
    assert app.payloads() == [{"b": 2, "sum": 3}, {"b": 4, "sum": 6}, {"b": 4, "sum": 6}]


def test_virtual_generated_columns_are_captured(app: Application) -> None:
    if app.connection.info.server_version < 180000:
        pytest.skip("virtual columns came with PostgreSQL 18")
    app.run('create table public.t (a int, c int, "b ""x" int generated always as (a * 2) virtual)')
    app.capture(
        rule("all", "public.t", '["insert", "delete"]', 'payload = "*"')
        + rule("gone", "public.t", '"delete"', "payload = ['b \"x']")
        + rule("changed", "public.t", '"update"', "columns = 'b \"x'\npayload = { b = 'b \"x' }")
    )
    app.run(
        "insert into public.t values (1)",
        "update public.t set a = 2",
        "update public.t set a = a, c = 5",
        "delete from public.t",
    )
    assert app.events() == [
        ("all", {"a": 1, "c": None, 'b "x': 2}),
        ("changed", {"b": 4}),
        ("all", {"a": 2, "c": 5, 'b "x': 4}),
        ("gone", {'b "x': 4}),
    ]


# --- values of every type

_TYPES = """
create type public.mood as enum ('glad', 'it''s "odd"');
create domain public.cents as int check (value >= 0);
create type public.address as (street text, since date, moods public.mood[]);
create domain public.home as public.address;
"""
#: Type, value as SQL, and the JSON that is sent, letter by letter as jsonb prints it.
VALUES = [
    ("int", "null", "null"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("boolean", "true", "true"),
    ("numeric", "0.1000", "0.1000"),
    ("numeric", "1e400", "1" + "0" * 400),
    ("numeric", "-1e-400", "-0." + "0" * 399 + "1"),
    ("numeric(1000,2)", "'" + "9" * 998 + ".99'", "9" * 998 + ".99"),
    ("numeric", "'NaN'", '"NaN"'),
    ("numeric", "'-Infinity'", '"-Infinity"'),
    ("float8", "'NaN'", '"NaN"'),
    ("float8", "'Infinity'", '"Infinity"'),
    ("float8", "0.1::float8 + 0.2", "0.30000000000000004"),
    ("float4", "0.1", "0.1"),
    ("text", "e'\"q\\\\ \\n\\t я🎉'", '"\\"q\\\\ \\n\\t я🎉"'),
    ("char(3)", "'a'", '"a  "'),
    ("bytea", "'\\x00ff41'", '"\\\\x00ff41"'),
    ("date", "'infinity'", '"infinity"'),
    ("date", "'0044-03-15 BC'", '"0044-03-15 BC"'),
    ("timestamp", "'-infinity'", '"-infinity"'),
    ("timestamp", "'0044-03-15 12:00 BC'", '"0044-03-15T12:00:00 BC"'),
    ("timestamptz", "'infinity'", '"infinity"'),
    ("timestamptz", "'2024-06-01 12:00:00.123456+03'", '"2024-06-01T09:00:00.123456+00:00"'),
    ("timetz", "'12:00+03'", '"12:00:00+03"'),
    ("interval", "'1 mon 2 days -3:04:05.6'", '"1 mon 2 days -03:04:05.6"'),
    ("interval", "'infinity'", '"infinity"'),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("jsonb", """'{"b": [1.50, null], "a": "ü"}'""", '{"a": "ü", "b": [1.50, null]}'),
    ("json", """'{"b": 1, "b": 2}'""", '{"b": 2}'),
    ("text[]", "array['a', null, 'c,\"d\"']", '["a", null, "c,\\"d\\""]'),
    ("int[]", "'{{1,2},{3,4}}'", "[[1, 2], [3, 4]]"),
    ("timestamptz[]", "array['2024-06-01 12:00+03'::timestamptz]", '["2024-06-01T09:00:00+00:00"]'),
    ("bytea[]", "array['\\xff'::bytea]", '["\\\\xff"]'),
    ("interval[]", "array['1 day 02:03'::interval]", '["1 day 02:03:00"]'),
    ("public.mood", "'it''s \"odd\"'", '"it\'s \\"odd\\""'),
    ("public.mood[]", "'{glad}'", '["glad"]'),
    ("public.cents", "5", "5"),
    (
        "public.address",
        "row('Ring 1', '2024-06-01', '{glad}')",
        '{"moods": ["glad"], "since": "2024-06-01", "street": "Ring 1"}',
    ),
    ("public.home", "row('R', null, null)", '{"moods": null, "since": null, "street": "R"}'),
    ("int4range", "'[1,5)'", '"[1,5)"'),
    (
        "tstzrange",
        "'[2024-06-01 12:00+03, infinity)'",
        '"[\\"2024-06-01 09:00:00+00\\",infinity)"',
    ),
    ("daterange", "'empty'", '"empty"'),
    ("nummultirange", "'{[1,2),[3,4)}'", '"{[1,2),[3,4)}"'),
    ("inet", "'10.0.0.1/8'", '"10.0.0.1/8"'),
    ("macaddr", "'08-00-2b-01-02-03'", '"08:00:2b:01:02:03"'),
    ("point", "'(0.1,2)'", '"(0.1,2)"'),
    ("bit(4)", "B'0101'", '"0101"'),
    ("tsvector", "'b a'", "\"'a' 'b'\""),
    ("regclass", "'public.t'", '"public.t"'),
]
#: What an application's session may have set, beginning with nothing.
SESSIONS = [
    "reset all",
    "set datestyle = 'German, DMY'",
    "set datestyle = 'SQL, DMY'",
    "set intervalstyle = 'iso_8601'",
    "set intervalstyle = 'sql_standard'",
    "set timezone = 'America/St_Johns'",
    "set bytea_output = 'escape'",
    "set extra_float_digits = -15",
    "set search_path = public",
    "set standard_conforming_strings = off",
]


def test_a_value_of_every_type_is_the_same_letters_whatever_the_session_has_set(
    app: Application,
) -> None:
    app.run(_TYPES)
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(VALUES))
    app.run("create table public.t ()", "drop table public.t", f"create table public.t ({columns})")
    app.capture(rule("t", "public.t", '"update"', 'payload = "*"'))
    app.run("set datestyle = 'ISO, MDY'")
    values = ", ".join(value for _, value, _ in VALUES)
    app.run(f"insert into public.t values ({values})")
    names = sorted((f"c{number}" for number in range(len(VALUES))), key=lambda n: (len(n), n))
    expected = {name: sent for name, (_, _, sent) in zip(names, VALUES, strict=True)}
    for session in SESSIONS:
        app.run("reset all", session, "update public.t set c0 = null")
        app.run("reset all")
        rows = app.connection.execute(
            "with taken as (delete from bridge.outbox returning payload)"
            " select key, value::text from taken, jsonb_each(payload)"
        ).fetchall()
        told = dict(rows)
        wrong = {
            name: (VALUES[int(name[1:])][0], told.get(name), sent)
            for name, sent in expected.items()
            if told.get(name) != sent
        }
        assert wrong == {}, session
        assert told.keys() == expected.keys()


@pytest.mark.parametrize(
    ("kind", "value", "expression", "said"),
    [
        ("timestamptz", "'2024-06-01 12:00+03'", "new.v::text", "2024-06-01 09:00:00+00"),
        ("timestamp", "'2024-06-01 12:00'", "new.v::text", "2024-06-01 12:00:00"),
        ("date", "'2024-06-01'", "'on ' || new.v", "on 2024-06-01"),
        ("interval", "'1 day 2:00'", "new.v || ''", "1 day 02:00:00"),
        ("bytea", "'\\x00ff'", "new.v::text", "\\x00ff"),
        ("float8", "0.1::float8 + 0.2", "new.v::text", "0.30000000000000004"),
        ("int", "1", "date '2024-06-01' || ''", "2024-06-01"),
        ("int", "1", "(interval '1 day 2:00' * new.v)::text", "1 day 02:00:00"),
        ("int", "1", "(new.v / 3::float8)::text", "0.3333333333333333"),
    ],
)
def test_sql_of_a_rule_says_the_same_whatever_the_session_has_set(
    app: Application, kind: str, value: str, expression: str, said: str
) -> None:
    app.run(f"create table public.t (v {kind})")
    app.capture(
        rule(
            "t",
            "public.t",
            '"update"',
            f'payload = {{ said = "{expression}" }}'.replace("\\", "\\\\"),
        )
    )
    app.run(f"insert into public.t values ({value})")
    for session in SESSIONS:
        app.run("reset all", session, "update public.t set v = v", "reset all")
        assert app.payloads() == [{"said": said}], session


def test_a_megabyte_of_text_arrives_whole(app: Application) -> None:
    app.run("create table public.t (body text)")
    app.capture(rule("t", "public.t", '"insert"', 'payload = ["body"]'))
    body = "".join(chr(0x400 + number % 200) for number in range(2**19))
    app.connection.execute("insert into public.t values (%s)", (body,))
    assert app.payloads() == [{"body": body}]


def test_a_session_that_replicates_fires_nothing(app: Application) -> None:
    app.run("create table public.t (id int)")
    app.capture(rule("t", "public.t", '"insert"', 'payload = ["id"]'))
    app.run("set session_replication_role = replica", "insert into public.t values (1)")
    assert app.events() == []
    app.run("set session_replication_role = origin", "insert into public.t values (2)")
    assert app.payloads() == [{"id": 2}]


# --- what init refuses

REFUSED_TABLES = """
create table public.t (id int, status text, at timestamptz);
create view public.v as select * from public.t;
create materialized view public.m as select * from public.t;
create index t_id on public.t (id);
create sequence public.s;
"""
_IDS = 'payload = ["id"]'
REFUSED = {
    "a view": (
        rule("r", "public.v", '"insert"', _IDS),
        "table: public.v is a view; use the table it reads",
    ),
    "a materialized view": (
        rule("r", "public.m", '"insert"', _IDS),
        "table: public.m is a materialized view; use the tables it reads",
    ),
    "a sequence": (
        rule("r", "public.s", '"insert"', "payload = {}"),
        "table: public.s is not a table",
    ),
    "an index": (
        rule("r", "public.t_id", '"insert"', "payload = {}"),
        "table: public.t_id is not a table",
    ),
    "an unknown table": (
        rule("r", "public.nowhere", '"insert"', _IDS),
        "table public.nowhere is not in this database; is BRIDGE_DATABASE_URL the application's"
        " database, with its tables created?",
    ),
    "an unknown schema": (
        rule("r", "nowhere.t", '"insert"', _IDS),
        "table nowhere.t is not in this database; is BRIDGE_DATABASE_URL the application's"
        " database, with its tables created?",
    ),
    "an unknown column of a list": (
        rule("r", "public.t", '"insert"', 'payload = ["id", "nmae"]'),
        "payload: table public.t has no column 'nmae'; its columns are id, status, at",
    ),
    "an unknown column to leave out": (
        rule("r", "public.t", '"insert"', 'payload = "*"\nexcept = ["secret"]'),
        "except: table public.t has no column 'secret'; its columns are id, status, at",
    ),
    "an unknown column to watch": (
        rule("r", "public.t", '"update"', f'columns = ["Status"]\n{_IDS}'),
        "columns: table public.t has no column 'Status'; its columns are id, status, at",
    ),
    "a payload that is no column": (
        rule("r", "public.t", '"insert"', 'payload = { who = "nmae" }'),
        'payload.who: column "nmae" does not exist',
    ),
    "a column of NEW that there is not": (
        rule("r", "public.t", '"insert"', 'payload = { who = "new.nmae" }'),
        "payload.who: column new.nmae does not exist",
    ),
    "SQL that does not parse": (
        rule("r", "public.t", '"insert"', 'payload = { who = "new.id +" }'),
        'payload.who: syntax error at or near ")"',
    ),
    "a function that there is not": (
        rule("r", "public.t", '"insert"', 'payload = { who = "nonesuch(new.id)" }'),
        "payload.who: function nonesuch(integer) does not exist",
    ),
    "a type that does not fit": (
        rule("r", "public.t", '"insert"', "when = \"new.id = 'x'\"\n" + _IDS),
        'when: invalid input syntax for type integer: "x"',
    ),
    "a condition that is no boolean": (
        rule("r", "public.t", '"insert"', 'when = "new.id"\n' + _IDS),
        "when: argument of CASE/WHEN must be type boolean, not type integer",
    ),
    "a parameter": (
        rule("r", "public.t", '"insert"', 'when = "new.id = $1"\n' + _IDS),
        "when: parameters such as $1 are not supported",
    ),
    "a set of rows": (
        rule("r", "public.t", '"insert"', 'payload = { n = "generate_series(1, new.id)" }'),
        "payload.n: set-returning functions are not allowed in CASE",
    ),
    "a sub-select of two columns": (
        rule("r", "public.t", '"insert"', 'payload = { n = "(select 1, 2)" }'),
        "payload.n: subquery must return only one column",
    ),
    "an aggregate beside the row": (
        rule("r", "public.t", '"insert"', 'payload = { n = "status || max(new.id)" }'),
        'payload.n: column reference "status" is ambiguous; prefix it with new. or old.',
    ),
    "a column without its row": (
        rule("r", "public.t", '"insert"', "when = \"status = 'open'\"\n" + _IDS),
        'when: column reference "status" is ambiguous; prefix it with new. or old.',
    ),
    "two statements": (
        rule(
            "r",
            "public.t",
            '"insert"',
            'payload = { n = "1) end from pg_class; select case when true then (2" }',
        ),
        "payload.n: cannot insert multiple commands into a prepared statement",
    ),
    "two statements in a condition": (
        rule("r", "public.t", '"insert"', 'when = "true); drop table public.t; --"\n' + _IDS),
        'when: syntax error at or near ";"',
    ),
    "the rows of a truncate": (
        rule("r", "public.t", '"truncate"', 'payload = { n = "new.id" }'),
        'payload.n: missing FROM-clause entry for table "new"',
    ),
}


@pytest.fixture(scope="module")
def refusing(server: EmbeddedPostgres) -> Iterator[str]:
    """A database for rules that are refused: nothing ever happens to it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database refusing template template0")
        with psycopg.connect(server.url("refusing")) as tables:
            tables.execute(REFUSED_TABLES)
        yield server.url("refusing")
        connection.execute("drop database refusing with (force)")


@pytest.fixture(scope="module")
def untouched(refusing: str, dump_schema: Dump) -> str:
    """The schema of that database before anything was refused."""
    return dump_schema(refusing)


@pytest.mark.parametrize(("rules", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_rule_that_does_not_fit_the_database_is_refused_in_one_line_and_changes_nothing(
    refusing: str, untouched: str, dump_schema: Dump, rules: str, said: str
) -> None:
    good = rule("good", "public.t", '"insert"', _IDS)
    with open_session(refusing) as connection:
        with pytest.raises(InstallError) as raised:
            plan_install(connection, parse_rules(good + rules))
        # And the session is as it was.
        assert connection.execute("select 1").fetchone() == (1,)
    message = str(raised.value)
    assert message.startswith(f"[[capture]] r: {said}")
    assert "\n" not in message
    assert dump_schema(refusing) == untouched
