"""What an installation consists of: the plan, and the rules that the database remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg.rows import class_row

from bridge import assets
from bridge.capture.blindness import BLIND_REASONS
from bridge.capture.render import RenderedRule
from bridge.database.migrate import Step
from bridge.database.sessions import Connection


@dataclass
class Plan:
    """The steps that ``init`` will run, and what they change."""

    steps: list[Step] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    #: Warnings about rules that are valid but may surprise, one line each.
    remarks: list[str] = field(default_factory=list)
    #: Which of bridge_service and bridge_reader will not exist after the last step.
    missing_roles: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line that counts new, changed, kept and removed rules."""
        named = {"new": self.new, "changed": self.changed, "removed": self.removed}
        new, changed, removed = (
            f"{len(rules)} {name}" + (f" ({', '.join(rules)})" if rules else "")
            for name, rules in named.items()
        )
        return f"rules: {new}, {changed}, {len(self.kept)} kept, {removed}"


def script_of(steps: Sequence[Step]) -> str:
    """Return the SQL of these steps, as ``init`` and ``uninstall`` run it; empty without steps."""
    parts = [f"-- {step.title}\nbegin;\n{step.sql.strip()}\ncommit;\n" for step in steps]
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """A rule as ``init`` applied it, and whether its trigger and function are still intact."""

    name: str
    table_name: str
    trigger_name: str
    function_name: str
    trigger_sql: str
    function_sql: str
    is_paused: bool
    table_present: bool
    trigger_present: bool
    trigger_enabled: bool
    trigger_unchanged: bool
    function_unchanged: bool
    #: Other triggers that call its function, and their tables. A renamed table keeps its trigger.
    strays: list[str]
    stray_tables: list[str]
    #: The function's owner, whose rights it has, unless that is the owner of schema bridge.
    other_owner: str | None

    @property
    def damage(self) -> str | None:
        """What has happened to the trigger or its function since ``init``, or None."""
        strays = ", ".join(self.strays)
        if self.strays and not self.trigger_present:
            return f"its trigger is {strays}, not on {self.table_name}"
        if not self.table_present:
            return BLIND_REASONS["table_missing"]
        if not self.trigger_present:
            return BLIND_REASONS["trigger_missing"]
        if self.strays:
            return f"its function is also called by {strays}"
        if not self.trigger_enabled:
            return BLIND_REASONS["trigger_disabled"]
        if not self.trigger_unchanged:
            return "its trigger was replaced"
        if not self.function_unchanged:
            return BLIND_REASONS["function_replaced"]
        if self.other_owner:
            return f"its function belongs to {self.other_owner}, who must run init to change that"
        return None

    def has_trigger_of(self, rule: RenderedRule) -> bool:
        """Return whether the rule's trigger is intact and has the same definition and name."""
        return (
            self.trigger_enabled
            and not self.strays
            and self.trigger_unchanged
            and self.trigger_name == rule.trigger_name
            and self.trigger_sql == rule.trigger_sql
        )

    def has_function_of(self, rule: RenderedRule) -> bool:
        """Return whether the rule's function, active or paused, has the same definition."""
        return (
            self.function_unchanged
            and self.other_owner is None
            and self.function_sql == rule.function_sql
        )


@dataclass(frozen=True, slots=True)
class StrayTrigger:
    """A trigger that calls a capture function of no applied rule."""

    function_name: str
    #: Trigger and table, as in ``a on public.b``.
    name: str
    table_name: str


def applied_rules(connection: Connection) -> list[AppliedRule]:
    """Return the rules that ``init`` applied last; none if pgbridge is not installed."""
    if not _has_rules(connection):
        return []
    with connection.cursor(row_factory=class_row(AppliedRule)) as cursor:
        return cursor.execute(assets.query("applied_rules").encode()).fetchall()


def stray_triggers(connection: Connection) -> list[StrayTrigger]:
    """Return the triggers that call capture functions of no applied rule, by function."""
    if not _has_rules(connection):
        return []
    with connection.cursor(row_factory=class_row(StrayTrigger)) as cursor:
        return cursor.execute(assets.query("stray_triggers").encode()).fetchall()


def _has_rules(connection: Connection) -> bool:
    exists = connection.execute("select to_regclass('bridge.capture_rules') is not null")
    return exists.fetchone() == (True,)
