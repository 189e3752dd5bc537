"""Renders a rule to the SQL of one trigger function and one trigger."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jinja2

from bridge import assets
from bridge.capture.rules import CaptureRule, NoteRule, Rule

# jsonb_build_object takes at most 100 arguments.
_PAIRS_A_CALL = 50


@dataclass(frozen=True, slots=True)
class Table:
    """What rendering needs to know of an application's table."""

    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class RenderedRule:
    """The SQL of one rule and the names of what it creates."""

    name: str
    table: str
    trigger_name: str
    function_name: str
    trigger_sql: str
    function_sql: str


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: assets.template(f"capture/{name}")),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - this is SQL; literals and identifiers are quoted below
    keep_trailing_newline=False,
)


def render(rule: Rule, table: Table, position: int) -> RenderedRule:
    """Return the SQL of a rule on a table that has these columns.

    ``position`` is the rule's place among the rules: PostgreSQL fires the triggers of a table in
    the order of their names, so the rules' order is the order of their events.
    """
    row = "old" if rule.on == ("delete",) else "new"
    function = f"bridge.capture_{rule.slug}"
    trigger = f"bridge_{position:03}_{rule.slug}"

    def expression(value: str) -> str:
        return f"{row}.{identifier(value)}" if value in table.columns else _sql(value)

    names = {
        "function": function,
        "row": row,
        "when": _sql(rule.when) if rule.when else None,
        "note": isinstance(rule, NoteRule),
    }
    match rule:
        case CaptureRule():
            names |= {
                "event": literal(rule.event),
                "value": _json_object(rule.payload, expression),
            }
        case NoteRule():
            names |= {
                "topic": literal(rule.topic),
                "key": expression(rule.key),
                "value": _json_object(rule.value, expression),
            }
    body = " ".join(str(value) for value in names.values())
    function_sql = _TEMPLATES.get_template("function.sql.j2").render(
        names, quote=_dollar_quote(body)
    )
    trigger_sql = _TEMPLATES.get_template("trigger.sql.j2").render(
        trigger=trigger,
        function=function,
        table=rule.table,
        operations=rule.on,
        deferred=isinstance(rule, CaptureRule) and rule.deferred,
    )
    return RenderedRule(rule.name, rule.table, trigger, function, trigger_sql, function_sql)


def literal(text: str) -> str:
    """Return a text as an SQL string literal."""
    quoted = text.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{quoted}'"


def identifier(name: str) -> str:
    """Return a name as an SQL identifier, always quoted: it may be any word."""
    return '"' + name.replace('"', '""') + '"'


def _sql(expression: str) -> str:
    # A comment in it must not reach what follows it in the template.
    return expression.strip() + ("\n" if "--" in expression else "")


def _json_object(pairs: Mapping[str, str], expression: Callable[[str], str]) -> str:
    rendered = [f"{literal(name)}, {expression(value)}" for name, value in pairs.items()]
    calls = [
        "jsonb_build_object(\n            " + ",\n            ".join(chunk) + ")"
        for start in range(0, len(rendered), _PAIRS_A_CALL)
        if (chunk := rendered[start : start + _PAIRS_A_CALL])
    ]
    return " || ".join(calls) or "'{}'::jsonb"


def _dollar_quote(body: str) -> str:
    tag = "$capture$"
    while tag in body:
        tag = f"$_{tag[1:]}"
    return tag
