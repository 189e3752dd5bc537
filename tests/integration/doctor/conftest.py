"""A healthy database to damage, and the findings of the doctor on it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
import pytest

from bridge import assets
from bridge.capture.rules import Rule, load_preset
from bridge.operations.doctor.examine import examine
from bridge.operations.doctor.framework import Finding
from bridge.settings import load_settings

Bot = psycopg.Connection[tuple[Any, ...]]
ROLE = "weakling"


def diagnose(
    url: str,
    listen_url: str | None = None,
    clock: Callable[[], datetime] | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    doorbell: str = "poll",
    keys: str | None = None,
    bot_tokens: bool = False,
) -> dict[str, Finding]:
    """Return the findings by check."""
    settings = load_settings(
        database_url=url,
        listen_url=listen_url,
        doorbell=doorbell,
        secret_key=keys,
        bot_tokens="on" if bot_tokens else "off",
    )
    rules = load_preset("telegram-shop") if rules is None else rules
    found = examine(settings, rules) if clock is None else examine(settings, rules, clock=clock)
    assert len({finding.check for finding in found}) == len(found)
    for finding in found:
        texts = (finding.message, finding.detail, finding.hint)
        assert not any("\n" in text for text in texts)
        assert [bool(text) for text in texts] == [True] + 2 * [finding.level != "ok"]
    return {finding.check: finding for finding in found}


def become_drainer(connection: Bot) -> None:
    """Hold the lock of the bridge that drains."""
    assert connection.execute(assets.query("lead").encode()).fetchone() == (True,)


@pytest.fixture
def healthy(bridge_url: str, bot: Bot) -> Iterator[str]:
    """A database whose bridge keeps up."""
    bot.execute("select bridge.create_partitions((now() at time zone 'UTC')::date, 9)")
    with psycopg.connect(bridge_url, autocommit=True) as bridge:
        become_drainer(bridge)
        yield bridge_url


@pytest.fixture
def weakling(healthy: str, bot: Bot) -> Iterator[str]:
    """``healthy`` for a role that may only connect."""
    bot.execute(f"create role {ROLE} login".encode())
    yield healthy.replace("postgres:@", f"{ROLE}:@")
    bot.execute(
        f"reassign owned by {ROLE} to postgres; drop owned by {ROLE}; drop role {ROLE}".encode()
    )
