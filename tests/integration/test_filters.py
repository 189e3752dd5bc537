"""Filters of webhooks: whatever is not of linear cost is refused, however it comes in."""

import json
import subprocess
from typing import Any

import psycopg
import pytest

from bridge import assets
from bridge.database.migrate import plan_migrations
from bridge.database.sessions import open_session
from bridge.demo.postgres import EmbeddedPostgres
from tests.integration.calling import FORM, Bot, assert_refused, calling, create
from tests.integration.console_pages import add_crm, shown, signed_in
from tests.integration.installing import apply
from tests.integration.psql import Psql, refused
from tests.postgres import MAJOR
from tests.system.processes import complaint, pgbridge

REGEX = "must not use like_regex; compare with == or starts with"
METHODS = "must not call methods, except .size() and .type() at the end of a path"
CALCULATION = "must not calculate"
SUBSCRIPT = "must have one number, last or * in [ ]"
NESTED = "must use ? only at the end of the path in exists(), with conditions on @ alone"
COMPARISON = "must compare one path with one constant, as in $.amount_kopeks >= 100000"
HIDDEN = "must not have a comment, or a backslash outside quotes"
EXPONENT = "must not have exponents of more than three digits"
VARIABLE = "must not have variables; a field is written $.name"
LONG = "must not be longer than 2000 characters"
CONDITIONS = (
    "must have at most 5 conditions, counting [*] and .* as one and every index or method as two"
)

#: What could take more than linear time, or could hide it, and what is said of it.
HOSTILE = {
    # Each step doubles the values.
    "$" + "[0,0]" * 40 + " ? (@.a == 5) == 1": SUBSCRIPT,
    "$" + "[0 to 1, 0 to 1]" * 40 + " == 1": SUBSCRIPT,
    "$" + ".**" * 20 + " == 1": "must not contain **; name the keys, or use .* for one level",
    '$.**{2 to last}.a == "x"': "must not contain **; name the keys, or use .* for one level",
    # A sequence for each element of another: the square of the payload, the cube, …
    "$.a[*] == $.b[*]": COMPARISON,
    "exists($.a[*] ? (@ == $.b[*]))": NESTED,
    "exists($[*] ? (exists($[*] ? (@.a == 1))))": NESTED,
    "exists($.a[*] ? ($.b[*] == 1))": NESTED,
    "exists($.a ? (@.b == 1) ? (@.c == 2))": NESTED,
    "exists($.a ? (@ == 1).b)": NESTED,
    "$.a ? (@ > 1) == 2": NESTED,
    "$[$.a[*].size()] == 1": SUBSCRIPT,
    # Patterns: some take minutes to match, and this short one takes minutes to compile.
    '$.a like_regex "(?:(?:a?){30}){30}"': REGEX,
    r'$.a like_regex "^(?=(.*)a)(?=(.*)b)(?=(.*)c)"': REGEX,
    r'$.a like_regex "^(a*)(a*)(a*)\\1\\2\\3$"': REGEX,
    '$.a like_regex "(x{1,250}){1,250}"': REGEX,
    '$.a LIKE_REGEX "(?:(?:a?){30}){30}"': REGEX,
    '$.a == "\\"" || $.b like_regex "(?:(?:a?){30}){30}"': REGEX,
    # The same, hidden from who looks for it before PostgreSQL parses the text.
    r'$.a l\u0069ke_regex "(?:(?:a?){30}){30}"': HIDDEN,
    r'$.a \x6cike_regex "(?:(?:a?){30}){30}"': HIDDEN,
    '$.a /* " */ like_regex "(?:(?:a?){30}){30}" /* " */': HIDDEN,
    # Numbers with 131,072 digits.
    "$.a * $.a * $.a == 1": CALCULATION,
    "$.a == 1e131071": EXPONENT,
    " || ".join(["$.a == 1.5E+131_000"] * 80): EXPONENT,
    "$.a > 1_0.e-16383": EXPONENT,
    "$.a == .1e999999": EXPONENT,
    "$.a == " + "9" * 1993: f"{LONG} as PostgreSQL writes it",
    "-$.a == 1": CALCULATION,
    "$[last - 1] == 1": CALCULATION,
    # Methods that make values of values, or read templates.
    "$" + ".keyvalue()" * 30 + ' == "a"': METHODS,
    '$.a.datetime("' + "YYYY-MM-DD " * 20 + '") < "2024-01-01".datetime()': METHODS,
    "$.a.double() > 1": METHODS,
    "$.a.abs().ceiling().floor() > 1": METHODS,
    '$.a.size().type() == "number"': METHODS,
    # Variables, with keys beside them that look like one.
    "$amount > 5": VARIABLE,
    '$.currency == "US$" && $"b" == 1': VARIABLE,
    # Not a condition.
    "$.a": COMPARISON,
    "1 == 1": COMPARISON,
    '($.a == 1).type() == "boolean"': COMPARISON,
    # Too much of what is allowed.
    "(" * 3000 + "$.a" + ")" * 900: LONG,
    "a" * 4001: LONG,
    "$.a" + ".b" * 600 + " == 1": f"{LONG} as PostgreSQL writes it; it has 2412",
    "!(" * 600 + "$.a == 1" + ")" * 600: "must have at most ten ! and is unknown",
    "(" * 11 + "$.a == 1" + ") is unknown" * 11: "must have at most ten ! and is unknown",
    " || ".join(["$.a == 1"] * 6): f"{CONDITIONS}; it has 6",
    "$" + "[*]" * 30 + " == 1": f"{CONDITIONS}; it has 31",
    "$" + "[0]" * 30 + " == 1": f"{CONDITIONS}; it has 61",
    "$.a.size() > 1 && $.b.size() > 1": f"{CONDITIONS}; it has 6",
    "exists($.a ? (@.b == 1 || @.b == 2 || @.b == 3 || @.b == 4 || @.b == 5))": (
        f"{CONDITIONS}; it has 6"
    ),
    "strict " + " || ".join(["$.a == 1"] * 61): "must have at most 60 conditions",
    "strict $" + ".*" * 5 + " == 1": f"{CONDITIONS}; it has 6",
}
#: A filter that an earlier version allowed, and how PostgreSQL writes it.
LIKE_REGEX = '$.a like_regex "[16]$"'
STORED = '($."a" like_regex "[16]$")'


ALLOWED: list[tuple[str, object, bool]] = [
    ("$.a >= 5", {"a": 5}, True),
    ("5 <= $.a", {"a": 4}, False),
    ("$.a != null", {"a": 1}, True),
    ("$.a <> -1.5", {"a": -1.5}, False),
    ("$.a == true && $.b == false", {"a": True, "b": False}, True),
    ("$.a == 1.5e100 && $.a1e1000 == 16", {"a": 15 * 10**99, "a1e1000": 16}, True),
    ('$.a starts with "x"', {"a": "xy"}, True),
    ("exists($.a.b)", {"a": {"b": None}}, True),
    ("!exists($.a) || ($.a == 1) is unknown", {}, True),
    ("($.a == 1 || $.b == 2) && !($.c == 3)", {"b": 2, "c": 4}, True),
    ('$[0].a == "x"', [{"a": "x"}], True),
    ("strict $[last] == 2", [1, 2], True),
    ("$.a[*].b == 2", {"a": [{"b": 1}, {"b": 2}]}, True),
    ("$.*.b == 2", {"a": {"b": 2}}, True),
    ("$.a.size() > 1", {"a": [1, 2]}, True),
    ('$.a.type() == "array"', {"a": []}, True),
    (
        'exists($.items[*] ? (@.sku == "A" && @.n > 2)) && $.status == "paid"',
        {"items": [{"sku": "B", "n": 9}, {"sku": "A", "n": 3}], "status": "paid"},
        True,
    ),
    (
        'exists($.items ? (!(@.sku == "A") && exists(@.n)))',
        {"items": [{"sku": "A", "n": 3}]},
        False,
    ),
    ("strict " + " || ".join(f"$.a == {n}" for n in range(60)), {"a": 59}, True),
    # Nothing inside of quotes is an operator.
    ('$.a == "like_regex" || $.a == "/* \\\\1 */"', {"a": "/* \\1 */"}, True),
    ('$."? (@ == $x)" == "** \\" + $.b[0,0]"', {"? (@ == $x)": '** " + $.b[0,0]'}, True),
    ('$.currency == "US$" || $."$x" == "\\"$" || $.a == "$\\"b"', {"$x": '"$'}, True),
    ('$."\\u0022.**" == "\\u005c"', {'".**': "\\"}, True),
]
if MAJOR >= 16:
    ALLOWED.append(("$.a == 0x10", {"a": 16}, True))


@pytest.mark.parametrize(("filter_text", "payload", "passes"), ALLOWED)
def test_conditions_are_allowed_and_keep_their_meaning(
    psql: Psql, filter_text: str, payload: object, passes: bool
) -> None:
    assert psql.value("select bridge.filter_problem(%s)", filter_text) is None
    webhook = psql.webhook(filter=filter_text)
    stored = psql.row(
        "select bridge.passes(filter, %s) as passes, bridge.filter_problem(filter::text) as problem"
        " from bridge.webhooks where id = %s",
        json.dumps(payload),
        webhook,
    )
    assert stored == {"passes": passes, "problem": None}


# --- every way in


def test_hostile_filter_is_refused_in_sql(psql: Psql) -> None:
    # PostgreSQL would need longer to parse some of them.
    psql.run("set statement_timeout = '10s'")
    for text, sentence in HOSTILE.items():
        problem = psql.value("select bridge.filter_problem(%s)", text)
        assert problem is not None, text
        assert problem.startswith(sentence), text
        said = refused(psql, psycopg.errors.CheckViolation, "select bridge.to_filter(%s)", text)
        assert said == f"filter: {problem}"


def test_active_webhook_cannot_have_a_hostile_filter(psql: Psql) -> None:
    webhook = psql.webhook(filter="$.a == 1")
    off = psql.webhook(is_active=False)
    for text, sentence in HOSTILE.items():
        if sentence in (REGEX, HIDDEN, EXPONENT, LONG):
            continue  # PostgreSQL parses some of these for minutes, and others not at all
        for ways in (
            "insert into bridge.webhooks (name, url, event_type, filter)"
            " values ('n', 'http://r', 't', %s)",
            f"update bridge.webhooks set filter = %s where id = {webhook}",
            f"update bridge.webhooks set filter = %s, is_active = true where id = {off}",
        ):
            with pytest.raises(psycopg.errors.CheckViolation) as refusal:
                psql.run(ways, text)
            assert refusal.value.diag.constraint_name == "webhooks_filter_allowed"
            said, _, _ = sentence.partition(" as PostgreSQL writes it")
            assert str(refusal.value).startswith(f"filter: {said}")
    # Sessions that replicate or restore do not run ordinary triggers.
    psql.run("set session_replication_role = replica")
    sql = f"update bridge.webhooks set filter = '$.a == $.b' where id = {webhook}"
    assert refused(psql, psycopg.errors.CheckViolation, sql) == f"filter: {COMPARISON}"


async def test_hostile_filter_is_refused_over_rest(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        for text, sentence in HOSTILE.items():
            for answer in (
                await client.post("/webhooks", json={**FORM, "filter": text}),
                await client.patch(path, json={"filter": text}),
                await client.patch(path, json={"filter": text, "is_active": False}),
            ):
                assert_refused(answer, "filter")
                assert answer.json()["detail"][0]["msg"].startswith(sentence)
        assert (await client.get("/webhooks")).json()["items"] == [webhook]


def test_hostile_filter_is_refused_by_the_command(bridge_url: str, bot: Bot) -> None:
    create_one = ("create", "--name", "n", "--url", "http://receiver/hook", "--event-type", "t")
    for text, sentence in HOSTILE.items():
        refusal = pgbridge("webhooks", *create_one, "--filter", text, url=bridge_url)
        assert f"filter: {sentence}" in complaint(refusal, 2)
    assert bot.execute("select from bridge.webhooks").fetchall() == []


# --- filters of an earlier version


async def test_old_filter_cannot_be_activated_over_rest(bridge_url: str, bot: Bot) -> None:
    path = f"/webhooks/{add_crm(bot, filter=LIKE_REGEX, is_active=False)}"
    async with calling(bridge_url) as client:
        for answer in (
            await client.patch(path, json={"is_active": True}),
            await client.post(f"{path}/resume"),
        ):
            assert_refused(answer, "filter")
            assert answer.json()["detail"][0]["msg"] == REGEX
        # Anything else of the webhook can be changed.
        renamed = await client.patch(path, json={"name": "Renamed"})
        assert (renamed.status_code, renamed.json()["filter"]) == (200, STORED)
        enabled = await client.patch(path, json={"is_active": True, "filter": "$.a == 1"})
        assert (enabled.status_code, enabled.json()["is_active"]) == (200, True)


async def test_old_filter_cannot_be_activated_in_the_console(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot, filter=LIKE_REGEX, is_active=False)
    async with signed_in(bridge_url) as browser:
        for operation in ("switch-on", "resume"):
            page = await browser.post(f"/console/webhooks/{webhook}/{operation}")
            assert page.status_code == 422
            assert REGEX in shown(page)


def test_old_filter_cannot_be_activated_by_commands_or_in_sql(bridge_url: str, bot: Bot) -> None:
    webhook = add_crm(bot, filter=LIKE_REGEX, is_active=False)
    for command in ("enable", "resume"):
        refusal = pgbridge("webhooks", command, str(webhook), url=bridge_url)
        assert complaint(refusal, 2) == f"pgbridge: filter: {REGEX}"
    for sql in (
        "select bridge.resume_webhook(%s)",
        "update bridge.webhooks set is_active = true where id = %s",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=f"filter: {REGEX}"):
            bot.execute(sql.encode(), [webhook])


def test_upgrade_disables_webhooks_whose_filters_are_not_allowed(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = assets.migrations()
    names = [name.partition("_")[2] for name, _ in released]
    before = names.index("restrict_filters.sql")
    with monkeypatch.context() as earlier:
        earlier.setattr(assets, "migrations", lambda: released[:before])
        with open_session(empty_url) as connection:
            apply(empty_url, plan_migrations(connection))
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("""
            insert into bridge.webhooks (name, url, event_type, filter, is_active) values
                ('none', 'http://r', 't', null, true),
                ('good', 'http://r', 't', '$.a == 1', true),
                ('bad', 'http://r', 't', '$.a == $.b', true),
                ('off', 'http://r', 't', '$.a == $.b', false)""")
        with open_session(empty_url) as session:
            apply(empty_url, plan_migrations(session))
        rows = connection.execute(
            "select name, state, disabled_reason from bridge.webhooks order by id"
        )
        assert rows.fetchall() == [
            ("none", "delivering", None),
            ("good", "delivering", None),
            ("bad", "disabled", f"its filter {COMPARISON}"),
            ("off", "off", None),
        ]
        events: list[tuple[Any, ...]] = connection.execute(
            "select event_type, payload ->> 'name', payload ->> 'reason' from bridge.outbox"
        ).fetchall()
        assert events == [("webhook.disabled", "bad", f"its filter {COMPARISON}")]


def test_restored_dump_has_its_filters_and_refuses_others(
    server: EmbeddedPostgres, bridge_url: str, bot: Bot, empty_url: str
) -> None:
    add_crm(bot, filter="$.a == 1")
    add_crm(bot, filter=LIKE_REGEX, is_active=False)
    dump = [str(server.bin / "pg_dump"), "--schema=bridge", bridge_url]
    dumped = subprocess.run(dump, check=True, capture_output=True).stdout
    # The server may be older than pg_dump.
    dumped = dumped.replace(b"SET transaction_timeout = 0;\n", b"")
    restore = [str(server.bin / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", empty_url]
    subprocess.run(restore, check=True, capture_output=True, input=dumped)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        rows = connection.execute("select filter::text, is_active from bridge.webhooks order by id")
        assert rows.fetchall() == [('($."a" == 1)', True), (STORED, False)]
        for change in ("is_active = true", "filter = '$.a == $.b', is_active = true"):
            with pytest.raises(psycopg.errors.CheckViolation, match="filter: must"):
                connection.execute(f"update bridge.webhooks set {change}".encode())
