"""Every query in docs/sql.md runs and finds something."""

import re
from typing import Any

import psycopg

from tests.docs.guides import blocks, guide, statements

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
    -- A webhook whose deliveries the page does not redeliver.
    insert into bridge.webhooks (name, url, event_type, delivered_count)
    values ('other', 'http://other', 'user.*', 1);
    insert into bridge.delivery_log
        (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
         created_at, captured_at, committed_at, claimed_at, sent_at, acknowledged_at)
    select 1000, 2, id, recorded_at, event_type, 'success', 1,
           now(), now(), now(), now(), now(), now()
    from bridge.events where id = 1;
    insert into bridge.dead_letters (outbox_id, event_type, payload, captured_at, reason)
    values (1, 'user.created', '{}', now(), 'no'), (2, 'order.created', '{}', now(), 'no');
    insert into bridge.activity
        (bridge, version, seconds, is_last, clients, in_flight, clients_dropped, events_drained,
         events_streamed, delivered, retried, failed)
    values ('here:1', '0', 10, false, 0, 0, 0, 4, 0, 2, 0, 1);
"""


def test_every_query_runs_and_finds_something(bridge_url: str, bot: Bot) -> None:
    bot.execute(HISTORY.encode())
    found = blocks(PAGE)
    assert {kind for kind, _ in found} == {"sql"}
    assert len(found) == PAGE.count("```") // 2 >= 15
    for _, text in found:
        for statement in statements(text):
            cursor = bot.execute(statement.encode())
            if cursor.description is not None:
                assert cursor.fetchall(), statement


def test_redelivery_of_a_day_includes_successes(bridge_url: str, bot: Bot) -> None:
    bot.execute(HISTORY.encode())
    # Shift the time by a day, so that everything happened yesterday.
    again = [
        statement.replace("now()", "(now() + interval '1 day')").replace(", true)", ")")
        for _, text in blocks(PAGE)
        for statement in statements(text)
        if statement.startswith("select bridge.redeliver_finished")
    ]
    assert len(again) == 1
    assert bot.execute(again[0].encode()).fetchone() == (3,)
    queued = bot.execute("select count(*), bool_or(is_redelivery) from bridge.delivery_queue")
    assert queued.fetchone() == (4, True)


def test_bounded_queries_skip_older_partitions(bridge_url: str, bot: Bot) -> None:
    bot.execute("select bridge.create_partitions((now() at time zone 'UTC')::date - 30, 30)")
    bounded = [
        statement
        for _, text in blocks(PAGE)
        for statement in statements(text)
        if re.search(r"(recorded|finished)_at > (now\(\)|date_trunc)", statement)
        and "bridge.activity" not in statement
        and statement.startswith("select")
    ]
    assert len(bounded) >= 10
    for statement in bounded:
        plan = bot.execute(f"explain (costs off) {statement}".encode()).fetchall()
        removed = [int(n) for n in re.findall(r"Subplans Removed: (\d+)", str(plan))]
        assert max(removed, default=0) >= 25, statement


def test_table_of_contents_matches_the_sections() -> None:
    listed = re.findall(r"^\d+\. \[(.*)\]\(#(\d+)-(.*)\)$", PAGE, re.M)
    assert [f"## {number}. {title}" for title, number, _ in listed] == re.findall(
        r"^## .*$", PAGE, re.M
    )
    for title, _, anchor in listed:
        assert anchor == title.lower().replace(",", "").replace(" ", "-")
