"""A rule that does not fit the database is rejected in one line, and changes nothing."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from bridge.capture.plan import plan_install
from bridge.capture.rules import parse_rules
from bridge.database.migrate import InstallError
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.application import rule

Dump = Callable[..., str]

TABLES = """
create table public.t (id int, status text, at timestamptz);
create view public.v as select * from public.t;
create materialized view public.m as select * from public.t;
create index t_id on public.t (id);
create sequence public.s;
"""
_LIST = 'payload = ["id"]'
_MISSING = "does not exist; check that BRIDGE_DATABASE_URL names the application's database"
_COLUMNS = "its columns are id, status, at"
_AMBIGUOUS = 'column reference "status" is ambiguous; prefix it with new. or old.'
_TWO_STATEMENTS = "1) end from pg_class; select case when true then (2"
#: Table, operation, further keys, and the error.
INVALID = [
    ("v", "insert", _LIST, "table: public.v is a view; use the table it reads"),
    ("m", "insert", _LIST, "table: public.m is a materialized view; use the tables it reads"),
    ("s", "insert", "payload = {}", "table: public.s is not a table"),
    ("t_id", "insert", "payload = {}", "table: public.t_id is not a table"),
    ("nowhere", "insert", _LIST, f"table public.nowhere {_MISSING}"),
    (
        "t",
        "insert",
        'payload = ["id", "nmae"]',
        f"payload: table public.t has no column 'nmae'; {_COLUMNS}",
    ),
    (
        "t",
        "insert",
        'payload = "*"\nexcept = ["secret"]',
        f"except: table public.t has no column 'secret'; {_COLUMNS}",
    ),
    (
        "t",
        "update",
        f'columns = ["Status"]\n{_LIST}',
        f"columns: table public.t has no column 'Status'; {_COLUMNS}",
    ),
    (
        "t",
        "insert",
        f'{_LIST}\nextra = "new.id"',
        "extra: cannot cast type integer to jsonb",
    ),
    (
        "t",
        "insert",
        f'{_LIST}\nextra = "jsonb_build_object(new.nmae)"',
        "extra: column new.nmae does not exist",
    ),
    (
        "t",
        "truncate",
        'payload = { n = "new.id" }',
        'payload.n: missing FROM-clause entry for table "new"',
    ),
]
#: SQL in a payload on table t, and the error.
INVALID_PAYLOADS = [
    ("nmae", 'column "nmae" does not exist'),
    ("new.nmae", "column new.nmae does not exist"),
    ("new.id +", 'syntax error at or near ")"'),
    ("nonesuch(new.id)", "function nonesuch(integer) does not exist"),
    ("generate_series(1, new.id)", "set-returning functions are not allowed in CASE"),
    ("(select 1, 2)", "subquery must return only one column"),
    ("status || max(new.id)", _AMBIGUOUS),
    (_TWO_STATEMENTS, "cannot insert multiple commands into a prepared statement"),
]
#: The same for conditions.
INVALID_CONDITIONS = [
    ("new.id = 'x'", 'invalid input syntax for type integer: "x"'),
    ("new.id", "argument of CASE/WHEN must be type boolean, not type integer"),
    ("new.id = $1", "parameters such as $1 are not supported"),
    ("status = 'open'", _AMBIGUOUS),
    ("true); drop table public.t; --", 'syntax error at or near ";"'),
]
CASES = [
    *((rule("r", f"public.{table}", f'"{on}"', more), error) for table, on, more, error in INVALID),
    (rule("r", "nowhere.t", '"insert"', _LIST), f"table nowhere.t {_MISSING}"),
    *(
        (rule("r", "public.t", '"insert"', f'payload = {{ n = "{sql}" }}'), f"payload.n: {error}")
        for sql, error in INVALID_PAYLOADS
    ),
    *(
        (rule("r", "public.t", '"insert"', f'when = "{sql}"\n{_LIST}'), f"when: {error}")
        for sql, error in INVALID_CONDITIONS
    ),
]


@pytest.fixture(scope="module")
def untouched_url(server: EmbeddedPostgres) -> Iterator[str]:
    """Return a database that no rejected rule may change."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database untouched template template0")
        with psycopg.connect(server.url("untouched")) as tables:
            tables.execute(TABLES)
        yield server.url("untouched")
        connection.execute("drop database untouched with (force)")


@pytest.fixture(scope="module")
def untouched(untouched_url: str, dump_schema: Dump) -> str:
    """Return that database's schema at the start."""
    return dump_schema(untouched_url)


@pytest.mark.parametrize(("rules", "error"), CASES, ids=[error for _, error in CASES])
def test_misfit_rule_is_rejected_and_changes_nothing(
    untouched_url: str, untouched: str, dump_schema: Dump, rules: str, error: str
) -> None:
    good = rule("good", "public.t", '"insert"', _LIST)
    with open_session(untouched_url) as connection:
        with pytest.raises(InstallError) as raised:
            plan_install(connection, parse_rules(good + rules))
        assert connection.execute("select 1").fetchone() == (1,)
    message = str(raised.value)
    assert message.startswith(f"[[capture]] r: {error}")
    assert "\n" not in message
    assert dump_schema(untouched_url) == untouched
