"""Renders a rule to the SQL of one trigger function and one trigger."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jinja2

from bridge import assets
from bridge.capture.rules import CaptureRule, NoteRule, Rule
from bridge.database.quoting import identifier, literal

# jsonb_build_object takes at most 100 arguments.
_PAIRS_A_CALL = 50

#: Types whose JSON is the same whatever the application's session has set.
_INDEPENDENT_TYPES = {
    "bigint", "boolean", "character", "character varying", "cidr", "date", "enum", "inet",
    "integer", "json", "jsonb", "name", "numeric", "oid", "smallint", "text",
    "time without time zone", "timestamp without time zone", "uuid",
}  # fmt: skip
_TIMEZONE = {"timezone": "'UTC'"}
#: What the rest depends on: intervals, ranges, bytea, floats, names of tables, what contains them;
#: and SQL, which may print anything as text.
_OUTPUT_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    **_TIMEZONE,
    "datestyle": "'ISO, MDY'",
    "intervalstyle": "'postgres'",
    "bytea_output": "'hex'",
    "extra_float_digits": "1",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an application's table.

    ``type_name`` is as format_type() says it without a length, or ``enum``. ``virtual_sql`` is
    the expression of a generated column that is not stored: for triggers PostgreSQL does not
    compute it.
    """

    type_name: str
    virtual_sql: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What rendering needs to know of an application's table."""

    columns: Mapping[str, Column]
    is_partitioned: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """A piece of a rule that is SQL, where it stands in the rule, and what it has to be."""

    key: str
    sql: str
    is_condition: bool = False


@dataclass(frozen=True, slots=True)
class RenderedRule:
    """The SQL of one rule and the names of what it creates."""

    name: str
    table: str
    trigger_name: str
    function_name: str
    trigger_sql: str
    function_sql: str
    #: What only the database can say to be right.
    expressions: tuple[Expression, ...] = field(default=(), compare=False)


class ColumnError(Exception):
    """A rule names a column that its table does not have. The message names key and column."""


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: assets.template(f"capture/{name}")),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - this is SQL; literals and identifiers are quoted below
    keep_trailing_newline=False,
)


def render(rule: Rule, table: Table, position: int) -> RenderedRule:
    """Return the SQL of a rule on a table.

    ``position`` is the rule's place among the rules of its table: PostgreSQL fires the triggers of
    a table in the order of their names, so the rules' order is the order of their events.

    Raises:
        ColumnError: the rule names a column that the table does not have.
    """
    return _Rendering(rule, table).rendered(position)


def render_paused(function_name: str) -> str:
    """Return the SQL of the function that stands in a rule's place while it is paused."""
    return _TEMPLATES.get_template("paused.sql.j2").render(function=function_name)


class _Rendering:
    """One rule on its way to SQL: gathers which of its parts are columns and which are SQL."""

    def __init__(self, rule: Rule, table: Table) -> None:
        self._rule = rule
        self._table = table
        self._row = "old" if rule.on == ("delete",) else "new"
        self._expressions: list[Expression] = []
        self._columns_used: list[Column] = []

    def rendered(self, position: int) -> RenderedRule:
        rule = self._rule
        function = f"bridge.capture_{rule.slug}"
        trigger = f"bridge_{position:03}_{rule.slug}"
        body = self._body()
        # Of an application's partitioned table, every rule sees every operation: see the template.
        moves = self._table.is_partitioned and isinstance(rule, CaptureRule) and self._has_rows
        operations = ("insert", "update", "delete") if moves else rule.on
        names = {
            **body,
            "function": function,
            "table": rule.table,
            "row": self._row if self._has_rows else "null::pg_catalog.jsonb",
            "note": isinstance(rule, NoteRule),
            "delete_among_others": "delete" in rule.on and len(rule.on) > 1,
            "moves": literal(f"moved {rule.name}") if moves else None,
            "operations": ", ".join(literal(each.upper()) for each in rule.on),
            "keeps_old": "update" in rule.on,
            "settings": self._settings(),
        }
        # Any text of the rule's may contain what ends a dollar quote.
        quote = _dollar_quote(" ".join(str(value) for value in names.values()))
        return RenderedRule(
            rule.name,
            rule.table,
            trigger,
            function,
            _TEMPLATES.get_template("trigger.sql.j2").render(
                trigger=trigger,
                function=function,
                table=rule.table,
                operations=operations,
                deferred=isinstance(rule, CaptureRule) and rule.deferred,
            ),
            _TEMPLATES.get_template("function.sql.j2").render(names, quote=quote),
            tuple(self._expressions),
        )

    @property
    def _has_rows(self) -> bool:
        return self._rule.on != ("truncate",)

    def _body(self) -> dict[str, str | None]:
        """Return what differs between rules; every part passes through here once."""
        rule = self._rule
        when = rule.when and self._sql("when", rule.when, is_condition=True)
        if isinstance(rule, NoteRule):
            return {
                "when": when,
                "columns": None,
                "topic": literal(rule.topic),
                "key": self._value("key", rule.key),
                "value": self._json_object("value", rule.value),
            }
        return {
            "when": when,
            "columns": ", ".join(rule.columns) or None,
            "old_columns": ", ".join(self._column("columns", each, "old") for each in rule.columns),
            "new_columns": ", ".join(self._column("columns", each, "new") for each in rule.columns),
            "event": literal(rule.event),
            "value": self._payload(rule),
        }

    def _payload(self, rule: CaptureRule) -> str:
        if isinstance(rule.payload, dict):
            return self._json_object("payload", rule.payload)
        names = rule.payload
        if names == "*":
            for name in rule.leave_out:
                self._known("except", name)
            names = tuple(name for name in self._table.columns if name not in rule.leave_out)
        return _json_object({name: self._column("payload", name, self._row) for name in names})

    def _json_object(self, key: str, pairs: Mapping[str, str]) -> str:
        return _json_object({name: self._value(f"{key}.{name}", pairs[name]) for name in pairs})

    def _value(self, key: str, value: str) -> str:
        """Return a column, where the value is exactly the name of one, or the SQL that it is."""
        if self._has_rows and value in self._table.columns:
            return self._column(key, value, self._row)
        return f"({self._sql(key, value)})"

    def _sql(self, key: str, sql: str, *, is_condition: bool = False) -> str:
        self._expressions.append(Expression(key, sql, is_condition))
        # A comment in it must not reach what follows it in the template.
        return sql.strip() + ("\n" if "--" in sql else "")

    def _column(self, key: str, name: str, row: str) -> str:
        column = self._known(key, name)
        if column.virtual_sql is None:
            self._columns_used.append(column)
            return f"{row}.{identifier(name)}"
        computed = f"(select {column.virtual_sql} from (select ({row}).*) as stored)"  # noqa: S608
        return self._sql(f"{key}: {name}", computed)

    def _known(self, key: str, name: str) -> Column:
        column = self._table.columns.get(name)
        if column is None:
            there = ", ".join(self._table.columns)
            raise ColumnError(
                f"{key}: table {self._rule.table} has no column {name!r}; there are {there}"
            )
        return column

    def _settings(self) -> dict[str, str]:
        """Return the settings that the function needs to be the same in every session.

        Each costs a fraction of a microsecond a row, so only what its columns depend on.
        """
        if self._expressions:
            return _OUTPUT_SETTINGS
        types = {column.type_name for column in self._columns_used} - _INDEPENDENT_TYPES
        if types == {"timestamp with time zone"}:
            return _TIMEZONE
        return _OUTPUT_SETTINGS if types else {}


def _json_object(pairs: Mapping[str, str]) -> str:
    rendered = [f"{literal(name)}, {sql}" for name, sql in pairs.items()]
    calls = [
        "pg_catalog.jsonb_build_object(\n            " + ",\n            ".join(chunk) + ")"
        for start in range(0, len(rendered), _PAIRS_A_CALL)
        if (chunk := rendered[start : start + _PAIRS_A_CALL])
    ]
    return " operator(pg_catalog.||) ".join(calls) or "'{}'::pg_catalog.jsonb"


def _dollar_quote(body: str) -> str:
    tag = "$capture$"
    while tag in body:
        tag = f"$_{tag[1:]}"
    return tag
