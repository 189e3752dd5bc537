"""Notice rules that capture nothing, such as after a restore, and have them repaired."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from bridge.capture.blindness import BLIND_REASONS, BlindRule
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.shares import Share
from bridge.telemetry import metrics

log = structlog.get_logger()

#: Pause between looks. The catalog is read whole, which takes milliseconds.
LOOK_SECONDS: Final = 30.0
#: Repairs begin at least this long after each other.
REPAIR_SECONDS: Final = 60.0
#: Reasons that ``pgbridge init`` can do something about.
REPAIRABLE: Final = frozenset({"trigger_missing", "trigger_disabled", "function_replaced"})

#: Does what ``pgbridge init`` does. Returns what it did, one line each, or why it failed.
Repair = Callable[[], Awaitable[list[str] | str]]


class CaptureWatch:
    """Watches the rules of the database.

    Args:
        repair: called while rules can be repaired; None to leave that to operators.
    """

    def __init__(self, database: Database, repair: Repair | None = None) -> None:
        self._database = Share(database, 1)
        self._repair = repair
        self._repaired_at = -float("inf")
        self._failure: str | None = None
        self._blind: Sequence[BlindRule] = ()
        self._none_captures = False
        self._refused = False

    async def run(self) -> None:
        """Look forever, update the metric, and log changes."""
        while True:
            await self._look()
            await self._repair_what_it_may()
            await trio.sleep(LOOK_SECONDS)

    def trouble(self) -> str | None:
        """Return a problem if no rule captures, or if that cannot be known."""
        if self._refused:
            return "the database rejects the query about capture rules; run: pgbridge doctor"
        if self._none_captures:
            first = self._blind[0]
            return f"no rule captures anything; {first.name}: {first.words}; run: pgbridge doctor"
        return None

    async def _look(self) -> None:
        try:
            rows = await self._database.fetch("blind_rules")
        except DatabaseUnavailable:  # the check "database" reports this
            metrics.blind_rules.show_states({})
        except DatabaseError as error:
            metrics.blind_rules.show_states({})
            if not self._refused:
                log.error(
                    "database_task_failed",
                    task="capture_watch",
                    reason=str(error),
                    retry_seconds=LOOK_SECONDS,
                )
            self._refused = True
        else:
            self._refused = False
            self._none_captures = bool(rows) and len(rows) == rows[0]["active_count"]
            self._compare([BlindRule.of(row) for row in rows])

    def _compare(self, blind: Sequence[BlindRule]) -> None:
        """Log which rules became blind and which no longer are, and show the metric."""
        before = {rule.name for rule in self._blind}
        now = {rule.name for rule in blind}
        self._blind = blind
        if not blind:
            self._failure = None
        if begun := {rule.name: rule.words for rule in blind if rule.name not in before}:
            log.warning("capture_lost", rules=begun, hint="run: pgbridge doctor")
        if before - now:
            log.info("capture_regained", rules=sorted(before - now))
        counts = dict.fromkeys(BLIND_REASONS, 0)
        for rule in blind:
            counts[rule.reason] += 1
        metrics.blind_rules.show_states(counts)

    async def _repair_what_it_may(self) -> None:
        """Repair rules if there are any to repair, at most once in ``REPAIR_SECONDS``."""
        repairable = any(rule.reason in REPAIRABLE for rule in self._blind)
        now = trio.current_time()
        if self._repair is None or not repairable or now - self._repaired_at < REPAIR_SECONDS:
            return
        self._repaired_at = now
        outcome = await self._repair()
        if isinstance(outcome, str):
            if outcome != self._failure:  # the next minutes would only repeat it
                hint = "run as the owner of the tables: pgbridge init"
                log.warning("trigger_repair_failed", reason=outcome, hint=hint)
            self._failure = outcome
            return
        self._failure = None
        if outcome:  # else another bridge or an operator was faster
            log.info("triggers_repaired", steps=outcome)
        await self._look()
