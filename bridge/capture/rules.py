"""What a capture rule says, and the checks that need no database."""

import re
import tomllib
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from bridge import assets
from bridge.events import PATTERN

Operation = Literal["insert", "update", "delete"]

_IDENTIFIER = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"\x00]|"")+")'
_TABLE = re.compile(rf"({_IDENTIFIER})\.({_IDENTIFIER})")


class RuleError(Exception):
    """A capture rule is wrong. The message names the rule, the key and the mistake."""


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _Rule(BaseModel):
    """What every rule has: a table, the operations on it and a condition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Schema and name, as SQL writes them: ``public.users`` or ``shop."Order"``.
    table: str
    on: Annotated[tuple[Operation, ...], BeforeValidator(_one_or_more)]
    #: SQL over NEW and OLD; what is not true is not captured.
    when: str | None = None

    @field_validator("table")
    @classmethod
    def _has_schema(cls, table: str) -> str:
        if not _TABLE.fullmatch(table):
            raise ValueError('must be schema and table, such as public.users or shop."Order"')
        return table

    @field_validator("on")
    @classmethod
    def _each_once(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if not operations or len(set(operations)) < len(operations):
            raise ValueError("must name one operation or more, each once")
        return operations

    @property
    def name(self) -> str:
        """How the rule is called in messages and in ``bridge.capture_rules``."""
        raise NotImplementedError

    @property
    def slug(self) -> str:
        """The rule's name as part of an SQL identifier."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower())[:50]


class CaptureRule(_Rule):
    """Rows of a table become events of one type."""

    event: str
    #: Name in the payload -> column or SQL expression.
    payload: dict[str, str]
    #: Wait until the commit: the payload then sees everything the transaction wrote.
    deferred: bool = False

    @field_validator("event")
    @classmethod
    def _is_exact(cls, event: str) -> str:
        if not PATTERN.fullmatch(event) or "*" in event:
            raise ValueError("must be letters, digits, _ and -, in parts joined by dots")
        return event

    @property
    def name(self) -> str:
        return self.event


class NoteRule(_Rule):
    """A row leaves a note for the deferred rules of the same transaction."""

    topic: str
    key: str
    value: dict[str, str] = {}

    @property
    def name(self) -> str:
        return f"note {self.topic}"


Rule = CaptureRule | NoteRule
_Kind = TypeVar("_Kind", CaptureRule, NoteRule)


def load_preset(name: str) -> list[Rule]:
    """Return the rules of a preset that comes with pgbridge.

    Raises:
        RuleError: there is no such preset, or it is not right.
    """
    try:
        text = assets.template(f"presets/{name}.toml")
    except FileNotFoundError:
        raise RuleError(f"there is no preset called {name!r}") from None
    return parse_rules(text)


def parse_rules(text: str) -> list[Rule]:
    """Return the rules of a TOML text with ``[[capture]]`` and ``[[note]]`` tables.

    Raises:
        RuleError: naming the first rule and key that is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"not TOML: {error}") from None
    notes = [_parse(NoteRule, "note", raw) for raw in _tables(document, "note")]
    captures = [_parse(CaptureRule, "capture", raw) for raw in _tables(document, "capture")]
    rules: list[Rule] = [*notes, *captures]
    slug, uses = next(iter(Counter(rule.slug for rule in rules).most_common(1)), ("", 0))
    if uses > 1:
        twins = " and ".join(repr(rule.name) for rule in rules if rule.slug == slug)
        raise RuleError(f"rules {twins} have the same name")
    return rules


def _tables(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError(f"{name}: must be written as [[{name}]], a table for each rule")
    return tables


def _parse(kind: type[_Kind], table: str, raw: dict[str, Any]) -> _Kind:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        rule = raw.get("event") or raw.get("topic") or "without a name"
        key = ".".join(str(part) for part in first["loc"])
        mistake = first["msg"].removeprefix("Value error, ")
        raise RuleError(f"[[{table}]] {rule}: {key}: {mistake}") from None
