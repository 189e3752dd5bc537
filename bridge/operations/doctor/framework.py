"""What a check receives and what it returns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from bridge.capture.models import AppliedRule, Plan, StrayTrigger, applied_rules, stray_triggers
from bridge.capture.plan import plan_install
from bridge.capture.rules import Rule
from bridge.database.sessions import Connection, fetch
from bridge.settings import Settings

APPLICATION_NAME = "pgbridge-doctor"

#: Statement timeout of a check, which may meet a locked table.
STATEMENT_SECONDS = 5
#: Names listed in one line.
LISTED = 5

Level = Literal["ok", "warning", "error"]
#: Level, message, detail and hint of each finding of a check.
Verdicts = list[tuple[Level, str, str, str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. Each text is one line; ``detail`` and ``hint`` are empty if ok."""

    check: str
    level: Level
    message: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a check can use.

    Args:
        connection: autocommit, and not shared by a pooler if any configured URL bypasses it.
        clock: the clock of this machine.
        end_orphans: end orphaned sessions.
    """

    settings: Settings
    rules: Sequence[Rule]
    connection: Connection
    clock: Callable[[], datetime]
    end_orphans: bool = False

    def fetch(self, name: str, **values: object) -> list[dict[str, Any]]:
        """Run a query of ``sql/queries`` with the statement timeout, and return its rows."""
        with self._limited():
            return fetch(self.connection, name, **values)

    def plan(self) -> Plan:
        """Return what ``pgbridge init`` would do if the role had every privilege.

        Raises:
            InstallError: ``pgbridge init`` would refuse.
        """
        with self._limited():
            return plan_install(
                self.connection, self.rules, check_privileges=False, allow_publications=True
            )

    def applied_rules(self) -> list[AppliedRule]:
        """Return the rules that ``pgbridge init`` last applied."""
        with self._limited():
            return applied_rules(self.connection)

    def stray_triggers(self) -> list[StrayTrigger]:
        """Return the triggers that call capture functions of no applied rule."""
        with self._limited():
            return stray_triggers(self.connection)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        # Per transaction, because behind a pooler the next one may run in another session.
        with self.connection.transaction():
            self.connection.execute(
                f"set local statement_timeout = '{STATEMENT_SECONDS}s';"
                "set local search_path = pg_catalog, pg_temp;"
                "set local jit = off"
            )
            yield


#: A check. Its name is ``Finding.check``.
Check = Callable[[Context], Verdicts]


def ok(message: str) -> Verdicts:
    """Report that all is well."""
    return [("ok", message, "", "")]


def warning(message: str, detail: str, hint: str) -> Verdicts:
    """Report something that may be intended, or that does no harm yet."""
    return [("warning", message, detail, hint)]


def error(message: str, detail: str, hint: str) -> Verdicts:
    """Report a problem. ``pgbridge doctor`` then exits with 1."""
    return [("error", message, detail, hint)]


def listed(names: Sequence[object]) -> str:
    """Join the first few names, and count the others."""
    shown = ", ".join(str(name) for name in names[:LISTED])
    more = len(names) - LISTED
    return f"{shown} and {more} more" if more > 0 else shown
