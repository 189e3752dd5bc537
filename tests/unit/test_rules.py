"""A wrong rule is refused with one line that names the rule, the key and the mistake."""

import pytest

from bridge.capture.rules import CaptureRule, NoteRule, RuleError, load_preset, parse_rules

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
        ("on = 'truncate'", "[[capture]] user.created: on.0: Input should be 'insert', 'update'"),
        ("on = []", "[[capture]] user.created: on: must name one operation or more"),
        (
            "on = ['insert', 'insert']",
            "[[capture]] user.created: on: must name one operation or more",
        ),
        ("event = 'user.*'", "[[capture]] user.*: event: must be letters, digits"),
        ("event = 'user created'", "[[capture]] user created: event: must be letters, digits"),
        ("event = '.user'", "[[capture]] .user: event: must be letters, digits"),
        ("event = 5", "[[capture]] 5: event: Input should be a valid string"),
        ("payload = { id = 5 }", "[[capture]] user.created: payload.id: Input should be a valid"),
        ("payload = 'id'", "[[capture]] user.created: payload: Input should be a valid dictionary"),
        (
            "deferred = 'when'",
            "[[capture]] user.created: deferred: Input should be a valid boolean",
        ),
        ("columns = ['id']", "[[capture]] user.created: columns: Extra inputs are not permitted"),
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
    with pytest.raises(RuleError, match=r"^there is no preset called 'online-school'$"):
        load_preset("online-school")
