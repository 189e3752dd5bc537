"""Whatever schema changes an application makes, its writes succeed and are captured.

Every statement runs on a table with rules and on a twin without. Both must have the same outcome,
and the twin determines which events are expected.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.application import Application, rule

#: Values of each type, as SQL.
TYPES = {
    "int": ["0", "5", "50", "null"],
    "text": ["'a'", "'b'", "''", "null"],
    "numeric": ["1.50", "'NaN'", "1e400", "11"],
    "timestamptz": ["'2024-06-01 12:00+03'", "'infinity'", "null"],
    "json": ["""'{"a":  1}'""", "'[]'", r"""'"\u0000"'"""],
    "jsonb": ["""'{"a": 1}'""", "'[]'", "null"],
    "text[]": ["'{a,null}'", "'{}'"],
    "bytea": ["'\\x00ff'", "''"],
    "public.cents": ["0", "7", "null"],
    "public.mood": ["'glad'", "'odd'"],
    "point": ["'(1,2)'", "null"],
}
TABLE = """
create table public.{table} (
    id int primary key, kind text, amount int, note text, secret text default 'hush'
)"""
PARTITIONED = """
create table public.{table} (
    id int, kind text, amount int, note text, secret text default 'hush', shard int default 0,
    primary key (id, shard)
) partition by list (shard);
create table public.{table}_0 partition of public.{table} for values in (0);
create table public.{table}_1 (
    secret text, note text, id int not null, shard int not null default 0, amount int, kind text
);
alter table public.{table} attach partition public.{table}_1 for values in (1)"""
COLUMNS = ["id", "kind", "amount", "note", "secret", "shard", "extra", "other"]

RULES = "".join(
    [
        rule("list", "public.captured", '"insert"', 'payload = ["id", "kind", "amount"]'),
        rule(
            "all",
            "public.captured",
            '["insert", "update", "delete"]',
            'payload = "*"\nexcept = ["secret"]',
        ),
        rule(
            "map",
            "public.captured",
            '["insert", "update"]',
            'when = "new.amount > 10"\n[capture.payload]\nn = "id"\ntwice = "new.amount * 2"\n'
            'was = "old.kind"\nlabel = "upper(new.kind)"',
        ),
        rule(
            "watch", "public.captured", '"update"', 'columns = ["kind", "note"]\npayload = ["id"]'
        ),
        rule(
            "late",
            "public.captured",
            '["insert", "delete"]',
            'deferred = true\n[capture.payload]\nop = "tg_op"\nn = "id"\n'
            'rows = "(select count(*) from public.captured)"',
        ),
        rule("gone", "public.captured", '"delete"', 'payload = ["note"]'),
    ]
)


@dataclass(frozen=True)
class Write:
    """One statement; the picks select its columns and values."""

    kind: Literal["insert", "update", "delete"]
    rows: int
    picks: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """An ALTER TABLE."""

    kind: Literal["add", "drop", "rename", "retype", "default", "no default"]
    column: str
    other: str
    type_name: str


@dataclass(frozen=True)
class Transaction:
    """A transaction of savepoints, each with writes and either released or rolled back."""

    groups: tuple[tuple[bool, tuple[Write, ...]], ...]
    commits: bool


@dataclass(frozen=True)
class Reconnect:
    """Open a new session, without cached PL/pgSQL plans."""


_PICKS = st.lists(st.integers(0, 11), min_size=3, max_size=8).map(tuple)
_KINDS = st.sampled_from(["insert", "insert", "update", "update", "delete"])
_WRITES = st.builds(Write, _KINDS, st.integers(1, 3), _PICKS)
_READ = ["kind", "amount", "note"]
_TYPE_NAMES = st.sampled_from(sorted(TYPES))
_CHANGES = st.one_of(
    # Columns that rules read disappear and come back as something else.
    st.builds(
        Change,
        st.sampled_from(["retype", "drop", "rename", "add", "default"]),
        st.sampled_from(_READ),
        st.sampled_from([*_READ, "other"]),
        _TYPE_NAMES,
    ),
    st.builds(
        Change,
        st.sampled_from(["add", "drop", "rename", "retype", "default", "no default"]),
        st.sampled_from(COLUMNS),
        st.sampled_from(COLUMNS),
        _TYPE_NAMES,
    ),
)
_GROUPS = st.tuples(st.booleans(), st.lists(_WRITES, min_size=1, max_size=3).map(tuple))
_TRANSACTIONS = st.builds(
    Transaction,
    st.lists(_GROUPS, min_size=1, max_size=3).map(tuple),
    st.sampled_from([True, True, False]),
)
Step = Change | Write | Transaction | Reconnect
_WORK = st.one_of(_WRITES, _TRANSACTIONS)
#: Initial rows, then repeatedly a change, perhaps new sessions, and work.
_FIRST = Write("insert", 3, (0, 1, 2, 3))
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(_CHANGES, _WORK, st.one_of(_CHANGES, st.just(Reconnect()), _WORK), _WORK),
    min_size=2,
    max_size=5,
).map(lambda rounds: [_FIRST, *itertools.chain.from_iterable(rounds)])


@dataclass
class Expected:
    """For each rule, the minimum and maximum of events, and the maximum without an error."""

    least: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    sound: Counter[str] = field(default_factory=Counter)

    def add(
        self, name: str, rows: int, *, least: int | None = None, sound: int | None = None
    ) -> None:
        self.most[name] += rows
        self.least[name] += rows if least is None else least
        self.sound[name] += rows if sound is None else sound

    def __iadd__(self, other: Expected) -> Expected:
        self.least += other.least
        self.most += other.most
        self.sound += other.sound
        return self


class Twins:
    """Sessions on the captured table and on its twin."""

    def __init__(self, url: str, *, partitioned: bool) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self.partitioned = partitioned
        with psycopg.connect(url, autocommit=True) as connection:
            for table in ("captured", "twin"):
                connection.execute(f"drop table if exists public.{table}".encode())
                text = PARTITIONED if partitioned else TABLE
                connection.execute(text.format(table=table).encode())
            connection.execute("truncate bridge.outbox, bridge.transaction_notes")
        self.connect()

    def connect(self) -> None:
        self.captured: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(
            self._url, autocommit=True
        )
        self.twin: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(self._url, autocommit=True)

    def close(self) -> None:
        self.captured.close()
        self.twin.close()

    def columns(self) -> dict[str, str]:
        return dict(
            self.twin.execute(
                "select attname, case when typname in ('cents', 'mood') then 'public.' else '' end"
                " || format_type(atttypid, null)"
                " from pg_attribute join pg_type t on t.oid = atttypid"
                " where attrelid = 'public.twin'::regclass and attnum > 0 and not attisdropped"
                " order by attnum"
            ).fetchall()
        )

    def run(self, statement: str, returning: str = "") -> list[tuple[Any, ...]] | None:
        """Run a statement on both; return the twin's rows, or None if the statement failed."""
        try:
            with self.twin.transaction():
                cursor = self.twin.execute(f"{statement.format(table='twin')} {returning}".encode())
                answer = cursor.fetchall() if returning else [()] * max(cursor.rowcount, 0)
        except psycopg.Error as error:
            with pytest.raises(type(error)), self.captured.transaction():
                self.captured.execute(statement.format(table="captured").encode())
            return None
        with self.captured.transaction():
            cursor = self.captured.execute(statement.format(table="captured").encode())
        if cursor.rowcount >= 0:
            assert cursor.rowcount == len(answer)
        return answer

    def change(self, change: Change) -> None:
        column, kind = change.column, change.type_name
        statement = {
            "add": f"add column {column} {kind} default {TYPES[kind][0]}",
            "drop": f"drop column {column} cascade",
            "rename": f"rename column {column} to {change.other}",
            "retype": f"alter column {column} drop default,"
            f" alter column {column} type {kind} using {TYPES[kind][0]}::{kind}",
            "default": f"alter column {column} set default {TYPES[kind][0]}",
            "no default": f"alter column {column} drop default",
        }[change.kind]
        self.run("alter table public.{table} " + statement.replace("{", "{{").replace("}", "}}"))

    def write(self, write: Write) -> Expected:
        """Run a write on both; return the events it makes if it commits."""
        columns = self.columns()
        if not columns:
            return Expected()
        picks = itertools.cycle(write.picks)
        match write.kind:
            case "insert":
                return self._insert(columns, write.rows, picks)
            case "update":
                return self._update(columns, write.rows, picks)
            case "delete":
                return self._delete(columns, picks)

    def _insert(self, columns: dict[str, str], rows: int, picks: Iterator[int]) -> Expected:
        values = ", ".join(
            "(" + ", ".join(self._value(name, kind, picks) for name, kind in columns.items()) + ")"
            for _ in range(rows)
        )
        names = ", ".join(columns)
        answer = self.run(
            f"insert into public.{{table}} ({names}) values {_escaped(values)}",
            f"returning {self._is_big(columns)}",
        )
        expected = Expected()
        if answer is not None:
            self._big(expected, columns, answer)
            for name in ("list", "all", "late"):
                expected.add(name, rows)
        return expected

    def _update(self, columns: dict[str, str], width: int, picks: Iterator[int]) -> Expected:
        names = [*columns]
        changes = {
            name: self._value(name, columns[name], picks)
            for name in (names[next(picks) % len(names)] for _ in range(width))
            if name != "id"
        }
        if not changes:
            return Expected()
        where = self._where(columns, picks)
        watched = [name for name in ("kind", "note") if name in columns]
        old = ", ".join(watched)
        new = ", ".join(
            f"{changes[name]}::{columns[name]}" if name in changes else name for name in watched
        )
        differing = 0
        if watched:
            row = self.twin.execute(
                f"select count(*) filter (where not record_image_eq(row({old}), row({new})))"
                f" from public.twin {where}".encode()
            ).fetchone()
            assert row is not None
            differing = row[0]
        assignments = ", ".join(f"{name} = {value}" for name, value in changes.items())
        answer = self.run(
            f"update public.{{table}} set {_escaped(assignments)} {where}",
            f"returning {self._is_big(columns)}",
        )
        expected = Expected()
        if answer is not None:
            rows = len(answer)
            self._big(expected, columns, answer)
            expected.add("all", rows)
            if len(watched) == 2:
                # A session that cached another column type fails to compare it.
                unchanged = [columns[name] for name in watched] == ["text", "text"]
                expected.add(
                    "watch", differing if unchanged else rows, least=differing, sound=differing
                )
            else:
                expected.add("watch", rows, sound=0)
            if self.partitioned:
                # Moving a row that was written in the same transaction makes two events.
                for name in ("list", "gone"):
                    expected.add(name, rows, least=0)
                for name in ("all", "late"):
                    expected.add(name, 2 * rows, least=0)
                for name in ("watch", "map"):
                    expected.least[name] = 0
        return expected

    def _delete(self, columns: dict[str, str], picks: Iterator[int]) -> Expected:
        answer = self.run(f"delete from public.{{table}} {self._where(columns, picks)}")
        expected = Expected()
        for name in ("all", "late", "gone"):
            expected.add(name, len(answer or []))
        return expected

    def _value(self, name: str, kind: str, picks: Iterator[int]) -> str:
        pick = next(picks)
        if name == "id" and kind == "integer":
            return str(next(self._numbers))
        if name == "shard":
            return str(pick % 2)
        values = TYPES[_SHORT.get(kind, kind)]
        return f"{values[pick % len(values)]}"

    def _where(self, columns: dict[str, str], picks: Iterator[int]) -> str:
        whole = next(picks) % 3 == 0 or columns.get("id") != "integer"
        return "" if whole else f"where id % 2 = {next(picks) % 2}"

    def _is_big(self, columns: dict[str, str]) -> str:
        """Return the condition of rule "map" for the twin."""
        numbers = ("integer", "numeric", "public.cents")
        return "amount > 10" if columns.get("amount") in numbers else "null::boolean"

    def _big(
        self, expected: Expected, columns: dict[str, str], answer: list[tuple[Any, ...]]
    ) -> None:
        true = sum(row[0] is True for row in answer)
        if columns.get("amount") == "integer" and not self.drifted:
            expected.add("map", true)
        elif columns.get("amount") in ("integer", "numeric", "public.cents"):
            # Or an error, if the session cached another type.
            expected.add("map", len(answer), least=true, sound=true)
        else:
            # Nothing can be compared with 10.
            expected.add("map", len(answer), sound=0)

    #: Whether the table has changed since the rules were made.
    drifted = False


_SHORT = {"integer": "int", "timestamp with time zone": "timestamptz"}


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@pytest.fixture(scope="module")
def drift_url(server: EmbeddedPostgres) -> Iterator[str]:
    """Return a database with pgbridge and two types, for all examples."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database drift template template0")
        url = server.url("drift")
        with psycopg.connect(url) as types:
            types.execute("create domain public.cents as int check (value >= 0)")
            types.execute("create type public.mood as enum ('glad', 'odd')")
        application = Application(url)
        application.capture("")
        application.connection.close()
        yield url
        connection.execute("drop database drift with (force)")


def play(twins: Twins, step: Step) -> Expected:
    """Run one step; return the events it makes."""
    match step:
        case Reconnect():
            twins.close()
            twins.connect()
        case Change():
            twins.change(step)
            twins.drifted = True
        case Write():
            return twins.write(step)
        case Transaction():
            whole = Expected()
            with (
                twins.twin.transaction(force_rollback=not step.commits),
                twins.captured.transaction(force_rollback=not step.commits),
            ):
                for keeps, writes in step.groups:
                    group = Expected()
                    with (
                        twins.twin.transaction(force_rollback=not keeps),
                        twins.captured.transaction(force_rollback=not keeps),
                    ):
                        for write in writes:
                            group += twins.write(write)
                    if keeps:
                        whole += group
            if step.commits:
                return whole
    return Expected()


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(steps=STEPS)
def test_writes_are_captured_after_any_schema_change(
    drift_url: str, partitioned: bool, steps: list[Step]
) -> None:
    twins = Twins(drift_url, partitioned=partitioned)
    application = Application(drift_url)
    try:
        application.capture(RULES)
        for step in steps:
            expected = play(twins, step)
            captured = application.events()
            events = Counter(kind for kind, _ in captured)
            sound = Counter(kind for kind, payload in captured if "_capture_error" not in payload)
            for name in ("list", "all", "map", "watch", "late", "gone"):
                assert expected.least[name] <= events[name] <= expected.most[name], (name, step)
                assert sound[name] <= expected.sound[name], (name, step)
    finally:
        application.connection.close()
        twins.close()
