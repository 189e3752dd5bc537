"""Generated filters: exactly those of the grammar are allowed, and their cost is linear."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.integration.psql import Session


@dataclass(frozen=True)
class Part:
    """A part of a filter, and what is known of it."""

    text: str
    #: Whether the grammar has it.
    fits: bool = True
    #: What it adds to the number of conditions.
    count: int = 0
    has_star: bool = False
    nots: int = 0

    def around(self, template: str, *others: "Part", **more: int) -> "Part":
        """Return this part and others in a template."""
        parts = [self, *others]
        return Part(
            template.format(*(part.text for part in parts)),
            all(part.fits for part in parts),
            sum(part.count for part in parts) + more.get("count", 0),
            any(part.has_star for part in parts),
            sum(part.nots for part in parts) + more.get("nots", 0),
        )

    @property
    def is_allowed(self) -> bool:
        is_single = self.text.startswith("strict ") and not self.has_star
        return self.fits and self.nots <= 10 and self.count <= (60 if is_single else 5)


def good(*texts: str, count: int = 0, has_star: bool = False) -> list[Part]:
    return [Part(text, count=count, has_star=has_star) for text in texts]


def bad(*texts: str) -> list[Part]:
    return [Part(text, fits=False) for text in texts]


STEPS = [
    *good(".a", ".b", '."$.a ? (@ == 1)"', r'."\"**"', '."C"') * 2,
    *good(".*", "[*]", count=1, has_star=True),
    *good("[0]", "[last]", count=2),
]
ENDS = [*good("") * 4, *good(".size()", ".type()", count=2)]
CONSTANTS = good("1", "-2.5", "0", '"x"', r'"\\\"like_regex /* @ == $"', "null", "true", "false")
OPERATORS = ("==", "!=", "<>", "<", "<=", ">", ">=")
WRONG_STEPS = bad(
    *(".**", ".**{1 to 3}", "[0,0]", "[0 to last]", "[-1]", "[last - 1]", "[$.a]", " ? (@ == 1).b"),
    *(".double()", ".keyvalue()", ".abs()", ".datetime()", ".size().type()"),
)
WRONG_CONSTANTS = bad("$x", '$"1"', "1 + 1", "-$.a", '"x".size()', "(1).type()", "$.a", "$[*]")


@st.composite
def paths(draw: st.DrawFn, root: str, may_be_wrong: bool) -> Part:
    steps = STEPS + (WRONG_STEPS if may_be_wrong and draw(st.integers(0, 5)) == 0 else [])
    chosen = draw(st.lists(st.sampled_from(steps), max_size=4))
    parts = [Part(root), *chosen, draw(st.sampled_from(ENDS))]
    return parts[0].around("{}" * len(parts), *parts[1:])


@st.composite
def conditions(draw: st.DrawFn, root: str, may_be_wrong: bool) -> Part:
    is_wrong = may_be_wrong and draw(st.integers(0, 9)) == 0
    path = draw(paths(root, may_be_wrong))
    constant = draw(st.sampled_from(WRONG_CONSTANTS if is_wrong else CONSTANTS))
    operator = draw(st.sampled_from(OPERATORS))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return constant.around(f"{{}} {operator} {{}}", path, count=1)
    if kind == 1:
        return path.around("exists({})", count=1)
    if kind == 2:
        wrong = Part('like_regex "x"', fits=False)
        return path.around("{} {}", wrong if is_wrong else Part('starts with "x"'), count=1)
    if kind == 3 and (root == "$" or is_wrong):
        # Wrong are conditions on the payload within, which make a square, and a ? (…) in another.
        within = draw(joined("$" if is_wrong and root == "$" else "@", may_be_wrong, 3))
        return path.around(
            "exists({} ? ({}))", replace(within, fits=within.fits and not is_wrong), count=1
        )
    return path.around(f"{{}} {operator} {{}}", constant, count=1)


def joined(root: str, may_be_wrong: bool, most: int) -> st.SearchStrategy[Part]:
    return st.recursive(
        conditions(root, may_be_wrong),
        lambda inner: st.one_of(
            st.builds(lambda one, two: one.around("({} && {})", two), inner, inner),
            st.builds(lambda one, two: one.around("{} || {}", two), inner, inner),
            st.builds(lambda one: one.around("!({})", nots=1), inner),
            st.builds(lambda one: one.around("({}) is unknown", nots=1), inner),
        ),
        max_leaves=most,
    )


def filters(may_be_wrong: bool) -> st.SearchStrategy[Part]:
    return st.builds(
        lambda mode, part: part.around(mode + "{}"),
        st.sampled_from(["", "", "lax ", "strict "]),
        joined("$", may_be_wrong, 6),
    )


#: Payloads of n parts, as jsonb.
PAYLOADS = {
    "numbers": "jsonb_build_object('a', (select jsonb_agg(0) from n))",
    "texts": "jsonb_build_object('b', (select jsonb_agg('y'::text) from n))",
    "long numbers": "(select jsonb_agg(1e300 + i) from n where mod(i, 50) = 0)",
    "huge numbers": "(select jsonb_agg(huge) from n, to_jsonb(1e131071) as huge)",
    "empty arrays": "(select jsonb_agg('[]'::jsonb) from n)",
    "arrays": "jsonb_build_object('a', (select jsonb_agg('[0, 0, 0, 0]'::jsonb) from n))",
    "objects": """(select jsonb_agg('{"a": 0, "b": [{"a": 0}, {"b": 0}]}'::jsonb) from n)""",
    "keys": "jsonb_build_object('a', (select jsonb_object_agg('k' || i, 0) from n))",
    "a text": "jsonb_build_object('a', (select string_agg('x', '') from n))",
    "a nest": """(repeat('{"a": [', max_depth) || repeat(']}', max_depth))::jsonb""",
}
TINY, SMALL, LARGE = 250, 2_000, 16_000


@pytest.fixture(scope="module")
def session(psql_url: str) -> Iterator[Session]:
    """A session on a database with a table of payloads."""
    with psycopg.connect(psql_url, autocommit=True) as opened:
        opened.execute("create table payloads (name text, size integer, payload jsonb)")
        for (name, sql), size in itertools.product(PAYLOADS.items(), (TINY, SMALL, LARGE)):
            opened.execute(
                "with n as (select generate_series(1, %(size)s) as i)"
                " insert into payloads select %(name)s, %(size)s, "
                + sql.replace("max_depth", "(%(size)s / 20)"),
                {"name": name, "size": size},
            )
        yield opened


def value(session: Session, sql: str, *values: object) -> Any:
    [[found]] = session.execute(sql.encode(), values).fetchall()
    return found


def processor_ms(session: Session, filter_text: str, name: str, size: int) -> float:
    """Return what an evaluation costs PostgreSQL, without what other processes cost it."""
    schedule = Path(f"/proc/{session.info.backend_pid}/schedstat")

    def spent_ns() -> int:
        return int(schedule.read_text().split()[0])

    def once() -> int:
        before = spent_ns()
        sql = "select bridge.passes(%s, payload) from payloads where (name, size) = (%s, %s)"
        value(session, sql, filter_text, name, size)
        return spent_ns() - before

    return min(once() for _ in range(3)) / 1e6


def is_linear(
    session: Session, filter_text: str, name: str, small: int, large: int, *, attempts: int = 5
) -> bool:
    """Return whether a payload that is eight times as large takes about eight times as long.

    A square would be 64 times. Caches make a large payload up to twice as slow per element.
    """
    assert large == 8 * small
    for _ in range(attempts):
        before = processor_ms(session, filter_text, name, small)
        if processor_ms(session, filter_text, name, large) < 24 * before + 2:
            return True
    return False


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(part=filters(may_be_wrong=True))
def test_exactly_the_grammar_is_allowed(session: Session, part: Part) -> None:
    problem = value(session, "select bridge.filter_problem(%s)", part.text)
    assert (problem is None) == part.is_allowed, problem


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(part=filters(may_be_wrong=False), name=st.sampled_from(sorted(PAYLOADS)))
def test_allowed_filters_take_linear_time(session: Session, part: Part, name: str) -> None:
    assume(part.is_allowed)
    assert is_linear(session, part.text, name, SMALL, LARGE)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")
@pytest.mark.parametrize("filter_text", ["exists($.a[*] ? ($.a[*] == 1))", "$.a[*] < $.a[*]"])
def test_measurement_finds_squares(session: Session, filter_text: str) -> None:
    assert not is_linear(session, filter_text, "numbers", TINY, SMALL, attempts=1)
