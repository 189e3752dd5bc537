"""The demo bot's own list of its events equals what the triggers wrote."""

import json
from collections import Counter
from datetime import datetime
from typing import Any

import psycopg
import pytest

from bridge.demo.bot import Bot, Commit
from bridge.demo.ledger import KEY_FIELDS, identify

STEPS = 600


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_triggers_write_exactly_what_the_bot_lists(bridge_url: str, seed: int) -> None:
    with Bot(bridge_url, seed=seed) as bot:
        commits = [commit for _ in range(STEPS) if (commit := bot.step()) is not None]
    announced = [event for commit in commits for event in commit.announces]
    with psycopg.connect(bridge_url) as connection:
        captured = connection.execute("select event_type, payload from bridge.outbox").fetchall()
    assert _multiset(captured) == _multiset(announced)
    assert Counter(identify(*event) for event in captured) == Counter(
        identify(*event) for event in announced
    )


def test_bot_makes_every_kind_of_event(bridge_url: str) -> None:
    with Bot(bridge_url, seed=4) as bot:
        steps = [bot.step() for _ in range(STEPS)]
    commits = [step for step in steps if step is not None]
    types = {event_type for commit in commits for event_type, _ in commit.announces}
    assert types == set(KEY_FIELDS)
    assert None in steps, "nothing was rolled back"
    assert {"slow sign up", "housekeep", "settle invoice"} <= {commit.what for commit in commits}
    users = [payload for kind, payload in _events(commits) if kind == "user.created"]
    assert any(user["telegram_id"] is None for user in users)
    assert any(user["telegram_id"] is not None for user in users)


def test_same_seed_makes_the_same_commits(bridge_url: str, bot_url: str) -> None:
    runs = []
    for url in (bridge_url, bot_url):  # with and without triggers
        with Bot(url, seed=5) as bot:
            runs.append([bot.step() for _ in range(100)])
    with_triggers, without = (
        [None if step is None else step.what for step in steps] for steps in runs
    )
    assert with_triggers == without


def _events(commits: list[Commit]) -> list[tuple[str, dict[str, Any]]]:
    return [event for commit in commits for event in commit.announces]


def _multiset(events: list[Any]) -> Counter[str]:
    """Count events as text, normalized so that equal events are equal."""
    return Counter(
        f"{event_type} {json.dumps(_plain(payload), sort_keys=True, ensure_ascii=False)}"
        for event_type, payload in events
    )


def _plain(payload: dict[str, Any]) -> dict[str, Any]:
    plain = dict(payload)
    if plain.get("closed_at") is not None:  # PostgreSQL omits trailing zeros
        plain["closed_at"] = datetime.fromisoformat(plain["closed_at"]).isoformat()
    if "amount_rubles" in plain:
        plain["amount_rubles"] = float(plain["amount_rubles"])
    return plain
