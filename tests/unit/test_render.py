"""Rules are rendered to SQL with every name and text quoted."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.capture.render import Column, ColumnError, Table, render, render_paused
from bridge.capture.rules import CaptureRule, NoteRule, load_preset
from bridge.database.quoting import identifier, literal

NAMES = ["id", "name", "select", 'we"ird', "new.id"]
TABLE = Table({name: Column("integer") for name in NAMES})


ALL_SETTINGS = [
    "search_path", "timezone", "datestyle", "intervalstyle", "bytea_output", "extra_float_digits",
]  # fmt: skip


def rule(**keys: object) -> CaptureRule:
    defaults: dict[str, object] = {
        "event": "thing.made",
        "table": "public.things",
        "on": "insert",
        "payload": {"id": "id"},
    }
    return CaptureRule.model_validate(defaults | keys)


def test_rule_renders_function_and_trigger() -> None:
    rendered = render(rule(), TABLE, 7)
    assert rendered.name == "thing.made"
    assert rendered.table == "public.things"
    assert rendered.function_name == "bridge.capture_thing_made"
    assert rendered.trigger_name == "#bridge_007_thing_made"
    assert rendered.trigger_sql == (
        'create or replace trigger "#bridge_007_thing_made"\n'
        "    after insert on public.things\n"
        "    for each row execute function bridge.capture_thing_made();"
    )


def test_deferred_rule_renders_a_constraint_trigger() -> None:
    rendered = render(rule(deferred=True, on=["insert", "update"]), TABLE, 1)
    assert rendered.trigger_sql == (
        'create constraint trigger "#bridge_001_thing_made"\n'
        "    after insert or update on public.things\n"
        "    deferrable initially deferred\n"
        "    for each row execute function bridge.capture_thing_made();"
    )


def test_value_is_a_column_or_sql() -> None:
    payload = {"a": "name", "b": "select", "c": 'we"ird', "d": "new.id", "e": "old.name || 'x'"}
    sql = render(rule(payload=payload), TABLE, 1).function_sql
    for line in (
        "'a', new.\"name\"",
        "'b', new.\"select\"",
        '\'c\', new."we""ird"',
        "'d', new.\"new.id\"",
        "'e', (old.name || 'x')",
    ):
        assert line in sql


def test_deleted_row_is_old_and_also_new_among_other_operations() -> None:
    assert "'id', old.\"id\"" in render(rule(on="delete"), TABLE, 1).function_sql
    assert "new := old;" in render(rule(on=["insert", "delete"]), TABLE, 1).function_sql
    assert "new := old;" not in render(rule(on=["insert", "update"]), TABLE, 1).function_sql


def test_condition_is_in_the_function_not_the_trigger() -> None:
    rendered = render(rule(when="new.name is not null"), TABLE, 1)
    assert "exit guarded when (new.name is not null) is not true;" in rendered.function_sql
    assert "new.name" not in rendered.trigger_sql


def test_comment_in_an_expression_ends_with_it() -> None:
    keys = {"when": "true -- always", "payload": {"a": "1 -- one"}, "extra": "null -- none"}
    sql = render(rule(**keys), TABLE, 1).function_sql
    assert "true -- always\n)" in sql
    assert "1 -- one\n)" in sql
    assert "null -- none\n)::pg_catalog.jsonb" in sql


@pytest.mark.parametrize("place", ["payload", "when", "extra"])
@pytest.mark.parametrize("text", ["'$capture$'", "'$capture$$_capture$'", "$_capture$"])
def test_dollar_quote_does_not_end_the_function(place: str, text: str) -> None:
    value: object = {"a": text} if place == "payload" else text
    sql = render(rule(**{place: value}), TABLE, 1).function_sql
    _, opening, rest = sql.partition("\nas ")
    tag = rest.split("\n", 1)[0]
    assert opening
    assert sql.endswith(f"end\n{tag};")
    assert sql.count(tag) == 2


@pytest.mark.parametrize(("fields", "calls"), [(0, 0), (1, 1), (50, 1), (51, 2), (120, 3)])
def test_call_has_at_most_100_arguments(fields: int, calls: int) -> None:
    payload = {f"field_{number}": "id" for number in range(fields)}
    sql = render(rule(payload=payload), TABLE, 1).function_sql
    value = sql.split("v_payload := ")[1].split("exception when")[0]
    assert value.count("jsonb_build_object(") == calls
    assert value.count("new.") == fields
    assert value.count(" operator(pg_catalog.||) ") == max(0, calls - 1)
    assert ("'{}'::pg_catalog.jsonb" in value) == (fields == 0)


def test_note_writes_no_event() -> None:
    note = NoteRule(topic="it's", table="public.things", on=("insert",), key="id", value={})
    sql = render(note, TABLE, 1).function_sql
    assert "perform bridge.note('it''s', v_key, v_payload);" in sql
    assert "bridge.outbox" not in sql


def test_names_have_at_most_63_characters() -> None:
    rendered = render(rule(event="e" * 200), TABLE, 999)
    assert len(rendered.trigger_name) <= 63
    assert len(rendered.function_name.removeprefix("bridge.")) <= 63


def test_triggers_fire_in_the_order_of_the_rules() -> None:
    names = [render(rule(), TABLE, position).trigger_name for position in range(1, 200)]
    assert names == sorted(names)


def test_rendering_is_deterministic() -> None:
    for preset_rule in load_preset("telegram-shop"):
        assert render(preset_rule, TABLE, 1) == render(preset_rule, TABLE, 1)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "''"),
        ("it's", "'it''s'"),
        ("a\\b", "E'a\\\\b'"),
        ("\\'", "E'\\\\'''"),
        ("я", "'я'"),
        ("a\nb", "'a\nb'"),
    ],
)
def test_literal_ignores_standard_conforming_strings(text: str, quoted: str) -> None:
    assert literal(text) == quoted


@given(st.text())
def test_no_text_ends_its_literal_or_identifier(text: str) -> None:
    inner = literal(text).removeprefix("E")[1:-1]
    assert "'" not in inner.replace("''", "")
    assert '"' not in identifier(text)[1:-1].replace('""', "")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"payload": ["id", "nmae"]}, "payload: table public.things has no column 'nmae'"),
        (
            {"payload": "*", "except": ["secret"]},
            "except: table public.things has no column 'secret'",
        ),
        (
            {"on": "update", "columns": ["status"]},
            "columns: table public.things has no column 'status'",
        ),
    ],
)
def test_unknown_column_is_named_with_key_and_alternatives(
    keys: dict[str, object], said: str
) -> None:
    with pytest.raises(ColumnError) as raised:
        render(rule(**keys), TABLE, 1)
    assert str(raised.value) == f"{said}; its columns are {', '.join(NAMES)}"


def test_star_lists_all_columns_but_the_excluded() -> None:
    everything = rule(payload="*", **{"except": ["select", "name"]})
    sql = render(everything, TABLE, 1).function_sql
    value = sql.split("v_payload := ")[1].split("exception when")[0]
    assert [name for name in NAMES if identifier(name) in value] == ["id", 'we"ird', "new.id"]


def test_watched_columns_are_compared_as_stored() -> None:
    sql = render(rule(on=["insert", "update"], columns=["name", "id"]), TABLE, 1).function_sql
    assert (
        'pg_catalog.record_image_eq(row(old."name", old."id"), row(new."name", new."id"));'
    ) in sql


def test_virtual_column_is_computed_from_stored_ones() -> None:
    table = Table({"a": Column("integer"), "b": Column("integer", virtual_sql="(a * 2)")})
    rendered = render(rule(payload=["a", "b"]), table, 1)
    assert "'b', (select (a * 2) from (select (new).*) as stored)" in rendered.function_sql
    assert [each.key for each in rendered.expressions] == ["payload: b"]


@pytest.mark.parametrize(
    ("types", "keys", "settings"),
    [
        (["integer", "text"], {"payload": ["a", "b"]}, []),
        (["integer", "timestamp with time zone"], {"payload": ["a"]}, []),
        (["integer", "timestamp with time zone"], {"payload": ["b"]}, ["timezone"]),
        (["integer", "text"], {"payload": {"c": "new.a + 1"}}, ALL_SETTINGS),
        (["integer", "text"], {"when": "new.a > 1"}, ALL_SETTINGS),
        (["integer", "text"], {"extra": "to_jsonb(new)"}, ALL_SETTINGS),
        (["integer", "interval"], {"payload": ["b"]}, ALL_SETTINGS),
    ],
)
def test_function_sets_what_its_values_depend_on(
    types: list[str], keys: dict[str, object], settings: list[str]
) -> None:
    table = Table({name: Column(kind) for name, kind in zip("ab", types, strict=True)})
    sql = render(rule(**({"payload": ["a"]} | keys)), table, 1).function_sql
    assert re.findall(r"^set (\w+) = ", sql, re.MULTILINE) == settings


def test_truncate_renders_a_statement_trigger() -> None:
    rendered = render(rule(on="truncate", payload={"by": "current_user"}), TABLE, 1)
    assert rendered.trigger_sql == (
        'create or replace trigger "#bridge_001_thing_made"\n'
        "    after truncate on public.things\n"
        "    for each statement execute function bridge.capture_thing_made();"
    )


def test_partitioned_tables_trigger_fires_on_everything() -> None:
    table = Table(TABLE.columns, is_partitioned=True)
    rendered = render(rule(on="update"), table, 1)
    assert "after insert or update or delete on public.things" in rendered.trigger_sql
    assert "take_note" in rendered.function_sql
    assert "take_note" not in render(rule(on="update"), TABLE, 1).function_sql


def test_paused_function_captures_nothing() -> None:
    sql = render_paused("bridge.capture_thing_made")
    assert "return null;" in sql
    assert "outbox" not in sql
