"""Rules of any form, on tables of every kind that PostgreSQL has."""

import json
import re

import psycopg
import pytest

from tests.integration.application import Application, rule
from tests.postgres import since


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
def test_schema_and_table_may_have_any_name(app: Application, table: str) -> None:
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


@pytest.fixture
def people(app: Application) -> Application:
    app.run(
        "create table public.people (id int primary key, name text, secret text default 'hush',"
        " note text)"
    )
    return app


def test_payload_list_sends_these_columns(people: Application) -> None:
    people.capture(rule("p", "public.people", '"insert"', 'payload = ["name", "id"]'))
    people.run("insert into public.people values (1, 'Anna'), (2, null)")
    assert people.payloads() == [{"name": "Anna", "id": 1}, {"name": None, "id": 2}]


def test_star_sends_the_columns_known_at_init_but_the_excluded(people: Application) -> None:
    rules = rule("p", "public.people", '"insert"', 'payload = "*"\nexcept = ["secret"]')
    people.capture(rules)
    people.run("insert into public.people values (1)")
    assert people.payloads() == [{"id": 1, "name": None, "note": None}]
    # New columns are captured only after the next init.
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


def test_extra_adds_and_replaces_keys(people: Application) -> None:
    extra = (
        "case when new.name is not null then"
        " json_build_object('name', upper(new.name), 'none', null) end -- else nothing"
    )
    whole = "extra = \"jsonb_build_object('by', tg_op)\""
    people.capture(
        rule("p", "public.people", '"insert"', f'payload = ["id", "name"]\nextra = "{extra}"')
        + rule("t", "public.people", '"truncate"', whole)
    )
    people.run("insert into public.people values (1, 'Anna'), (2, null)", "truncate public.people")
    assert people.payloads() == [
        {"id": 1, "name": "ANNA", "none": None},
        {"id": 2, "name": None},
        {"by": "TRUNCATE"},
    ]


def test_payload_table_takes_columns_and_sql(people: Application) -> None:
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


def test_delete_sends_the_old_row(people: Application) -> None:
    people.capture(
        rule("one", "public.people", '"delete"', 'payload = ["id", "name"]')
        + rule("sql", "public.people", '"delete"', 'payload = { name = "upper(old.name)" }')
    )
    people.run("insert into public.people values (1, 'anna')", "update public.people set note = ''")
    assert people.events() == []
    people.run("delete from public.people")
    assert people.events() == [("one", {"id": 1, "name": "anna"}), ("sql", {"name": "ANNA"})]


def test_rule_for_update_and_delete_sends_new_then_deleted_row(
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


def test_statement_makes_an_event_per_row_in_order(people: Application) -> None:
    people.capture(rule("p", "public.people", '["insert", "update"]', 'payload = ["id", "name"]'))
    people.run(
        "insert into public.people select i from generate_series(1, 300) i",
        "insert into public.people values (300, 'upsert'), (301, null)"
        " on conflict (id) do update set name = excluded.name",
    )
    assert [payload["id"] for payload in people.payloads()] == [*range(1, 301), 300, 301]


@since(15, "MERGE")
def test_merge_makes_events_of_its_actions(people: Application) -> None:
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
def test_update_counts_only_if_a_watched_column_changes(
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


def test_watched_columns_do_not_limit_other_operations(
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


def test_unchanged_megabyte_is_no_change(app: Application) -> None:
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


def test_when_skips_false_and_null(app: Application) -> None:
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


ORDERS = """
create table public.orders (id int primary key, status text);
create table public.lines (order_id int references public.orders, article text);
"""


def test_deferred_rule_sees_the_transactions_end(app: Application) -> None:
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


def test_deferred_update_and_delete_keep_their_rows(app: Application) -> None:
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


def test_deferred_events_must_fire_before_alter_table(
    app: Application,
) -> None:
    app.run(ORDERS)
    app.capture(rule("o", "public.orders", '"update"', 'deferred = true\npayload = ["id"]'))
    app.run("insert into public.orders values (1, 'a')")
    migration = (
        "update public.orders set status = 'b'",
        "alter table public.orders alter column status set not null",
    )
    # PostgreSQL requires this of every deferred trigger, including foreign keys.
    with pytest.raises(psycopg.errors.ObjectInUse, match="pending trigger events"):
        app.together(*migration)
    app.together(migration[0], "set constraints all immediate", migration[1])
    assert app.payloads() == [{"id": 1}]


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
def test_truncate_is_one_event(app: Application, more: str, payload: object) -> None:
    app.run("create table public.t (id int)")
    app.capture(rule("emptied", "public.t", '"truncate"', more))
    app.run("insert into public.t values (1), (2)", "delete from public.t", "truncate public.t")
    assert app.events() == [("emptied", payload)]
    app.run("truncate public.t")
    assert app.events() == [("emptied", payload)]


def test_truncate_survives_a_failing_payload(app: Application) -> None:
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


def test_cascading_truncate_fires_the_rules_of_every_table(app: Application) -> None:
    app.run(ORDERS)
    app.capture(
        rule("orders.emptied", "public.orders", '"truncate"', "")
        + rule("lines.emptied", "public.lines", '"truncate"', "")
    )
    app.run("truncate public.orders cascade")
    assert sorted(app.events()) == [("lines.emptied", {}), ("orders.emptied", {})]


def test_init_warns_that_inheriting_tables_are_not_captured(app: Application) -> None:
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


def test_inheriting_table_can_have_its_own_rule(app: Application) -> None:
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


@since(18, "a virtual generated column")
def test_virtual_generated_columns_are_captured(app: Application) -> None:
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
