"""Rules are parsed and validated; an error is one line with the rule and the key."""

import re

import pytest

from bridge.capture.rules import (
    MOST_RULES,
    CaptureRule,
    NoteRule,
    RuleError,
    load_preset,
    load_rules,
    parse_rules,
)

VALID = """
[[capture]]
event = "user.created"
table = "public.users"
on = "insert"
payload = { user_id = "id" }
"""


def with_line(line: str) -> str:
    """Return VALID with a line replaced or added."""
    key = line.split(" = ")[0]
    kept = [known for known in VALID.splitlines() if known.split(" = ")[0] != key]
    return "\n".join([*kept, line])


def test_keys_have_defaults() -> None:
    assert parse_rules(VALID) == [
        CaptureRule(
            event="user.created",
            table="public.users",
            on=("insert",),
            payload={"user_id": "id"},
            when=None,
            deferred=False,
        )
    ]


def test_notes_come_before_capture_rules() -> None:
    rules = parse_rules(
        VALID + "\n[[note]]\ntopic = 'seen'\ntable = 'public.users'\non = 'insert'\nkey = 'id'"
    )
    assert [type(rule) for rule in rules] == [NoteRule, CaptureRule]
    assert [rule.name for rule in rules] == ["note seen", "user.created"]


def test_preset_has_the_six_events_of_the_contract() -> None:
    rules = load_preset("telegram-shop")
    assert [rule.event for rule in rules if isinstance(rule, CaptureRule)] == [
        "user.created",
        "transaction.created",
        "payment.completed",
        "ticket.created",
        "ticket.status_changed",
        "ticket.message_added",
    ]


@pytest.mark.parametrize(
    "table",
    ["public.users", '"Public"."Order ""x"""', 'shop."Order"', "_a1.b$", '"таблица"."x"'],
)
def test_table_is_an_sql_name(table: str) -> None:
    [rule] = parse_rules(with_line(f"table = '{table}'"))
    assert rule.table == table


INVALID = [
    ("table = 'users'", "table: must be a schema and a table, such as"),
    ("table = 'public.users; drop'", "table: must be a schema"),
    ("table = 'public.us ers'", "table: must be a schema"),
    ("table = 'a.b.c'", "table: must be a schema"),
    ('table = \'public."a"b"\'', "table: must be a schema"),
    ("table = 'bridge.outbox'", "table: schema bridge is pgbridge's own"),
    ("table = '\"bridge\".outbox'", "table: schema bridge is pgbridge's own"),
    (f"table = 'public.{'x' * 64}'", f"table: {'x' * 64} is longer than 63 bytes"),
    ("on = 'select'", "on.0: Input should be 'insert', 'update'"),
    ("on = ['delete', 'truncate']", "on: truncate must be the only operation"),
    ("on = []", "on: must be one or more operations"),
    ("on = ['insert', 'insert']", "on: must be one or more operations"),
    ("payload = { id = 5 }", "payload: id: must be a quoted string"),
    ("payload = { id = ' ' }", "payload: id: must not be empty"),
    ("payload = 'id'", "payload: must be a list of columns"),
    ("payload = []", "payload: must list one or more columns"),
    ("payload = [1]", "payload: must list one or more columns"),
    ("payload = ['id', 'id']", "payload: must list each column once"),
    ("payload = { _capture_error = 'id' }", "payload: _capture_error is reserved"),
    ('payload = { id = "\\u0000" }', "payload: id: must not contain a NUL character"),
    ("except = ['id']", 'except: only valid with payload = "*"'),
    ("when = ''", "when: must not be empty"),
    ("when = 5", "when: must be a quoted string"),
    ("extra = ''", "extra: must not be empty"),
    ("extra = { a = 'id' }", "extra: must be a quoted string"),
    ("colour = 'red'", "colour: unknown key; the keys are table, on"),
    ("deferred = 'when'", "deferred: Input should be a valid boolean"),
    ("columns = ['id']", "columns: only updates change columns"),
    ("columns = []", "columns: must list one or more columns"),
]


@pytest.mark.parametrize(("line", "message"), INVALID)
def test_error_names_rule_and_key(line: str, message: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse_rules(with_line(line))
    assert str(raised.value).startswith(f"[[capture]] user.created: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("event", ["user.*", "user created", ".user", 5])
def test_invalid_event_is_rejected(event: object) -> None:
    expected = "Input should be" if event == 5 else "must be letters, digits"
    message = rf"^\[\[capture\]\] {re.escape(str(event))}: event: {expected}"
    with pytest.raises(RuleError, match=message):
        parse_rules(with_line(f"event = {event!r}"))


@pytest.mark.parametrize("key", ["event", "table", "on", "payload"])
def test_missing_key_is_named(key: str) -> None:
    text = "\n".join(line for line in VALID.splitlines() if not line.startswith(key))
    rule = r"\(unnamed\)" if key == "event" else "user.created"
    with pytest.raises(RuleError, match=rf"^\[\[capture\]\] {rule}: {key}: required, but missing$"):
        parse_rules(text)


def test_missing_key_of_a_note_is_named() -> None:
    with pytest.raises(RuleError, match=r"^\[\[note\]\] seen: key: required, but missing$"):
        parse_rules("[[note]]\ntopic = 'seen'\ntable = 'a.b'\non = 'insert'")


@pytest.mark.parametrize("text", ["[capture]\nevent = 'a'", "capture = 5", "capture = ['a']"])
def test_single_table_instead_of_a_list_is_rejected(text: str) -> None:
    with pytest.raises(RuleError, match=r"^capture: write \[\[capture\]\] above each rule$"):
        parse_rules(text)


@pytest.mark.parametrize(
    "other", ["user.created", "user_created", "User-Created", "user.created".upper()]
)
def test_rules_must_not_share_a_trigger(other: str) -> None:
    with pytest.raises(
        RuleError, match=rf"^rules 'user.created' and '{other}' have the same name; rename"
    ):
        parse_rules(VALID + with_line(f"event = '{other}'"))


def test_truncated_names_must_differ() -> None:
    first, second = ("a" * 60 + end for end in "xy")
    with pytest.raises(RuleError, match="have the same name"):
        parse_rules(with_line(f"event = '{first}'") + with_line(f"event = '{second}'"))


def test_invalid_toml_is_rejected() -> None:
    with pytest.raises(RuleError, match=r"^invalid TOML: Expected"):
        parse_rules("[[capture")


def test_unknown_preset_is_named() -> None:
    with pytest.raises(RuleError, match=r"^unknown preset 'online-school'; the presets are"):
        load_preset("online-school")


def test_payload_may_be_columns_or_all_but_some() -> None:
    [listed] = parse_rules(with_line("payload = ['id', 'name']"))
    assert isinstance(listed, CaptureRule)
    assert listed.payload == ("id", "name")
    [starred] = parse_rules(with_line("payload = '*'\nexcept = ['password_hash']"))
    assert isinstance(starred, CaptureRule)
    assert (starred.payload, starred.leave_out) == ("*", ("password_hash",))


def test_update_may_be_limited_to_columns() -> None:
    [rule] = parse_rules(with_line("on = ['insert', 'update']\ncolumns = 'status'"))
    assert isinstance(rule, CaptureRule)
    assert rule.columns == ("status",)


def test_truncate_has_sql_payloads_only() -> None:
    text = "[[capture]]\nevent = 'emptied'\ntable = 'public.users'\non = 'truncate'\n"
    [rule] = parse_rules(text)
    assert isinstance(rule, CaptureRule)
    assert rule.payload == {}
    [rule] = parse_rules(text + "payload = { by = 'current_user::text' }")
    for line, message in [
        ("payload = ['id']", "payload: truncate has no row"),
        ("payload = '*'", "payload: truncate has no row"),
        ("deferred = true", "deferred: truncate triggers cannot be deferred"),
    ]:
        with pytest.raises(RuleError, match=rf"^\[\[capture\]\] emptied: {message}"):
            parse_rules(text + line)
    with pytest.raises(RuleError, match=r"on: truncate has no row to note"):
        parse_rules("[[note]]\ntopic = 'n'\ntable = 'a.b'\non = 'truncate'\nkey = 'id'")


def names(text: str, preset: str | None = None) -> list[str]:
    return [rule.name for rule in load_rules(text, preset, "telegram-shop")]


def test_default_preset_applies_without_rules() -> None:
    assert load_rules("port = 8090", None, "telegram-shop") == load_preset("telegram-shop")
    assert load_rules("", "telegram-shop") == load_preset("telegram-shop")
    assert load_rules("", "none") == []


def test_preset_is_added_to_rules_only_by_name() -> None:
    own = VALID.replace("user.created", "customer.created")
    assert names(own) == ["customer.created"]
    assert names(own, "none") == ["customer.created"]
    assert names(own, "telegram-shop") == [*names("", None), "customer.created"]


def test_rule_replaces_the_presets_rule() -> None:
    rules = load_rules(VALID, "telegram-shop")
    assert [rule.name for rule in rules] == names("", None)
    [replaced] = [rule for rule in rules if rule.name == "user.created"]
    assert isinstance(replaced, CaptureRule)
    assert replaced.payload == {"user_id": "id"}


def test_number_of_rules_is_bounded() -> None:
    rule = '[[capture]]\nevent = "e{}"\ntable = "public.t"\non = "insert"\npayload = "*"\n'
    rules = [rule.format(number) for number in range(MOST_RULES + 1)]
    assert len(parse_rules("".join(rules[:-1]))) == MOST_RULES
    with pytest.raises(RuleError, match="there are 1001 rules; the most is 1000"):
        parse_rules("".join(rules))
