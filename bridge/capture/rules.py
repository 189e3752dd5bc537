"""Parse capture rules from TOML, and validate what can be checked without a database."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bridge import assets
from bridge.events import PATTERN
from bridge.settings import first_problem
from bridge.terminal.visible import CONTROLS

Operation = Literal["insert", "update", "delete", "truncate"]

_IDENTIFIER = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"\x00]|"")+")'
_TABLE = re.compile(rf"({_IDENTIFIER})\.({_IDENTIFIER})")
#: PostgreSQL truncates longer names, and would look for a different table.
_IDENTIFIER_BYTES = 63
#: Each rule is a trigger, and every command that plans looks at all of them.
MOST_RULES = 1_000
#: The payload key with the error, if the payload could not be computed.
CAPTURE_ERROR = "_capture_error"


class RuleError(Exception):
    """A capture rule is invalid. The message names the rule, its key and the error."""


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _text(value: object) -> object:
    if isinstance(value, str) and re.search(f"[{CONTROLS}]", value):
        raise ValueError("must not contain control characters or change the direction of writing")
    return value


def _column_or_sql(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(
            'must be a quoted string, a column or SQL, such as "id" or "new.a + new.b"'
        )
    if not value.strip():
        raise ValueError("must not be empty")
    if "\x00" in value:
        raise ValueError("must not contain a NUL character, which PostgreSQL cannot store")
    return value


#: A column's name, or an SQL expression over NEW and OLD.
ColumnOrSql = Annotated[str, BeforeValidator(_column_or_sql)]
Text = Annotated[str, BeforeValidator(_text)]


class _Rule(BaseModel):
    """The keys that all rules share."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    #: Schema and name in SQL syntax: ``public.users`` or ``shop."Order"``.
    table: Text
    on: Annotated[tuple[Operation, ...], BeforeValidator(_one_or_more)]
    #: SQL over NEW and OLD; rows for which it is false or null are skipped.
    when: ColumnOrSql | None = None

    @field_validator("table")
    @classmethod
    def _has_schema(cls, table: str) -> str:
        parts = _TABLE.fullmatch(table)
        if not parts:
            raise ValueError('must be a schema and a table, such as public.users or shop."Order"')
        for part in parts.groups():
            name = part.strip('"').replace('""', '"')
            if len(name.encode()) > _IDENTIFIER_BYTES:
                raise ValueError(f"{part} is longer than 63 bytes, PostgreSQL's limit for names")
        if parts[1].strip('"') == "bridge" or parts[1].lower() == "bridge":
            raise ValueError(
                "schema bridge is pgbridge's own; capturing it would cause an endless loop"
            )
        return table

    @field_validator("on")
    @classmethod
    def _each_once(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if not operations or len(set(operations)) < len(operations):
            raise ValueError("must be one or more operations without duplicates")
        if "truncate" in operations and len(operations) > 1:
            raise ValueError("truncate must be the only operation of its rule")
        return operations

    @property
    def name(self) -> str:
        """The rule's name in messages and in ``bridge.capture_rules``."""
        raise NotImplementedError

    @property
    def slug(self) -> str:
        """The rule's name as part of an SQL identifier."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower())[:50]


class CaptureRule(_Rule):
    """Turns rows of a table into events of one type."""

    event: str
    #: Payload keys with their columns or SQL; or a list of columns; or ``*`` for all columns.
    payload: dict[Text, ColumnOrSql] | tuple[Text, ...] | Literal["*"] = Field(
        default_factory=dict, union_mode="left_to_right"
    )
    #: SQL of a JSON object whose keys are added to the payload; null adds none.
    extra: ColumnOrSql | None = None
    #: Columns that ``*`` excludes.
    leave_out: tuple[Text, ...] = Field(default=(), validation_alias="except")
    #: Skip updates that change none of these columns.
    columns: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)] = ()
    #: Compute the payload at commit, when it sees everything the transaction wrote.
    deferred: bool = False

    @field_validator("event")
    @classmethod
    def _is_exact(cls, event: str) -> str:
        if not PATTERN.fullmatch(event) or "*" in event:
            raise ValueError("must be letters, digits, _ and -, in parts separated by dots")
        return event

    @field_validator("payload", mode="before")
    @classmethod
    def _payload_form(cls, payload: object) -> object:
        """Validate the payload here: pydantic would report an error for each of the three forms."""
        if isinstance(payload, Mapping):
            for name in payload:
                _text(name)
                if name == CAPTURE_ERROR:
                    raise ValueError(f"{CAPTURE_ERROR} is reserved for payloads that fail")
            for name, value in payload.items():
                try:
                    _column_or_sql(value)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
            return payload
        if isinstance(payload, list | tuple):
            if not payload or not all(isinstance(each, str) for each in payload):
                raise ValueError("must list one or more columns, each in quotes")
            if len(set(payload)) < len(payload):
                raise ValueError("must list each column once")
            return payload
        if payload != "*":
            raise ValueError(
                'must be a list of columns, "*", or a table of keys with columns or SQL'
            )
        return payload

    @field_validator("columns", "leave_out")
    @classmethod
    def _columns_once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if not columns or len(set(columns)) < len(columns):
            raise ValueError("must list one or more columns without duplicates")
        return columns

    @model_validator(mode="after")
    def _keys_fit(self) -> "CaptureRule":
        if self.on == ("truncate",):
            if not isinstance(self.payload, dict):
                raise ValueError(
                    "payload: truncate has no row, so no columns; use SQL, or omit payload"
                )
            if self.deferred:
                raise ValueError("deferred: truncate triggers cannot be deferred")
        elif "payload" not in self.model_fields_set:
            raise ValueError("payload: required, but missing")
        if self.columns and "update" not in self.on:
            raise ValueError("columns: only updates change columns; add update to on")
        if self.leave_out and self.payload != "*":
            raise ValueError('except: only valid with payload = "*"')
        return self

    @property
    def name(self) -> str:
        return self.event


class NoteRule(_Rule):
    """Makes rows leave notes for deferred rules of the same transaction."""

    topic: Text
    key: ColumnOrSql
    value: dict[Text, ColumnOrSql] = {}

    @field_validator("on")
    @classmethod
    def _of_rows(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if "truncate" in operations:
            raise ValueError("truncate has no row to note")
        return operations

    @property
    def name(self) -> str:
        return f"note {self.topic}"


Rule = CaptureRule | NoteRule
_Kind = TypeVar("_Kind", CaptureRule, NoteRule)


NO_PRESET = "none"


def load_rules(text: str, preset: str | None, default: str = NO_PRESET) -> list[Rule]:
    """Return the rules of a configuration file, on top of a preset's.

    A rule of the file replaces the preset's rule with the same name.

    Args:
        text: the TOML file; everything but ``[[capture]]`` and ``[[note]]`` is ignored.
        preset: the preset's name; None means the default, or no preset if the file has rules.
        default: the preset of a file without rules.

    Raises:
        RuleError: for the first invalid rule.
    """
    own = parse_rules(text)
    if preset is None:
        preset = NO_PRESET if own else default
    by_name = {rule.name: rule for rule in (load_preset(preset) if preset != NO_PRESET else [])}
    by_name |= {rule.name: rule for rule in own}
    return _in_order([*by_name.values()])


def load_preset(name: str) -> list[Rule]:
    """Return the rules of a built-in preset.

    Raises:
        RuleError: the preset is unknown.
    """
    try:
        text = assets.template(f"presets/{name}.toml")
    except FileNotFoundError:
        names = " and ".join([*assets.presets(), NO_PRESET])
        raise RuleError(f"unknown preset {name!r}; the presets are {names}") from None
    return parse_rules(text)


def parse_rules(text: str) -> list[Rule]:
    """Return the rules in the ``[[capture]]`` and ``[[note]]`` tables of a TOML text.

    Raises:
        RuleError: for the first invalid rule.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"invalid TOML: {error}") from None
    notes = [_parse(NoteRule, "note", raw) for raw in _tables(document, "note")]
    captures = [_parse(CaptureRule, "capture", raw) for raw in _tables(document, "capture")]
    return _in_order([*notes, *captures])


def _in_order(rules: list[Rule]) -> list[Rule]:
    """Order the rules as their triggers have to fire: notes before the rules that read them."""
    if len(rules) > MOST_RULES:
        raise RuleError(f"there are {len(rules)} rules; the most is {MOST_RULES}")
    slug, uses = next(iter(Counter(rule.slug for rule in rules).most_common(1)), ("", 0))
    if uses > 1:
        twins = " and ".join(repr(rule.name) for rule in rules if rule.slug == slug)
        raise RuleError(f"rules {twins} have the same name; rename one of them")
    return sorted(rules, key=lambda rule: isinstance(rule, CaptureRule))


def _tables(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError(f"{name}: write [[{name}]] above each rule")
    return tables


def _parse(kind: type[_Kind], table: str, raw: dict[str, Any]) -> _Kind:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first, problem = first_problem(error)
        rule = raw.get("event") or raw.get("topic") or "(unnamed)"
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            keys = ", ".join(
                str(field.validation_alias or name) for name, field in kind.model_fields.items()
            )
            problem = f"unknown key; the keys are {keys}"
        if first["type"] == "missing":
            problem = "required, but missing"
        place = f"[[{table}]] {rule}: {key}" if key else f"[[{table}]] {rule}"
        raise RuleError(f"{place}: {problem}") from None
