"""Events on the wire, and the patterns that select them."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.events import (
    MAX_NESTING,
    PATTERN,
    Event,
    patterns_matching,
    readable_payload,
    timestamp,
)

MOMENT = datetime(2024, 1, 15, 10, 30, 0, 123456, tzinfo=UTC)
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=6)
TYPES = st.lists(NAMES, min_size=1, max_size=5).map(".".join)


def test_event_has_the_contracts_shape_and_order() -> None:
    event = Event(7, "user.created", '{"user_id": 123, "username": null}', MOMENT)
    assert event.wire() == (
        '{"type":"user.created","payload":{"user_id": 123, "username": null},'
        '"timestamp":"2024-01-15T10:30:00.123456Z","id":7}'
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.integers(1, 2**63 - 1), TYPES, st.dictionaries(st.text(), JSON), st.booleans())
def test_message_is_json_with_the_payload_unchanged(
    event_id: int, event_type: str, payload: dict[str, object], ascii_only: bool
) -> None:
    text = json.dumps(payload, ensure_ascii=ascii_only)
    message = json.loads(Event(event_id, event_type, text, MOMENT).wire())
    assert message == {
        "type": event_type,
        "payload": payload,
        "timestamp": "2024-01-15T10:30:00.123456Z",
        "id": event_id,
    }


@pytest.mark.parametrize("event_type", ['quo"te', "back\\slash", "new\nline", "я"])
def test_unusual_event_type_keeps_the_json_valid(event_type: str) -> None:
    assert json.loads(Event(1, event_type, "{}", MOMENT).wire())["type"] == event_type


def test_timestamp_is_utc_with_microseconds() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert timestamp(MOMENT.astimezone(tokyo)) == "2024-01-15T10:30:00.123456Z"
    assert timestamp(MOMENT.replace(microsecond=0)) == "2024-01-15T10:30:00.000000Z"


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_timestamp_can_be_parsed_back(moment: datetime) -> None:
    assert datetime.fromisoformat(timestamp(moment)) == moment


def test_type_matches_itself_its_prefixes_and_star() -> None:
    assert patterns_matching("ticket") == ["ticket", "*"]
    assert patterns_matching("ticket.message.added") == [
        "ticket.message.added",
        "ticket.message.*",
        "ticket.*",
        "*",
    ]


@given(TYPES)
def test_matching_patterns_are_valid_patterns(event_type: str) -> None:
    assert all(PATTERN.fullmatch(pattern) for pattern in patterns_matching(event_type))


@given(TYPES, TYPES)
def test_pattern_matches_by_prefix(event_type: str, other: str) -> None:
    for pattern in [other, f"{other}.*"]:
        expected = re.fullmatch(re.escape(pattern).replace(r"\*", r".+"), event_type) is not None
        assert (pattern in patterns_matching(event_type)) == expected


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "*.a", "a.*.b", "a*", "**", "a b", "я", "a.*\n", "a/b"]
)
def test_invalid_patterns_are_rejected(text: str) -> None:
    assert PATTERN.fullmatch(text) is None


def test_sql_function_returns_the_same_patterns(bridge_url: str) -> None:
    with psycopg.connect(bridge_url, autocommit=True) as connection:

        @settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.nested_given])
        @given(st.lists(TYPES, min_size=1, max_size=20))
        def same(event_types: list[str]) -> None:
            rows = connection.execute(
                "select bridge.patterns_matching(t)"
                " from unnest(%s::text[]) with ordinality u (t, n) order by n",
                [event_types],
            ).fetchall()
            assert [row[0] for row in rows] == [patterns_matching(kind) for kind in event_types]

        same()


@pytest.mark.parametrize("inner", ['{"a": %s}', "[2, %s, 1]", '["\\\\", "[{", "\\"[", %s]'])
def test_payload_nested_too_deeply_stays_text(inner: str) -> None:
    payload = "1"
    for _ in range(MAX_NESTING):
        payload = inner.replace("%s", payload)
    assert readable_payload(payload) == json.loads(payload)
    payload = f"[{payload}]"
    assert readable_payload(payload) == payload


def test_wide_payloads_and_quoted_brackets_are_not_deep() -> None:
    for payload in (json.dumps([[]] * 10_000), json.dumps(["[" * 10_000]), json.dumps("{" * 200)):
        assert readable_payload(payload) == json.loads(payload)
