"""Render a rule to the SQL of one trigger function and one trigger."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jinja2

from bridge import assets
from bridge.capture.rules import CaptureRule, NoteRule, Rule
from bridge.database.quoting import identifier, literal

# jsonb_build_object takes at most 100 arguments.
_PAIRS_PER_CALL = 50

#: Types whose JSON does not depend on the session's settings.
_INDEPENDENT_TYPES = {
    "bigint", "boolean", "character", "character varying", "cidr", "date", "enum", "inet",
    "integer", "json", "jsonb", "name", "numeric", "oid", "smallint", "text",
    "time without time zone", "timestamp without time zone", "uuid",
}  # fmt: skip
_TIMEZONE = {"timezone": "'UTC'"}
#: Settings that change the text of all other types (intervals, ranges, bytea, floats, regclass and
#: types that contain them) and of SQL expressions, which may cast anything to text.
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
    """A column of an application's table."""

    #: As format_type() returns it without a length, or ``enum``.
    type_name: str
    #: The expression of a virtual generated column, which PostgreSQL does not compute for triggers.
    virtual_sql: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The parts of an application's table that rendering depends on."""

    columns: Mapping[str, Column]
    is_partitioned: bool = False
    #: Whether the database's encoding may have text that UTF-8 does not have.
    checks_encoding: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """SQL in a rule, and the key it belongs to."""

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
    #: SQL that only the database can validate.
    expressions: tuple[Expression, ...] = field(default=(), compare=False)


class ColumnError(Exception):
    """A rule names an unknown column. The message has the key and the column."""


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: assets.template(f"capture/{name}")),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - the output is SQL, not HTML
    keep_trailing_newline=False,
)
_TEMPLATES.filters |= {"literal": literal, "identifier": identifier}


def render(rule: Rule, table: Table, position: int) -> RenderedRule:
    """Render a rule for a table.

    Args:
        position: the rule's number among the rules of its table. PostgreSQL fires a table's
            triggers in the order of their names, so rules fire in this order.

    Raises:
        ColumnError: the rule names an unknown column.
    """
    return _Rendering(rule, table).rendered(position)


def render_paused(function_name: str) -> str:
    """Render the function that replaces a rule's own while it is paused."""
    return render_sql("paused", function=function_name)


def render_sql(template: str, **values: object) -> str:
    """Render ``templates/capture/<template>.sql.j2``."""
    return _TEMPLATES.get_template(f"{template}.sql.j2").render(values)


class _Rendering:
    """Renders one rule, and collects the columns and expressions it uses."""

    def __init__(self, rule: Rule, table: Table) -> None:
        self._rule = rule
        self._table = table
        self._row = "old" if rule.on == ("delete",) else "new"
        self._expressions: list[Expression] = []
        self._columns_used: list[Column] = []

    def rendered(self, position: int) -> RenderedRule:
        rule = self._rule
        function = f"bridge.capture_{rule.slug}"
        # AFTER triggers fire in the order of their names. "#" sorts before letters and digits: if a
        # trigger of the application changes the same row, its event follows this one.
        trigger = f"#bridge_{position:03}_{rule.slug}"
        body = self._body()
        # On a partitioned table, the trigger fires for every operation: see moved_in.sql.j2.
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
            "checks_encoding": self._table.checks_encoding and isinstance(rule, CaptureRule),
        }
        # The rule's text may contain the delimiter.
        quote = _dollar_quote(" ".join(str(value) for value in names.values()))
        return RenderedRule(
            rule.name,
            rule.table,
            trigger,
            function,
            render_sql(
                "trigger",
                trigger=trigger,
                function=function,
                table=rule.table,
                operations=operations,
                deferred=isinstance(rule, CaptureRule) and rule.deferred,
            ),
            render_sql("function", **names, quote=quote),
            tuple(self._expressions),
        )

    @property
    def _has_rows(self) -> bool:
        return self._rule.on != ("truncate",)

    def _body(self) -> dict[str, str | None]:
        """Return the template's values that come from the rule's own keys."""
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
        payload = self._listed(rule)
        if rule.extra is None:
            return payload
        # With the cast, `init` refuses SQL of another type.
        extra = self._sql("extra", f"({rule.extra.strip()}\n)::pg_catalog.jsonb")
        return f"{payload} operator(pg_catalog.||) coalesce({extra}, '{{}}')"

    def _listed(self, rule: CaptureRule) -> str:
        """Return SQL for the payload without ``extra``."""
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
        """Return SQL for a value, which is a column if it equals a column's name."""
        if self._has_rows and value in self._table.columns:
            return self._column(key, value, self._row)
        return f"({self._sql(key, value)})"

    def _sql(self, key: str, sql: str, *, is_condition: bool = False) -> str:
        self._expressions.append(Expression(key, sql, is_condition))
        # A trailing comment must not swallow what follows in the template.
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
            names = ", ".join(self._table.columns)
            raise ColumnError(
                f"{key}: table {self._rule.table} has no column {name!r}; its columns are {names}"
            )
        return column

    def _settings(self) -> dict[str, str]:
        """Return the settings that the function must fix for its output to be the same everywhere.

        Each costs a fraction of a microsecond per row, so include only those that are needed.
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
        for start in range(0, len(rendered), _PAIRS_PER_CALL)
        if (chunk := rendered[start : start + _PAIRS_PER_CALL])
    ]
    return " operator(pg_catalog.||) ".join(calls) or "'{}'::pg_catalog.jsonb"


def _dollar_quote(body: str) -> str:
    tag = "$capture$"
    while tag in body:
        tag = f"$_{tag[1:]}"
    return tag
