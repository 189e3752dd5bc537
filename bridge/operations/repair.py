"""Repair triggers from within a bridge, as ``pgbridge init`` does."""

import psycopg
import trio

from bridge.capture.apply import apply_steps, install_lock
from bridge.capture.plan import plan_install
from bridge.capture.rules import RuleError, load_rules
from bridge.database.migrate import InstallError
from bridge.database.sessions import SessionError, one_line, open_session
from bridge.settings import DEFAULT_PRESET, Settings, SettingsError, config_text

#: How long to wait for another installer, which then repairs the same.
INSTALLER_SECONDS = 10.0


async def repair_triggers(settings: Settings) -> list[str] | str:
    """Do what ``pgbridge init`` does for the configured rules, which may take some minutes.

    Returns:
        What it did and what it waited for, one line each; or why it failed.
    """
    # A shutdown does not wait for the thread: PostgreSQL rolls an unfinished step back.
    return await trio.to_thread.run_sync(_install, settings, abandon_on_cancel=True)


def _install(settings: Settings) -> list[str] | str:
    reports: list[str] = []
    try:
        rules = load_rules(config_text(), settings.preset, DEFAULT_PRESET)
        with (
            open_session(settings.session_url) as connection,
            install_lock(connection, wait_seconds=INSTALLER_SECONDS),
        ):
            plan = plan_install(connection, rules, quiet_doorbell=settings.doorbell == "poll")
            if plan.removed:
                # pgbridge init asks before it does so.
                return (
                    f"the configuration lacks {', '.join(plan.removed)}; a repair removes no rules"
                )
            apply_steps(
                connection,
                plan.steps,
                lock_timeout_seconds=settings.lock_timeout_seconds,
                report=reports.append,
            )
    except (InstallError, RuleError, SettingsError, SessionError) as error:
        return str(error)
    except psycopg.Error as error:
        return one_line(error)
    return reports
