"""A value of any type is sent as the same text, whatever the session's settings."""

import pytest

from tests.integration.application import Application, rule
from tests.postgres import MAJOR

_TYPES = """
create type public.mood as enum ('glad', 'it''s "odd"');
create domain public.cents as int check (value >= 0);
create type public.address as (street text, since date, moods public.mood[]);
create domain public.home as public.address;
"""
#: Type, value as SQL, and the JSON text that is sent.
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
if MAJOR >= 17:
    VALUES.append(("interval", "'infinity'", '"infinity"'))
#: Settings that an application's session may have changed.
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


def test_column_is_sent_as_the_same_text_in_any_session(app: Application) -> None:
    app.run(_TYPES)
    names = [f"c{number}" for number in range(len(VALUES))]
    types, values, texts = zip(*VALUES, strict=True)
    columns = ", ".join(map(" ".join, zip(names, types, strict=True)))
    app.run(f"create table public.t ({columns})")
    app.capture(rule("t", "public.t", '"update"', 'payload = "*"'))
    app.run("set datestyle = 'ISO, MDY'", f"insert into public.t values ({', '.join(values)})")
    for session in SESSIONS:
        app.run("reset all", session, "update public.t set c0 = null", "reset all")
        rows = app.connection.execute(
            "with taken as (delete from bridge.outbox returning payload)"
            " select key, value::text from taken, jsonb_each(payload)"
        ).fetchall()
        assert dict(rows) == dict(zip(names, texts, strict=True)), session


@pytest.mark.parametrize(
    ("kind", "value", "expression", "text"),
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
def test_sql_is_sent_as_the_same_text_in_any_session(
    app: Application, kind: str, value: str, expression: str, text: str
) -> None:
    app.run(f"create table public.t (v {kind})")
    app.capture(rule("t", "public.t", '"update"', f'payload = {{ text = "{expression}" }}'))
    app.run(f"insert into public.t values ({value})")
    for session in SESSIONS:
        app.run("reset all", session, "update public.t set v = v", "reset all")
        assert app.payloads() == [{"text": text}], session


def test_megabyte_of_text_arrives_whole(app: Application) -> None:
    app.run("create table public.t (body text)")
    app.capture(rule("t", "public.t", '"insert"', 'payload = ["body"]'))
    body = "".join(chr(0x400 + number % 200) for number in range(2**19))
    app.connection.execute("insert into public.t values (%s)", (body,))
    assert app.payloads() == [{"body": body}]


def test_replicating_session_captures_nothing(app: Application) -> None:
    app.run("create table public.t (id int)")
    app.capture(rule("t", "public.t", '"insert"', 'payload = ["id"]'))
    app.run("set session_replication_role = replica", "insert into public.t values (1)")
    assert app.events() == []
    app.run("set session_replication_role = origin", "insert into public.t values (2)")
    assert app.payloads() == [{"id": 2}]
