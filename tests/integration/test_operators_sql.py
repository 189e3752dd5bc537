"""What an operator does and sees in psql: functions and views of schema bridge."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from bridge.assets import query
from bridge.delivery.signing import message_id
from bridge.demo.postgres import EmbeddedPostgres

Session = psycopg.Connection[tuple[Any, ...]]

#: Long ago, so that whatever is kept, these days are expired, and not so long that no partition is
#: made for them; each test takes days of its own.
LONG_AGO = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(395)
KEPT_DAYS = 30


@pytest.fixture(scope="module")
def url(server: EmbeddedPostgres, bridge_template: str) -> Iterator[str]:
    """A database with pgbridge for all tests here; each has webhooks of its own."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database operators template {bridge_template}".encode())
        yield server.url("operators")
        connection.execute("drop database operators with (force)")


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[], Session]]:
    """Opens further sessions, without autocommit: what one does stays open until it commits."""
    opened: list[Session] = []

    def make() -> Session:
        opened.append(psycopg.connect(url))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


class Psql:
    """An operator's session, autocommit, and a courier's work done by hand."""

    def __init__(self, url: str) -> None:
        self.session: Session = psycopg.connect(url, autocommit=True)

    def rows(self, sql: str, *values: object) -> list[Any]:
        return self.session.execute(sql.encode(), values or None).fetchall()

    def value(self, sql: str, *values: object) -> Any:
        [[value]] = self.rows(sql, *values)
        return value

    def run(self, sql: str, *values: object) -> None:
        self.session.execute(sql.encode(), values or None)

    def row(self, sql: str, *values: object) -> dict[str, Any]:
        with self.session.cursor(row_factory=dict_row) as cursor:
            [row] = cursor.execute(sql.encode(), values or None).fetchall()
        return row

    def webhook(self, **columns: object) -> int:
        columns = {"name": "n", "url": "http://receiver", "event_type": "t"} | columns
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        webhook_id: int = self.value(
            f"insert into bridge.webhooks ({names}) values ({places}) returning id",
            *columns.values(),
        )
        return webhook_id

    def make_day(self, moment: datetime) -> None:
        self.run("select bridge.create_partitions(%s::date, 1)", moment)

    def pending(self, webhook_id: int, *, at: datetime | None = None, **columns: object) -> int:
        """Queue a delivery of an event recorded at a time; return its id."""
        event_id, recorded_at = self.rows(
            "insert into bridge.events (event_type, payload, occurred_at, recorded_at)"
            " values ('t', '{}', now(), coalesce(%s, now())) returning id, recorded_at",
            at,
        )[0]
        columns = {
            "webhook_id": webhook_id,
            "event_id": event_id,
            "event_recorded_at": recorded_at,
            "event_type": "t",
        } | columns
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        delivery_id: int = self.value(
            f"insert into bridge.delivery_queue ({names}) values ({places}) returning id",
            *columns.values(),
        )
        return delivery_id

    def finish(
        self, delivery_id: int, outcome: str = "failed", *, at: datetime | None = None
    ) -> None:
        """Settle a delivery, as of a time."""
        self.run(
            """
            with gone as (
                delete from bridge.delivery_queue where id = %s returning *
            ), logged as (
                insert into bridge.delivery_log
                    (id, webhook_id, event_id, event_recorded_at, event_type, status,
                     attempt_number, response_status, error_message, created_at, captured_at,
                     committed_at, finished_at)
                select id, webhook_id, event_id, event_recorded_at, event_type, %s,
                       attempt_number + 3, 500, 'HTTP 500', created_at, captured_at, committed_at,
                       coalesce(%s, now())
                from gone
                returning webhook_id, status
            )
            update bridge.webhooks w
            set delivered_count = delivered_count + (status = 'success')::integer,
                failed_count = failed_count + (status = 'failed')::integer
            from logged where logged.webhook_id = w.id
            """,
            delivery_id,
            outcome,
            at,
        )

    def finished(
        self, webhook_id: int, outcome: str = "failed", *, at: datetime | None = None
    ) -> int:
        delivery_id = self.pending(webhook_id, at=at)
        self.finish(delivery_id, outcome, at=at)
        return delivery_id

    def queued(self, delivery_id: int) -> dict[str, Any]:
        return self.row("select * from bridge.delivery_queue where id = %s", delivery_id)

    def waiting(self) -> bool:
        """Whether some session waits for a lock."""
        return bool(
            self.value(
                "select exists (select from pg_locks l join pg_database d on d.oid = l.database"
                " where not granted and d.datname = current_database()"
                " union all select from pg_locks where not granted and database is null)"
            )
        )

    def assert_counts_are_exact(self) -> None:
        """Hold the counts beside the webhooks against the log itself."""
        assert (
            self.rows("""
            select webhook_id, delivered, failed
            from (select id as webhook_id, delivered_count as delivered, failed_count as failed
                  from bridge.webhooks
                  union all
                  select id, delivered_count, failed_count from bridge.deleted_webhooks) as kept
            full join (
                select webhook_id,
                       count(*) filter (where status = 'success') as delivered,
                       count(*) filter (where status = 'failed') as failed
                from bridge.delivery_log group by webhook_id) as logged
            using (webhook_id, delivered, failed)
            where (kept.webhook_id is null or logged.webhook_id is null)
              and (delivered <> 0 or failed <> 0)
        """)
            == []
        )


Psql.__test__ = False  # type: ignore[attr-defined]  # no class of tests


@pytest.fixture
def psql(url: str) -> Iterator[Psql]:
    opened = Psql(url)
    yield opened
    opened.assert_counts_are_exact()
    opened.session.close()


def refused(psql: Psql, code: type[psycopg.Error], sql: str, *values: object) -> str:
    with pytest.raises(code) as refusal:
        psql.run(sql, *values)
    return str(refusal.value.diag.message_primary)


def together(*work: Callable[[], object]) -> list[object]:
    """Do several things at once, in threads; return what they return or raise."""
    results: list[object] = [None] * len(work)

    def run(place: int) -> None:
        try:
            results[place] = work[place]()
        except Exception as error:
            results[place] = error

    threads = [
        threading.Thread(target=run, args=[place], daemon=True) for place in range(len(work))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


# Webhooks


def test_name_url_and_event_type_make_a_webhook(psql: Psql) -> None:
    psql.run(
        "insert into bridge.webhooks (name, url, event_type) values ('n', 'http://r', 'ticket.*')"
    )
    webhook = psql.row("select * from bridge.webhooks order by id desc limit 1")
    assert (webhook["is_active"], webhook["ordered"]) == (True, False)
    assert webhook["filter"] is webhook["rate_per_second"] is webhook["retry_schedule"] is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("filter", "$amount > 5"),
        ("filter", '$.** == "x"'),
        ("filter", "$.a ? (exists($.b ? (@ > 1))) == 1"),
        ("filter", r'$.a like_regex "^(a*)(a*)(a*)\\1\\2\\3$"'),
        ("filter", r'$.a == 1 && $.b like_regex "(\"|x)\\\\\\1"'),
        ("filter", r'$.a like_regex "(a)\u005c1"'),
        ("retry_schedule", "{}"),
        ("retry_schedule", "{1,null}"),
        ("retry_schedule", "{{1,2},{3,4}}"),
        ("retry_schedule", "{NaN}"),
        ("rate_per_second", "0"),
        ("rate_per_second", "NaN"),
    ],
)
def test_a_webhook_that_nothing_could_be_done_with_is_refused(
    psql: Psql, column: str, value: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=f"webhooks_{column}_"):
        psql.webhook(**{column: value})


@pytest.mark.parametrize(
    ("expression", "payload", "passes"),
    [
        (None, "{}", True),
        ("$.a >= 5", '{"a": 5}', True),
        ("$.a >= 5", '{"a": 4}', False),
        ("$.a >= 5", '{"a": "5"}', False),
        ("$.a >= 5", "{}", False),
        ("strict $.a.b == 1", "[]", False),
        ("$.a / 0 > 1", '{"a": 1}', False),
        ("$ ? (@.a > 1)", '{"a": 5}', False),
        # What the operators raise for.
        ("$variable > 5", '{"a": 5}', False),
        (
            '$.a.datetime() > "2024-01-01".datetime()',
            '{"a": "2024-01-01T10:00:00+00:00"}',
            True,
        ),
    ],
)
def test_an_error_in_a_filter_means_no(
    psql: Psql, expression: str | None, payload: str, passes: bool
) -> None:
    assert psql.value("select bridge.passes(%s, %s)", expression, payload) is passes


@pytest.mark.parametrize(
    ("expression", "payload"),
    [
        (r'$.a like_regex "^[^\\d\"]+\\.1$"', r'{"a": "x.1"}'),
        (r'$.a like_regex "^\\\\1$"', r'{"a": "\\1"}'),
        (r'$.a == "like_regex" || $.a == "\\1"', r'{"a": "\\1"}'),
    ],
)
def test_a_backslash_in_a_filter_is_no_back_reference_by_itself(
    psql: Psql, expression: str, payload: str
) -> None:
    webhook = psql.webhook(filter=expression)
    assert psql.value(
        "select bridge.passes(filter, %s) from bridge.webhooks where id = %s", payload, webhook
    )


def test_a_webhook_that_is_switched_on_begins_anew(psql: Psql) -> None:
    webhook = psql.webhook()
    trouble = (
        "update bridge.webhooks set is_active = %s, disabled_reason = 'gone', failure_share = 1,"
        " failing_since = now() - interval '6 days', probe_at = now() where id = %s"
    )
    forgiven = (
        "select disabled_reason is null and failing_since is null and probe_at is null"
        " and failure_share = 0 from bridge.webhooks where id = %s"
    )
    psql.run(trouble, False, webhook)
    assert not psql.value(forgiven, webhook)
    psql.run("update bridge.webhooks set is_active = true where id = %s", webhook)
    assert psql.value(forgiven, webhook)
    # One that is on already is not forgiven by being left on.
    psql.run(trouble, True, webhook)
    assert not psql.value(forgiven, webhook)


# Pause and resume


def drain(psql: Psql) -> None:
    """Move the outbox on, as a bridge does."""
    sql = query("drain")
    for number, value in (("4", "1000"), ("3", "'{}'"), ("2", "'{}'"), ("1", "0")):
        sql = re.sub(rf"\${number}\b", value, sql)
    psql.run(sql.replace("%", "%%") if "%" in sql else sql)


def test_a_paused_webhook_gets_new_deliveries_and_one_switched_off_does_not(psql: Psql) -> None:
    paused, off, on = (psql.webhook(event_type="pause.test") for _ in range(3))
    psql.run("select bridge.pause_webhook(%s)", paused)
    psql.run("update bridge.webhooks set is_active = false where id = %s", off)
    psql.run("select bridge.emit('pause.test')")
    drain(psql)
    takers = psql.rows(
        "select webhook_id from bridge.delivery_queue where event_type = 'pause.test'"
    )
    assert sorted(takers) == [(paused,), (on,)]


def test_pausing_again_keeps_the_time_and_resuming_clears_everything(psql: Psql) -> None:
    webhook = psql.webhook()
    psql.run("select bridge.pause_webhook(%s)", webhook)
    since = psql.value("select paused_at from bridge.webhooks where id = %s", webhook)
    psql.run("select bridge.pause_webhook(%s)", webhook)
    assert psql.value("select paused_at from bridge.webhooks where id = %s", webhook) == since
    psql.run(
        "update bridge.webhooks set is_active = false, disabled_reason = 'gone', probe_at = now(),"
        " failing_since = now(), failure_share = 1 where id = %s",
        webhook,
    )
    psql.run("listen bridge_deliveries")
    psql.run("select bridge.resume_webhook(%s)", webhook)
    row = psql.row("select * from bridge.webhooks where id = %s", webhook)
    assert (row["is_active"], row["failure_share"]) == (True, 0)
    assert {
        row[name] for name in ("paused_at", "disabled_reason", "probe_at", "failing_since")
    } == {None}
    assert [note.channel for note in psql.session.notifies(timeout=5, stop_after=1)] == [
        "bridge_deliveries"
    ]


def test_a_webhook_that_there_is_not_is_neither_paused_nor_resumed(psql: Psql) -> None:
    for function in "pause_webhook", "resume_webhook":
        said = refused(psql, psycopg.errors.NoDataFound, f"select bridge.{function}(0)")
        assert said == "there is no webhook 0"


# Emit


def test_an_emitted_event_is_in_the_outbox_and_rings(psql: Psql) -> None:
    psql.run("select setval('bridge.doorbell', 0)")
    psql.run("listen bridge_outbox")
    psql.run("""select bridge.emit('order.paid', '{"a": "\\u00e4"}')""")
    assert psql.rows("delete from bridge.outbox returning event_type, payload") == [
        ("order.paid", {"a": "ä"})
    ]
    assert [note.channel for note in psql.session.notifies(timeout=5, stop_after=1)] == [
        "bridge_outbox"
    ]
    psql.run("select setval('bridge.doorbell', 1)")


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        ("", "{}"),
        ("ticket.*", "{}"),
        ("a b", "{}"),
        ("a.\n", "{}"),
        ("a\n", "{}"),
        (".a", "{}"),
        (None, "{}"),
        ("a" * 256, "{}"),
        ("a", None),
    ],
)
def test_what_is_no_event_is_not_emitted(
    psql: Psql, event_type: str | None, payload: str | None
) -> None:
    refused(
        psql,
        psycopg.errors.InvalidParameterValue,
        "select bridge.emit(%s, %s)",
        event_type,
        payload,
    )
    assert psql.value("select count(*) from bridge.outbox") == 0


# Redeliver


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_a_finished_delivery_goes_back_under_its_id_and_counts_on(psql: Psql, outcome: str) -> None:
    webhook = psql.webhook()
    delivery = psql.pending(webhook, captured_at=LONG_AGO, committed_at=LONG_AGO)
    before = psql.queued(delivery)
    psql.finish(delivery, outcome)
    psql.run("listen bridge_deliveries")
    assert psql.value("select bridge.redeliver(%s)", delivery) is True
    after = psql.queued(delivery)
    kept = ["webhook_id", "event_id", "event_recorded_at", "event_type", "created_at"]
    kept += ["captured_at", "committed_at"]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert message_id(after["event_id"], webhook) == message_id(before["event_id"], webhook)
    assert (after["attempt_number"], after["attempts_before"]) == (3, 3)
    assert (after["is_redelivery"], after["error_message"]) == (True, "HTTP 500")
    assert psql.value(
        "select next_attempt_at <= now() from bridge.delivery_queue where id = %s", delivery
    )
    assert psql.rows("select id from bridge.delivery_log where id = %s", delivery) == []
    assert list(psql.session.notifies(timeout=5, stop_after=1))
    psql.assert_counts_are_exact()
    psql.finish(delivery, "success")
    assert psql.value("select attempt_number from bridge.delivery_log where id = %s", delivery) == 6


def test_a_pending_delivery_is_sent_at_once_and_keeps_its_schedule(psql: Psql) -> None:
    later = datetime.now(UTC) + timedelta(hours=5)
    retrying = psql.pending(psql.webhook(), next_attempt_at=later, attempt_number=2)
    assert psql.value("select bridge.redeliver(%s)", retrying) is False
    row = psql.queued(retrying)
    assert row["next_attempt_at"] <= datetime.now(UTC)
    assert (row["attempt_number"], row["attempts_before"], row["is_redelivery"]) == (2, 0, False)
    # One that is overdue does not lose its turn.
    overdue = psql.pending(psql.webhook(), next_attempt_at=LONG_AGO)
    psql.run("select bridge.redeliver(%s)", overdue)
    assert psql.queued(overdue)["next_attempt_at"] == LONG_AGO


def test_what_cannot_be_redelivered_says_why(psql: Psql) -> None:
    said = refused(psql, psycopg.errors.NoDataFound, "select bridge.redeliver(0)")
    assert said == "there is no delivery 0"
    webhook = psql.webhook()
    delivery = psql.finished(webhook)
    psql.run("delete from bridge.webhooks where id = %s", webhook)
    impossible = psycopg.errors.ObjectNotInPrerequisiteState
    said = refused(psql, impossible, "select bridge.redeliver(%s)", delivery)
    assert said == f"the webhook of delivery {delivery} is deleted"
    delivery = psql.finished(psql.webhook())
    psql.run(
        "delete from bridge.events where id ="
        " (select event_id from bridge.delivery_log where id = %s)",
        delivery,
    )
    said = refused(psql, impossible, "select bridge.redeliver(%s)", delivery)
    assert said == f"the event of delivery {delivery} is no longer in the log"


def test_deliveries_found_by_a_query_are_redelivered_by_it(psql: Psql) -> None:
    webhook = psql.webhook()
    deliveries = [psql.finished(webhook) for _ in range(5)]
    redelivered = psql.rows(
        "select id, bridge.redeliver(id) from bridge.webhook_deliveries"
        " where webhook_id = %s and status = 'failed'",
        webhook,
    )
    assert sorted(redelivered) == [(delivery, True) for delivery in deliveries]


def test_failed_deliveries_of_a_range_go_back_and_no_others(psql: Psql) -> None:
    webhook, other = psql.webhook(), psql.webhook()
    days = [LONG_AGO + timedelta(days=10 + n) for n in range(4)]
    for day in days:
        psql.make_day(day)
    failed = [psql.finished(webhook, at=day) for day in days]
    psql.finished(webhook, "success", at=days[1])
    psql.finished(other, at=days[1])
    lost = psql.finished(webhook, at=days[1])
    psql.run(
        "delete from bridge.events where id ="
        " (select event_id from bridge.delivery_log where id = %s)",
        lost,
    )
    redeliver = "select bridge.redeliver_failed(%s, %s, %s, %s)"
    for dry_run in True, None, False:
        assert psql.value(redeliver, webhook, days[1], days[3], dry_run) == 2
        queued = psql.rows(
            "select id from bridge.delivery_queue where webhook_id in (%s, %s) order by id",
            webhook,
            other,
        )
        assert queued == ([] if dry_run is not False else [(failed[1],), (failed[2],)])
        psql.assert_counts_are_exact()
    # Until is open, and the rest is found without it.
    assert psql.value(redeliver, webhook, days[0], None, True) == 2


def test_redelivery_is_spread_over_time_in_the_order_of_the_deliveries(psql: Psql) -> None:
    webhook = psql.webhook()
    deliveries = [psql.finished(webhook) for _ in range(5)]
    assert (
        psql.value(
            "select bridge.redeliver_failed(%s, now() - interval '1 hour', p_per_second => 0.5)",
            webhook,
        )
        == 5
    )
    due = [psql.queued(delivery)["next_attempt_at"] for delivery in deliveries]
    waits = [(later - sooner).total_seconds() for sooner, later in pairwise(due)]
    assert waits == pytest.approx([2, 2, 2, 2], abs=0.1)
    assert due[0] <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("0, now()", "there is no webhook 0"),
        ("{webhook}, null", "p_since must not be null"),
        ("{webhook}, now(), p_per_second => 0", "p_per_second must be between 0.001 and 100000"),
        ("{webhook}, now(), p_per_second => 'NaN'", "p_per_second must be between"),
        ("{webhook}, now(), p_per_second => null", "p_per_second must be between"),
    ],
)
def test_a_redelivery_that_makes_no_sense_says_why(psql: Psql, arguments: str, said: str) -> None:
    arguments = arguments.format(webhook=psql.webhook())
    with pytest.raises(psycopg.Error, match=re.escape(said)):
        psql.run(f"select bridge.redeliver_failed({arguments})")


def test_of_many_sessions_that_redeliver_one_delivery_one_moves_it(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    delivery = psql.finished(webhook)
    # All of them look, find it finished, and wait for the webhook.
    holder = connect()
    holder.execute("select from bridge.webhooks where id = %s for update", [webhook])
    sessions = [connect() for _ in range(4)]

    def redeliver(session: Session) -> object:
        row = session.execute("select bridge.redeliver(%s)", [delivery]).fetchone()
        session.commit()
        return row

    def release() -> None:
        while psql.value("select count(*) from pg_locks where not granted") < len(sessions):
            pass
        holder.rollback()

    *moved, _ = together(*(lambda s=s: redeliver(s) for s in sessions), release)
    assert sorted(map(repr, moved)) == ["(False,)"] * 3 + ["(True,)"]
    assert psql.queued(delivery)["attempt_number"] == 3


def test_redelivering_a_range_twice_at_once_moves_each_delivery_once(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    webhook = psql.webhook()
    for _ in range(20):
        psql.finished(webhook)

    def redeliver() -> Any:
        session = connect()
        row = session.execute(
            "select bridge.redeliver_failed(%s, now() - interval '1 hour')", [webhook]
        ).fetchone()
        session.commit()
        return row[0] if row else None

    moved = together(*[redeliver] * 4)
    assert sum(moved) == 20  # type: ignore[arg-type]


# Drops


def drop(session: Session, parent: str) -> str | None:
    row = session.execute(
        "select bridge.drop_expired_partition(%s, %s)", [parent, KEPT_DAYS]
    ).fetchone()
    return row[0] if row else None


def drop_all(psql: Psql) -> None:
    """Leave no expired day behind: of each log the oldest goes first."""
    for parent in "delivery_log_failed", "delivery_log_success", "delivery_attempts", "events":
        while drop(psql.session, parent):
            pass


def name(parent: str, day: datetime) -> str:
    return f"{parent}_p{day:%Y%m%d}"


def test_a_dropped_day_is_taken_from_the_counts_and_no_more(psql: Psql) -> None:
    drop_all(psql)
    days = [LONG_AGO + timedelta(days=20 + n) for n in range(2)]
    one, other, deleted = (psql.webhook() for _ in range(3))
    for day in days:
        psql.make_day(day)
        for webhook in one, one, other, deleted:
            psql.finished(webhook, at=day)
        psql.finished(one, "success", at=day)
    psql.finished(one)
    psql.run("delete from bridge.webhooks where id = %s", deleted)
    counts = "select delivered_count, failed_count from bridge.webhooks where id = %s"
    assert psql.rows(counts, one) == [(2, 5)]
    assert drop(psql.session, "delivery_log_failed") == name("delivery_log_failed", days[0])
    assert psql.rows(counts, one) == [(2, 3)]
    assert psql.rows(counts, other) == [(0, 1)]
    psql.assert_counts_are_exact()
    assert drop(psql.session, "delivery_log_success") == name("delivery_log_success", days[0])
    assert psql.rows(counts, one) == [(1, 3)]
    kept = "select name, url, event_type, failed_count from bridge.deleted_webhooks where id = %s"
    assert psql.rows(kept, deleted) == [("n", "http://receiver", "t", 1)]
    assert drop(psql.session, "delivery_log_failed") == name("delivery_log_failed", days[1])
    assert psql.rows(kept, deleted) == []
    assert drop(psql.session, "delivery_log_failed") is None
    assert psql.rows(counts, one) == [(1, 1)]


def test_a_day_whose_events_are_still_pending_is_kept(psql: Psql) -> None:
    drop_all(psql)
    days = [LONG_AGO + timedelta(days=30 + n) for n in range(2)]
    for day in days:
        psql.make_day(day)
    webhook = psql.webhook()
    pending = psql.pending(webhook, at=days[0])
    # Finished a moment ago, of an event of long ago: redelivered, it is pending again.
    redelivered = psql.pending(webhook, at=days[1])
    psql.finish(redelivered)
    psql.run("select bridge.redeliver(%s)", redelivered)
    assert drop(psql.session, "events") is None
    psql.finish(pending)
    assert drop(psql.session, "events") == name("events", days[0])
    psql.finish(redelivered)
    assert drop(psql.session, "events") == name("events", days[1])


def test_a_plan_that_begins_with_other_tables_than_the_days_of_the_log_finds_them(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=35)
    psql.make_day(day)
    upkeep = connect()
    upkeep.execute("set enable_nestloop = off")
    upkeep.execute("set enable_indexscan = off")
    upkeep.execute("set enable_bitmapscan = off")
    for parent in "events", "delivery_attempts", "delivery_log_success", "delivery_log_failed":
        assert drop(upkeep, parent) == name(parent, day)
    upkeep.commit()


def test_a_drop_and_a_redelivery_take_turns(psql: Psql, connect: Callable[[], Session]) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=40)
    psql.make_day(day)
    webhook = psql.webhook()
    delivery = psql.finished(webhook, at=day)
    operator, upkeep = connect(), connect()
    operator.execute("select bridge.redeliver(%s)", [delivery])
    for parent in "events", "delivery_log_failed":
        with pytest.raises(psycopg.errors.LockNotAvailable):
            drop(upkeep, parent)
        upkeep.rollback()
    operator.commit()
    # Now the event is pending, and its day is kept.
    assert drop(psql.session, "events") is None
    # The other way round: the redelivery waits for the drop, and then it is made.
    psql.finish(delivery)
    assert drop(upkeep, "delivery_log_failed") == name("delivery_log_failed", day)
    [refusal, _] = together(
        lambda: psql_error(connect(), "select bridge.redeliver(%s)", delivery),
        lambda: commit_when(psql.waiting, upkeep),
    )
    assert refusal is None
    assert psql.queued(delivery)["is_redelivery"]
    psql.finish(delivery)


def psql_error(session: Session, sql: str, *values: object) -> str | None:
    try:
        session.execute(sql.encode(), values)
        session.commit()
    except psycopg.Error as error:
        return str(error.diag.message_primary)
    return None


def commit_when(holds: Callable[[], bool], session: Session) -> None:
    """Commit as soon as something holds."""
    while not holds():
        pass
    session.commit()


def settle_one(session: Session, webhook_id: int, delivery: int, token: str) -> None:
    """Settle a success by the courier's own query."""
    sql = re.sub(r"\$(\d+)", r"%(p\1)s", query("settle").replace("%", "%%"))
    values: Sequence[object] = (
        [delivery], [token], [webhook_id], [1], ["now"], ["now"], ["success"], [0.0], [200],
        [None], [None], [None], [None], [0.0], [False], 432_000.0,
    )  # fmt: skip
    session.execute(sql.encode(), {f"p{n}": value for n, value in enumerate(values, 1)})


def test_a_long_reader_has_a_drop_give_up_and_holds_up_no_settle(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=50)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, "success", at=day)
    counts = "select delivered_count, failed_count from bridge.webhooks where id = %s"
    reader, courier = connect(), connect()
    reader.execute("select count(*) from bridge.delivery_log")
    reader.execute("select 1")
    tokens = {
        psql.pending(webhook, lease_token=token, leased_until=LONG_AGO): token
        for token in (f"00000000-0000-0000-0000-{n:012}" for n in range(20))
    }
    # A settle that the drop held up for as long as the drop lasts would be refused.
    courier.execute("set lock_timeout = '200ms'")
    courier.commit()
    settled = 0
    given_up = threading.Event()

    def give_up() -> str | None:
        session = connect()
        try:
            return psql_error(
                session, "select bridge.drop_expired_partition('delivery_log_success', 30)"
            )
        finally:
            given_up.set()

    def settle_meanwhile() -> int:
        nonlocal settled
        for delivery, token in tokens.items():
            settle_one(courier, webhook, delivery, token)
            courier.commit()
            settled += 1
            if given_up.wait(0.01):
                break
        return settled

    said, meanwhile = together(give_up, settle_meanwhile)
    assert said == "canceling statement due to lock timeout"
    assert meanwhile == settled > 1
    assert psql.rows(counts, webhook) == [(1 + settled, 0)]
    psql.assert_counts_are_exact()
    reader.rollback()
    assert drop(psql.session, "delivery_log_success") == name("delivery_log_success", day)
    assert psql.rows(counts, webhook) == [(settled, 0)]


def test_a_drop_gives_up_on_a_webhook_that_somebody_keeps_locked(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=60)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, at=day)
    operator = connect()
    operator.execute("select bridge.pause_webhook(%s)", [webhook])
    refused(
        psql,
        psycopg.errors.LockNotAvailable,
        "select bridge.drop_expired_partition('delivery_log_failed', 30)",
    )
    psql.assert_counts_are_exact()
    operator.rollback()
    drop_all(psql)
    assert psql.value("show lock_timeout") == "0"


def test_a_settle_under_way_and_a_drop_do_not_wait_for_each_other_in_a_circle(
    psql: Psql, connect: Callable[[], Session]
) -> None:
    drop_all(psql)
    day = LONG_AGO + timedelta(days=70)
    psql.make_day(day)
    webhook = psql.webhook()
    psql.finished(webhook, "success", at=day)
    token = "00000000-0000-0000-0000-000000000099"
    delivery = psql.pending(webhook, lease_token=token, leased_until=LONG_AGO)
    courier = connect()
    # It has its locks and is about to commit.
    settle_one(courier, webhook, delivery, token)

    dropping = connect()
    dropped, _ = together(
        lambda: drop(dropping, "delivery_log_success"),
        lambda: commit_when(psql.waiting, courier),
    )
    dropping.commit()
    assert dropped == name("delivery_log_success", day)


# What the views say


def test_the_backlog_counts_each_kind_of_pending_delivery(psql: Psql) -> None:
    webhook, idle = psql.webhook(), psql.webhook()
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    token = "00000000-0000-0000-0000-000000000001"
    psql.pending(webhook, created_at=now - 2 * hour)
    psql.pending(webhook, leased_until=now + hour, lease_token=token)
    psql.pending(webhook, leased_until=now - hour, lease_token=token)
    psql.pending(webhook, next_attempt_at=now + hour, attempt_number=1)
    psql.pending(webhook, next_attempt_at=now + hour, is_redelivery=True, created_at=LONG_AGO)
    row = psql.row("select * from bridge.backlog where webhook_id = %s", webhook)
    counts = ("pending", "in_flight", "due", "waiting_for_retry", "redeliveries")
    assert [row[name] for name in counts] == [5, 1, 2, 1, 1]
    assert row["oldest_created_at"] == now - 2 * hour
    assert row["oldest_seconds"] == pytest.approx(7200, abs=30)
    row = psql.row("select * from bridge.backlog where webhook_id = %s", idle)
    assert [row[name] for name in counts] == [0] * 5
    assert row["oldest_seconds"] is row["next_attempt_at"] is None


def test_the_health_of_an_hour_and_of_a_day_is_exact(psql: Psql) -> None:
    webhook, idle = psql.webhook(), psql.webhook()
    psql.make_day(datetime.now(UTC) - timedelta(days=2))

    def attempts(minutes_ago: int, error: str | None, *seconds: float) -> None:
        psql.run(
            """insert into bridge.delivery_attempts
                   (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
               select 0, %s, 1, at - make_interval(secs => s), at, %s
               from unnest(%s::float8[]) as s,
                    (select now() - make_interval(mins => %s)) as t(at)""",
            webhook,
            error,
            list(seconds),
            minutes_ago,
        )

    def acknowledged(minutes_ago: int, *seconds: float) -> None:
        psql.run(
            """insert into bridge.delivery_log
                   (id, webhook_id, event_id, event_recorded_at, event_type, status,
                    attempt_number, created_at, committed_at, acknowledged_at, finished_at)
               select nextval('bridge.event_id') + 1000000, %s, 0, now(), 't', 'success', 1, now(),
                      at - make_interval(secs => s), at, at
               from unnest(%s::float8[]) as s,
                    (select now() - make_interval(mins => %s)) as t(at)""",
            webhook,
            list(seconds),
            minutes_ago,
        )
        psql.run(
            "update bridge.webhooks set delivered_count = delivered_count + %s where id = %s",
            len(seconds),
            webhook,
        )

    attempts(5, None, 1, 2, 3)
    attempts(50, "HTTP 500", 4, 5)
    attempts(90, None, 6, 7, 8)
    attempts(25 * 60, "HTTP 500", 1000)
    acknowledged(5, 10, 20)
    acknowledged(50, 30)
    acknowledged(90, 40, 50)
    acknowledged(25 * 60, 9999)

    row = psql.row("select * from bridge.webhook_health where webhook_id = %s", webhook)
    assert row["state"] == "delivering"
    assert (row["attempts_hour"], row["attempts_day"]) == (5, 8)
    assert (float(row["success_rate_hour"]), float(row["success_rate_day"])) == (60.0, 75.0)
    figures = {
        "answer_p50_hour": 3,
        "answer_p95_hour": 4.8,
        "answer_p50_day": 4.5,
        "answer_p95_day": 7.65,
        "commit_to_acknowledged_p50_hour": 20,
        "commit_to_acknowledged_p95_hour": 29,
        "commit_to_acknowledged_p50_day": 30,
        "commit_to_acknowledged_p95_day": 48,
    }
    assert {name: row[name] for name in figures} == pytest.approx(figures)

    row = psql.row("select * from bridge.webhook_health where webhook_id = %s", idle)
    assert (row["attempts_hour"], row["attempts_day"], row["pending"]) == (0, 0, 0)
    assert {row[name] for name in (*figures, "success_rate_hour", "success_rate_day")} == {None}


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({}, "delivering"),
        ({"failure_share": 1}, "delivering"),
        ({"probe_at": LONG_AGO}, "failing"),
        ({"probe_at": LONG_AGO, "paused_at": LONG_AGO}, "paused"),
        ({"is_active": False}, "off"),
        ({"is_active": False, "paused_at": LONG_AGO}, "off"),
        ({"is_active": False, "disabled_reason": "gone"}, "disabled"),
    ],
)
def test_a_webhook_has_one_state(psql: Psql, columns: dict[str, object], state: str) -> None:
    webhook = psql.webhook(**columns)
    assert (
        psql.value("select state from bridge.webhook_health where webhook_id = %s", webhook)
        == state
    )


# What it costs


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a plan that read a partition of the delivery log."""
    if str(plan.get("Relation Name", "")).startswith("delivery_log"):
        yield plan
    for below in plan.get("Plans", ()):
        yield from scans(below)


def explained(session: Session, sql: str) -> list[dict[str, Any]]:
    row = session.execute(f"explain (analyze, format json) {sql}".encode()).fetchone()
    assert row is not None
    return list(scans(row[0][0]["Plan"]))


def fill_log(session: Session, webhook_id: int, count: int) -> None:
    """Log deliveries of a webhook among as many of others: half successes, over two days."""
    session.execute(
        """
        insert into bridge.delivery_log
            (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
             created_at, finished_at)
        select 1000000 + n, case mod(n, 2) when 0 then %s else 0 end, 0, now(), 't',
               case mod(n / 2, 2) when 0 then 'success' else 'failed' end, 1, now(),
               now() - mod(n / 4, 2) * interval '1 day'
        from generate_series(1, %s) as n""",
        [webhook_id, 2 * count],
    )
    session.execute("analyze bridge.delivery_log")


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_statistics_and_pages_do_not_read_the_log_for_their_counts(
    psql: Psql, connect: Callable[[], Session], plans: str
) -> None:
    webhook = psql.webhook()
    session = connect()
    fill_log(session, webhook, 8000)
    session.execute(f"set local plan_cache_mode = {plans}".encode())
    assert explained(session, query("webhook_stats")) == []
    for number, (name, types) in enumerate(
        {
            "list_webhooks": "bigint, text, boolean, bigint, bigint",
            "list_deliveries": "bigint, text, bigint, bigint, bigint, bigint",
        }.items()
    ):
        session.execute(f"prepare q{number}({types}) as {query(name)}".encode())
    assert explained(session, "execute q0(null, null, null, 50, 0)") == []
    for status in "null", "'success'", "'failed'":
        for before in "null", "1008000":
            page = explained(session, f"execute q1({webhook}, {status}, 11, 0, 10, {before})")
            assert page
            for scan in page:
                read = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
                assert read * scan["Actual Loops"] <= 22, scan
