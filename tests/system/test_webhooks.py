"""``pgbridge webhooks``: its output, exit codes and messages."""

import inspect
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import psycopg
import pytest
from standardwebhooks import Webhook

from bridge.cli import webhooks as webhooks_commands
from bridge.webhooks.model import NewWebhook, Redelivery
from tests.system.processes import at_terminal, complaint, pgbridge
from tests.webhook_rows import add_failures

Bot = psycopg.Connection[tuple[Any, ...]]
CREATE = ("create", "--name", "CRM", "--url", "http://receiver/hook", "--event-type", "ticket.*")


def webhooks(url: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = pgbridge("webhooks", *arguments, url=url, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done


def listed(url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(webhooks(url, "list", "--json").stdout)
    return rows


def stored(bot: Bot, *columns: str) -> list[tuple[Any, ...]]:
    return bot.execute(f"select {', '.join(columns)} from bridge.webhooks order by id").fetchall()


def add_failed(bot: Bot, webhook_id: int) -> None:
    bot.execute(
        """with event as (
               insert into bridge.events (event_type, payload, occurred_at)
               values ('ticket.created', '{}', now()) returning id, recorded_at),
           counted as (update bridge.webhooks set failed_count = failed_count + 1 where id = %(id)s)
           insert into bridge.delivery_log
               (id, webhook_id, event_id, event_recorded_at, event_type, status, attempt_number,
                created_at)
           select id, %(id)s, id, recorded_at, 'ticket.created', 'failed', 10, now() from event""",
        {"id": webhook_id},
    )


def test_create_prints_only_the_id(bridge_url: str, bot: Bot) -> None:
    options = ["--rate-per-second", "2.5", "--max-concurrency", "8", "--timeout-seconds", "30"]
    options += ["--ordered", "--filter", '$.priority == "high"']
    created = webhooks(bridge_url, *CREATE, *options)
    [(webhook_id, *columns)] = stored(
        bot,
        *("id", "name", "url", "event_type", "secret", "rate_per_second", "max_concurrency"),
        *("timeout_seconds", "ordered", "filter::text"),
    )
    assert created.stdout == f"{webhook_id}\n"
    assert columns == [
        *("CRM", "http://receiver/hook", "ticket.*", None, 2.5, 8, 30, True),
        '($."priority" == "high")',
    ]


def test_only_a_generated_secret_is_printed(bridge_url: str, bot: Bot) -> None:
    generated = webhooks(bridge_url, *CREATE, "--generate-secret").stdout.splitlines()
    given = webhooks(bridge_url, *CREATE, "--secret-stdin", stdin="s3 cret\n")
    [(first, secret), (second, from_stdin)] = stored(bot, "id", "secret")
    assert generated == [str(first), secret]
    assert secret.startswith("whsec_")
    assert given.stdout == f"{second}\n"
    assert from_stdin == "s3 cret"
    assert "s3" not in given.stderr


def test_create_notes_an_event_type_that_nothing_makes(bridge_url: str, bot: Bot) -> None:
    created = webhooks(bridge_url, *CREATE, "--event-type", "paymnt.*")
    assert created.stdout == f"{stored(bot, 'id')[0][0]}\n"
    assert created.stderr == (
        'note: no rule captures "paymnt.*", and no recent event has this type; did you mean '
        '"payment.*"?\n'
    )
    assert webhooks(bridge_url, *CREATE).stderr == ""


REFUSED = {
    ("--url", "ftp://receiver"): "url: must be an http or https URL",
    ("--event-type", "a b"): "event_type: ",
    ("--name", ""): "name: ",
    ("--name", "\udcff"): "name: must not contain",
    ("--rate-per-second", "0"): "rate_per_second: ",
    ("--filter", "$.a >"): "filter: must be a jsonpath: syntax error",
    ("--secret-stdin",): "standard input contains no secret",
    ("--secret-stdin", "--generate-secret"): "exclude each other",
}


def test_invalid_webhook_is_a_usage_error(bridge_url: str, bot: Bot) -> None:
    for options, said in REFUSED.items():
        assert said in complaint(pgbridge("webhooks", *CREATE, *options, url=bridge_url), 2)
    assert stored(bot, "id") == []


def test_command_defaults_are_those_of_the_api() -> None:
    for function, model, names in (
        (webhooks_commands.create, NewWebhook, ("max_concurrency", "timeout_seconds")),
        (webhooks_commands.redeliver, Redelivery, ("per_second",)),
    ):
        parameters = inspect.signature(function).parameters
        for name in names:
            assert parameters[name].default == model.model_fields[name].default


def test_list_prints_a_table_or_json(bridge_url: str, bot: Bot) -> None:
    assert listed(bridge_url) == []
    webhook_id = int(webhooks(bridge_url, *CREATE).stdout)
    bot.execute("update bridge.webhooks set name = 'a [red]name[/red]'")
    bot.execute(
        """insert into bridge.delivery_attempts
               (delivery_id, webhook_id, attempt_number, started_at, finished_at, error_message)
           select 1, %s, n, now(), now(), case when n = 1 then 'no' end
           from generate_series(1, 4) as n""",
        [webhook_id],
    )
    assert listed(bridge_url) == [
        {
            "id": webhook_id,
            "name": "a [red]name[/red]",
            "url": "http://receiver/hook",
            "event_type": "ticket.*",
            "state": "delivering",
            "pending": 0,
            "success_rate_hour": 75.0,
        }
    ]
    table = webhooks(bridge_url, "list").stdout
    assert "[red]" in table
    assert "75 %" in table


def test_commands_change_the_state(bridge_url: str) -> None:
    webhook_id = webhooks(bridge_url, *CREATE).stdout.strip()
    for name, state in (
        ("disable", "off"),
        ("enable", "delivering"),
        ("pause", "paused"),
        ("resume", "delivering"),
    ):
        assert webhooks(bridge_url, name, webhook_id).stdout == ""
        assert listed(bridge_url)[0]["state"] == state


def test_unknown_webhook_is_an_error(bridge_url: str) -> None:
    for name in "enable", "disable", "pause", "resume", "redeliver":
        options = ("--since", "2026-01-01", "--yes") if name == "redeliver" else ()
        line = complaint(pgbridge("webhooks", name, "7", *options, url=bridge_url), 1)
        assert line == "pgbridge: there is no webhook 7; see: pgbridge webhooks list"


def test_redeliver_counts_and_needs_confirmation(bridge_url: str, bot: Bot) -> None:
    webhook_id = webhooks(bridge_url, *CREATE).stdout.strip()
    for _ in range(3):
        add_failed(bot, int(webhook_id))
    redeliver = ("redeliver", webhook_id, "--since", "2026-01-01 10:00")
    assert webhooks(bridge_url, *redeliver, "--dry-run").stdout == "3\n"
    line = complaint(pgbridge("webhooks", *redeliver, url=bridge_url), 2)
    assert line == "pgbridge: standard input is not a terminal; pass --yes"
    until = webhooks(bridge_url, *redeliver, "--until", "2026-01-01 11:00", "--yes")
    assert until.stdout == "0\n"
    assert listed(bridge_url)[0]["pending"] == 0
    assert webhooks(bridge_url, *redeliver, "--per-second", "5", "--yes").stdout == "3\n"
    assert listed(bridge_url)[0]["pending"] == 3
    assert "since: " in complaint(
        pgbridge("webhooks", "redeliver", webhook_id, "--since", "lately", url=bridge_url), 2
    )


def test_redelivery_is_shown_and_cancelled(bridge_url: str, bot: Bot) -> None:
    webhook_id = webhooks(bridge_url, *CREATE).stdout.strip()
    line = complaint(pgbridge("webhooks", "redelivery", webhook_id, url=bridge_url), 1)
    assert (
        line
        == f"pgbridge: there is no redelivery of webhook {webhook_id}; see: pgbridge webhooks list"
    )
    add_failures(bot, int(webhook_id), 1005)
    webhooks(bridge_url, "redeliver", webhook_id, "--since", "2020-01-01", "--yes")
    for options, state in ((), "running"), (("--cancel",), "cancelled"):
        shown = webhooks(bridge_url, "redelivery", webhook_id, *options).stdout
        assert shown == f"{state}: 1000 of 1005 put into the queue\n"


@pytest.mark.parametrize(("answer", "code", "moved"), [("n", 1, 0), ("y", 0, 1)])
def test_redeliver_asks_at_a_terminal(
    bridge_url: str, bot: Bot, answer: str, code: int, moved: int
) -> None:
    webhook_id = webhooks(bridge_url, *CREATE).stdout.strip()
    add_failed(bot, int(webhook_id))
    redeliver = ("webhooks", "redeliver", webhook_id, "--since", "2026-01-01")
    done = at_terminal(*redeliver, url=bridge_url, answer=answer)
    assert done.returncode == code
    assert "Redeliver 1 failed deliveries?" in done.stderr
    assert listed(bridge_url)[0]["pending"] == moved


# Import


OWN = """
    create table public.webhooks (
        id serial primary key, name varchar(255) not null, url text not null,
        event_type varchar(50) not null, secret varchar(128), description text,
        is_active boolean not null, created_at timestamptz, failure_count integer)
"""
ROWS = """
    insert into public.webhooks (name, url, event_type, secret, description, is_active) values
        ('CRM', 'https://crm.example/hook', 'user.created', 's3cret', 'Для CRM', true),
        ('Off', 'https://off.example/hook', 'user.created', null, null, false),
        ('Bad', 'not a url', 'user.created', null, null, true),
        ('Empty', 'https://crm.example/hook', 'ticket.created', '', '', true)
"""


def test_import_copies_active_webhooks_once(bridge_url: str, bot: Bot) -> None:
    bot.execute("drop table if exists public.webhooks cascade")
    bot.execute(OWN)
    bot.execute(ROWS)
    before = bot.execute("select w::text, xmin::text from public.webhooks w").fetchall()
    planned = imported_with(bridge_url, 1, "--dry-run")
    assert stored(bot, "id") == []
    assert planned.stdout == ""
    assert "would copy: CRM, user.created to https://crm.example/hook" in planned.stderr
    assert "2 to copy, 0 skipped, 1 refused" in planned.stderr

    imported = imported_with(bridge_url, 1)
    rows = stored(bot, "id", "name", "url", "event_type", "secret", "description", "is_active")
    assert [row[1:] for row in rows] == [
        ("CRM", "https://crm.example/hook", "user.created", "s3cret", "Для CRM", True),
        ("Empty", "https://crm.example/hook", "ticket.created", None, None, True),
    ]
    assert imported.stdout.split() == [str(row[0]) for row in rows]
    assert "refused: Bad, user.created to not a url: url: must be" in imported.stderr
    assert "2 copied, 0 skipped, 1 refused" in imported.stderr
    assert "receivers will get every event twice" in imported.stderr
    assert "s3cret" not in imported.stderr + imported.stdout

    bot.execute("update public.webhooks set is_active = false where name = 'Bad'")
    before = bot.execute("select w::text, xmin::text from public.webhooks w").fetchall()
    again = webhooks(bridge_url, "import")
    assert again.stdout == ""
    assert again.stderr.count("already present") == 2
    assert "twice" not in again.stderr
    assert stored(bot, "id") == [(row[0],) for row in rows]
    assert bot.execute("select w::text, xmin::text from public.webhooks w").fetchall() == before


def imported_with(
    url: str, code: int, *arguments: str, allowed_networks: str = "127.0.0.0/8"
) -> subprocess.CompletedProcess[str]:
    """Import, which must exit with this code."""
    command = ("webhooks", "import", *arguments)
    done = pgbridge(*command, url=url, allowed_networks=allowed_networks)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


#: Values that REST refuses, and what is said about them.
UNFIT = [
    ("url", "http://10.0.0.1/", "url: ", "10.0.0.1"),
    ("url", "http://169.254.169.254/latest/meta-data/", "url: ", "169.254.169.254"),
    ("url", "http://[::1]:8080/", "url: ", "::1"),
    ("url", "http://[::ffff:192.168.0.1]/", "url: ", "BRIDGE_ALLOWED_NETWORKS"),
    ("url", "ftp://a.example/", "url: ", "must be an http or https URL"),
    ("url", "https://user:word@a.example/", "url: ", "without user or password"),
    ("url", "https://a.example/" + "a" * 2048, "url: ", "at most 2048"),
    ("event_type", "user created", "event_type: ", "match pattern"),
    ("event_type", "*.created", "event_type: ", "match pattern"),
    ("name", "a\x1b[2J", "name: ", "control characters"),
    ("name", "", "name: ", "at least 1"),
    ("description", "a\u202eb", "description: ", "direction of writing"),
    ("description", "x" * 4001, "description: ", "at most 4000"),
    ("secret", "whsec_short", "secret: ", ""),
    ("secret", "x" * 1025, "secret: ", "at most 1024"),
]


def test_import_refuses_what_rest_refuses_and_copies_the_others(bridge_url: str, bot: Bot) -> None:
    usual = {
        "name": "n",
        "url": "http://127.0.0.1/",
        "event_type": "user.created",
        "secret": None,
        "description": None,
    }
    bot.execute("drop table if exists public.webhooks cascade")
    bot.execute(
        "create table public.webhooks (id serial, name text, url text, event_type text,"
        " secret text, description text, is_active boolean)"
    )
    columns = ", ".join(usual)
    values = ", ".join(f"%({name})s" for name in usual)
    insert = f"insert into public.webhooks ({columns}, is_active) values ({values}, true)"
    bot.execute(insert.encode(), {**usual, "url": "http://127.0.0.1/first"})
    for number, (name, value, *_) in enumerate(UNFIT):
        bot.execute(insert.encode(), {**usual, "url": f"http://127.0.0.1/{number}", name: value})
    bot.execute(insert.encode(), {**usual, "url": "http://127.0.0.1/last"})
    for arguments in (["--dry-run"], [], []):
        done = imported_with(bridge_url, 1, *arguments)
        refused = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
        assert len(refused) == len(UNFIT), done.stderr
        for line, (_, _, field, reason) in zip(refused, UNFIT, strict=True):
            assert f": {field}" in line
            assert reason in line.partition(f": {field}")[2]
            assert line.isprintable()
        assert "x" * 1025 not in done.stderr
        urls = [url for (url,) in stored(bot, "url")]
        copied = [] if arguments else ["http://127.0.0.1/first", "http://127.0.0.1/last"]
        assert urls == copied
    assert "0 copied, 2 skipped" in done.stderr
    bot.execute("delete from bridge.webhooks")
    allowed = imported_with(bridge_url, 1, allowed_networks="127.0.0.0/8,10.0.0.0/8")
    assert "copied: n, user.created to http://10.0.0.1/" in allowed.stderr


def test_import_notes_an_event_type_that_nothing_makes(bridge_url: str, bot: Bot) -> None:
    bot.execute("drop table if exists public.webhooks cascade")
    bot.execute("create table public.webhooks (name text, url text, event_type text)")
    bot.execute("insert into public.webhooks values ('a', 'http://a', 'paymnt.completed')")
    imported = webhooks(bridge_url, "import")
    assert "note: no rule captures" in imported.stderr
    assert 'did you mean "payment.completed"?' in imported.stderr


def test_import_needs_only_the_required_columns(bridge_url: str, bot: Bot) -> None:
    bot.execute("drop table if exists public.webhooks cascade")
    bot.execute("create table public.webhooks (name text, url text, event_type text)")
    bot.execute("insert into public.webhooks values ('a', 'http://a', 'user.created')")
    assert len(webhooks(bridge_url, "import").stdout.split()) == 1
    bot.execute("alter table public.webhooks drop column event_type")
    line = complaint(pgbridge("webhooks", "import", url=bridge_url), 1)
    assert "public.webhooks has no column event_type" in line


def test_import_without_a_table_fails(bridge_url: str, bot: Bot) -> None:
    bot.execute("drop table if exists public.webhooks cascade")
    line = complaint(pgbridge("webhooks", "import", url=bridge_url), 1)
    assert line == ("pgbridge: this database has no table public.webhooks to import from")


@contextmanager
def receiving(
    status: int, answer: bytes = b"thanks"
) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Run a receiver that responds with this status; yield its URL and its requests."""
    requests: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((dict(self.headers.items()), body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", requests
        finally:
            server.shutdown()
            thread.join()


def test_test_is_signed_and_prints_the_response(bridge_url: str) -> None:
    with receiving(200) as (target, requests):
        create = ("create", "--name", "x", "--url", target, "--event-type", "*")
        webhook_id, secret = webhooks(bridge_url, *create, "--generate-secret").stdout.split()
        done = webhooks(bridge_url, "test", webhook_id)
        assert done.stdout == "thanks\n"
        assert done.stderr.startswith("HTTP 200 after ")
    [(headers, body)] = requests
    payload = {"message": "This is a test of the webhook.", "webhook_id": int(webhook_id)}
    assert Webhook(secret).verify(body, {k.lower(): v for k, v in headers.items()}) == payload
    assert headers["X-Webhook-Event"] == "webhook.test"


def test_response_of_a_receiver_cannot_control_the_terminal(bridge_url: str) -> None:
    body = "{\r\n\t\x1b]0;title\x07\x9b2J\u202e\n}".encode()
    with receiving(200, body) as (target, _):
        create = ("create", "--name", "x", "--url", target, "--event-type", "*")
        webhook_id = webhooks(bridge_url, *create).stdout.strip()
        done = webhooks(bridge_url, "test", webhook_id)
        assert done.stdout == "{\n\t\\u001b]0;title\\u0007\\u009b2J\\u202e\n}\n"


def test_rejected_test_fails_with_the_reason(bridge_url: str) -> None:
    with receiving(500) as (target, _):
        create = ("create", "--name", "x", "--event-type", "*", "--url")
        bad = webhooks(bridge_url, *create, target).stdout.strip()
        done = pgbridge("webhooks", "test", bad, url=bridge_url)
        assert (done.returncode, done.stdout) == (1, "thanks\n")
        assert done.stderr == "pgbridge: HTTP 500\n"
        inside = webhooks(bridge_url, *create, "http://10.0.0.1/").stdout.strip()
        done = pgbridge("webhooks", "test", inside, url=bridge_url)
        assert complaint(done, 1) == (
            "pgbridge: blocked: 10.0.0.1 is a private address;"
            " to allow it, add 10.0.0.1/32 to BRIDGE_ALLOWED_NETWORKS"
        )
        assert pgbridge("webhooks", "test", "99", url=bridge_url).returncode == 1
