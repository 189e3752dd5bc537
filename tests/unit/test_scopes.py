"""Scopes permit what they name, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.access.scopes import (
    ADMIN,
    EVENTS_READ,
    MOST_SCOPES,
    SCOPES,
    WEBHOOKS_READ,
    WEBHOOKS_WRITE,
    ScopeError,
    allows,
    checked_scopes,
    event_patterns,
)
from bridge.events import narrowed, outside, patterns_matching

NAMES = st.sampled_from(["a", "b", "ticket"])
TYPES = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(st.just("*"), TYPES, TYPES.map(lambda name: f"{name}.*"))


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ([EVENTS_READ], [EVENTS_READ]),
        (["events:read:ticket.*"], [EVENTS_READ]),
        ([WEBHOOKS_READ], [WEBHOOKS_READ]),
        ([WEBHOOKS_WRITE], [WEBHOOKS_READ, WEBHOOKS_WRITE]),
        ([ADMIN], list(SCOPES)),
        ([], []),
    ],
    ids=["events", "some events", "read", "write", "admin", "nothing"],
)
def test_scope_allows_itself_and_what_it_includes(scopes: list[str], may: list[str]) -> None:
    assert [scope for scope in SCOPES if allows(frozenset(scopes), scope)] == may


def test_event_scopes_become_patterns() -> None:
    scopes = frozenset(["events:read:ticket.*", "events:read:user.created", WEBHOOKS_READ])
    assert event_patterns(scopes) == {"ticket.*", "user.created"}
    assert event_patterns(scopes | {EVENTS_READ}) == {"*"}
    assert event_patterns(frozenset([ADMIN])) == {"*"}
    assert event_patterns(frozenset([WEBHOOKS_WRITE])) == frozenset()


def test_scopes_are_sorted_and_unique() -> None:
    assert checked_scopes([WEBHOOKS_READ, "events:read:*", WEBHOOKS_READ]) == [
        "events:read:*",
        WEBHOOKS_READ,
    ]


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        [""],
        ["events"],
        ["events:read:"],
        ["events:read:tick*"],
        ["events:read:a.b c"],
        ["events:read:ticket.*\n"],
        ["webhooks:read:ticket.*"],
        ["ADMIN"],
        ["events:read:" + "a" * 250],
        [f"events:read:a{number}" for number in range(MOST_SCOPES + 1)],
    ],
    ids=range(11),
)
def test_invalid_scopes_are_rejected(scopes: list[str]) -> None:
    with pytest.raises(ScopeError):
        checked_scopes(scopes)


@given(st.lists(PATTERNS, max_size=4), st.lists(PATTERNS, max_size=4), TYPES)
def test_narrowed_patterns_select_the_intersection(
    one: list[str], other: list[str], event_type: str
) -> None:
    def chosen(patterns: frozenset[str]) -> bool:
        return not patterns.isdisjoint(patterns_matching(event_type))

    assert chosen(narrowed(one, other)) == (chosen(frozenset(one)) and chosen(frozenset(other)))


@given(st.lists(PATTERNS, max_size=4), st.lists(PATTERNS, max_size=4))
def test_outside_returns_patterns_without_overlap(patterns: list[str], within: list[str]) -> None:
    expected = sorted({each for each in patterns if not narrowed([each], within)})
    assert outside(patterns, within) == expected


def test_narrowing_long_lists_takes_linear_time() -> None:
    hashed = 0

    class Counted(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return super().__hash__()

        def __eq__(self, other: object) -> bool:
            return super().__eq__(other)

        def startswith(self, *_: object) -> bool:
            raise AssertionError("compared")

        def endswith(self, *_: object) -> bool:
            raise AssertionError("compared")

    wanted = [Counted(f"a{number}.b") for number in range(1000)]
    within = [Counted(f"c{number}.*") for number in range(100)]
    assert narrowed(wanted, within) == frozenset()
    assert len(outside(wanted, within)) == 1000
    assert hashed < 10 * (len(wanted) + len(within))
