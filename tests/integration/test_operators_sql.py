"""What operators do to webhooks in SQL."""

import psycopg
import pytest

from bridge.database.sessions import fetch
from tests.integration.psql import Psql, refused
from tests.integration.relaying import DRAIN
from tests.waiting import notifications


def test_name_url_and_event_type_suffice_for_a_webhook(psql: Psql) -> None:
    psql.run(
        "insert into bridge.webhooks (name, url, event_type) values ('n', 'http://r', 'ticket.*')"
    )
    webhook = psql.row("select * from bridge.webhooks order by id desc limit 1")
    assert (webhook["is_active"], webhook["ordered"]) == (True, False)
    assert webhook["filter"] is webhook["rate_per_second"] is webhook["retry_schedule"] is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("retry_schedule", "{}"),
        ("retry_schedule", "{1,null}"),
        ("retry_schedule", "{{1,2},{3,4}}"),
        ("retry_schedule", "{NaN}"),
        ("rate_per_second", "0"),
        ("rate_per_second", "NaN"),
    ],
)
def test_invalid_webhook_is_refused(psql: Psql, column: str, value: str) -> None:
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
        # Errors that operators raise.
        ("$variable > 5", '{"a": 5}', False),
        (
            '$.a.datetime() > "2024-01-01".datetime()',
            '{"a": "2024-01-01T10:00:00+00:00"}',
            True,
        ),
    ],
)
def test_filter_errors_count_as_false(
    psql: Psql, expression: str | None, payload: str, passes: bool
) -> None:
    assert psql.value("select bridge.passes(%s, %s)", expression, payload) is passes


def test_activation_clears_past_failures(psql: Psql) -> None:
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
    # Setting is_active again on an active webhook forgives nothing.
    psql.run(trouble, True, webhook)
    assert not psql.value(forgiven, webhook)


# --- pause and resume


def drain(psql: Psql) -> None:
    """Drain the outbox, as a bridge does."""
    fetch(psql.session, "drain", *DRAIN)


def test_paused_webhook_gets_new_deliveries_inactive_one_does_not(psql: Psql) -> None:
    paused, off, on = (psql.webhook(event_type="pause.test") for _ in range(3))
    psql.run("select bridge.pause_webhook(%s)", paused)
    psql.run("update bridge.webhooks set is_active = false where id = %s", off)
    psql.run("select bridge.emit('pause.test')")
    drain(psql)
    takers = psql.rows(
        "select webhook_id from bridge.delivery_queue where event_type = 'pause.test'"
    )
    assert sorted(takers) == [(paused,), (on,)]


def test_second_pause_keeps_the_time_and_resume_clears_all(psql: Psql) -> None:
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
    assert [note.channel for note in notifications(psql.session)] == ["bridge_deliveries"]


def test_pause_and_resume_reject_unknown_webhooks(psql: Psql) -> None:
    for function in "pause_webhook", "resume_webhook":
        said = refused(psql, psycopg.errors.NoDataFound, f"select bridge.{function}(0)")
        assert said == "there is no webhook 0"


# --- emit


def test_emit_writes_to_the_outbox_and_rings(psql: Psql) -> None:
    psql.run("select setval('bridge.doorbell', 0)")
    psql.run("listen bridge_outbox")
    psql.run("""select bridge.emit('order.paid', '{"a": "\\u00e4"}')""")
    assert psql.rows("delete from bridge.outbox returning event_type, payload") == [
        ("order.paid", {"a": "ä"})
    ]
    assert [note.channel for note in notifications(psql.session)] == ["bridge_outbox"]
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
def test_emit_rejects_invalid_events(
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
