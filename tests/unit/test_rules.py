"""A wrong rule is refused with one line that names the rule, the key and the mistake."""

import pytest

from bridge.capture.rules import (
    CaptureRule,
    NoteRule,
    RuleError,
    load_preset,
    load_rules,
    parse_rules,
)

RIGHT = """
[[capture]]
event = "user.created"
table = "public.users"
on = "insert"
payload = { user_id = "id" }
"""


def with_line(line: str) -> str:
    """RIGHT with one of its lines replaced, or with one more."""
    key = line.split(" = ")[0]
    kept = [known for known in RIGHT.splitlines() if known.split(" = ")[0] != key]
    return "\n".join([*kept, line])


def test_a_rule_is_read_with_its_defaults() -> None:
    assert parse_rules(RIGHT) == [
        CaptureRule(
            event="user.created",
            table="public.users",
            on=("insert",),
            payload={"user_id": "id"},
            when=None,
            deferred=False,
        )
    ]


def test_notes_come_before_the_rules_that_read_them() -> None:
    rules = parse_rules(
        RIGHT + "\n[[note]]\ntopic = 'seen'\ntable = 'public.users'\non = 'insert'\nkey = 'id'"
    )
    assert [type(rule) for rule in rules] == [NoteRule, CaptureRule]
    assert [rule.name for rule in rules] == ["note seen", "user.created"]


def test_no_text_is_no_rules() -> None:
    assert parse_rules("") == []


def test_the_preset_of_the_shop_bot_has_the_contracts_six_events() -> None:
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
def test_a_table_is_named_as_sql_names_it(table: str) -> None:
    [rule] = parse_rules(with_line(f"table = '{table}'"))
    assert rule.table == table


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("table = 'users'", "[[capture]] user.created: table: must be schema and table, such as"),
        ("table = 'public.users; drop'", "[[capture]] user.created: table: must be schema"),
        ("table = 'public.us ers'", "[[capture]] user.created: table: must be schema"),
        ("table = 'a.b.c'", "[[capture]] user.created: table: must be schema"),
        ('table = \'public."a"b"\'', "[[capture]] user.created: table: must be schema"),
        ("on = 'select'", "[[capture]] user.created: on.0: Input should be 'insert', 'update'"),
        (
            "on = ['delete', 'truncate']",
            "[[capture]] user.created: on: truncate has no rows and needs a rule of its own",
        ),
        ("on = []", "[[capture]] user.created: on: must name one operation or more"),
        (
            "on = ['insert', 'insert']",
            "[[capture]] user.created: on: must name one operation or more",
        ),
        ("event = 'user.*'", "[[capture]] user.*: event: must be letters, digits"),
        ("event = 'user created'", "[[capture]] user created: event: must be letters, digits"),
        ("event = '.user'", "[[capture]] .user: event: must be letters, digits"),
        ("event = 5", "[[capture]] 5: event: Input should be a valid string"),
        (
            "payload = { id = 5 }",
            "[[capture]] user.created: payload: id: must be a column or SQL in quotes",
        ),
        ("payload = { id = ' ' }", "[[capture]] user.created: payload: id: must not be empty"),
        ("payload = 'id'", "[[capture]] user.created: payload: must be a list of columns"),
        ("payload = []", "[[capture]] user.created: payload: must name one column or more"),
        ("payload = [1]", "[[capture]] user.created: payload: must name one column or more"),
        ("payload = ['id', 'id']", "[[capture]] user.created: payload: must name each column once"),
        (
            "payload = { _capture_error = 'id' }",
            "[[capture]] user.created: payload: _capture_error is the key of payloads that failed",
        ),
        (
            'payload = { id = "\\u0000" }',
            "[[capture]] user.created: payload: id: must not have a NUL character",
        ),
        ("except = ['id']", '[[capture]] user.created: except: only payload = "*" leaves columns'),
        ("when = ''", "[[capture]] user.created: when: must not be empty"),
        ("when = 5", "[[capture]] user.created: when: must be a column or SQL in quotes"),
        (
            "table = 'bridge.outbox'",
            "[[capture]] user.created: table: schema bridge is pgbridge's own",
        ),
        (
            "table = '\"bridge\".outbox'",
            "[[capture]] user.created: table: schema bridge is pgbridge's own",
        ),
        (
            f"table = 'public.{'x' * 64}'",
            f"[[capture]] user.created: table: {'x' * 64} is longer than PostgreSQL's names",
        ),
        ("colour = 'red'", "[[capture]] user.created: colour: unknown key; there are table, on"),
        (
            "deferred = 'when'",
            "[[capture]] user.created: deferred: Input should be a valid boolean",
        ),
        ("columns = ['id']", "[[capture]] user.created: columns: only an update changes columns"),
        ("columns = []", "[[capture]] user.created: columns: must name one column or more"),
    ],
)
def test_a_mistake_is_said_with_its_rule_and_key(line: str, said: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse_rules(with_line(line))
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["event", "table", "on", "payload"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    text = "\n".join(line for line in RIGHT.splitlines() if not line.startswith(key))
    rule = "without a name" if key == "event" else "user.created"
    with pytest.raises(RuleError, match=rf"^\[\[capture\]\] {rule}: {key}: Field required$"):
        parse_rules(text)


def test_a_note_is_checked_as_well() -> None:
    with pytest.raises(RuleError, match=r"^\[\[note\]\] seen: key: Field required$"):
        parse_rules("[[note]]\ntopic = 'seen'\ntable = 'a.b'\non = 'insert'")


@pytest.mark.parametrize("text", ["[capture]\nevent = 'a'", "capture = 5", "capture = ['a']"])
def test_a_single_table_in_place_of_a_list_is_explained(text: str) -> None:
    with pytest.raises(RuleError, match=r"^capture: must be written as \[\[capture\]\]"):
        parse_rules(text)


@pytest.mark.parametrize(
    "other", ["user.created", "user_created", "User-Created", "user.created".upper()]
)
def test_two_rules_that_would_share_a_trigger_are_refused(other: str) -> None:
    with pytest.raises(
        RuleError, match=rf"^rules 'user.created' and '{other}' have the same name$"
    ):
        parse_rules(RIGHT + with_line(f"event = '{other}'"))


def test_names_that_are_cut_to_the_same_are_refused() -> None:
    first, second = ("a" * 60 + end for end in "xy")
    with pytest.raises(RuleError, match="have the same name"):
        parse_rules(with_line(f"event = '{first}'") + with_line(f"event = '{second}'"))


def test_what_is_no_toml_is_said_to_be_none() -> None:
    with pytest.raises(RuleError, match=r"^not TOML: Expected"):
        parse_rules("[[capture")


def test_a_preset_that_there_is_not_is_named() -> None:
    with pytest.raises(RuleError, match=r"^there is no preset called 'online-school'; there are"):
        load_preset("online-school")


# --- what a rule may say


def test_the_payload_may_be_a_list_of_columns_or_all_but_some() -> None:
    [listed] = parse_rules(with_line("payload = ['id', 'name']"))
    assert isinstance(listed, CaptureRule)
    assert listed.payload == ("id", "name")
    [starred] = parse_rules(with_line("payload = '*'\nexcept = ['password_hash']"))
    assert isinstance(starred, CaptureRule)
    assert (starred.payload, starred.leave_out) == ("*", ("password_hash",))


def test_an_update_may_be_of_certain_columns() -> None:
    [rule] = parse_rules(with_line("on = ['insert', 'update']\ncolumns = 'status'"))
    assert isinstance(rule, CaptureRule)
    assert rule.columns == ("status",)


def test_a_truncate_needs_no_payload_and_takes_no_columns() -> None:
    text = "[[capture]]\nevent = 'emptied'\ntable = 'public.users'\non = 'truncate'\n"
    [rule] = parse_rules(text)
    assert isinstance(rule, CaptureRule)
    assert rule.payload == {}
    [rule] = parse_rules(text + "payload = { by = 'current_user::text' }")
    for wrong, said in [
        ("payload = ['id']", "payload: truncate has no rows"),
        ("payload = '*'", "payload: truncate has no rows"),
        ("deferred = true", "deferred: truncate cannot be deferred"),
    ]:
        with pytest.raises(RuleError, match=rf"^\[\[capture\]\] emptied: {said}"):
            parse_rules(text + wrong)
    with pytest.raises(RuleError, match=r"on: truncate has no rows, so nothing to note"):
        parse_rules("[[note]]\ntopic = 'n'\ntable = 'a.b'\non = 'truncate'\nkey = 'id'")


# --- presets and files


def names(text: str, preset: str | None = None) -> list[str]:
    return [rule.name for rule in load_rules(text, preset)]


def test_a_file_without_rules_has_those_of_the_default_preset() -> None:
    assert load_rules("port = 8090", None) == load_preset("telegram-shop")
    assert load_rules("", "telegram-shop") == load_preset("telegram-shop")


def test_a_file_with_rules_has_only_them_unless_it_names_a_preset() -> None:
    own = RIGHT.replace("user.created", "customer.created")
    assert names(own) == ["customer.created"]
    assert names(own, "none") == ["customer.created"]
    assert names(own, "telegram-shop") == [*names("", None), "customer.created"]


def test_a_rule_of_the_file_takes_the_place_of_the_presets() -> None:
    rules = load_rules(RIGHT, "telegram-shop")
    assert [rule.name for rule in rules] == names("", None)
    [replaced] = [rule for rule in rules if rule.name == "user.created"]
    assert isinstance(replaced, CaptureRule)
    assert replaced.payload == {"user_id": "id"}


def test_no_preset_and_no_rules_is_no_rules() -> None:
    assert load_rules("", "none") == []
