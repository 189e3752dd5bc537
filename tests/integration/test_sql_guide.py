"""The page docs/sql.md does what it says: its blocks are run in order, and find something."""

from __future__ import annotations

import re
from typing import Any

import psycopg

from tests.guides import blocks, guide

Bot = psycopg.Connection[tuple[Any, ...]]

PAGE = guide("sql.md")

#: A webhook and its deliveries: the first has failed, the last is pending. Ids begin at 1.
HISTORY = """
    insert into bridge.webhooks (name, url, event_type, delivered_count, failed_count)
    values ('shop', 'http://receiver', 'user.*', 2, 1);
    insert into bridge.events (event_type, payload, occurred_at)
    select 'user.created', '{"user_id": 7}', now() from generate_series(1, 4);
    insert into bridge.delivery_queue
        (webhook_id, event_id, event_recorded_at, event_type, attempt_number, next_attempt_at)
    select 1, id, recorded_at, event_type, 1, now() + interval '1 hour' from bridge.events;
    with finished as (delete from bridge.delivery_queue where id <= 3 returning *)
    insert into bridge.delivery_log
        (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
         created_at, captured_at, committed_at, claimed_at, sent_at, acknowledged_at)
    select id, webhook_id, event_id, event_recorded_at, event_type,
           case id when 1 then 'failed' else 'success' end, 1, created_at,
           now(), now(), now(), now(), case when id > 1 then now() end
    from finished;
    insert into bridge.delivery_attempts
        (delivery_id, webhook_id, attempt_number, started_at, finished_at, failure, error_message)
    values (1, 1, 1, now(), now(), 'dns', 'no such name'), (2, 1, 1, now(), now(), null, null);
"""


def test_every_block_of_the_page_runs_and_every_query_finds_something(
    bridge_url: str, bot: Bot
) -> None:
    bot.execute(HISTORY.encode())
    found = blocks(PAGE)
    assert {kind for kind, _ in found} == {"sql"}
    assert len(found) == PAGE.count("```") // 2 >= 15
    for _, text in found:
        # What ends in a semicolon and an empty line is a statement of its own, as in psql.
        for statement in re.split(r";\n(?:\n|$)", text):
            if statement:
                cursor = bot.execute(statement.encode())
                if cursor.description is not None:
                    assert cursor.fetchall(), statement


def test_the_contents_of_the_page_name_its_sections() -> None:
    listed = re.findall(r"^\d\. \[(.*)\]\(#(\d)-(.*)\)$", PAGE, re.M)
    assert [f"## {number}. {title}" for title, number, _ in listed] == re.findall(
        r"^## .*$", PAGE, re.M
    )
    for title, _, anchor in listed:
        assert anchor == title.lower().replace(",", "").replace(" ", "-")
