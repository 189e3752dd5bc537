"""Check rules against the database before anything is changed there."""

from collections import Counter
from collections.abc import Iterable, Sequence

from psycopg import pq

from bridge.capture.owners import owner_problem
from bridge.capture.render import Column, ColumnError, Expression, RenderedRule, Table, render
from bridge.capture.rules import CaptureRule, Rule
from bridge.database.migrate import InstallError
from bridge.database.sessions import Connection, fetch, is_utf8

#: Relations that look like tables but have no rows of their own to capture, by pg_class.relkind.
_NOT_TABLES = {
    "v": "a view; use the table it reads",
    "m": "a materialized view; use the tables it reads",
    "f": "a foreign table, whose rows change in another database; capture them there",
}
#: The scalar variables of a trigger function, with their types.
_TRIGGER_VARIABLES = {
    "tg_name": "name",
    "tg_when": "text",
    "tg_level": "text",
    "tg_op": "text",
    "tg_relid": "oid",
    "tg_table_name": "name",
    "tg_table_schema": "name",
    "tg_nargs": "integer",
    "tg_argv": "text[]",
}


def check_rules(
    connection: Connection,
    rules: Iterable[Rule],
    *,
    check_privileges: bool = True,
    is_installed: bool = True,
) -> tuple[list[RenderedRule], list[str]]:
    """Render the rules, and let the database parse all SQL in them without running it.

    Args:
        check_privileges: reject tables on which the session's role cannot create triggers, and
            rules through which another role's code could run with the capture function's rights.
        is_installed: whether schema bridge has an owner already.

    Returns:
        The rendered rules, and warnings about rules that may surprise, one line each.

    Raises:
        InstallError: for the first rule that does not fit the database. The message names the
            rule, its key and the error.
    """
    rendered: list[RenderedRule] = []
    remarks: list[str] = []
    positions: Counter[str] = Counter()
    for rule in rules:
        where = f"[[{'capture' if isinstance(rule, CaptureRule) else 'note'}]] {_short_name(rule)}"
        found = fetch(connection, "describe_table", table=rule.table)
        if not found:
            raise InstallError(
                f"{where}: table {rule.table} does not exist; check that BRIDGE_DATABASE_URL names "
                "the application's database, and create its tables first"
            )
        [described] = found
        kind, heirs = described["kind"], described["heirs"]
        if kind not in ("r", "p"):
            raise InstallError(
                f"{where}: table: {rule.table} is {_NOT_TABLES.get(kind, 'not a table')}"
            )
        if check_privileges and not described["may_create_trigger"]:
            raise InstallError(
                f"{where}: table: this role may not create triggers on {rule.table}; "
                "run init as the table's owner, or let the owner grant it the right trigger on "
                "the table and its partitions"
            )
        if heirs:
            remarks.append(
                f"{where}: does not capture rows of {', '.join(heirs)}, which inherit from "
                f"{rule.table}; add a rule for each of them to capture these rows too"
            )
        table = Table(
            {
                each["name"]: Column(each["type"], each["virtual_sql"])
                for each in described["columns"]
            },
            is_partitioned=kind == "p",
            checks_encoding=not is_utf8(connection),
        )
        positions[described["name"]] += 1
        try:
            result = render(rule, table, positions[described["name"]])
        except ColumnError as error:
            raise InstallError(f"{where}: {error}") from None
        # Parsing runs code too: constants are checked by domains, such as those of a column's type.
        problem = _owner_problem(connection, rule, (), is_installed=is_installed)
        if problem is None:
            for expression in result.expressions:
                if (mistake := _sql_error(connection, rule, expression)) is not None:
                    raise InstallError(f"{where}: {expression.key}: {mistake}")
        if check_privileges and problem is None and result.expressions:
            problem = _owner_problem(
                connection, rule, result.expressions, is_installed=is_installed
            )
        if check_privileges and problem is not None:
            raise InstallError(f"{where}: {problem}")
        rendered.append(result)
    return rendered, remarks


def _short_name(rule: Rule) -> str:
    return rule.event if isinstance(rule, CaptureRule) else rule.topic


def _sql_error(connection: Connection, rule: Rule, expression: Expression) -> str | None:
    """Return the error that PostgreSQL reports for an expression over NEW and OLD, or None.

    The expression is parsed but never run. CASE rejects set-returning functions, as the trigger
    function would.
    """
    # Preparing accepts a single statement only, whatever the expression contains.
    result = connection.pgconn.prepare(b"", _selection(rule, expression, "{}").encode())
    if result.status != pq.ExecStatus.COMMAND_OK:
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"invalid SQL"
        hint = ""
        if result.error_field(pq.DiagnosticField.SQLSTATE) == b"42702":  # ambiguous column
            hint = "; prefix it with new. or old."
        return " ".join(message.decode(errors="replace").split()) + hint
    if connection.pgconn.describe_prepared(b"").nparams:
        return "parameters such as $1 are not supported"
    return None


def _selection(rule: Rule, expression: Expression, selected: str) -> str:
    """Return a SELECT over NEW and OLD, which is never run.

    Args:
        selected: what to select; ``{}`` stands for the expression.
    """
    form = (
        "case when ({}\n) then 1 end"
        if expression.is_condition
        else "case when true then ({}\n) end"
    )
    variables = ", ".join(f"null::{kind} as {name}" for name, kind in _TRIGGER_VARIABLES.items())
    sources = [f"(select {variables}) as variables"]
    if rule.on != ("truncate",):
        sources += [f"{rule.table} as {row}" for row in ("new", "old")]
    value = selected.format(form.format(expression.sql))
    return f"select {value} from {', '.join(sources)}"  # noqa: S608


def _owner_problem(
    connection: Connection, rule: Rule, expressions: Sequence[Expression], *, is_installed: bool
) -> str | None:
    """Return how another role's code could run with the capture function's rights, or None.

    Args:
        expressions: check what they refer to, as well as the rule's table.
    """
    view = None
    # PostgreSQL records what a view refers to. It is parsed, but neither planned nor run.
    with connection.transaction(force_rollback=True):
        if expressions:
            view = "bridge.sql_of_rule"
            # Whether it is null, because a view may have no column of a pseudo-type.
            selections = [_selection(rule, each, "({}) is null") for each in expressions]
            connection.execute(f"create view {view} as {' union all '.join(selections)}".encode())
        rows = fetch(connection, "untrusted_owners", tables=[rule.table], view=view)
    problem = owner_problem(rows, is_installed=is_installed)
    return problem and "; ".join(problem)
